#!/usr/bin/env python3
"""Weights there and back, against PyTorch and onnxruntime: what `cargo test` cannot check without them.

    python tools/check_weights.py target/release/trainer [--large]

Needs torch, numpy, safetensors, Pillow, onnx and onnxruntime. Files of every prefix, dtype, head and container go through
`trainer predict`, exports through PyTorch (tools/load_in_torch.py) and onnxruntime: no pixel may differ but ties, logits
lie within 1e-4 of their largest. --large imports a ResNet-101 and tells time and memory. Exit status 1 where something
is wrong.
"""

import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent))
import bicl_torch as peer  # noqa: E402
import load_in_torch  # noqa: E402

TRAINER = sys.argv[1]
# Odd sizes, each other one of the max pool's last windows.
SIZES = ((67, 93), (65, 81), (50, 71), (33, 33))
CLASSES = 19
CONVENTIONS = {"caffe": "BGR", "torchvision": "RGB"}
failures = 0


def check(ok, text):
    global failures
    failures += not ok
    print("ok  " if ok else "FAIL", text, flush=True)


def run(*arguments):
    return subprocess.run([TRAINER, *map(str, arguments)], capture_output=True, text=True)


def network(depth, width, layout, stem=None, seed=0):
    """Random weights whose logits differ from pixel to pixel, running statistics that are not the initial ones."""
    torch.manual_seed(seed)
    model = peer.DeepLab(depth, width, CLASSES, layout=layout, stem_width=stem).eval()
    peer.stir(model, layout, 0.3)
    return model


def logits_of(model, levels, layout):
    with torch.no_grad():
        x = peer.normalised(levels, layout)
        return F.interpolate(model(x)[0], x.shape[2:], mode="bilinear", align_corners=True)


def unlike(labels, logits):
    """Pixels that differ, those apart whose two best classes are within rounding."""
    best = logits[0].topk(2, 0).values
    tie = (best[0] - best[1]) <= 1e-4 * logits.abs().max()
    differ = torch.from_numpy(labels.astype(np.int64)) != logits[0].argmax(0)
    return int((differ & ~tie).sum()), int((differ & tie).sum())


def images(folder):
    folder.mkdir(exist_ok=True)
    random, made = np.random.default_rng(5), {}
    for height, width in SIZES:
        blocks = random.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3)).repeat(8, 0).repeat(8, 1)
        noise = random.integers(-30, 31, (height, width, 3))
        levels = np.clip(blocks[:height, :width] + noise, 0, 255).astype(np.uint8)
        made[f"{height}x{width}"] = levels
        Image.fromarray(levels).save(folder / f"{height}x{width}.png")
    return made


def predictions(work, checkpoint, *more):
    out = work / "pictures"
    done = run("predict", work / "images", "--checkpoint", checkpoint, "--out", out, "--device", "cpu", *more)
    if done.returncode:
        return None, done.stderr.strip()
    stems = [path.stem for path in (work / "images").glob("*.png")]
    return {stem: np.array(Image.open(out / f"{stem}_labels.png")) for stem in stems}, done.stdout


def published(state, target=False):
    """The published code's names: layer5.conv2d_list, and a stem per domain."""
    renamed = {name.replace("classifier.convs.", "layer5.conv2d_list."): value for name, value in state.items()}
    if target:
        stem = ("conv1.", "bn1.", "layer1.")
        renamed |= {f"target_{name}": value for name, value in renamed.items() if name.startswith(stem)}
        renamed |= {name: torch.randn_like(v) for name, v in renamed.items() if name == "conv1.weight"}
        renamed["layer6.conv2d_list.0.weight"] = torch.zeros(3, 2, 3, 3)
    return renamed


def into_the_program(work, levels):
    prefixes = ("", "module.", "model.", "backbone.", "encoder.", "state_dict.module.", "model.backbone.", "Scale.")
    kinds = list(itertools.product(prefixes, ("f32",), ("classifier", "layer5"), ("zip",)))
    kinds += itertools.product(("module.",), ("f32", "f16", "bf16"), ("layer5",), ("zip", "stream", "safetensors"))
    kinds += [("", "f32", "target", "zip"), ("module.", "f32", "target", "stream")]
    for layout, (prefix, dtype, head, container) in itertools.product(CONVENTIONS, kinds):
        model = network(18, 4, layout)
        if dtype != "f32":
            kind = torch.float16 if dtype == "f16" else torch.bfloat16
            # What the file holds, in f32.
            model.load_state_dict({n: v.to(kind).to(v.dtype) for n, v in model.state_dict().items()})
        state = model.state_dict()
        state = state if head == "classifier" else published(state, head == "target")
        state = {prefix + name: value for name, value in state.items()}
        state[f"{prefix}fc.weight"] = torch.zeros(10, 4)
        if dtype != "f32":
            state = {name: v.to(kind) if v.is_floating_point() else v for name, v in state.items()}
        path = work / ("net.safetensors" if container == "safetensors" else "net.pth")
        if container == "safetensors":
            save_file({name: value.clone().contiguous() for name, value in state.items()}, path)
        else:
            # A training script's dict around it.
            whole = {"state_dict": state, "epoch": 3, "best": 0.5} if prefix == "module." else state
            torch.save(whole, path, _use_new_zipfile_serialization=container == "zip")
        got, said = predictions(work, path, "--weights", layout)
        what = f"{layout:11} prefix {prefix or 'none':18} {dtype:4} {head:10} {container}"
        if got is None:
            check(False, f"{what}: {said}")
            continue
        counts = [unlike(got[stem], logits_of(model, levels[stem], layout)) for stem in levels]
        wrong, ties = (sum(column) for column in zip(*counts))
        check(wrong == 0, f"{what}: {wrong} pixels differ, {ties} ties")


