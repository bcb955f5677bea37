#!/usr/bin/env python3
"""Predicts what each row of `cargo bench --bench kernels` takes on a GPU, from counts that no GPU is needed for.

    cargo bench --features require-nvcc --bench kernels -- --device plan --json plan.jsonl
    tools/predict.py plan.jsonl [--card a100|h100|h200] [--filter conv2d] [--ptxas FOLDER]

Each launch takes the longest of three: its products at the matrix rate, stretched by how many more blocks the busiest
multiprocessor gets than the average one; its bytes at the copy rate; 2 microseconds. Registers come from NAME.ptxas of the build, shared memory from the launch.
A launch by warpgroups brings the cycles that the choice of its tile expected (src/ops/conv2d/wgmma_tiling.rs, which names what it assumes).
Prints a markdown table. It is a model to be tested by the first run on a card, and no measurement.
"""

import argparse
import glob
import json
import math
import os
import re

# Multiprocessors, registers and bytes of shared memory of each, warps of each, and per second: bf16 and f32 operations, bytes.
# A100: data sheet of the A100 80GB SXM; f32 with tf32's rate does not occur in these rows. H100: data sheet of the H100 SXM;
# mma.sync is assumed to reach 0.6 of its bf16 rate, which wgmma alone can use in full; the clock is the one at which 2048 products
# a cycle and multiprocessor are that rate. H200: the same with the memory of its data sheet.
CARDS = {
    "a100": dict(sms=108, registers=65536, shared=164 << 10, warps=64, bf16=312e12, f32=19.5e12, copy=2.039e12, ptxas="sm_80"),
    "h100": dict(sms=132, registers=65536, shared=228 << 10, warps=64, bf16=0.6 * 989e12, f32=67e12, copy=3.35e12, ptxas="sm_90a", clock=1.83e9),
}
CARDS["h200"] = CARDS["h100"] | dict(copy=4.8e12)
LAUNCH = 2e-6
# Kernels that multiply matrices, on tensor cores and beside them.
PRODUCTS = re.compile(r"^(conv2d_mma_|conv2d_wgmma_(?!weight_gradient_fixup)|conv2d_split_k_(forward|data)|conv2d_few_channels_forward|aspp_(forward|data|weight)|conv2d_(forward|data|weight))")
TENSOR_CORES = re.compile(r"^(conv2d_mma_|conv2d_split_|conv2d_few_channels_|aspp_)")
# What the driver keeps of each block's shared memory.
RESERVED = 1 << 10


def registers(folder, architecture):
    """Registers and static shared memory of every kernel."""
    found = {}
    for path in glob.glob(os.path.join(folder, "*.ptxas")):
        kernel = None
        for line in open(path):
            entry = re.search(r"Compiling entry function '(\w+)' for '(\w+)'", line)
            if entry:
                kernel = entry[1] if entry[2] == architecture else None
            used = re.search(r"Used (\d+) registers", line)
            if used and kernel:
                shared = re.search(r"(\d+) bytes smem", line)
                found[kernel] = int(used[1]), int(shared[1]) if shared else 0
    if not found:
        raise SystemExit(f"predict: no .ptxas in {folder}: run tools/setup-cuda.sh, then cargo build, or give --ptxas")
    return found


def blocks_together(launch, kernel, card):
    """Blocks that one multiprocessor holds."""
    threads = math.prod(launch["block"])
    warps = math.ceil(threads / 32)
    # Registers are granted to warps, 256 at a time.
    each = math.ceil(kernel[0] * 32 / 256) * 256
    by_registers = card["registers"] // (each * warps)
    by_shared = card["shared"] // (launch["shared_bytes"] + kernel[1] + RESERVED)
    return max(1, min(by_registers, by_shared, card["warps"] // warps, 32))


def predict(row, kernels, card):
    total, parts = 0.0, []
    products = [launch for launch in row["launches"] if PRODUCTS.search(launch["kernel"])]
    for launch in row["launches"]:
        kernel = kernels.get(launch["kernel"])
        if kernel is None:
            raise SystemExit(f"predict: {launch['kernel']} is not among the .ptxas files: build once more with nvcc in place")
        together = blocks_together(launch, kernel, card)
        share = math.prod(launch["grid"]) / card["sms"]
        memory = launch["bytes"] / card["copy"]
        math_time = 0.0
        if launch.get("cycles"):
            if "clock" not in card:
                raise SystemExit("predict: this card has no products by warpgroups: make the plan with --warpgroups off")
            share, math_time = launch["items"] / card["sms"], launch["cycles"] / card["clock"]
        elif launch in products:
            rate = card["bf16" if TENSOR_CORES.search(launch["kernel"]) else "f32"]
            math_time = row["operations"] / len(products) / rate * math.ceil(share) / share
        longest = max(math_time, memory, LAUNCH)
        limit = {math_time: "main loop" if launch.get("cycles") else "products", memory: "memory", LAUNCH: "launch"}[longest]
        if limit == "products" and math.ceil(share) / share > 1.15:
            limit = "uneven share"
        total += longest
        parts.append((longest, launch["kernel"], together, share, limit))
    return total, max(parts)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan")
    parser.add_argument("--card", choices=CARDS, default="a100")
    parser.add_argument("--filter", default="")
    parser.add_argument("--ptxas", default="target/kernels", help="folder of NAME.ptxas, as a build with nvcc leaves it")
    arguments = parser.parse_args()
    card = CARDS[arguments.card]
    kernels = registers(arguments.ptxas, card["ptxas"])
    print("| op | shape | pass | longest kernel | blocks an SM at once | blocks for each SM | launches | MB | predicted us | TFLOP/s | limited by |")
    print("|---|---|---|---|--:|--:|--:|--:|--:|--:|---|")
    for line in open(arguments.plan):
        row = json.loads(line)
        if row["dtype"] != "bf16" or not row["launches"] or arguments.filter not in row["op"]:
            continue
        seconds, (_, kernel, together, share, limit) = predict(row, kernels, card)
        megabytes = sum(launch["bytes"] for launch in row["launches"]) / 1e6
        rate = f"{row['operations'] / seconds / 1e12:.0f}" if row["operations"] else ""
        name = kernel.removesuffix("_bf16").removesuffix("_f32")
        print(
            f"| {row['op']} | {row['shape']} | {row['direction']} | {name} | {together} | {share:.2f} | {len(row['launches'])} "
            f"| {megabytes:.0f} | {seconds * 1e6:.0f} | {rate} | {limit} |"
        )


if __name__ == "__main__":
    main()
