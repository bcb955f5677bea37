#!/usr/bin/env python3
"""The pipeline of benches/data.rs with PyTorch's DataLoader and PIL, in images per second of one core.

    OMP_NUM_THREADS=1 python tools/bench_data.py target/bench-data/gta5

Per item: decode image and label, resize both once to the scaled size (bicubic, nearest), crop 730 x 730, mirror, id table, BGR minus
mean as float32. `crop-aware` lets PIL resize only the crop's box, which is faster than what training code usually does.
"""

import pathlib
import random
import sys
import time

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

CROP = 730
MEAN = np.array((104.00698793, 116.66876762, 122.67891434), dtype=np.float32)
LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)


class Gta5(Dataset):
    def __init__(self, root, crop_aware):
        self.images = sorted((pathlib.Path(root) / "images").glob("*.png"))
        self.crop_aware = crop_aware
        self.table = np.full(256, 255, dtype=np.uint8)
        for train_id, label_id in enumerate(LABEL_IDS):
            self.table[label_id] = train_id

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        path = self.images[index]
        image = Image.open(path).convert("RGB")
        labels = Image.open(path.parent.parent / "labels" / path.name)
        factor = random.uniform(0.8, 1.2) * 850 / min(image.size)
        size = tuple(round(side * factor) for side in image.size)
        x, y = (random.randint(0, max(side - CROP, 0)) for side in size)
        width, height = min(CROP, size[0]), min(CROP, size[1])
        if self.crop_aware:
            box = [v / factor for v in (x, y, x + width, y + height)]
            box[2], box[3] = min(box[2], image.width), min(box[3], image.height)
            image = image.resize((width, height), Image.BICUBIC, box=box)
            labels = labels.resize((width, height), Image.NEAREST, box=box)
        else:
            image = image.resize(size, Image.BICUBIC).crop((x, y, x + width, y + height))
            labels = labels.resize(size, Image.NEAREST).crop((x, y, x + width, y + height))
        image, labels = np.asarray(image), self.table[np.asarray(labels)]
        if random.random() < 0.5:
            image, labels = image[:, ::-1], labels[:, ::-1]
        pixels = np.zeros((CROP, CROP, 3), dtype=np.float32)
        pixels[:height, :width] = image[:, :, ::-1].astype(np.float32) - MEAN
        ids = np.full((CROP, CROP), 255, dtype=np.uint8)
        ids[:height, :width] = labels
        return torch.from_numpy(pixels), torch.from_numpy(ids)


def main():
    torch.set_num_threads(1)
    for crop_aware in (False, True):
        loader = DataLoader(Gta5(sys.argv[1], crop_aware), batch_size=2, shuffle=True)
        for _ in loader:
            pass
        times = []
        for _ in range(3):
            batches = iter(loader)
            for _ in range(len(loader)):
                start = time.perf_counter()
                next(batches)
                times.append(time.perf_counter() - start)
        median = sorted(times)[len(times) // 2]
        name = "crop-aware" if crop_aware else "plain"
        print(f"PyTorch DataLoader + PIL, {name:<10} {median * 1e3:8.2f} ms a batch of 2, images/s per core: {2 / median:.1f}")


if __name__ == "__main__":
    main()
