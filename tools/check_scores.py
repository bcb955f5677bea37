#!/usr/bin/env python3
"""Scores of `trainer eval` against the field's own tools: cityscapesScripts to 1e-9 and torchmetrics to 1e-6 (it divides in f32).

    python tools/check_scores.py target/release/trainer RUN DIR    # DIR/cityscapes/{leftImg8bit,gtFine}/val, the run's target
    python tools/check_scores.py --golden tests/golden/scores.json # random maps with absent classes, for cargo test

Needs numpy, Pillow, torch, cityscapesscripts and torchmetrics. Predictions go to cityscapesScripts as files of label ids, as
its test server gets them (`trainer predict --ids label`). Exit status 1 where a score differs.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling as official
import numpy as np
import torch
from cityscapesscripts.helpers.labels import labels
from PIL import Image
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

LABEL_ID = np.array([label.id for label in sorted(labels, key=lambda label: label.trainId) if 0 <= label.trainId < 19])


def cityscapes_scripts(pairs):
    """IoU by train id, NaN where there is none, from arrays of label ids."""
    matrix = np.zeros((256, 256), np.ulonglong)
    for truth, predicted in pairs:
        np.add.at(matrix, (truth.ravel(), predicted.ravel()), 1)
    args = official.args
    args.evalLabels = [label.id for label in labels if label.id >= 0]
    return np.array([official.getIouScoreForLabel(label, matrix, args) for label in LABEL_ID])


def nulls(values):
    return [None if np.isnan(value) else float(value) for value in values]


def write_golden(path):
    generator = np.random.default_rng(1)
    cases = []
    for true_classes, predicted_classes in ((range(19), range(19)), ((0, 2, 13), (0, 2, 16)), ((5,), (5, 18)), ((7,), (7,))):
        truth = generator.choice([*true_classes, 255], 600)
        # Right more often than not, so that scores differ from chance.
        predicted = np.where(generator.random(600) < 0.6, truth, generator.choice(list(predicted_classes), 600))
        predicted = np.where(predicted == 255, predicted_classes[0], predicted)
        ids = np.where(truth == 255, 0, LABEL_ID[np.minimum(truth, 18)])
        iou = cityscapes_scripts([(ids, LABEL_ID[predicted])])
        cases.append(
            {"truth": truth.tolist(), "predicted": predicted.tolist(), "iou": nulls(iou), "miou": float(np.nanmean(iou))}
        )
    Path(path).write_text(json.dumps({"cases": cases}, separators=(",", ":")) + "\n")


def check(trainer, run, root):
    def trained(*arguments):
        done = subprocess.run([trainer, *arguments], check=True, capture_output=True, text=True)
        return json.loads(done.stdout)

    scores = trained("eval", run, "--data-root", root, "--device", "cpu", "--json")["scores"]
    images, truths = (Path(root) / "cityscapes" / part / "val" for part in ("leftImg8bit", "gtFine"))
    with tempfile.TemporaryDirectory() as out:
        arguments = ("--ids", "label", "--write", "labels", "--out", out, "--device", "cpu", "--json")
        predictions = trained("predict", str(images), "--checkpoint", run, *arguments)["predictions"]
        jaccard = MulticlassJaccardIndex(19, ignore_index=255)
        each = MulticlassJaccardIndex(19, ignore_index=255, average="none")
        accuracy = MulticlassAccuracy(19, ignore_index=255, average="micro")
        train_id = np.full(256, 255)
        train_id[LABEL_ID] = np.arange(19)
        pairs = []
        for prediction in predictions:
            name = Path(prediction["image"]).relative_to(images)
            label = truths / name.parent / (name.stem.replace("_leftImg8bit", "") + "_gtFine_labelIds.png")
            truth, predicted = np.array(Image.open(label)), np.array(Image.open(prediction["labels"]))
            pairs.append((truth, predicted))
            for metric in (jaccard, each, accuracy):
                metric.update(torch.from_numpy(train_id[predicted])[None], torch.from_numpy(train_id[truth])[None])
    iou = cityscapes_scripts(pairs)
    ours = np.array([np.nan if value is None else value for value in scores["iou"]])
    rows = [
        ("IoU of each class, cityscapesScripts", np.nanmax(np.abs(iou - ours)), 1e-9),
        ("classes without IoU, cityscapesScripts", float((np.isnan(iou) != np.isnan(ours)).sum()), 0.5),
        ("mIoU, cityscapesScripts", abs(np.nanmean(iou) - scores["miou"]), 1e-9),
        ("IoU of each class, torchmetrics", np.abs(each.compute().numpy() - np.nan_to_num(ours)).max(), 1e-6),
        ("mIoU, torchmetrics", abs(float(jaccard.compute()) - scores["miou"]), 1e-6),
        ("pixel accuracy, torchmetrics", abs(float(accuracy.compute()) - scores["pixel_accuracy"]), 1e-6),
    ]
    for name, difference, bound in rows:
        print(f"{'ok' if difference <= bound else 'DIFFERS':8} {name:40} {difference:.1e}")
    print(f"mIoU {100 * scores['miou']:.4f} % on {len(predictions)} images")
    return all(difference <= bound for _, difference, bound in rows)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--golden", path]:
            write_golden(path)
        case [trainer, run, root]:
            sys.exit(0 if check(trainer, run, root) else 1)
        case _:
            sys.exit(__doc__)
