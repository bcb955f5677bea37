#!/usr/bin/env python3
"""Joins our benchmark rows with PyTorch's on (op, shape, direction, dtype, device) and prints Markdown tables.

    python tools/join_bench.py ours.jsonl theirs.jsonl            or all rows in one file
    python tools/join_bench.py benches/results/RESULT.json        the file that run.sh wrote

A row is a JSON object with the five key fields and "ms", or "error" where it failed; PyTorch's has "peer" beside them. Of rows
that repeat a key (and peer) the last measured one counts. PyTorch's time is the fastest of its variants. A factor above 1 means
that ours is faster. Rates are ours, and their percentages are of what the same run measured: TFLOP/s of the faster of both sides'
large matrix product, GB/s of the faster copy. MFU is a step's floating-point operations (its convolutions, forward and backward)
over its time and that matrix rate. Rows that failed come last. Exits 1 if no row has its counterpart.
"""

import json
import math
import sys

KEY = ("op", "shape", "direction", "dtype", "device")
# How often the network of a step (ResNet-101, width 64) has each shape that benches/kernels.rs measures: 94 % of its operations.
TIMES = {
    "2x92x92x256 256x3x3x256 s1 d2": 23,
    "2x92x92x512 512x3x3x512 s1 d4": 3,
    "2x92x92x256 1024x1x1x256 s1 d1": 23,
    "2x92x92x1024 256x1x1x1024 s1 d1": 22,
    "2x92x92x512 2048x1x1x512 s1 d1": 3,
    "2x92x92x1024 2048x1x1x1024 s1 d1": 1,
    "2x92x92x2048 512x1x1x2048 s1 d1": 2,
    "2x92x92x128 128x3x3x128 s1 d1": 4,
    "2x92x92x2048 19x3x3x2048": 1,
    "2x730x730x3 64x7x7x3 s2 d1": 1,
}
# Parts of a step by the first letters of their kernels' names; what none begins is "losses and the rest".
PARTS = {
    "convolutions": ("conv2d_", "aspp_"),
    "batch norm": ("batch_norm_",),
    "max pool": ("max_pool_",),
    "optimizer": ("sgd_",),
}


class Bad(Exception):
    """A file that is not what it should be; says where and what to do."""


def index(objects):
    """Our rows by key, PyTorch's by key and peer, and what failed. `objects` are pairs of a place, for messages, and a row."""
    ours, theirs, failed = {}, {}, {}
    for where, row in objects:
        if not isinstance(row, dict) or any(field not in row for field in KEY) or not ("ms" in row or "error" in row):
            raise Bad(f"{where}: no benchmark row; expected a JSON object with {', '.join(KEY)} and ms: run the bench again")
        key, peer = tuple(str(row[field]) for field in KEY), row.get("peer", "ours")
        if "ms" not in row:
            failed[key, peer] = str(row["error"])
            continue
        ms = row["ms"]
        # JSON as Python reads it has NaN and Infinity.
        if isinstance(ms, bool) or not isinstance(ms, (int, float)) or not 0 < ms < math.inf:
            raise Bad(f"{where}: ms is {ms!r}; expected milliseconds above 0: run the bench again")
        (ours if peer == "ours" else theirs).setdefault(key, {})[peer] = row
    measured = {(key, peer) for side in (ours, theirs) for key, variants in side.items() for peer in variants}
    return ours, theirs, {name: error for name, error in failed.items() if name not in measured}


def read(path):
    """The rows of a file of JSON lines, with their places; lines that are no objects are left out."""
    objects = []
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.readlines()
    except OSError as error:
        raise Bad(f"{path}: {error.strerror}; give the file that --json wrote")
    for number, line in enumerate(lines, 1):
        if line.strip().startswith("{"):
            where = f"{path}, line {number}"
            try:
                objects.append((where, json.loads(line)))
            except ValueError as error:
                # A bench that was killed left its last line half written.
                if number < len(lines):
                    raise Bad(f"{where}: {error}; remove what was half written, or run the bench again")
    return objects


def read_result(path):
    """The rows of a file that run.sh wrote."""
    try:
        with open(path, encoding="utf-8") as file:
            rows = json.load(file)["rows"]
    except OSError as error:
        raise Bad(f"{path}: {error.strerror}; give a file of benches/results/")
    except (ValueError, KeyError, TypeError) as error:
        raise Bad(f"{path}: {error!r}; expected the figures.json of tools/gpu-bundle-run.sh: copy it again")
    return [(f"{path}, row {number}", row) for number, row in enumerate(rows, 1)]


def best(variants):
    """Name and row of the fastest."""
    return min(variants.items(), key=lambda item: item[1]["ms"])


def geometric_mean(values):
    return math.exp(sum(math.log(value) for value in values) / len(values))


def ceiling(op, dtype, device, *sides):
    """The rate measured for `copy` or `matrix_product`, by whichever side is faster; None where neither measured it."""
    field = "bytes_per_second" if op == "copy" else "operations_per_second"
    rates = [
        row[field]
        for rows in sides
        for key, variants in rows.items()
        if key[0] == op and key[3:] == (dtype, device)
        for row in variants.values()
        if row.get(field)
    ]
    return max(rates, default=None)


def rate(key, row, *sides):
    """Our rate as a text, and its share of what was measured; None where there is none."""
    if row.get("operations_per_second"):
        rate, most = row["operations_per_second"], ceiling("matrix_product", key[3], key[4], *sides)
        text = f"{rate / 1e12:.3g} TFLOP/s"
    elif row.get("bytes_per_second"):
        rate, most = row["bytes_per_second"], ceiling("copy", "u8", key[4], *sides)
        text = f"{rate / 1e9:.3g} GB/s"
    else:
        return None, None
    return text, rate / most if most else None


