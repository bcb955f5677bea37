"""Rows of tools/bench_pytorch.py for operations that memory bounds, and for the head: the shapes and names of benches/kernels/.

Backward rows time the gradients of all inputs from a graph that was built before, as benches/kernels.rs does. Directions that
cost PyTorch nothing, as they give a view (the gradients of concat, sum and mean), have no row.
"""

import torch
import torch.nn.functional as F
from torch.optim.sgd import sgd

import bicl_torch as peer
from bench_harness import by

CLASSES = 19
# Images of batch norm and what stands around it: benches/kernels/norm.rs.
IMAGES = {
    "cuda": [(2, 365, 365, 64), (2, 92, 92, 256), (2, 92, 92, 1024)],
    "cpu": [(4, 96, 160, 16), (4, 24, 40, 32), (4, 12, 20, 256), (2, 128, 128, 64), (2, 32, 32, 1024)],
}
# Images, extent of features, of labels, the image that the stem pools, depths of features: benches/kernels/losses.rs.
EXTENTS = {
    "cuda": (2, (92, 92), (730, 730), (365, 365, 64), (4 * CLASSES, 2048)),
    "cpu": (4, (13, 17), (96, 128), (48, 64, 16), (4 * CLASSES,)),
}
# Features that enter the head: benches/kernels/aspp.rs.
HEADS = {"cuda": (2, 92, 92, 2048), "cpu": (4, 13, 17, 128)}
# A filter of the last stage: benches/kernels/update.rs.
FILTER = (512, 3, 3, 512)
BOTH = ("forward", "backward")
FORWARD = ("forward",)


def operation(bench, op, shape, function, make, directions=BOTH, dtype=None):
    """Rows of `function` on the inputs that `make` gives."""

    def graph(run):
        # Labels and masks have no gradient.
        inputs = [x.requires_grad_() if x.is_floating_point() else x for x in make()]
        y = run(*inputs)
        return y, [x for x in inputs if x.requires_grad], torch.randn_like(y)

    def backward(y, inputs, dy):
        return torch.autograd.grad(y, inputs, dy, retain_graph=True)

    for name, run in bench.variants(function):
        for direction in directions:
            def prepare(run=run, direction=direction):
                with torch.no_grad():
                    inputs = make()
                    # The output's size; the function itself costs no compilation.
                    nbytes = sum(x.nbytes for x in (*inputs, function(*inputs)))
                if direction == "backward":
                    return bench.rotating(backward, lambda: graph(run), nbytes)
                return without_gradients(bench.rotating(run, make, nbytes))

            bench.row(op, shape, direction, prepare, name, dtype)


def without_gradients(rotating):
    rotating.run = torch.no_grad()(rotating.run)
    return rotating


def norm(x, scale, shift):
    return F.batch_norm(x, None, None, scale, shift, training=True)


def images(bench):
    other = torch.float32 if bench.dtype == torch.bfloat16 else torch.bfloat16
    operations = [
        # Name, function, images, vectors, directions.
        ("batch_norm", norm, 1, 2, BOTH),
        ("bn_relu", lambda x, a, b: F.relu(norm(x, a, b)), 1, 2, BOTH),
        ("bn_add_relu", lambda x, r, a, b: F.relu(norm(x, a, b) + r), 2, 2, BOTH),
        ("relu", F.relu, 1, 0, BOTH),
        ("add", torch.add, 2, 0, FORWARD),
        ("add_relu", lambda x, y: F.relu(x + y), 2, 0, BOTH),
        ("concat", lambda x, y: torch.cat([x, y], 1), 2, 0, FORWARD),
        ("scale", lambda x: x * 0.4, 1, 0, BOTH),
        ("cast", lambda x: x.to(other), 1, 0, BOTH),
        ("sum", torch.sum, 1, 0, FORWARD),
        ("mean", torch.mean, 1, 0, FORWARD),
    ]
    for image in IMAGES[bench.device.type]:
        for op, function, count, vectors, directions in operations:
            def make(count=count, vectors=vectors, image=image):
                # Scale and shift stay f32 beside bf16, as in mixed precision.
                return [*(bench.image(*image) for _ in range(count)), *(bench.randn(image[3]) for _ in range(vectors))]

            operation(bench, op, by(image), function, make, directions)


