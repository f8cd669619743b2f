"""A SHViT-S1 that knows 100 of Tiny-ImageNet's 200 classes, so that the other 100 are new to it.

For studies of few pictures. Trained from nothing on the 50,000 training pictures of those classes, without a teacher
(one would have seen the other classes); three quarters of an hour on a core of its own. The same command goes on where
it was stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from shvit.data import Augmentation, ImageDataset, open_dataset
from shvit.data.datasets import OpenedDatasets
from shvit.data.splits import Subset
from shvit.training import Execution, Optimizer, Recipe
from shvit.training.train import TrainingPlan, carry_out

# fmt: off
KNOWN = (
    0, 1, 10, 11, 17, 19, 22, 25, 26, 29, 30, 31, 33, 37, 41, 43, 44, 45, 46, 48, 50, 51, 52, 55, 56, 60, 61, 62, 64,
    66, 67, 68, 69, 72, 74, 75, 76, 77, 80, 82, 83, 85, 86, 87, 88, 93, 97, 98, 100, 101, 103, 104, 111, 114, 116,
    117, 120, 121, 122, 125, 126, 128, 129, 131, 133, 134, 136, 137, 138, 141, 145, 146, 147, 148, 151, 153, 154, 155,
    158, 160, 162, 163, 165, 168, 169, 171, 172, 173, 176, 177, 184, 185, 188, 190, 192, 193, 194, 197, 198, 199,
)
"""Labels of the classes that it is trained on, drawn once: ``sorted(random.Random(18).sample(range(200), 100))``."""
# fmt: on
NEW = tuple(label for label in range(200) if label not in KNOWN)
"""The others."""

RECIPE = Recipe(
    image_size=96,
    image_size_start=64,
    epochs=5,
    batch_size=128,
    optimizer=Optimizer(lr=2e-3, lr_batch_size=0, weight_decay=0.05, warmup_epochs=0.5),
    augmentation=Augmentation(crop_scale=(0.35, 1.0)),
)


class SomeClasses(Subset):
    """The images of some classes, numbered anew in the order given.

    Args:
        images: with one label each.
        labels: which classes.
    """

    def __init__(self, images: ImageDataset, labels: Sequence[int]) -> None:
        super().__init__(images, np.flatnonzero(np.isin(images.labels, labels)), f"{len(labels)} classes")
        self.classes = tuple(replace(images.classes[label], class_id=place) for place, label in enumerate(labels))
        number = {label: place for place, label in enumerate(labels)}
        self.labels = np.array([number[label] for label in self.labels.tolist()], np.int64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="Tiny-ImageNet, as for shvit train")
    parser.add_argument("--output", type=Path, default=Path("runs/half_of_tiny_imagenet"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    train, val = (SomeClasses(open_dataset(args.data, split), KNOWN) for split in ("train", "val"))
    execution = Execution(device="cpu", workers=0, checkpoint_every_steps=50)
    run = carry_out(
        TrainingPlan(args.data, OpenedDatasets(train, val, None), RECIPE, args.output, execution, True), progress=True
    )
    print(f"{run.best}: top-1 {run.top1:.2%} on {len(val):,} validation pictures of its classes")


if __name__ == "__main__":
    main()