def out_of_the_program(work, levels):
    for (depth, stem), layout in itertools.product(((18, None), (34, None), (50, 6)), CONVENTIONS):
        model = network(depth, 4, layout, stem)
        torch.save(model.state_dict(), work / "net.pth")
        exported, what = work / "exported.safetensors", f"resnet{depth} {layout}"
        done = run("export", work / "net.pth", "--weights", layout, "--out", exported)
        check(done.returncode == 0, f"{what} export {done.stderr.strip()}")
        load = load_in_torch.load(exported)
        got, said = predictions(work, exported)
        for stem_name, image in levels.items():
            want = logits_of(model, image, layout)
            with torch.no_grad():
                back = load(torch.from_numpy(image).permute(2, 0, 1)[None].float())
            error = float((back - want).abs().max() / want.abs().max())
            wrong, ties = unlike(got[stem_name], back) if got else (-1, 0)
            check(error < 1e-4 and wrong == 0, f"{what} in PyTorch {stem_name}: {error:.1e}, {wrong} differ, {ties} ties")
        for inside, argmax in itertools.product((False, True), repeat=2):
            flags = ["--normalize-inside"] * inside + ["--argmax"] * argmax
            path = work / "exported.onnx"
            done = run("export", work / "net.pth", "--weights", layout, "--out", path, *flags)
            if done.returncode:
                check(False, f"{what} onnx: {done.stderr.strip()}")
                continue
            onnx.checker.check_model(onnx.load(path), full_check=True)
            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            worst, wrong, ties = 0.0, 0, 0
            for stem_name, image in levels.items():
                want = logits_of(model, image, layout)
                x = peer.normalised(image, layout)
                if inside:
                    x = torch.from_numpy(image).permute(2, 0, 1)[None].float()
                (out,) = session.run(None, {"image": x.numpy()})
                if not argmax:
                    worst = max(worst, float(np.abs(out - want.numpy()).max() / want.abs().max()))
                    out = out.argmax(1)
                counts = unlike(out[0], want)
                wrong, ties = wrong + counts[0], ties + counts[1]
            check(worst < 1e-4 and wrong == 0, f"{what} onnx {' '.join(flags)}: {worst:.1e}, {wrong} differ, {ties} ties")


def large(work):
    """A ResNet-101: seconds, and the most memory over the file's size."""
    model = peer.DeepLab(101, 64, CLASSES, layout="caffe")
    path = work / "large.pth"
    torch.save(model.state_dict(), path)
    size = path.stat().st_size
    # By way of a small process: a child's figure counts what it was forked from, and this process has PyTorch in it.
    tell = (
        "import resource, subprocess, sys, time; start = time.time(); status = subprocess.call(sys.argv[1:]);"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN);"
        "print(time.time() - start, used.ru_utime + used.ru_stime, 1024 * used.ru_maxrss, file=sys.stderr); sys.exit(status)"
    )
    arguments = [TRAINER, "import-weights", path, "--out", work / "large.ckpt", "--json"]
    best = None
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", tell, *map(str, arguments)], capture_output=True, text=True)
        if done.returncode:
            return check(False, f"ResNet-101: {done.stderr.strip()}")
        figures = tuple(map(float, done.stderr.split()))
        best = min(best or figures, figures)
    seconds, work_seconds, memory = best
    taken = len(json.loads(done.stdout)["report"]["loaded"])
    text = f"ResNet-101, {size / 1e6:.0f} MB: {taken} tensors, {seconds:.2f} s of which {work_seconds:.2f} s of the CPU's"
    check(seconds < 1 and memory <= 2 * size, f"{text}, memory {memory / size:.2f} times its size")


def main():
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if "--large" in sys.argv:
            large(work)
        levels = images(work / "images")
        into_the_program(work, levels)
        out_of_the_program(work, levels)
    print(f"{failures} failures")
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