def losses(bench):
    n, low, full, stem, depths = EXTENTS[bench.device.type]
    low_labels, full_labels = (bench.labels(n, size, CLASSES) for size in (low, full))
    present = torch.ones(n, CLASSES, dtype=torch.bool, device=bench.device)

    def pool(x):
        return F.max_pool2d(x, 3, 2, 1, ceil_mode=True)

    def segmentation(x):
        up = peer.upsample(x, full)
        return peer.cross_entropy(up, full_labels) + 0.4 * peer.entropy(up)

    operation(bench, "max_pool2d", by((n, *stem)), pool, lambda: [bench.image(n, *stem)])
    logits = by((n, *low, CLASSES))
    resized = f"{logits} {by(full)}"
    for op, shape, function, directions in (
        ("upsample_bilinear", resized, lambda x: peer.upsample(x, full), BOTH),
        ("cross_entropy", logits, lambda x: peer.cross_entropy(x, low_labels), BOTH),
        ("entropy", logits, peer.entropy, BOTH),
        ("segmentation_loss", resized, segmentation, BOTH),
        ("argmax", logits, lambda x: x.argmax(1), FORWARD),
        ("predict", resized, lambda x: peer.upsample(x, full).argmax(1), FORWARD),
    ):
        operation(bench, op, shape, function, lambda: [bench.image(n, *low, CLASSES)], directions)

    def prototypes(x):
        return peer.masked_average_pool(x, low_labels, CLASSES)[0]

    def similarity(x, p):
        return peer.similarity(x, p.to(x.dtype), present)

    def contrast(x, p):
        return peer.contrastive_operators(x, full_labels, p.to(x.dtype), present, present)

    for depth in depths:
        def features(depth=depth):
            return [bench.image(n, *low, depth)]

        def both(depth=depth):
            return [bench.image(n, *low, depth), bench.randn(n, CLASSES, depth)]

        shape = by((n, *low, depth))
        operation(bench, "prototypes", f"{shape} C{CLASSES}", prototypes, features)
        operation(bench, "similarity", f"{shape} C{CLASSES}", similarity, both)
        operation(bench, "contrastive_loss", f"{shape} {by(full)} C{CLASSES}", contrast, both)


def head(bench):
    n, h, w, c = HEADS[bench.device.type]

    def make():
        filters = [bench.image(CLASSES, 3, 3, c) for _ in peer.RATES]
        return [bench.image(n, h, w, c), *filters, *(bench.randn(CLASSES, dtype=bench.dtype) for _ in peer.RATES)]

    def aspp(x, *weights):
        filters, biases = weights[: len(peer.RATES)], weights[len(peer.RATES) :]
        return torch.cat([F.conv2d(x, *w, 1, r, r) for *w, r in zip(filters, biases, peer.RATES)], 1)

    operation(bench, "aspp", f"{by((n, h, w, c))} {by((CLASSES, 3, 3, c))}", aspp, make)
    outputs = (n, h, w, len(peer.RATES) * CLASSES)

    def groups(x):
        return x.unflatten(1, (len(peer.RATES), CLASSES)).sum(1)

    operation(bench, "sum_channel_groups", by(outputs), groups, lambda: [bench.image(*outputs)])


def update(bench):
    """f32 whatever --dtype says, as parameters are. Of value and momentum copies are changed, as in benches/kernels.rs."""

    def make():
        return [bench.randn(*FILTER) for _ in range(3)]

    for name in ("foreach", "fused"):
        def step(value, momentum, gradient, name=name):
            value, momentum = value.clone(), momentum.clone()
            sgd(
                [value], [gradient], [momentum], False, **{"foreach": False, "fused": False, name: True},
                weight_decay=5e-4, momentum=0.9, lr=0.1, dampening=0, nesterov=False, maximize=False,
            )  # fmt: skip
            return value

        def prepare(step=step):
            return bench.rotating(step, make, 8 * make()[0].nbytes)

        bench.row("sgd_step", by(FILTER), "forward", prepare, name, "f32")


def rows(bench):
    images(bench)
    losses(bench)
    update(bench)
