"""The method restated in PyTorch, for golden files and as the peer in benchmarks.

Written from the equations (docs/method.md) and nothing else: the contrastive terms and the segmentation losses go through
full-resolution maps, as the definitions read; no code is shared with the Rust library. Images are NCHW here, features
[N,d,h,w], labels [N,H,W] of 0..C-1 or 255 = ignore. Parameters carry torchvision's names.
"""

import math
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

IGNORE = 255
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
RATES = (6, 12, 18, 24)


# --- network -----------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """A basic (two 3x3, both dilated) or bottleneck (1x1, 3x3, 1x1) block; a bottleneck's stride is on its 3x3, in Caffe's
    layout on its first 1x1."""

    def __init__(self, inputs, inner, stride, dilation, bottleneck, layout="torchvision"):
        super().__init__()
        outputs = 4 * inner if bottleneck else inner
        if bottleneck:
            one, three = (stride, 1) if layout == "caffe" else (1, stride)
            plan = [(inputs, inner, 1, one, 1), (inner, inner, 3, three, dilation), (inner, outputs, 1, 1, 1)]
        else:
            plan = [(inputs, inner, 3, stride, dilation), (inner, inner, 3, 1, dilation)]
        self.depth = len(plan)
        for i, (c, k, size, s, d) in enumerate(plan, 1):
            conv = nn.Conv2d(c, k, size, stride=s, padding=d * (size // 2), dilation=d, bias=False)
            self.add_module(f"conv{i}", conv)
            self.add_module(f"bn{i}", nn.BatchNorm2d(k))
        self.downsample = None
        if stride != 1 or inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        for i in range(1, self.depth + 1):
            x = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x))
            x = F.relu(x if i < self.depth else x + shortcut)
        return x


class Head(nn.Module):
    def __init__(self, inputs, classes):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(inputs, classes, 3, padding=r, dilation=r) for r in RATES)


class DeepLab(nn.Module):
    """DeepLab-V2 at output stride 8. forward(images) -> (logits [N,C,h,w], features [N,4C or backbone,h,w])."""

    def __init__(self, depth=101, width=64, classes=19, feature="aspp", layout="torchvision", stem_width=None):
        super().__init__()
        self.feature = feature
        bottleneck = depth > 34
        channels = stem_width or width
        self.conv1 = nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        # stride, dilation of the first block, of the others: torchvision's replace_stride_with_dilation, or Caffe's.
        stages = ((1, 1, 1), (2, 1, 1), (1, 1, 2), (1, 2, 4))
        if layout == "caffe":
            stages = ((1, 1, 1), (2, 1, 1), (1, 2, 2), (1, 4, 4))
        for stage, ((stride, first, rest), count) in enumerate(zip(stages, BLOCKS[depth])):
            inner = width << stage
            blocks = []
            for i in range(count):
                step, dilation = (stride, first) if i == 0 else (1, rest)
                blocks.append(Block(channels, inner, step, dilation, bottleneck, layout))
                channels = inner * (4 if bottleneck else 1)
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.classifier = Head(channels, classes)
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d):
                if name.startswith("classifier"):
                    nn.init.normal_(module.weight, std=0.01)
                    nn.init.zeros_(module.bias)
                else:
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.max_pool2d(x, 3, stride=2, padding=1, ceil_mode=True)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        branches = [conv(x) for conv in self.classifier.convs]
        logits = branches[0] + branches[1] + branches[2] + branches[3]
        return logits, torch.cat(branches, 1) if self.feature == "aspp" else x


def feature_extent(x):
    """Rows or columns of the features of an image that has x: three halvings, of which the pool rounds up."""
    x = (x - 1) // 2 + 1
    x = -(-(x - 1) // 2) + 1
    return (x - 1) // 2 + 1


# --- labels, prototypes, similarity ------------------------------------------------------------------------------


def nearest_index(source, target, device=None):
    """src = floor(dst * source / target), in integers. (interpolate's own float32 product can fall below an exact
    integer, for example at 92 -> 730: one row in 730 then differs.)"""
    return torch.arange(target, device=device) * source // target


def resize_nearest(x, size):
    """The last two dimensions of x, resized by nearest neighbour."""
    rows = nearest_index(x.shape[-2], size[0], x.device)
    columns = nearest_index(x.shape[-1], size[1], x.device)
    return x[..., rows, :][..., columns]


def masked_average_pool(features, labels, classes):
    """features [N,d,h,w], labels [N,h,w] -> prototypes [N,C,d] (absent: 0), counts [N,C]."""
    masks = torch.stack([labels == c for c in range(classes)], 1).to(features.dtype)
    counts = masks.sum((2, 3))
    sums = torch.einsum("nchw,ndhw->ncd", masks, features)
    return sums / counts.clamp(min=1)[..., None], counts.long()


def similarity(features, prototypes, present):
    """Cosine similarities [N,C,h,w]; -1 where a class is absent; norms clamped below at 1e-12."""
    f = F.normalize(features, dim=1, eps=1e-12)
    p = F.normalize(prototypes, dim=2, eps=1e-12)
    s = torch.einsum("ndhw,ncd->nchw", f, p)
    return torch.where(present[:, :, None, None], s, torch.full_like(s, -1.0))


def contrastive_loss(features, labels, prototypes, present, overlap, tau=0.1):
    """The definition, read literally: similarities upsampled to the labels' resolution, weighted cross entropy per
    pair, mean over the pairs. labels [N,H,W], present and overlap bool [N,C]."""
    s = resize_nearest(similarity(features, prototypes, present), labels.shape[1:])
    terms = []
    for n in range(features.shape[0]):
        logits = s[n] / tau
        y = labels[n]
        weight = torch.zeros(y.shape, dtype=features.dtype, device=features.device)
        for c in range(prototypes.shape[1]):
            weight = torch.where((y == c) & overlap[n, c], torch.ones_like(weight), weight)
        loss = -F.log_softmax(logits, 0).gather(0, (y * (y != IGNORE))[None].long())[0]
        total = weight.sum()
        terms.append((weight * loss).sum() / total if total > 0 else (features[n] * 0).sum())
    return torch.stack(terms).mean()


def contrastive_operators(features, labels, prototypes, present, overlap, tau=0.1):
    """The same loss as one would write it with PyTorch's operators, and as the published code does in substance: the
    similarities as a full-resolution map, a weighted cross entropy per pair. The peer in benchmarks."""
    s = F.interpolate(similarity(features, prototypes, present), size=labels.shape[1:], mode="nearest")
    terms = []
    for n in range(features.shape[0]):
        weight = overlap[n].to(s.dtype)
        y = labels[n : n + 1].long()
        total = F.cross_entropy(s[n : n + 1] / tau, y, weight=weight, ignore_index=IGNORE, reduction="sum")
        mass = (weight[y.clamp(max=len(weight) - 1)] * (y != IGNORE)).sum()
        terms.append(total / mass.clamp(min=1))
    return torch.stack(terms).mean()


def transfer_labels(features, prototypes, present, tau=0.1, threshold=0.8):
    """Labels u8 [N,h,w] from the similarity to (calibrated) prototypes; 255 where not certain. No gradient."""
    with torch.no_grad():
        s = similarity(features, prototypes, present)
        share = F.softmax(s / tau, 1)
        # An absent class takes its small part of the softmax (s = -1) but is never assigned.
        share = torch.where(present[:, :, None, None], share, torch.full_like(share, -1.0))
        best, label = share.max(1)
        return torch.where(best > threshold, label, torch.full_like(label, IGNORE))


def update_calibration(bias, source, target, source_present, target_present, momentum=0.99):
    """xi [C,d] after one step; the difference is the mean over the pairs in which both prototypes exist."""
    both = (source_present & target_present)[..., None]
    count = both.sum(0)
    difference = torch.where(both, target - source, torch.zeros_like(source)).sum(0) / count.clamp(min=1)
    return torch.where(count > 0, momentum * bias + (1 - momentum) * difference, bias)


# --- segmentation losses -----------------------------------------------------------------------------------------


def upsample(logits, size):
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=True)


def cross_entropy(logits, labels):
    """Mean over the pixels whose label is not 255; 0 where there is none."""
    total = F.cross_entropy(logits, labels.long(), ignore_index=IGNORE, reduction="sum")
    return total / (labels != IGNORE).sum().clamp(min=1)


def entropy(logits):
    """Mean over all pixels of the softmax entropy, natural logarithm."""
    log = F.log_softmax(logits, 1)
    return -(log.exp() * log).sum(1).mean()


# --- a training step ---------------------------------------------------------------------------------------------


@dataclass
class Method:
    """The switches and weights of the method."""

    classes: int = 19
    tau: float = 0.1
    threshold: float = 0.8
    target_ce: float = 0.3
    entropy: float = 0.4
    target_entropy: float = 0.3
    forward: float = 0.1
    backward: float = 0.1
    dynamic_labels: bool = True
    calibration: bool = True
    calibration_momentum: float = 0.99
    hybrid_ce: bool = False


def adapt_losses(
    model, method, xs, ys, xt, yf, bias, contrast=contrastive_loss, precision=nullcontext, losses=None
):
    """One adaptation step's losses. -> (terms by name, the new calibration bias [C,d], what the labels hung on).
    `precision` gives the context of the network's passes; the losses run in the weights' own type. `losses` stands in
    for `pair_losses`: the benchmarks give it compiled."""
    with precision():
        outputs = [*model(xs), *model(xt)]
    outputs = [x.to(bias.dtype) for x in outputs]
    terms, new, (calibrated, present_s, hybrid, overlap) = (losses or pair_losses)(outputs, method, ys, yf, bias, contrast)

    def state():
        with torch.no_grad():
            share = F.softmax(similarity(outputs[3], calibrated, present_s) / method.tau, 1)
            return {"share": share, "hybrid": hybrid, "overlap": overlap, "dynamic": hybrid != yf}

    return terms, new, state


def pair_losses(outputs, method, ys, yf, bias, contrast):
    """The losses of both domains from the network's outputs: logits and features of the source, of the target.
    -> (terms by name, the new bias, (calibrated prototypes, the source's classes, hybrid labels, classes of both))."""
    logits_s, features_s, logits_t, features_t = outputs
    size = features_s.shape[2:]
    low_s = resize_nearest(ys, size)
    rho_s, counts_s = masked_average_pool(features_s, low_s, method.classes)
    present_s = counts_s > 0
    hybrid = yf
    calibrated = (rho_s + (bias if method.calibration else 0)).detach()
    if method.dynamic_labels:
        dynamic = transfer_labels(features_t.detach(), calibrated, present_s, method.tau, method.threshold)
        hybrid = torch.where(yf != IGNORE, yf, resize_nearest(dynamic, yf.shape[1:]).to(yf.dtype))
    low_t = resize_nearest(hybrid, features_t.shape[2:])
    rho_t, counts_t = masked_average_pool(features_t, low_t, method.classes)
    present_t = counts_t > 0
    overlap = present_s & present_t
    up_s, up_t = upsample(logits_s, ys.shape[1:]), upsample(logits_t, yf.shape[1:])
    terms = {
        "source_ce": cross_entropy(up_s, ys),
        "target_ce": cross_entropy(up_t, hybrid if method.hybrid_ce else yf),
        "source_entropy": entropy(up_s),
        "target_entropy": entropy(up_t),
        "forward_contrast": contrast(features_t, hybrid, rho_s, present_s, overlap, method.tau),
        "backward_contrast": contrast(features_s, ys, rho_t, present_t, overlap, method.tau),
    }
    m = method
    terms["loss"] = (
        terms["source_ce"]
        + m.target_ce * terms["target_ce"]
        + m.entropy * (terms["source_entropy"] + m.target_entropy * terms["target_entropy"])
        + m.forward * terms["forward_contrast"]
        + m.backward * terms["backward_contrast"]
    )
    with torch.no_grad():
        new = update_calibration(bias, rho_s, rho_t, present_s, present_t, m.calibration_momentum)
    return terms, new if m.calibration else bias, (calibrated, present_s, hybrid, overlap)


def source_losses(model, method, xs, ys):
    """The warm-up's loss: the source terms alone."""
    ce = cross_entropy(upsample(model(xs)[0], ys.shape[1:]), ys)
    return {"source_ce": ce, "loss": ce}


def optimiser(model, lr, head=10.0, momentum=0.9, decay=5e-4, affine=False, fused=None):
    """SGD (`fused`: as one kernel); the head at `head` times the rate; batch norms' scale and shift frozen unless `affine`."""
    groups = {"backbone": [], "head": []}
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if isinstance(module, nn.BatchNorm2d) and not affine:
                parameter.requires_grad_(False)
                continue
            groups["head" if module_name.startswith("classifier") else "backbone"].append(parameter)
    groups = [
        {"params": groups["backbone"], "lr": lr, "factor": 1.0},
        {"params": groups["head"], "lr": lr * head, "factor": head},
    ]
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, weight_decay=decay, fused=fused)


def set_rate(sgd, base, step, horizon, power=0.9):
    """Poly decay: base (1 - step / horizon)^power, horizon = 1.2 steps epochs."""
    rate = base * (1 - step / horizon) ** power
    for group in sgd.param_groups:
        group["lr"] = rate * group["factor"]
    return rate


# --- static pseudo labels ----------------------------------------------------------------------------------------


def value_at_top(values, portion):
    """The value at position floor(n portion), counted from 0 in falling order; 1 of nothing."""
    if values.numel() == 0:
        return 1.0
    ordered = values.flatten().sort(descending=True)[0]
    return float(ordered[min(math.floor(values.numel() * portion), values.numel() - 1)])


def class_thresholds(probabilities, portion=0.1, never=(), every=5):
    """Class-balanced thresholds, one a class, over images' probabilities [C,H,W]. Of an image's confidences by
    predicted class, in falling order, each `every`-th counts."""
    thresholds = []
    for c in range(probabilities[0].shape[0]):
        own = [p.max(0)[0][p.argmax(0) == c].sort(descending=True)[0][::every] for p in probabilities]
        thresholds.append(1.0 if c in never else value_at_top(torch.cat(own), portion))
    return thresholds


def static_labels(probability, thresholds, portion=0.1):
    """Labels [H,W] of one image: kept where some class reaches its threshold, or where the confidence is strictly
    above the image's own value."""
    value, label = probability.max(0)
    limits = torch.tensor(thresholds, dtype=probability.dtype)[:, None, None]
    keep = (probability >= limits).any(0) | (value > value_at_top(value, portion))
    return torch.where(keep, label, torch.full_like(label, IGNORE))


# --- weights to hold programs against each other ---------------------------------------------------------------------


def normalised(levels, layout):
    """Levels u8 [H,W,3] as the networks of a layout take them, [1,3,H,W]."""
    x = torch.from_numpy(levels).permute(2, 0, 1)[None].float()
    if layout == "caffe":
        return x.flip(1) - torch.tensor([104.00698793, 116.66876762, 122.67891434]).view(3, 1, 1)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (x / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)


def stir(model, layout, head_std):
    """Running statistics that are not the initial ones, and logits that differ from pixel to pixel, in place."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_mean"):
                tensor.uniform_(-0.2, 0.2)
            elif name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif name.startswith("classifier"):
                tensor.normal_(std=head_std)
        if layout == "caffe":
            model.conv1.weight /= 60
