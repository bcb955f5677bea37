#!/usr/bin/env python3
"""Builds the network of a .safetensors file of `trainer export` in plain PyTorch, by the file's own metadata, and predicts.

    python tools/load_in_torch.py net.safetensors image.png labels.png
"""

import sys

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open


def load(path):
    """predict(levels): an image's levels 0..255, RGB, [N,3,H,W] -> logits [N,C,H,W]."""
    with safe_open(path, "pt") as file:
        about, w = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
    caffe, epsilon = about["layout"] == "caffe", float(about["batch_norm_epsilon"])
    mean, std = (torch.tensor([float(v) for v in about[key].split(",")]).view(3, 1, 1) for key in ("mean", "std"))

    def conv(x, name, stride=1, dilation=1):
        pad = dilation * (w[f"{name}.weight"].shape[-1] // 2)
        return F.conv2d(x, w[f"{name}.weight"], w.get(f"{name}.bias"), stride, pad, dilation)

    def norm(x, name):
        statistics = w[f"{name}.running_mean"], w[f"{name}.running_var"]
        return F.batch_norm(x, *statistics, w[f"{name}.weight"], w[f"{name}.bias"], eps=epsilon)

    def block(x, name, stride, dilation):
        bottleneck, down = f"{name}.conv3.weight" in w, f"{name}.downsample"
        shortcut = norm(conv(x, f"{down}.0", stride), f"{down}.1") if f"{down}.0.weight" in w else x
        first, second = (stride, 1) if caffe or not bottleneck else (1, stride)
        x = F.relu(norm(conv(x, f"{name}.conv1", first, 1 if bottleneck else dilation), f"{name}.bn1"))
        x = norm(conv(x, f"{name}.conv2", second, dilation), f"{name}.bn2")
        return F.relu((norm(conv(F.relu(x), f"{name}.conv3"), f"{name}.bn3") if bottleneck else x) + shortcut)

    def predict(levels):
        x = ((levels.flip(1) if about["channels"] == "BGR" else levels) - mean) / std
        x = F.max_pool2d(F.relu(norm(conv(x, "conv1", 2), "bn1")), 3, 2, 1, ceil_mode=about["ceil_mode"] == "true")
        for stage, (stride, before, rest) in enumerate(((1, 1, 1), (2, 1, 1), (1, 1, 2), (1, 2, 4)), 1):
            for i in range(sum(f"layer{stage}.{k}.conv1.weight" in w for k in range(99))):
                dilation = rest if i or caffe else before
                x = block(x, f"layer{stage}.{i}", 1 if i else stride, dilation)
        rates = [int(rate) for rate in about["rates"].split(",")]
        x = sum(conv(x, f"classifier.convs.{i}", 1, rate) for i, rate in enumerate(rates))
        return F.interpolate(x, levels.shape[2:], mode="bilinear", align_corners=about["align_corners"] == "true")

    return predict


if __name__ == "__main__":
    from PIL import Image

    levels = torch.from_numpy(np.array(Image.open(sys.argv[2]).convert("RGB"))).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        Image.fromarray(load(sys.argv[1])(levels)[0].argmax(0).to(torch.uint8).numpy()).save(sys.argv[3])
