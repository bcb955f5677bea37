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
and beside it: peer, ms (median), least_ms, reps, timed, threads, peak_mib on cuda. A row that fails has "error" in place of the
times; the next one goes on. peer is
    eager            as PyTorch runs it
    compile          by torch.compile
    graph            a training step captured as one CUDA graph, its optimizer too
    compile_graph    the same of the compiled step
    foreach, fused   SGD's own ways
timed says how. "graph": on cuda, single operations and losses are captured as a graph of as many calls as take a millisecond,
whatever their peer is, so that the GPU is timed and not the host; the median is that of replays. "events": one call between two
events: training steps without a graph, and what cannot be captured (graph_error says why). "clock": the CPU. Every row is warmed
up first, and the inputs of single operations rotate through more memory than the last-level cache holds, as in benches/kernels.rs.
Whether the peer computes the definition is checked before anything is timed. On busy cores the CPU rows mean nothing: PyTorch's
threads wait for the slowest of them.

With --gate, what is to be compiled is compiled at once, but the GPU gets no work until FILE exists: others measure meanwhile.
"""

import argparse
import functools
import gc
import math
import sys
from contextlib import nullcontext
from pathlib import Path

import torch
import torch._functorch.config

sys.path.insert(0, str(Path(__file__).parent))
import bench_memory  # noqa: E402
import bicl_torch as peer  # noqa: E402
from bench_harness import DTYPES, VARIANTS, Bench, by, first_line  # noqa: E402

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
        ((2, 730, 730, 3), (64, 7, 7), 2, 1),
        ((2, 23, 23, 512), (512, 3, 3), 1, 1),
        # Last: where the time is short, these are what may be missing.
        *(((2, 92, 92, 2048), (19, 3, 3), 1, rate) for rate in peer.RATES),
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


def ceilings(bench):
    mib = 1024 if bench.device.type == "cuda" else 256

    def copy():
        return torch.zeros(mib << 20, dtype=torch.uint8, device=bench.device).clone

    def product():
        a, b = (bench.randn(size, size, dtype=bench.dtype) for _ in range(2))
        return lambda: a @ b.T

    bench.row("copy", f"{mib} MiB", "forward", copy, dtype="u8", bytes=2 * (mib << 20))
    size = 8192 if bench.device.type == "cuda" else 1024
    bench.row("matrix_product", by([size] * 3), "forward", product, flop=2 * size**3)


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

        outputs = n * k * math.prod((x + 2 * padding - dilation * (r - 1) - 1) // stride + 1 for x in (h, w))
        nbytes = (n * h * w * c + k * r * s * c + outputs) * bench.dtype.itemsize
        shape = f"{by((n, h, w, c))} {by((k, r, s, c))} s{stride} d{dilation}"
        passes = {"forward": forward, "weight": backward(False, True), "data": backward(True, False)}
        if c == 3:
            # No gradient flows to the images.
            del passes["data"]
        for direction, run in passes.items():
            def prepare(run=run):
                return bench.rotating(run, make, nbytes)

            bench.row("conv2d", shape, direction, prepare, flop=2 * outputs * c * r * s)


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

                bench.row(op, shape, "both", lambda step=step: step, name, dtype="f32")


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

            shape = f"{by((n, h, w, c))} {by(full)}"
            bench.row("segmentation_loss", shape, "both", lambda step=step: step, name, dtype="f32")


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

        @functools.lru_cache(1)
        def step_of(compiled):
            """The step: the captured and the plain rows share one, so that it is compiled once."""
            layout = "caffe" if depth > 34 else "torchvision"  # as the presets that the bench of this program runs
            model = peer.DeepLab(depth, width, layout=layout).to(bench.device, memory_format=torch.channels_last).train()
            sgd = peer.optimiser(model, 1e-4, affine=width < 64, fused=bench.device.type == "cuda" or None)
            bias = torch.zeros(method.classes, 4 * method.classes, device=bench.device)
            passes, losses = model, peer.pair_losses
            if compiled:
                passes, losses = bench.gate.compile(model), bench.gate.compile(peer.pair_losses)

                def outputs(channels):
                    x = bench.randn(batch, channels, *low).contiguous(memory_format=torch.channels_last)
                    return x.requires_grad_()

                low = [peer.feature_extent(extent) for extent in crop]
                both = [outputs(channels) for channels in (method.classes, 4 * method.classes) * 2]
                bench.gate.ahead(lambda: losses(both, method, *labels, bias, peer.contrastive_operators))

            def step():
                sgd.zero_grad(set_to_none=True)
                terms, new, _ = peer.adapt_losses(
                    passes, method, images[0], labels[0], images[1], labels[1], bias, peer.contrastive_operators,
                    precision, losses,
                )  # fmt: skip
                terms["loss"].backward()
                sgd.step()
                # In place: a graph reads and writes the same memory at each replay.
                with torch.no_grad():
                    bias.copy_(new)

            return step

        shape = f"resnet{depth} w{width} C{method.classes} {batch}+{batch}x{by(crop)}"
        for name in bench.arguments.variants:
            compiled, graphed = VARIANTS[name]
            if graphed and bench.device.type != "cuda":
                continue
            bench.row("training_step", shape, "step", lambda compiled=compiled: step_of(compiled), name, graph=graphed)


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


# The step comes last: it may need more memory than there is.
PARTS = {
    "ceilings": ceilings,
    "contrastive": contrast,
    "segmentation_loss": segmentation,
    "conv2d": convolutions,
    "head": bench_memory.head,
    "memory": bench_memory.rows,
    "step": training_steps,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="f32", help="of convolutions and the training step")
    parser.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's)")
    parser.add_argument("--variants", choices=VARIANTS, nargs="+", default=["eager"], help="(default eager)")
    parser.add_argument("--json", metavar="FILE", help="append the rows to FILE")
    parser.add_argument("--seconds", type=float, default=1.0, help="least time a row (default 1)")
    parser.add_argument("--filter", action="append", metavar="TEXT", help="rows whose 'op direction shape dtype' contains one of them")
    parser.add_argument("--gate", metavar="FILE", help="compile, but give the GPU no work until FILE exists")
    parser.add_argument("--only", choices=PARTS, nargs="+", help="parts to run (default: all)")
    parser.add_argument("--steps", choices=STEPS, nargs="+", help="training steps (default: by device)")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("PyTorch sees no GPU; use --device cpu")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    # Every algorithm is tried, not the ten that cuDNN thinks best.
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.benchmark_limit = 0
    # f32 rows are f32 on both sides: by default cuDNN would round the factors of convolutions to tf32.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    # Backward rows go through a compiled graph more than once, which donated buffers would forbid.
    torch._functorch.config.donated_buffer = False
    if arguments.gate and hasattr(torch._functorch.config, "force_non_lazy_backward_lowering"):
        # The backward pass is compiled beside the forward one, not at its first call, which comes after the gate.
        torch._functorch.config.force_non_lazy_backward_lowering = True
    verify("cpu" if arguments.gate else arguments.device)
    if arguments.device == "cuda":
        # Graphs cannot be captured on the default stream, and backward passes run on the stream of their forward pass.
        torch.cuda.set_stream(torch.cuda.Stream())
    # What was imported is not searched at every collection.
    gc.freeze()
    bench = Bench(arguments)
    failed = []
    parts = arguments.only or list(PARTS)
    if arguments.gate:
        # All of them before the gate; the step compiles itself there, as its model is made only once.
        bench.compiling = True
        for part in parts:
            if part != "step":
                PARTS[part](bench)
        bench.compiling = False
    for part in parts:
        # One part that fails leaves the others their rows.
        try:
            PARTS[part](bench)
        except Exception as error:  # noqa: BLE001
            failed.append(part)
            print(f"error: {part}: {first_line(error)}", file=sys.stderr)
    if failed or bench.failed:
        sys.exit(f"error: {bench.failed} rows failed, and parts as a whole: {', '.join(failed) or 'none'}")


if __name__ == "__main__":
    main()
