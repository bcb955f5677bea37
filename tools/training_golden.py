#!/usr/bin/env python3
"""Writes tests/golden/training.safetensors: ten steps of the whole method in PyTorch 2.13, for tests/it/training_golden.rs.

    python tools/training_golden.py [--check]

A narrow ResNet-18 DeepLab with batch statistics and trainable scale and shift learns from two source-target pairs: all loss
terms, static labels, dynamic labels, calibration, SGD with momentum, decay and the polynomial schedule. Weights,
images and labels come from a generator that both sides state (SplitMix64); the file holds what PyTorch computes
from them in f64: every loss of every step, the calibration and some of the weights at the end. The script asserts
that f32 arithmetic or disturbed weights do not move a loss by more than a third of the test's tolerance (a high rate
lets one flipped ReLU grow), and that no dynamic label lies near its threshold.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

sys.path.insert(0, str(Path(__file__).parent))
import bicl_torch as peer  # noqa: E402

PATH = Path(__file__).parent.parent / "tests" / "golden" / "training.safetensors"
SEED, STEPS, PAIRS, HEIGHT, WIDTH, CLASSES, CHANNELS = 14, 10, 2, 49, 65, 7, 8
BASE_RATE, HORIZON, THRESHOLD = 0.0003, 12.0, 0.4
TERMS = ("loss", "source_ce", "target_ce", "source_entropy", "target_entropy", "forward_contrast", "backward_contrast")
KEPT = ("conv1.weight", "layer1.0.bn1.weight", "layer4.1.bn2.bias", "classifier.convs.2.bias")
MASK = (1 << 64) - 1


class SplitMix:
    """SplitMix64 (Steele, Lea, Flood 2014)."""

    def __init__(self, seed):
        self.state = seed

    def next(self):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)

    def symmetric(self, count, bound):
        """`count` values in [-bound, bound), rounded to f32."""
        unit = np.array([self.next() >> 11 for _ in range(count)], dtype=np.float64) / float(1 << 53)
        return ((2 * unit - 1) * bound).astype(np.float32)


def fill(model):
    """Filters in order of their names, as [K,R,S,C]: uniform with He's variance over the fan-out; the head's ten
    times wider than usual, so that the first dynamic labels come early. Everything else keeps its default."""
    random = SplitMix(SEED)
    for name, parameter in sorted(model.named_parameters()):
        if parameter.dim() != 4:
            continue
        k, c, r, s = parameter.shape
        bound = 0.2 if name.startswith("classifier") else (6.0 / (k * r * s)) ** 0.5
        values = random.symmetric(parameter.numel(), bound).reshape(k, r, s, c)
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(values).permute(0, 3, 1, 2))


def scene(random, shift):
    """Images f32 [N,H,W,3] and labels [N,H,W]: a grid of 12 x 16 pixel blocks, each of one class and its colour."""
    labels = np.empty((PAIRS, HEIGHT, WIDTH), dtype=np.int64)
    for n in range(PAIRS):
        for y in range(0, HEIGHT, 12):
            for x in range(0, WIDTH, 16):
                labels[n, y : y + 12, x : x + 16] = random.next() % CLASSES
    colours = np.array([[((c * (3 + 2 * k)) % CLASSES) / 3.0 - 1 for k in range(3)] for c in range(CLASSES)])
    noise = random.symmetric(PAIRS * HEIGHT * WIDTH * 3, 0.4).reshape(PAIRS, HEIGHT, WIDTH, 3)
    images = (colours[labels] + shift + noise.astype(np.float64)).astype(np.float32)
    return images, labels


def inputs():
    random = SplitMix(SEED + 1)
    xs, ys = scene(random, 0.0)
    xt, truth = scene(random, 0.25)
    ys[:, : HEIGHT // 8] = peer.IGNORE
    # Static labels know the left part of the target.
    yf = truth.copy()
    yf[:, :, WIDTH * 2 // 5 :] = peer.IGNORE
    return xs, ys, xt, yf


def train(dtype, disturb=0):
    """Losses [STEPS, terms], what is kept of the end, the smallest margin, the share of dynamic labels by step.
    `disturb` seeds relative changes of the initial weights by half an f32 rounding."""
    model = peer.DeepLab(18, CHANNELS, CLASSES)
    fill(model)
    model.to(dtype).train()
    random = torch.Generator().manual_seed(disturb)
    for parameter in model.parameters() if disturb else ():
        with torch.no_grad():
            parameter *= 1 + 6e-8 * (2 * torch.rand(parameter.shape, generator=random, dtype=dtype) - 1)
    method = peer.Method(classes=CLASSES, threshold=THRESHOLD)
    sgd = peer.optimiser(model, BASE_RATE, affine=True)
    xs, ys, xt, yf = inputs()
    xs, xt = (torch.from_numpy(x).permute(0, 3, 1, 2).to(dtype) for x in (xs, xt))
    ys, yf = torch.from_numpy(ys), torch.from_numpy(yf)
    bias = torch.zeros(CLASSES, 4 * CLASSES, dtype=dtype)
    losses, margin, dynamic = [], 1.0, []
    for step in range(STEPS):
        peer.set_rate(sgd, BASE_RATE, step, HORIZON)
        terms, bias, state = peer.adapt_losses(model, method, xs, ys, xt, yf, bias)
        hung_on = state()
        losses.append([float(terms[name].detach()) for name in TERMS])
        margin = min(margin, float((hung_on["share"].max(1)[0] - method.threshold).abs().min()))
        dynamic.append(float(hung_on["dynamic"].double().mean()))
        sgd.zero_grad()
        terms["loss"].backward()
        sgd.step()
    values = dict(model.named_parameters())
    kept = {}
    for name in KEPT:
        value = values[name].detach().double()
        kept[f"end/{name}"] = (value.permute(0, 2, 3, 1) if value.dim() == 4 else value).contiguous().numpy()
    mean = model.bn1.running_mean.double().numpy(), model.bn1.running_var.double().numpy()
    kept["end/bn1.running_mean"], kept["end/bn1.running_var"] = mean
    kept["end/calibration"] = bias.double().numpy()
    return np.array(losses), kept, margin, dynamic


def main():
    torch.set_num_threads(1)
    losses, kept, margin, dynamic = train(torch.float64)
    others = [train(torch.float32)[0], train(torch.float64, 1)[0], train(torch.float64, 2)[0]]
    noise = max(float((np.abs(other - losses) / np.abs(losses)).max()) for other in others)
    for step in range(STEPS):
        row = "  ".join(f"{name} {value:.6f}" for name, value in zip(TERMS, losses[step]))
        print(f"step {step}: {row}  dynamic {dynamic[step]:.2f}")
    print(f"f32 against f64: {noise:.1e}; smallest margin of a dynamic label: {margin:.1e}")
    assert noise < 3.3e-6, "f32 rounding alone moves a loss too far; choose another seed or a lower rate"
    assert margin > 2e-4, "a dynamic label hangs on a hair; choose another seed"
    assert min(dynamic[2:]) > 0.02, "too few dynamic labels to test them"
    assert losses[-1, 0] < losses[0, 0], "it does not learn"
    tensors = {f"losses/{name}": losses[:, i].copy() for i, name in enumerate(TERMS)} | kept
    if "--check" in sys.argv:
        stored = load_file(PATH)
        worst = max(float(np.abs(stored[name] - tensors[name]).max()) for name in tensors)
        print(f"largest difference from {PATH.name}: {worst:.1e}")
        sys.exit(worst > 1e-9 or stored.keys() != tensors.keys())
    save_file(tensors, PATH, metadata={"torch": torch.__version__.split("+")[0]})
    print(f"{PATH.name}: {len(tensors)} tensors, {PATH.stat().st_size} bytes")


if __name__ == "__main__":
    main()
