#!/usr/bin/env python3
"""Resized images as Pillow makes them, for tests/it/data_resize.rs: writes tests/golden/pillow.json.

    python tools/goldens_pillow.py            # Pillow 13.0.0 made the committed file

The source pixels come from a formula that the test repeats (`pixel` below), so only outputs are stored: small ones whole, large
ones as the FNV-1a hash of their bytes.
"""

import json
import pathlib

import numpy as np
import PIL
from PIL import Image


def source(width, height):
    """A smooth gradient with hard edges and noise, so that overshoot and clipping occur."""
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    noise = (x * 7919 + y * 104729 + c * 1299709) % 251
    block = ((x // 5 + y // 3 + c) % 2) * 255
    value = np.where((x + y) % 7 == 0, block, np.where(c == 1, (x * 3 + y * 5) % 256, noise))
    return value.astype(np.uint8)


def fnv(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def bicubic(size, out):
    image = Image.fromarray(source(*size)).resize(out, Image.BICUBIC)
    data = np.asarray(image).tobytes()
    case = {"size": size, "out": out, "hash": fnv(data)}
    if len(data) <= 1500:
        case["pixels"] = list(data)
    return case


def nearest(size, out):
    """Along one axis: the index that each output pixel takes."""
    ramp = Image.fromarray(np.arange(size, dtype=np.int32)[None, :])
    data = np.asarray(ramp.resize((out, 1), Image.NEAREST))[0].astype("<u4")
    case = {"size": size, "out": out, "hash": fnv(data.tobytes())}
    if out <= 64:
        case["indices"] = data.tolist()
    return case


def main():
    shapes = [
        ((37, 29), (20, 16)), ((37, 29), (37, 16)), ((37, 29), (21, 29)), ((37, 29), (37, 29)), ((20, 15), (23, 19)),
        ((9, 7), (5, 30)), ((1, 1), (4, 3)), ((3, 2), (1, 1)), ((200, 150), (7, 5)), ((480, 360), (320, 240)),
        ((480, 360), (253, 190)), ((640, 333), (701, 365)), ((1914, 1052), (1547, 850)), ((2048, 1024), (1460, 730)),
    ]
    axes = [(7, 3), (3, 7), (10, 10), (37, 20), (29, 16), (1, 5), (5, 1), (480, 320), (360, 240), (480, 253), (1914, 1547), (1052, 850)]
    axes += [(1914, 1238), (1052, 1019), (2048, 1460), (1024, 730)] + [(size, out) for size in (331, 333) for out in range(150, 500, 7)]
    golden = {
        "pillow": PIL.__version__,
        "bicubic": [bicubic(*case) for case in shapes],
        "nearest": [nearest(*case) for case in axes],
    }
    lines = [f'{{"pillow": "{golden["pillow"]}"']
    for key in ("bicubic", "nearest"):
        rows = ",\n".join(json.dumps(case, separators=(",", ":")) for case in golden[key])
        lines.append(f'"{key}": [\n{rows}\n]')
    path = pathlib.Path(__file__).parent.parent / "tests" / "golden" / "pillow.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(",\n".join(lines) + "}\n")


if __name__ == "__main__":
    main()
