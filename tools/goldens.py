#!/usr/bin/env python3
"""Writes tests/golden/*.safetensors: inputs, outputs and gradients of every operation from PyTorch 2.13, in f64.

    python tools/goldens.py            all files
    python tools/goldens.py conv2d     one of them
    python tools/goldens.py --check    computes them again and compares with the files that are there

Needs torch 2.13, numpy and safetensors. Images are stored as the library holds them: [N,H,W,C], filters [K,R,S,C]. Inputs
are multiples of 1/1024, so that the f32 tests start from the same numbers (and are stored in f32). A tensor is named case/name; `dx` is the
gradient of <seed, output> by x (of a scalar output: its own gradient).
"""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import load_file, save_file

sys.path.insert(0, str(Path(__file__).parent))
import bicl_torch as peer  # noqa: E402

FOLDER = Path(__file__).parent.parent / "tests" / "golden"
LARGEST = 100_000


class Golden:
    """The tensors of one file, and its own random numbers."""

    def __init__(self, name):
        self.tensors = {}
        self.random = torch.Generator().manual_seed(sum(name.encode()))

    def real(self, *shape, scale=1.0):
        """f64 values of deviation `scale` that f32 holds exactly."""
        x = torch.randn(*shape, generator=self.random, dtype=torch.float64) * scale
        return (x * 1024).round() / 1024

    def labels(self, *shape, classes, ignored=0.15, missing=()):
        """Labels in vertical runs, with ignored pixels; no label of `missing`."""
        y = torch.randint(classes, shape, generator=self.random)
        y[torch.rand(shape, generator=self.random) < ignored] = peer.IGNORE
        for c in missing:
            y[y == c] = peer.IGNORE
        return y

    def put(self, case, **values):
        for name, value in values.items():
            value = torch.as_tensor(value).detach()
            if not value.is_floating_point():
                value = value.to(torch.uint8 if value.numel() == 0 or int(value.max()) < 256 else torch.int32)
            elif value.dtype == torch.float64 and torch.equal(value.float().double(), value):
                value = value.float()
            array = np.array(value.numpy(), order="C")  # keeps the shape [] of scalars
            self.tensors[f"{case}/{name}"] = array.astype(np.uint32) if array.dtype == np.int32 else array


def rows(x):
    """NCHW -> NHWC (a filter [K,C,R,S] -> [K,R,S,C] likewise)."""
    return x.permute(0, 2, 3, 1)


def gradients(output, seed, *inputs):
    return torch.autograd.grad(output, inputs, seed)


def conv2d(g):
    cases = {  # input, filter, stride, padding, dilation
        "1x1": ((2, 9, 5, 6), (11, 9, 1, 1), (1, 1), (0, 0), (1, 1)),
        "1x1_stride": ((1, 6, 7, 8), (5, 6, 1, 1), (2, 2), (0, 0), (1, 1)),
        "3x3": ((2, 5, 6, 7), (6, 5, 3, 3), (1, 1), (1, 1), (1, 1)),
        "3x3_stride": ((2, 4, 9, 8), (5, 4, 3, 3), (2, 2), (1, 1), (1, 1)),
        "stem": ((1, 3, 13, 11), (8, 3, 7, 7), (2, 2), (3, 3), (1, 1)),
        "dilation2": ((1, 4, 9, 7), (7, 4, 3, 3), (1, 1), (2, 2), (2, 2)),
        "dilation4": ((1, 4, 11, 9), (3, 4, 3, 3), (1, 1), (4, 4), (4, 4)),
        "aspp24": ((1, 3, 26, 4), (5, 3, 3, 3), (1, 1), (24, 24), (24, 24)),
        "uneven": ((1, 3, 9, 12), (4, 3, 2, 3), (2, 1), (0, 3), (3, 2)),
        "one_pixel": ((1, 7, 1, 1), (4, 7, 3, 3), (1, 1), (6, 6), (6, 6)),
    }
    for case, (xs, ws, stride, padding, dilation) in cases.items():
        x, w, b = (g.real(*s).requires_grad_() for s in (xs, ws, ws[:1]))
        y = F.conv2d(x, w, b, stride, padding, dilation)
        seed = g.real(*y.shape)
        dx, dw, db = gradients(y, seed, x, w, b)
        g.put(case, x=rows(x), w=rows(w), b=b, y=rows(y), seed=rows(seed), dx=rows(dx), dw=rows(dw), db=db)
        g.put(case, spec=torch.tensor([*stride, *padding, *dilation]))


