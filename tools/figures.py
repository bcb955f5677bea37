#!/usr/bin/env python3
"""Writes README.md's table of GPU figures from the files under benches/results/.

    python3 tools/figures.py            rewrites what stands between the two marks in README.md
    python3 tools/figures.py --check    exits 1 if that would change anything

A row is a goal, and shows the newest file that has its figure. Ratios are of one run on one card; PyTorch's time is the fastest of
its variants, and the cell says which that is and which have none. Where no file has the figure, the cell says why.
benches/results/README.md describes the files.
"""

import argparse
import json
import re
import sys
from pathlib import Path

from join_bench import Bad, best, ceiling, geometric_mean, index, mfu

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- figures: tools/figures.py -->", "<!-- /figures -->"
FIELDS = {"card": str, "driver": str, "date": str, "commit": str, "parts": list, "rows": list}
# Passes that memory bounds: what stands between a step's convolutions, and its optimizer.
MEMORY_BOUND = ("batch_norm", "bn_relu", "bn_add_relu", "relu", "add_relu", "max_pool2d", "upsample_bilinear", "sgd_step")
# Which parts of run.sh a figure comes from.
STEP, CONVOLUTIONS, NORM = ("step", "peer-step", "compiled-step"), ("conv2d", "peer-conv2d"), ("norm",)
LOSSES = ("step", "peer-norm", "compiled-losses")
# The variants of PyTorch that a training step has on a GPU, those of losses, and those on the CPU.
WHOLE, PARTIAL, PLAIN = ("eager", "graph", "compile", "compile_graph"), ("eager", "compile"), ("eager",)
PUBLISHED = "resnet101 w64 C19 2+2x730x730"


class Result:
    """One run on one machine."""

    def __init__(self, path):
        self.path = path
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise Bad(f"{path}: damaged: {error}; copy run.sh's figures.json again, or remove the file")
        how = "expected run.sh's figures.json (benches/results/README.md); copy it again, or remove the file"
        if not isinstance(data, dict):
            raise Bad(f"{path}: unknown schema: no object; {how}")
        for field, kind in FIELDS.items():
            if not isinstance(data.get(field), kind):
                raise Bad(f"{path}: unknown schema: {field!r} is missing or no {kind.__name__}; {how}")
        for part in data["parts"]:
            if not isinstance(part, dict) or "status" not in part or not isinstance(part.get("name"), str):
                raise Bad(f"{path}: unknown schema: a part without name or status; {how}")
        if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", data["date"]):
            raise Bad(f"{path}: unknown schema: date {data['date']!r} is not like 2026-01-31T12:00:00Z; {how}")
        self.card, self.driver, self.date, self.parts = (data[field] for field in ("card", "driver", "date", "parts"))
        self.commit = re.sub(r"^([0-9a-f]{7})[0-9a-f]+", r"\1", data["commit"])
        card = re.sub(r"[^a-z0-9]+", "-", self.card.lower()).strip("-")
        name = f"{self.date[:10]}-{card}-{self.commit}.json"
        if path.name != name:
            raise Bad(f"{path}: by its content its name is {name}; rename it")
        self.ours, self.theirs, self.failed = index([(f"{path}, row {n}", row) for n, row in enumerate(data["rows"], 1)])

    def device(self):
        """What it ran on: run.sh wants a GPU, so a file without rows is of one that failed."""
        return "cpu" if self.ours and all(key[4] == "cpu" for key in self.ours) else "cuda"

    def rows(self, device, dtype, *operations):
        """Our rows by key."""
        return {
            key: best(variants)[1]
            for key, variants in self.ours.items()
            if key[0] in operations and key[3:] == (dtype, device)
        }

    def reason(self, parts):
        """Why it has no figure of these parts."""
        for part in self.parts:
            if part["name"] in parts and part["status"] != 0:
                message = str(part.get("message") or f"exit status {part['status']}").strip().splitlines()[0]
                return f"{part['name']}: {message[:120]}"
        return f"{self.path.name} has no such rows"


