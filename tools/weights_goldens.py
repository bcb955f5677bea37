#!/usr/bin/env python3
"""Writes tests/golden/weights: files of torch.save as they go round, and what PyTorch predicts with them.

    python tools/weights_goldens.py

For tests/it/weights.rs: a ResNet-18 of width 2 in each container, dtype, prefix and head, a tar archive, and a pickle that
would run a command. `labels.safetensors` holds PyTorch's argmax on the image that both sides state, and where its two
best classes are a tie. Needs torch 2.13, numpy and safetensors.
"""

import io
import os
import sys
import tarfile
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).parent))
import bicl_torch as peer  # noqa: E402

FOLDER = Path(__file__).parent.parent / "tests" / "golden" / "weights"
HEIGHT, WIDTH, CLASSES = 45, 59, 19


def image():
    """Levels [H,W,3]; tests/it/weights.rs has the same formula."""
    y, x, c = np.meshgrid(np.arange(HEIGHT), np.arange(WIDTH), np.arange(3), indexing="ij")
    return ((y * 7 + x * 13 + c * 50 + (y // 8) * (x // 8) * 31) % 256).astype(np.uint8)


def network(layout, dtype):
    torch.manual_seed(3)
    model = peer.DeepLab(18, 2, CLASSES, layout=layout).eval()
    peer.stir(model, layout, 0.5)
    with torch.no_grad():
        state = {name: v.to(dtype) if v.is_floating_point() else v for name, v in model.state_dict().items()}
        model.load_state_dict({name: v.float() if v.is_floating_point() else v for name, v in state.items()})
    return model, state


def published(state):
    """The published code's names, with a stem per domain of which the target's predicts."""
    renamed = {name.replace("classifier.convs.", "layer5.conv2d_list."): value for name, value in state.items()}
    stem = {name: v for name, v in renamed.items() if name.startswith(("conv1.", "bn1.", "layer1."))}
    renamed |= {f"target_{name}": value for name, value in stem.items()}
    renamed |= {name: torch.flip(value, (0,)) for name, value in stem.items() if value.dim() == 4}
    return renamed | {"layer6.conv2d_list.0.weight": torch.zeros(2, 2, 3, 3), "fc.bias": torch.zeros(10)}


def labels(model, layout):
    with torch.no_grad():
        logits = model(peer.normalised(image(), layout))[0]
        logits = torch.nn.functional.interpolate(logits, (HEIGHT, WIDTH), mode="bilinear", align_corners=True)[0]
        best = logits.topk(2, 0).values
        tie = (best[0] - best[1]) <= 1e-4 * logits.abs().max()
        return logits.argmax(0).to(torch.uint8).numpy(), tie.to(torch.uint8).numpy()


class Command:
    """What a hostile file would make of a plain torch.load."""

    def __reduce__(self):
        return os.system, ("touch executed-by-a-pickle",)


def main():
    FOLDER.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    expected = {}
    files = {
        "lightning-zip-bf16": ("torchvision", torch.bfloat16, True),
        "parallel-stream-f16": ("caffe", torch.float16, False),
        "published-zip-f32": ("caffe", torch.float32, True),
    }
    for name, (layout, dtype, archive) in files.items():
        model, state = network(layout, dtype)
        expected[f"{name}/labels"], expected[f"{name}/tie"] = labels(model, layout)
        if name.startswith("lightning"):
            whole = {"state_dict": {f"model.backbone.{key}": v for key, v in state.items()}, "epoch": 3, "loss": 0.5}
        elif name.startswith("parallel"):
            head = {key.replace("classifier.convs.", "layer5.conv2d_list."): v for key, v in state.items()}
            whole = {f"module.{key}": v for key, v in head.items()}
        else:
            whole = published(state)
        torch.save(whole, FOLDER / f"{name}.pth", _use_new_zipfile_serialization=archive)
    save_file(expected, FOLDER / "labels.safetensors", metadata={"torch": torch.__version__.split("+")[0]})
    hostile = {"conv1.weight": torch.zeros(2, 3, 7, 7), "note": Command()}
    torch.save(hostile, FOLDER / "command-zip.pth")
    torch.save(hostile, FOLDER / "command-stream.pth", _use_new_zipfile_serialization=False)
    with tarfile.open(FOLDER / "tar.pth", "w", format=tarfile.USTAR_FORMAT) as tar:
        for part in ("sys_info", "pickle", "storages", "tensors"):
            entry = tarfile.TarInfo(part)
            entry.size = 4
            tar.addfile(entry, io.BytesIO(b"\x80\x02}."))
    for path in sorted(FOLDER.iterdir()):
        print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