def batch_norm(g):
    for case, training, relu, add in (
        ("batch", True, False, False),
        ("batch_relu", True, True, False),
        ("batch_add_relu", True, True, True),
        ("running", False, False, False),
        ("running_add_relu", False, True, True),
    ):
        x = g.real(2, 5, 6, 4).add(g.real(1, 5, 1, 1, scale=2)).requires_grad_()
        residual = g.real(2, 5, 6, 4).requires_grad_()
        scale, shift = g.real(5).requires_grad_(), g.real(5).requires_grad_()
        mean, variance = g.real(5), g.real(5).abs() + 0.5
        new_mean, new_variance = mean.clone(), variance.clone()
        y = F.batch_norm(x, new_mean, new_variance, scale, shift, training, 0.1, 1e-5)
        y = y + residual if add else y
        y = F.relu(y) if relu else y
        seed = g.real(*y.shape)
        dx, dscale, dshift = gradients_kept(y, seed, x, scale, shift)
        g.put(case, x=rows(x), scale=scale, shift=shift, mean=mean, variance=variance, y=rows(y), seed=rows(seed))
        g.put(case, dx=rows(dx), dscale=dscale, dshift=dshift)
        if add:
            (dresidual,) = gradients_kept(y, seed, residual)
            g.put(case, residual=rows(residual), dresidual=rows(dresidual))
        if training:
            g.put(case, new_mean=new_mean, new_variance=new_variance)


def gradients_kept(output, seed, *inputs):
    return torch.autograd.grad(output, inputs, seed, retain_graph=True)


def max_pool2d(g):
    for case, shape, kernel, stride, padding in (
        ("stem_odd", (2, 3, 11, 9), 3, 2, 1),
        ("stem_even", (1, 4, 12, 10), 3, 2, 1),
        ("no_padding", (1, 3, 8, 7), 3, 2, 0),
        ("two", (1, 2, 5, 4), 2, 2, 0),
    ):
        for kind in ("", "_ties"):
            x = g.real(*shape)
            x = x.round().clamp(min=0) if kind else x
            x.requires_grad_()
            y = F.max_pool2d(x, kernel, stride, padding, ceil_mode=True)
            seed = g.real(*y.shape)
            (dx,) = gradients(y, seed, x)
            g.put(case + kind, x=rows(x), y=rows(y), seed=rows(seed), dx=rows(dx))
            g.put(case + kind, spec=torch.tensor([kernel, stride, padding]))


def upsample_bilinear(g):
    for case, shape, size in (
        ("up", (2, 3, 5, 7), (17, 23)),
        ("same", (1, 2, 4, 5), (4, 5)),
        ("from_one", (1, 2, 1, 3), (6, 9)),
        ("to_one", (1, 3, 6, 5), (1, 1)),
        ("down", (1, 2, 9, 11), (4, 5)),
    ):
        x = g.real(*shape).requires_grad_()
        y = peer.upsample(x, size)
        seed = g.real(*y.shape)
        (dx,) = gradients(y, seed, x)
        g.put(case, x=rows(x), y=rows(y), seed=rows(seed), dx=rows(dx))


def cross_entropy(g):
    for case, ignored, scale in (("plain", 0.0, 2), ("ignore", 0.4, 2), ("all_ignored", 1.0, 2), ("large", 0.2, 300)):
        x = g.real(2, 7, 5, 6, scale=scale).requires_grad_()
        y = g.labels(2, 5, 6, classes=7, ignored=ignored)
        loss = peer.cross_entropy(x, y)
        (dx,) = gradients(loss, None, x)
        g.put(case, x=rows(x), labels=y, loss=loss, dx=rows(dx))


def entropy(g):
    for case, scale in (("plain", 2), ("flat", 0), ("large", 300)):
        x = g.real(2, 7, 5, 6, scale=scale).requires_grad_()
        loss = peer.entropy(x)
        (dx,) = gradients(loss, None, x)
        if case == "flat":
            assert float(dx.abs().max()) < 1e-15
            dx = torch.zeros_like(x)  # the maximum: what PyTorch leaves is rounding
        g.put(case, x=rows(x), loss=loss, dx=rows(dx))


