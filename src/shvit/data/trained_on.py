"""Which images a network was trained on, so that it is not measured on them by mistake."""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress
from pathlib import Path

import numpy as np

from shvit.card import TaskName, TrainingSplit
from shvit.data.datasets import OpenedDatasets, open_datasets
from shvit.data.protocol import ImageDataset
from shvit.data.splits import Subset, list_digest, split_dataset
from shvit.errors import ImageError

REMEMBERED = 64
"""Training images that the weights remember, evenly spaced over all."""

MOST_READ = 1024
"""Images that are read at most to find out whether they are remembered: many may have the same name."""


def training_split(train: ImageDataset, val: ImageDataset) -> TrainingSplit:
    """What to remember of the images that a training works on, and how the others were drawn."""
    drawn = val.division if isinstance(val, Subset) else None
    if drawn is None:
        return TrainingSplit(remembered(train))
    return TrainingSplit(remembered(train), drawn.seed, drawn.val_share, drawn.digest)


def remembered(images: ImageDataset) -> tuple[str, ...]:
    """Some images as ``TrainingSplit`` remembers them; those that cannot be read are passed over."""
    found = []
    for index in np.linspace(0, len(images) - 1, num=min(len(images), REMEMBERED)).astype(int).tolist():
        with suppress(ImageError):
            found.append(_name(images, index) + _contents(images, index))
    return tuple(found)


def divide_as_trained(images: ImageDataset, trained: TrainingSplit) -> tuple[Subset, Subset] | None:
    """Training and validation images as the training divided them; ``None`` where these are not the same images."""
    if trained.seed is None or trained.val_share is None or list_digest(images) != trained.digest:
        return None
    return split_dataset(images, trained.val_share, trained.seed)


def count_trained_on(images: ImageDataset, trained: TrainingSplit) -> int:
    """How many of the remembered training images are among these: of the same name and contents."""
    names: dict[str, set[str]] = {}
    for each in trained.remembered:
        names.setdefault(each[:16], set()).add(each[16:])
    found = set()
    read = 0
    for index in range(len(images)):
        name = _name(images, index)
        if name in names and read < MOST_READ:
            read += 1
            with suppress(ImageError):
                if (contents := _contents(images, index)) in names[name]:
                    found.add(name + contents)
    return len(found)


def open_as_trained(
    path: str | Path, trained: TrainingSplit | None, image_key: str | None, task: TaskName | None = None
) -> OpenedDatasets:
    """As ``open_datasets``; where a validation split has to be made, the one that the training made."""
    if trained is None or trained.seed is None or trained.val_share is None:
        return open_datasets(path, image_key=image_key, task=task)
    return open_datasets(path, trained.seed, trained.val_share, image_key, task)


def _name(images: ImageDataset, index: int) -> str:
    """Of an image's last two names, its own and its folder's: the same wherever the dataset lies."""
    parts = re.split(r"[/\\:]", images.source(index))
    return _short("/".join(parts[-2:]).encode(errors="surrogateescape"))


def _contents(images: ImageDataset, index: int) -> str:
    return _short(images.read(index))


def _short(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