def against(variants, expected):
    """The fastest of PyTorch's variants, and a text that names it and what is missing."""
    name, row = best(variants)
    missing = [other for other in expected if other not in variants]
    return row, name + "".join(f"; {other} not measured" for other in missing)


def step(shape, variants):
    """The factor of a training step."""

    def figure(result, device, dtype):
        key = ("training_step", shape, "step", dtype, device)
        row = result.rows(device, dtype, "training_step").get(key)
        if row is None or key not in result.theirs:
            return None
        other, name = against(result.theirs[key], variants)
        share = mfu(key, row, row["ms"], result.ours, result.theirs)
        used = "" if share is None else f"; MFU {100 * share:.0f} %"
        return f"{other['ms'] / row['ms']:.2f}x ({row['ms']:.1f} ms, PyTorch {other['ms']:.1f} ms: {name}{used})"

    return figure


def memory(result, device, dtype):
    key = ("training_step", PUBLISHED, "step", dtype, device)
    row = result.rows(device, dtype, "training_step").get(key)
    if row is None or not row.get("peak_mib"):
        return None
    variants = {name: other for name, other in result.theirs.get(key, {}).items() if other.get("peak_mib")}
    if not variants:
        return None
    # Less memory is better here, whatever the time.
    name, other = min(variants.items(), key=lambda item: item[1]["peak_mib"])
    return f"{row['peak_mib'] / other['peak_mib']:.2f}x ({row['peak_mib']} MiB, PyTorch {other['peak_mib']} MiB: {name})"


def convolutions(result, device, dtype):
    rows = result.rows(device, dtype, "conv2d")
    factors = [best(result.theirs[key])[1]["ms"] / row["ms"] for key, row in rows.items() if key in result.theirs]
    if not factors:
        return None
    rate = max(row.get("operations_per_second") or 0 for row in rows.values())
    most = ceiling("matrix_product", dtype, device, result.ours, result.theirs)
    share = f", {100 * rate / most:.0f} % of the measured matrix rate" if most else ""
    failed = sum(key[0] == "conv2d" and key[3:] == (dtype, device) for key, _ in result.failed)
    return (
        f"geometric mean {geometric_mean(factors):.2f}x, least {min(factors):.2f}x of {len(factors)} rows"
        f"{f' ({failed} failed)' if failed else ''}; at most {rate / 1e12:.0f} TFLOP/s{share}"
    )


def loss(op, variants):
    """The factor over PyTorch; features of 76 dimensions, labels of 730 x 730."""

    def figure(result, device, dtype):
        for key, row in result.rows(device, dtype, op).items():
            if key[1].endswith(("x76 730x730 C19", "x19 730x730")) and key[2] == "both" and key in result.theirs:
                other, name = against(result.theirs[key], variants)
                times = f"{1e3 * row['ms']:.0f} us, PyTorch {1e3 * other['ms']:.0f} us"
                return f"{other['ms'] / row['ms']:.1f}x ({times}: {name})"
        return None

    return figure


def copy_rate(operations, shape):
    """The least and the mean share of the copy rate."""

    def figure(result, device, dtype):
        most = ceiling("copy", "u8", device, result.ours, result.theirs)
        # The optimizer's parameters are f32 at any precision.
        rows = {**result.rows(device, "f32", "sgd_step"), **result.rows(device, dtype, *operations)}
        shares = [
            row["bytes_per_second"] / most
            for key, row in rows.items()
            if most and key[0] in operations and shape in key[1] and row.get("bytes_per_second")
        ]
        if not shares:
            return None
        mean = geometric_mean(shares)
        return f"geometric mean {100 * mean:.0f} %, least {100 * min(shares):.0f} % of {most / 1e9:.0f} GB/s, {len(shares)} rows"

    return figure