def segmentation_loss(g):
    for case, low, full, ignored in (
        ("source", (2, 19, 4, 5), (25, 33), 0.1),
        ("target", (1, 11, 5, 4), (40, 31), 0.7),
        ("all_ignored", (1, 5, 3, 3), (17, 17), 1.0),
        ("same_size", (1, 4, 6, 5), (6, 5), 0.3),
    ):
        x = g.real(*low, scale=3).requires_grad_()
        y = g.labels(low[0], *full, classes=low[1], ignored=ignored)
        up = peer.upsample(x, full)
        ce, uncertainty = peer.cross_entropy(up, y), peer.entropy(up)
        (dce,) = gradients_kept(ce, None, x)
        (dentropy,) = gradients_kept(uncertainty, None, x)
        g.put(case, x=rows(x), labels=y, cross_entropy=ce, entropy=uncertainty)
        g.put(case, dx_cross_entropy=rows(dce), dx_entropy=rows(dentropy))


def clustered(g, labels, classes, dimensions, noise):
    """Features around one centre a class, so that similarities are as in training. -> [N,d,h,w], centres [C,d]."""
    centres = g.real(classes, dimensions)
    f = centres[torch.where(labels == peer.IGNORE, 0, labels)].permute(0, 3, 1, 2)
    return ((f + g.real(*f.shape, scale=noise)) * 1024).round() / 1024, centres


def masked_average_pool(g):
    for case, shape, classes, missing in (
        ("plain", (2, 6, 5, 7), 5, ()),
        ("missing", (2, 8, 6, 5), 19, (2, 3, 11)),
        ("all_ignored", (1, 3, 4, 4), 4, (0, 1, 2, 3)),
    ):
        f = g.real(*shape).requires_grad_()
        y = g.labels(shape[0], *shape[2:], classes=classes, missing=missing)
        vectors, counts = peer.masked_average_pool(f, y, classes)
        seed = g.real(*vectors.shape)
        (df,) = gradients(vectors, seed, f)
        g.put(case, features=rows(f), labels=y, vectors=vectors, counts=counts, seed=seed, dfeatures=rows(df))


def pixel_prototype_similarity(g):
    for case, shape, classes, absent in (("plain", (2, 6, 4, 5), 5, ()), ("absent", (1, 20, 3, 4), 19, (0, 7, 18))):
        f = g.real(*shape).requires_grad_()
        p = g.real(shape[0], classes, shape[1]).requires_grad_()
        present = torch.ones(shape[0], classes, dtype=torch.bool)
        present[:, list(absent)] = False
        s = peer.similarity(f, p, present)
        seed = g.real(*s.shape)
        df, dp = gradients(s, seed, f, p)
        g.put(case, features=rows(f), vectors=p, present=present.long(), similarity=rows(s), seed=rows(seed))
        g.put(case, dfeatures=rows(df), dvectors=dp)


def contrastive_loss(g):
    # pixel features against given prototypes; gradients by both
    for case, shape, full, classes, missing, absent, alone in (
        ("plain", (2, 8, 4, 5), (32, 40), 6, (), (), ()),
        ("uneven", (1, 12, 5, 6), (37, 43), 19, (3, 9), (9, 10), (1, 2)),
        ("small", (2, 5, 3, 4), (3, 4), 4, (), (1,), ()),
        ("no_overlap", (1, 6, 3, 3), (24, 24), 5, (), (), (0, 1, 2, 3, 4)),
        ("all_ignored", (1, 6, 3, 3), (24, 24), 5, (0, 1, 2, 3, 4), (), ()),
        ("one_pair_empty", (2, 6, 3, 3), (24, 24), 5, (), (), ()),
    ):
        y = g.labels(shape[0], *full, classes=classes, missing=missing)
        if case == "one_pair_empty":
            y[1] = peer.IGNORE
        f, centres = clustered(g, peer.resize_nearest(y, shape[2:]), classes, shape[1], 0.8)
        f.requires_grad_()
        p = (centres + g.real(shape[0], *centres.shape, scale=0.25)).requires_grad_()
        present = torch.ones(shape[0], classes, dtype=torch.bool)
        present[:, list(absent)] = False
        overlap = present.clone()
        overlap[:, list(alone)] = False
        loss = peer.contrastive_loss(f, y, p, present, overlap)
        df, dp = torch.autograd.grad(loss, (f, p), allow_unused=True)
        dp = torch.zeros_like(p) if dp is None else dp
        g.put(case, features=rows(f), labels=y, vectors=p, present=present.long(), overlap=overlap.long())
        g.put(case, loss=loss, dfeatures=rows(df), dvectors=dp)


