#!/usr/bin/env python3
"""Writes tests/golden/layouts.safetensors: the network in both layouts in PyTorch 2.13, for tests/it/kernels/network_layouts.rs.

    python tools/layout_goldens.py [--check]

Narrow networks in f64: ResNet-18 and -50 in Caffe's and torchvision's layout, and a thin ResNet-50 whose stem is wider
than its blocks. Parameters, running statistics and the image come from a generator that both sides state (SplitMix64);
the file holds logits by the running statistics, and gradients of <seed, logits>.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

sys.path.insert(0, str(Path(__file__).parent))
import bicl_torch as peer  # noqa: E402
from training_golden import SplitMix  # noqa: E402

PATH = Path(__file__).parent.parent / "tests" / "golden" / "layouts.safetensors"
SEED, HEIGHT, WIDTH, CLASSES = 21, 45, 59, 5
# depth, width, stem width, layout
CASES = {
    "resnet18-caffe": (18, 4, 4, "caffe"),
    "resnet18-torchvision": (18, 4, 4, "torchvision"),
    "resnet50-caffe": (50, 4, 4, "caffe"),
    "resnet50-torchvision": (50, 4, 4, "torchvision"),
    "thin-resnet50-caffe": (50, 2, 6, "caffe"),
}
KEPT = ("conv1.weight", "layer2.0.conv1.weight", "layer3.0.conv2.weight", "layer4.0.bn1.bias", "classifier.convs.3.bias")


def fill(model):
    """All tensors in order of their names, filters as [K,R,S,C]: uniform with He's variance over the fan-out; scales and
    variances 0.5 to 1.5; shifts, means and biases -0.2 to 0.2."""
    random = SplitMix(SEED)
    for name, tensor in sorted(model.state_dict().items()):
        if name.endswith("num_batches_tracked"):
            continue
        if tensor.dim() == 4:
            k, c, r, s = tensor.shape
            values = random.symmetric(tensor.numel(), (6.0 / (k * r * s)) ** 0.5).reshape(k, r, s, c)
            tensor.copy_(torch.from_numpy(values).permute(0, 3, 1, 2))
        elif name.endswith("running_var") or (name.endswith("weight") and tensor.dim() == 1):
            tensor.copy_(torch.from_numpy(1 + random.symmetric(tensor.numel(), 0.5)))
        else:
            tensor.copy_(torch.from_numpy(random.symmetric(tensor.numel(), 0.2)))


def rows(x):
    """NCHW -> NHWC, a filter [K,C,R,S] -> [K,R,S,C]; vectors as they are."""
    return np.ascontiguousarray((x.permute(0, 2, 3, 1) if x.dim() == 4 else x).detach().numpy())


def main():
    torch.set_num_threads(1)
    tensors = {}
    for case, (depth, width, stem, layout) in CASES.items():
        model = peer.DeepLab(depth, width, CLASSES, layout=layout, stem_width=stem).eval()
        with torch.no_grad():
            fill(model)
        model.double()
        random = SplitMix(SEED + 1)
        image = random.symmetric(HEIGHT * WIDTH * 3, 1.0).reshape(1, HEIGHT, WIDTH, 3)
        logits = model(torch.from_numpy(image).permute(0, 3, 1, 2).double())[0]
        n, c, h, w = logits.shape
        seed = torch.from_numpy(random.symmetric(logits.numel(), 1.0).reshape(n, h, w, c)).permute(0, 3, 1, 2)
        (logits * seed.double()).sum().backward()
        named = dict(model.named_parameters())
        tensors[f"{case}/logits"] = rows(logits)
        tensors |= {f"{case}/d{name}": rows(named[name].grad) for name in KEPT}
    if "--check" in sys.argv:
        stored = load_file(PATH)
        # The file holds f32.
        worst = max(float(np.abs(stored[name] - x).max() / np.abs(x).max()) for name, x in tensors.items())
        print(f"largest difference from {PATH.name}, over the tensor's largest: {worst:.1e}")
        sys.exit(worst > 1e-6 or stored.keys() != tensors.keys())
    tensors = {name: value.astype(np.float32) for name, value in tensors.items()}
    save_file(tensors, PATH, metadata={"torch": torch.__version__.split("+")[0]})
    print(f"{PATH.name}: {len(tensors)} tensors, {PATH.stat().st_size} bytes")


if __name__ == "__main__":
    main()
