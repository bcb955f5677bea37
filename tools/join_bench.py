#!/usr/bin/env python3
"""Joins our benchmark rows with PyTorch's on (op, shape, direction, dtype, device) and prints Markdown tables.

    python tools/join_bench.py ours.jsonl theirs.jsonl
    python tools/join_bench.py benches/results/RESULT.json        both are in the file that run.sh wrote

A row is a JSON object with the five key fields and "ms"; of rows that repeat a key (and peer) the last counts. PyTorch's time
is the fastest of its variants. A factor above 1 means that ours is faster. Rates are ours, and their percentages are of what
the same run measured: TFLOP/s of the faster of both sides' large matrix product, GB/s of the faster copy. MFU is a step's
floating-point operations (its convolutions, forward and backward) over its time and that matrix rate. Exits 1 if no row matches.
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
    """Rows by key and peer. `objects` are pairs of a place, for messages, and a row."""
    rows = {}
    for where, row in objects:
        if not isinstance(row, dict) or any(field not in row for field in (*KEY, "ms")):
            raise Bad(f"{where}: no benchmark row; expected a JSON object with {', '.join(KEY)} and ms: run the bench again")
        ms = row["ms"]
        # JSON as Python reads it has NaN and Infinity.
        if isinstance(ms, bool) or not isinstance(ms, (int, float)) or not 0 < ms < math.inf:
            raise Bad(f"{where}: ms is {ms!r}; expected milliseconds above 0: run the bench again")
        rows.setdefault(tuple(str(row[field]) for field in KEY), {})[row.get("peer", "ours")] = row
    return rows


def read(path):
    """The rows of a file of JSON lines; lines that are no objects are left out."""
    objects, where = [], path
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                where = f"{path}, line {number}"
                if line.strip().startswith("{"):
                    objects.append((where, json.loads(line)))
    except OSError as error:
        raise Bad(f"{path}: {error.strerror}; give the file that --json wrote")
    except ValueError as error:
        raise Bad(f"{where}: {error}; remove what was half written, or run the bench again")
    return index(objects)


def read_result(path):
    """Our rows and PyTorch's of a file that run.sh wrote."""
    try:
        with open(path, encoding="utf-8") as file:
            figures = json.load(file)["figures"]
            lists = [figures[name] for name in ("kernels", "step", "pytorch")]
    except OSError as error:
        raise Bad(f"{path}: {error.strerror}; give a file of benches/results/")
    except (ValueError, KeyError, TypeError) as error:
        raise Bad(f"{path}: {error!r}; expected the figures.json of tools/gpu-bundle-run.sh: copy it again")
    kernels, step, theirs = ([(f"{path}, row {n}", row) for n, row in enumerate(rows, 1)] for rows in lists)
    return index(kernels + step), index(theirs)


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
    ours, theirs = read_result(sys.argv[1]) if len(sys.argv) == 2 else (read(path) for path in sys.argv[1:])
    lines, factors = [], {}
    for key, variants in ours.items():
        _, row = best(variants)
        text, share = rate(key, row, ours, theirs)
        peer = ["", "", "no row of PyTorch's"]
        if key in theirs:
            variant, other = best(theirs[key])
            factor = other["ms"] / row["ms"]
            factors.setdefault((key[0], *key[2:]), []).append(factor)
            peer = [f"{other['ms']:.3f}", f"{factor:.2f}", variant]
        lines.append([*key, f"{row['ms']:.3f}", text or "", percent(share), *peer])
    if not factors:
        raise Bad(f"no row of one file has its counterpart in the other; compare the fields {', '.join(KEY)}")
    table([*KEY, "ours, ms", "rate", "of measured", "PyTorch, ms", "factor", "variant"], lines)
    summary = [[*key, str(len(f)), f"{geometric_mean(f):.2f}", f"{min(f):.2f}"] for key, f in factors.items()]
    table(["op", "direction", "dtype", "device", "rows", "geometric mean", "least"], summary)
    table(["training step", "dtype", "device", "by", "ms", "factor", "MFU", "peak, MiB", "ours over it"], steps(ours, theirs))
    for key, variants in ours.items():
        _, row = best(variants)
        if row.get("kernels") and row.get("operations") and key[1].startswith("resnet101 w64 "):
            print(f"{key[1]}, {key[3]}: launches and bytes are counted on a plan, times but the step's own are estimates.\n")
            table(["part", "launches", "MB", "ms", "of the step", "at"], breakdown(key, row, ours, theirs))
    for key in (key for key in theirs if key not in ours):
        print(f"only PyTorch's: {', '.join(key)}", file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except Bad as error:
        sys.exit(f"join_bench: {error}")