def bidirectional(g):
    # both directions of two pairs, the gradients through the prototypes included
    for case, shape, full, classes, missing in (
        ("plain", (2, 8, 4, 5), (32, 40), 6, ()),
        ("missing", (2, 12, 5, 4), (33, 29), 11, (2, 5)),
    ):
        ys = g.labels(shape[0], *full, classes=classes)
        yt = g.labels(shape[0], *full, classes=classes, ignored=0.4, missing=missing)
        size = shape[2:]
        low_s, low_t = peer.resize_nearest(ys, size), peer.resize_nearest(yt, size)
        fs, centres = clustered(g, low_s, classes, shape[1], 0.7)
        ft = centres[torch.where(low_t == peer.IGNORE, 0, low_t)].permute(0, 3, 1, 2) + g.real(*shape, scale=0.7)
        fs.requires_grad_(), ft.requires_grad_()
        rho_s, n_s = peer.masked_average_pool(fs, low_s, classes)
        rho_t, n_t = peer.masked_average_pool(ft, low_t, classes)
        overlap = (n_s > 0) & (n_t > 0)
        forward = peer.contrastive_loss(ft, yt, rho_s, n_s > 0, overlap)
        backward = peer.contrastive_loss(fs, ys, rho_t, n_t > 0, overlap)
        total = 0.1 * forward + 0.2 * backward
        dfs, dft = gradients(total, None, fs, ft)
        g.put(case, source=rows(fs), target=rows(ft), source_labels=ys, target_labels=yt, overlap=overlap.long())
        g.put(case, source_low=low_s, target_low=low_t)
        g.put(case, forward=forward, backward=backward, total=total, dsource=rows(dfs), dtarget=rows(dft))


def transfer_labels(g):
    for case, shape, classes, absent, noise in (
        ("plain", (2, 8, 6, 7), 5, (), 0.9),
        ("absent", (1, 12, 8, 9), 19, (0, 4, 11), 0.9),
        ("none_present", (1, 4, 3, 3), 3, (0, 1, 2), 0.5),
    ):
        truth = g.labels(shape[0], *shape[2:], classes=classes, ignored=0)
        f, centres = clustered(g, truth, classes, shape[1], noise)
        p = centres + g.real(shape[0], *centres.shape, scale=0.2)
        present = torch.ones(shape[0], classes, dtype=torch.bool)
        present[:, list(absent)] = False
        label = peer.transfer_labels(f, p, present)
        best = F.softmax(peer.similarity(f, p, present) / 0.1, 1).max(1)[0]
        margin = float((best - 0.8).abs().min())
        assert margin > 1e-4, f"transfer_labels/{case}: a pixel lies {margin} from the threshold; change the seed"
        if case != "none_present":
            kept = float((label != peer.IGNORE).double().mean())
            assert 0.1 < kept < 0.95, f"transfer_labels/{case}: {kept} of the pixels are kept"
        g.put(case, features=rows(f), vectors=p, present=present.long(), labels=label)


def calibration(g):
    bias = g.real(7, 6, scale=0.3)
    present_s = torch.tensor([[1, 1, 1, 0, 1, 0, 1], [1, 0, 1, 0, 1, 1, 1]]).bool()
    present_t = torch.tensor([[1, 1, 0, 1, 1, 0, 1], [1, 1, 1, 0, 0, 1, 1]]).bool()
    g.put("in", bias=bias, present_source=present_s.long(), present_target=present_t.long())
    for step in range(3):
        source, target = g.real(2, 7, 6), g.real(2, 7, 6)
        bias = peer.update_calibration(bias, source, target, present_s, present_t, 0.99)
        g.put(f"step{step}", source=source, target=target, bias=bias)


