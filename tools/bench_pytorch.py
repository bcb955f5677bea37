#!/usr/bin/env python3
"""PyTorch's time for what benches/kernels.rs and benches/step.rs measure: the peer of every ratio that is stated.

    python tools/bench_pytorch.py --device cpu --threads 2 --json theirs.jsonl
    python tools/bench_pytorch.py --device cuda --dtype bf16 --variants eager compile --json theirs.jsonl
    python tools/join_bench.py ours.jsonl theirs.jsonl

One JSON line a row. The key is (op, shape, direction, dtype, device):
    copy                 "1024 MiB", the copy rate                                   forward
    matrix_product       "8192x8192x8192" (M, N, K), the matrix rate                 forward
    conv2d               "2x92x92x256 256x3x3x256 s1 d2" (input NHWC, filter KRSC)   forward | data | weight
    batch_norm, max_pool2d, upsample_bilinear, sgd_step, ...: tools/bench_memory.py  forward | backward
    contrastive          "2x92x92x76 730x730 C19" (features, labels, classes)        both
        the prototypes of both domains, both terms, and the gradients of both features
    contrastive_labels   the same with label transfer, hybrid labels and calibration
    segmentation_loss    "2x92x92x19 730x730" (logits, labels)                       both
    training_step        "resnet18 w16 C19 2+2x128x256"                              step
and beside it: peer (eager, compile, or foreach and fused for SGD), ms (median), least_ms, reps, threads, peak_mib on cuda.
CUDA is timed by events, the CPU by wall time; every row is warmed up first, and the inputs of single operations rotate through
more memory than the last-level cache holds, as in benches/kernels.rs. Whether the peer computes the definition is checked before
anything is timed. On busy cores the CPU rows mean nothing: PyTorch's threads wait for the slowest of them.
"""

import argparse
import itertools
import json
import statistics
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import torch
import torch._dynamo
import torch._functorch.config

sys.path.insert(0, str(Path(__file__).parent))
import bench_memory  # noqa: E402
import bicl_torch as peer  # noqa: E402

# Shapes as in benches/kernels/: the published step's on a GPU, the miniature's and those of ResNet-50 at 256 x 256 on the CPU.
# Input N,H,W,C; filter K,R,S; stride; dilation.
CONVOLUTIONS = {
    "cuda": [
        ((2, 92, 92, 256), (256, 3, 3), 1, 2),
        ((2, 92, 92, 512), (512, 3, 3), 1, 4),
        ((2, 92, 92, 256), (1024, 1, 1), 1, 1),
        ((2, 92, 92, 1024), (256, 1, 1), 1, 1),
        ((2, 92, 92, 512), (2048, 1, 1), 1, 1),
        ((2, 92, 92, 1024), (2048, 1, 1), 1, 1),
        ((2, 92, 92, 2048), (512, 1, 1), 1, 1),
        ((2, 92, 92, 128), (128, 3, 3), 1, 1),
        *(((2, 92, 92, 2048), (19, 3, 3), 1, rate) for rate in peer.RATES),
        ((2, 730, 730, 3), (64, 7, 7), 2, 1),
        ((2, 23, 23, 512), (512, 3, 3), 1, 1),
    ],
    "cpu": [
        ((4, 96, 128, 3), (16, 7, 7), 2, 1),
        ((4, 25, 33, 16), (16, 3, 3), 1, 1),
        ((4, 25, 33, 16), (32, 3, 3), 2, 1),
        ((4, 13, 17, 32), (32, 3, 3), 1, 1),
        ((4, 13, 17, 64), (64, 3, 3), 1, 2),
        ((4, 13, 17, 128), (128, 3, 3), 1, 4),
        *(((4, 13, 17, 128), (19, 3, 3), 1, rate) for rate in peer.RATES),
        ((2, 256, 256, 3), (64, 7, 7), 2, 1),
        ((2, 64, 64, 64), (64, 3, 3), 1, 1),
        ((2, 64, 64, 64), (256, 1, 1), 1, 1),
        ((2, 64, 64, 256), (128, 1, 1), 1, 1),
        ((2, 32, 32, 256), (512, 1, 1), 1, 1),
        ((2, 64, 64, 128), (128, 3, 3), 2, 1),
        ((2, 32, 32, 512), (512, 3, 3), 1, 4),
    ],
}
# features N,h,w,d; labels H,W; classes
CONTRASTS = [((2, 92, 92, 76), (730, 730), 19)]
SEGMENTATIONS = [((2, 92, 92, 19), (730, 730))]
# depth, width, batch, crop
STEPS = {
    "miniature": (18, 16, 2, (128, 256)),
    "resnet50": (50, 64, 2, (256, 256)),
    "paper": (101, 64, 2, (730, 730)),
}
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
# Inputs of a row rotate through so many bytes, in so many sets at most, as in benches/kernels/harness.rs.
ROTATION, MOST_SETS = 192 << 20, 16