CONTRAST = "contrastive terms, prototypes, label transfer, calibration: forward and backward, f32"
SEGMENTATION = "upsampling, cross entropy, entropy: forward and backward, f32"
# What, against what, the figure, its device and dtype, and the parts of run.sh that it needs.
GOALS = [
    (
        "whole training step, bf16, published size",
        "PyTorch (AMP, channels_last, cudnn.benchmark, fused SGD), best of eager, CUDA graph, torch.compile and both",
        step(PUBLISHED, WHOLE), "cuda", "bf16", STEP,
    ),
    ("each convolution, three directions, bf16", "cuDNN through PyTorch", convolutions, "cuda", "bf16", CONVOLUTIONS),
    (
        CONTRAST, "the published operations in PyTorch, best of eager and torch.compile",
        loss("contrastive_labels", PARTIAL), "cuda", "f32", LOSSES,
    ),
    (
        SEGMENTATION, "PyTorch, best of eager and torch.compile",
        loss("segmentation_loss", PARTIAL), "cuda", "f32", LOSSES,
    ),
    (
        "prototypes and similarity at d = 2048, bf16",
        "the copy rate of the same run",
        copy_rate(("prototypes", "similarity"), "x2048 "), "cuda", "bf16", NORM,
    ),
    (
        "batch norm, ReLU, pooling, upsampling (bf16), SGD (f32)",
        "the copy rate of the same run",
        copy_rate(MEMORY_BOUND, ""), "cuda", "bf16", NORM,
    ),
    ("peak GPU memory of that step, bf16", "PyTorch, the lesser of its variants", memory, "cuda", "bf16", STEP),
    # The CPU's goals have rows where a file has their figures.
    ("training step on the CPU, f32, miniature", "PyTorch", step("resnet18 w16 C19 2+2x128x256", PLAIN), "cpu", "f32", STEP),
    ("training step on the CPU, f32, ResNet-50", "PyTorch", step("resnet50 w64 C19 2+2x256x256", PLAIN), "cpu", "f32", STEP),
    ("contrastive terms on the CPU", "PyTorch", loss("contrastive_labels", PLAIN), "cpu", "f32", STEP),
]  # fmt: skip


def block(results):
    """The table, between its marks."""
    lines = [BEGIN, "| what | against | figure | card, driver, date, commit |", "|---|---|---|---|"]
    for what, peer, figure, device, dtype, parts in GOALS:
        candidates = [result for result in results if result.device() == device]
        cells = None
        for result in candidates:
            text = figure(result, device, dtype)
            if text:
                cells = [text, f"{result.card}, {result.driver}, {result.date[:10]}, {result.commit}"]
                break
        if cells is None and device == "cpu":
            continue
        if cells is None:
            reason = candidates[0].reason(parts) if candidates else "no GPU has run it yet"
            cells = [f"none: {reason}", ""]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in (what, peer, *cells)) + " |")
    return "\n".join([*lines, END])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if something would change")
    parser.add_argument("--results", type=Path, default=ROOT / "benches/results", metavar="FOLDER")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md", metavar="FILE")
    arguments = parser.parse_args()
    if not arguments.results.is_dir():
        raise Bad(f"{arguments.results}: no folder; give the one that holds the results")
    results = sorted((Result(path) for path in arguments.results.glob("*.json")), key=lambda r: r.date, reverse=True)
    try:
        readme = arguments.readme.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise Bad(f"{arguments.readme}: cannot be read: {error}; give the file with the table")
    if readme.count(BEGIN) != 1 or readme.count(END) != 1 or readme.index(BEGIN) > readme.index(END):
        raise Bad(f"{arguments.readme}: not one {BEGIN} with one {END} after it; put both where the table belongs")
    new = readme[: readme.index(BEGIN)] + block(results) + readme[readme.index(END) + len(END) :]
    if new == readme:
        return
    if arguments.check:
        raise Bad(f"{arguments.readme}: its table is not what {arguments.results} gives; run tools/figures.py")
    try:
        arguments.readme.write_text(new, encoding="utf-8")
    except OSError as error:
        raise Bad(f"{arguments.readme}: {error.strerror}; make it writable")


if __name__ == "__main__":
    try:
        main()
    except Bad as error:
        sys.exit(f"figures: {error}")