def mfu(key, row, ms, *sides):
    """Model FLOP/s utilisation of a step that takes `ms`."""
    most = ceiling("matrix_product", key[3], key[4], *sides)
    return row["operations"] / ms * 1e3 / most if row.get("operations") and most else None


def milliseconds(row):
    return f"{row['ms']:.3f}" if row["ms"] >= 1 else f"{row['ms']:.4f}"


def percent(share):
    return "" if share is None else f"{100 * share:.0f} %"


def table(header, rows):
    rows = list(rows)
    if not rows:
        return
    print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    print()


def steps(ours, theirs):
    """Time, MFU and memory of each training step."""
    for key in (key for key in ours if key[0] == "training_step"):
        _, row = best(ours[key])
        mib = row.get("peak_mib")
        yield [key[1], *key[3:], "ours", f"{row['ms']:.3f}", "", percent(mfu(key, row, row["ms"], ours, theirs)), str(mib or ""), ""]
        for name, other in theirs.get(key, {}).items():
            memory = other.get("peak_mib")
            yield [
                key[1], *key[3:], name, f"{other['ms']:.3f}", f"{other['ms'] / row['ms']:.2f}",
                percent(mfu(key, row, other["ms"], ours, theirs)), str(memory or ""), f"{mib / memory:.2f}" if mib and memory else "",
            ]  # fmt: skip


def breakdown(key, row, ours, theirs):
    """What the parts of a step must take: products at the rate of the measured rows, the rest at the copy rate."""
    dtype, device = key[3:]
    counted = [
        (TIMES[shape], best(variants)[1])
        for (op, shape, _, *rest), variants in ours.items()
        if op in ("conv2d", "aspp") and shape in TIMES and rest == [dtype, device]
    ]
    copy = ceiling("copy", "u8", device, ours, theirs)
    names = (*PARTS, "losses and the rest")
    launches, moved = ({name: 0 for name in names} for _ in range(2))
    for kernel, count in row["kernels"].items():
        part = next((name for name, starts in PARTS.items() if kernel.startswith(starts)), names[-1])
        launches[part] += count["launches"]
        moved[part] += count["bytes"]
    total = 0
    for part in names:
        ms, how = None, "no copy rate was measured"
        if part == "convolutions":
            how = "its rows were not measured"
            if counted:
                work = sum(times * r["operations_per_second"] * r["ms"] for times, r in counted)
                ms = row["operations"] / (work / sum(times * r["ms"] for times, r in counted)) * 1e3
                how = f"{row['operations'] / ms / 1e9:.3g} TFLOP/s, the mean of the measured rows as often as the network has them"
        elif copy:
            ms, how = moved[part] / copy * 1e3, f"{copy / 1e9:.0f} GB/s, the copy rate: at least"
        total += ms or 0
        time = ["", ""] if ms is None else [f"{ms:.3f}", percent(ms / row["ms"])]
        yield [part, str(launches[part]), f"{moved[part] / 1e6:.0f}", *time, how]
    yield ["not explained by these", "", "", f"{row['ms'] - total:.3f}", percent(1 - total / row["ms"]), "the difference"]
    yield ["the step", str(sum(launches.values())), f"{sum(moved.values()) / 1e6:.0f}", f"{row['ms']:.3f}", "100 %", "measured"]


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__.strip())
    objects = []
    for path in sys.argv[1:]:
        objects += read_result(path) if path.endswith(".json") else read(path)
    ours, theirs, failed = index(objects)
    lines, factors = [], {}
    for key, variants in ours.items():
        _, row = best(variants)
        text, share = rate(key, row, ours, theirs)
        peer = ["", "", "no row of PyTorch's"]
        if key in theirs:
            variant, other = best(theirs[key])
            factor = other["ms"] / row["ms"]
            factors.setdefault((key[0], *key[2:]), []).append(factor)
            peer = [milliseconds(other), f"{factor:.2f}", variant]
        lines.append([*key, milliseconds(row), text or "", percent(share), *peer])
    table([*KEY, "ours, ms", "rate", "of measured", "PyTorch, ms", "factor", "variant"], lines)
    summary = [[*key, str(len(f)), f"{geometric_mean(f):.2f}", f"{min(f):.2f}"] for key, f in factors.items()]
    table(["op", "direction", "dtype", "device", "rows", "geometric mean", "least"], summary)
    table(["training step", "dtype", "device", "by", "ms", "factor", "MFU", "peak, MiB", "ours over it"], steps(ours, theirs))
    for key, variants in ours.items():
        _, row = best(variants)
        if row.get("kernels") and row.get("operations") and key[1].startswith("resnet101 w64 "):
            print(f"{key[1]}, {key[3]}: launches and bytes are counted on a plan, times but the step's own are estimates.\n")
            table(["part", "launches", "MB", "ms", "of the step", "at"], breakdown(key, row, ours, theirs))
    table([*KEY, "by", "failed"], [[*key, peer, error.splitlines()[0][:200]] for (key, peer), error in failed.items()])
    for key in (key for key in theirs if key not in ours):
        print(f"only PyTorch's: {', '.join(key)}", file=sys.stderr)
    if not factors:
        raise Bad(f"no row of ours has its counterpart of PyTorch's; compare the fields {', '.join(KEY)}")


if __name__ == "__main__":
    try:
        main()
    except Bad as error:
        sys.exit(f"join_bench: {error}")