def by(numbers):
    return "x".join(str(n) for n in numbers)


class Bench:
    def __init__(self, arguments):
        self.arguments = arguments
        self.device = torch.device(arguments.device)
        self.dtype = DTYPES[arguments.dtype]
        self.file = open(arguments.json, "a") if arguments.json else None

    def seconds(self, run):
        """Seconds of one call."""
        if self.device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            run()
            end.record()
            end.synchronize()
            return start.elapsed_time(end) / 1e3
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    def row(self, op, shape, direction, run, name="eager", dtype=None, **more):
        """Times `run` for at least --seconds and 5 calls after warming up, and writes the row."""
        # What the row before left idle is no part of this one's peak, and may be what it lacks.
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        for _ in range(3):
            run()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        times, spent = [], time.perf_counter()
        while len(times) < 5 or time.perf_counter() - spent < self.arguments.seconds:
            times.append(self.seconds(run))
        if self.device.type == "cuda":
            more["peak_mib"] = torch.cuda.max_memory_allocated() >> 20
        milliseconds = statistics.median(times) * 1e3
        row = {
            "op": op, "shape": shape, "direction": direction, "dtype": dtype or self.arguments.dtype,
            "device": self.device.type, "peer": name, "ms": milliseconds, "least_ms": min(times) * 1e3, "reps": len(times),
            "threads": torch.get_num_threads(), "torch": torch.__version__, **more,
        }  # fmt: skip
        for work, rate in (("flop", "operations_per_second"), ("bytes", "bytes_per_second")):
            if work in more:
                row[rate] = more[work] / milliseconds * 1e3
        line = json.dumps(row)
        print(line, flush=True)
        if self.file:
            self.file.write(line + "\n")
            self.file.flush()

    def rotating(self, run, make, nbytes):
        """`run` on one set of inputs after the other, `nbytes` being what one call moves."""
        sets = [make() for _ in range(min(max(-(-ROTATION // nbytes), 2), MOST_SETS))]
        turn = itertools.cycle(sets)
        return lambda: run(*next(turn))

    def variants(self, function):
        """The function as it is, and compiled, as asked for."""
        for name in self.arguments.variants:
            # What was compiled for another shape must not lead to a kernel for any shape.
            torch._dynamo.reset()
            yield name, torch.compile(function, dynamic=False) if name == "compile" else function

    def image(self, n, h, w, c):
        """N,H,W,C in memory."""
        return self.randn(n, c, h, w, dtype=self.dtype).contiguous(memory_format=torch.channels_last)

    def randn(self, *shape, dtype=torch.float32):
        return torch.randn(*shape, device=self.device).to(dtype)

    def labels(self, count, size, classes):
        """Regions, not noise: a coarse grid of classes, upsampled, a tenth ignored."""
        coarse = torch.randint(classes, (count, 9, 9), device=self.device)
        coarse[torch.rand(coarse.shape, device=self.device) < 0.1] = peer.IGNORE
        return peer.resize_nearest(coarse, size)


def ceilings(bench):
    mib = 1024 if bench.device.type == "cuda" else 256
    source = torch.zeros(mib << 20, dtype=torch.uint8, device=bench.device)
    bench.row("copy", f"{mib} MiB", "forward", source.clone, dtype="u8", bytes=2 * (mib << 20))
    size = 8192 if bench.device.type == "cuda" else 1024
    a, b = (bench.randn(size, size, dtype=bench.dtype) for _ in range(2))
    bench.row("matrix_product", by([size] * 3), "forward", lambda: a @ b.T, flop=2 * size**3)


def convolutions(bench):
    for (n, h, w, c), (k, r, s), stride, dilation in CONVOLUTIONS[bench.device.type]:
        padding = dilation * (r // 2)

        def forward(x, f, _dy=None, stride=stride, padding=padding, dilation=dilation):
            return torch.conv2d(x, f, None, stride, padding, dilation)

        def make():
            x, f = bench.image(n, h, w, c), bench.image(k, r, s, c)
            return x, f, torch.randn_like(forward(x, f))

        def backward(data, weight, stride=stride, padding=padding, dilation=dilation):
            geometry = [stride] * 2, [padding] * 2, [dilation] * 2, False, [0, 0], 1, [data, weight, False]
            return lambda x, f, dy: torch.ops.aten.convolution_backward(dy, x, f, None, *geometry)

        tensors = make()
        nbytes = sum(tensor.nbytes for tensor in tensors)
        flop = 2 * tensors[2].numel() * c * r * s
        shape = f"{by((n, h, w, c))} {by((k, r, s, c))} s{stride} d{dilation}"
        passes = {"forward": forward, "weight": backward(False, True), "data": backward(True, False)}
        if c == 3:
            # No gradient flows to the images.
            del passes["data"]
        for direction, run in passes.items():
            bench.row("conv2d", shape, direction, bench.rotating(run, make, nbytes), flop=flop)


def contrast(bench):
    for (n, h, w, d), full, classes in CONTRASTS:
        fs, ft = (bench.randn(n, d, h, w).requires_grad_() for _ in range(2))
        ys, yt = (bench.labels(n, full, classes) for _ in range(2))
        bias = torch.zeros(classes, d, device=bench.device)

        def terms(fs, ft, ys, yt, bias, transfer):
            low_s = peer.resize_nearest(ys, (h, w))
            rho_s, count_s = peer.masked_average_pool(fs, low_s, classes)
            present_s = count_s > 0
            if transfer:
                dynamic = peer.transfer_labels(ft.detach(), (rho_s + bias).detach(), present_s)
                yt = torch.where(yt != peer.IGNORE, yt, peer.resize_nearest(dynamic, full))
            rho_t, count_t = peer.masked_average_pool(ft, peer.resize_nearest(yt, (h, w)), classes)
            present_t = count_t > 0
            overlap = present_s & present_t
            forward = peer.contrastive_operators(ft, yt, rho_s, present_s, overlap)
            backward = peer.contrastive_operators(fs, ys, rho_t, present_t, overlap)
            if transfer:
                bias = peer.update_calibration(bias, rho_s.detach(), rho_t.detach(), present_s, present_t)
            return forward + backward, bias

        shape = f"{by((n, h, w, d))} {by(full)} C{classes}"
        for op, transfer in (("contrastive", False), ("contrastive_labels", True)):
            for name, run in bench.variants(terms):
                def step(run=run, transfer=transfer):
                    loss, _ = run(fs, ft, ys, yt, bias, transfer)
                    return torch.autograd.grad(loss, (fs, ft))

                bench.row(op, shape, "both", step, name, dtype="f32")


def segmentation(bench):
    for (n, h, w, c), full in SEGMENTATIONS:
        x = bench.randn(n, c, h, w).requires_grad_()
        y = bench.labels(n, full, c)

        def loss(x, y, full=full):
            up = peer.upsample(x, full)
            return peer.cross_entropy(up, y) + 0.4 * peer.entropy(up)

        for name, run in bench.variants(loss):
            def step(run=run):
                return torch.autograd.grad(run(x, y), x)

            bench.row("segmentation_loss", f"{by((n, h, w, c))} {by(full)}", "both", step, name, dtype="f32")


def training_steps(bench):
    wanted = bench.arguments.steps or (["paper"] if bench.device.type == "cuda" else ["miniature", "resnet50"])
    for which in wanted:
        depth, width, batch, crop = STEPS[which]
        method = peer.Method()
        images = [bench.randn(batch, 3, *crop).contiguous(memory_format=torch.channels_last) for _ in range(2)]
        labels = [bench.labels(batch, crop, method.classes) for _ in range(2)]
        precision = nullcontext
        if bench.dtype == torch.bfloat16:
            def precision():
                return torch.autocast(bench.device.type, dtype=torch.bfloat16)

        for name in bench.arguments.variants:
            model = peer.DeepLab(depth, width).to(bench.device, memory_format=torch.channels_last).train()
            sgd = peer.optimiser(model, 1e-4, affine=width < 64)
            passes, losses = model, peer.contrastive_operators
            if name == "compile":
                passes, losses = (torch.compile(f, dynamic=False) for f in (model, peer.contrastive_operators))
            bias = torch.zeros(method.classes, 4 * method.classes, device=bench.device)

            def step(model=passes, losses=losses, sgd=sgd):
                nonlocal bias
                sgd.zero_grad(set_to_none=True)
                terms, bias, _ = peer.adapt_losses(
                    model, method, images[0], labels[0], images[1], labels[1], bias, losses, precision
                )
                terms["loss"].backward()
                sgd.step()

            shape = f"resnet{depth} w{width} C{method.classes} {batch}+{batch}x{by(crop)}"
            bench.row("training_step", shape, "step", step, name)


def verify(device):
    """The operators' form of the contrastive terms against the literal definition; both gradients too."""
    f = torch.randn(2, 12, 7, 9, dtype=torch.float64, device=device).requires_grad_()
    p = torch.randn(2, 8, 12, dtype=torch.float64, device=device).requires_grad_()
    y = torch.randint(8, (2, 56, 72), device=device)
    y[:, :9] = peer.IGNORE
    present = torch.rand(2, 8, device=device) < 0.8
    overlap = present & (torch.rand(2, 8, device=device) < 0.8)
    results = []
    for loss in (peer.contrastive_loss, peer.contrastive_operators):
        value = loss(f, y, p, present, overlap)
        results.append([value.detach(), *torch.autograd.grad(value, (f, p))])
    for a, b in zip(*results):
        if not float((a - b).abs().max()) <= 1e-12 * max(1.0, float(a.abs().max())):
            sys.exit("the benchmarked contrastive terms differ from the definition; nothing was timed")


# The step comes last: it may need more memory than there is, and what fails takes the rest of its part along.
PARTS = {
    "ceilings": ceilings,
    "contrastive": contrast,
    "segmentation_loss": segmentation,
    "conv2d": convolutions,
    "memory": bench_memory.rows,
    "step": training_steps,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="f32", help="of convolutions and the training step")
    parser.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's)")
    parser.add_argument("--variants", choices=["eager", "compile"], nargs="+", default=["eager"], help="(default eager)")
    parser.add_argument("--json", metavar="FILE", help="append the rows to FILE")
    parser.add_argument("--seconds", type=float, default=1.0, help="least time a row (default 1)")
    parser.add_argument("--only", choices=PARTS, nargs="+", help="parts to run (default: all)")
    parser.add_argument("--steps", choices=STEPS, nargs="+", help="training steps (default: by device)")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("PyTorch sees no GPU; use --device cpu")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    # f32 rows are f32 on both sides: by default cuDNN would round the factors of convolutions to tf32.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    # Backward rows go through a compiled graph more than once, which donated buffers would forbid.
    torch._functorch.config.donated_buffer = False
    verify(arguments.device)
    bench = Bench(arguments)
    failed = []
    for part in arguments.only or PARTS:
        # One part that fails leaves the others their rows.
        try:
            PARTS[part](bench)
        except Exception as error:  # noqa: BLE001
            failed.append(part)
            reason = (str(error).strip() or repr(error)).splitlines()[0]
            print(f"error: {part}: {type(error).__name__}: {reason}", file=sys.stderr)
    if failed:
        sys.exit(f"error: {len(failed)} parts failed and have rows missing: {', '.join(failed)}")


if __name__ == "__main__":
    main()