def static_labels(g):
    # confidences in f32, as the library holds them; class 4 is excluded, class 5 never predicted
    classes, images = 6, []
    for size in ((20, 25), (17, 23)):
        logits = g.real(classes, *size, scale=1.5) + torch.tensor([1.5, 1.0, 0.0, -0.5, 0.0, 0.0])[:, None, None]
        logits[5] = -20
        images.append(F.softmax(logits, 0).float())
    thresholds = peer.class_thresholds(images, 0.1, never=(4,))
    g.put("all", thresholds=torch.tensor(thresholds, dtype=torch.float64), excluded=torch.tensor([4]))
    for i, p in enumerate(images):
        value, label = p.max(0)
        kept = peer.static_labels(p, thresholds, 0.1)
        share = float((kept != peer.IGNORE).double().mean())
        assert 0.1 < share < 0.9, f"static_labels: {share} of the pixels are kept"
        g.put(f"image{i}", probability=p.permute(1, 2, 0), confidence=value, predicted=label, labels=kept)
        g.put(f"image{i}", own=torch.tensor([peer.value_at_top(value, 0.1)], dtype=torch.float64))


def sgd(g):
    values = [g.real(4, 5), g.real(7), g.real(2, 3)]
    rates, momentum, decay = (0.01, 0.1, 0.02), 0.9, (5e-4, 5e-4, 0.0)
    parameters = [v.clone().requires_grad_() for v in values]
    groups = [{"params": [p], "lr": r, "weight_decay": d} for p, r, d in zip(parameters, rates, decay)]
    optimiser = torch.optim.SGD(groups, lr=0.01, momentum=momentum)
    for i, v in enumerate(values):
        g.put(f"parameter{i}", before=v, rate=torch.tensor([rates[i], decay[i]], dtype=torch.float64))
    for step in range(4):
        for i, p in enumerate(parameters):
            p.grad = g.real(*p.shape)
            g.put(f"parameter{i}", **{f"gradient{step}": p.grad.clone()})
        optimiser.step()
        for i, p in enumerate(parameters):
            buffer = optimiser.state[p]["momentum_buffer"]
            g.put(f"parameter{i}", **{f"after{step}": p.clone(), f"momentum{step}": buffer.clone()})


FILES = [
    conv2d, batch_norm, max_pool2d, upsample_bilinear, cross_entropy, entropy, segmentation_loss, masked_average_pool,
    pixel_prototype_similarity, contrastive_loss, bidirectional, transfer_labels, calibration, static_labels, sgd,
]  # fmt: skip


def main():
    arguments = sys.argv[1:]
    check = "--check" in arguments
    wanted = [a for a in arguments if not a.startswith("--")]
    unknown = set(wanted) - {f.__name__ for f in FILES}
    if unknown:
        sys.exit(f"no golden is named {', '.join(sorted(unknown))}; there are {', '.join(f.__name__ for f in FILES)}")
    torch.set_num_threads(1)
    FOLDER.mkdir(exist_ok=True)
    different = 0
    for make in FILES:
        if wanted and make.__name__ not in wanted:
            continue
        golden = Golden(make.__name__)
        make(golden)
        path = FOLDER / f"{make.__name__}.safetensors"
        if check:
            stored = load_file(path)
            worst = 0.0 if stored.keys() == golden.tensors.keys() else float("inf")
            for name in stored.keys() & golden.tensors.keys():
                a, b = stored[name].astype(np.float64), golden.tensors[name].astype(np.float64)
                scale = max(1.0, float(np.abs(a).max(initial=0)))
                worst = max(worst, float(np.abs(a - b).max(initial=0)) / scale if a.shape == b.shape else float("inf"))
            different += worst > 1e-12
            print(f"{path.name}: largest relative difference {worst:.1e}")
            continue
        save_file(golden.tensors, path, metadata={"torch": torch.__version__.split("+")[0]})
        size = path.stat().st_size
        print(f"{path.name}: {len(golden.tensors)} tensors, {size} bytes")
        if size > LARGEST:
            sys.exit(f"{path} has {size} bytes, more than {LARGEST}: make its cases smaller")
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
