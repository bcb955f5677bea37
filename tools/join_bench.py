#!/usr/bin/env python3
"""Joins two files of benchmark rows on (op, shape, direction, dtype, device) and prints a Markdown table.

    python tools/join_bench.py ours.jsonl theirs.jsonl

Each line is a JSON object with the five key fields and "ms"; of rows that repeat a key (and peer) the last counts. The
peer's time is the fastest of its variants. A factor above 1 means that ours is faster. Exits 1 if no row matches.
"""

import json
import math
import sys

KEY = ("op", "shape", "direction", "dtype", "device")


def read(path):
    """Rows by key and peer."""
    rows = {}
    with open(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip().startswith("{"):
                continue
            try:
                row = json.loads(line)
                rows.setdefault(tuple(str(row[field]) for field in KEY), {})[row.get("peer", "ours")] = float(row["ms"])
            except (ValueError, KeyError) as error:
                sys.exit(f"{path}, line {number}: {error!r}; expected a JSON object with {', '.join(KEY)} and ms")
    return rows


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__.strip())
    ours, theirs = (read(path) for path in sys.argv[1:])
    print("| op | shape | direction | dtype | device | ours, ms | PyTorch, ms | variant | factor |")
    print("|---|---|---|---|---|---|---|---|---|")
    factors = {}
    for key in (key for key in ours if key in theirs):
        mine = min(ours[key].values())
        variant, other = min(theirs[key].items(), key=lambda item: item[1])
        factor = other / mine
        factors.setdefault((key[0], key[2], key[3], key[4]), []).append(factor)
        print(f"| {' | '.join(key)} | {mine:.3f} | {other:.3f} | {variant} | {factor:.2f} |")
    if not factors:
        sys.exit("no row of one file has its counterpart in the other; compare the fields " + ", ".join(KEY))
    print("\n| op | direction | dtype | device | rows | geometric mean | least |\n|---|---|---|---|---|---|---|")
    for key, values in factors.items():
        mean = math.exp(sum(math.log(v) for v in values) / len(values))
        print(f"| {' | '.join(key)} | {len(values)} | {mean:.2f} | {min(values):.2f} |")
    for name, rows, others in (("ours", ours, theirs), ("PyTorch's", theirs, ours)):
        for key in (key for key in rows if key not in others):
            print(f"only {name}: {', '.join(key)}", file=sys.stderr)


if __name__ == "__main__":
    main()
