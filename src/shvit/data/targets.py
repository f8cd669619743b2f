"""What is right for a picture: one class, or any number of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shvit.card import ClassInfo, TaskName
from shvit.data.protocol import ImageDataset
from shvit.data.splits import Subset
from shvit.data.stratify import has_several
from shvit.errors import DataError

MAX_TARGET_BYTES = 4 * 2**30
"""A byte for each image and class; nine million images of 400 classes."""


class OneOfSeveral(Subset):
    """A dataset of one label for a picture as one of several labels, of which each picture has one."""

    def __init__(self, images: ImageDataset) -> None:
        super().__init__(images, np.arange(len(images)))
        places = np.arange(len(images))
        self.labels = multi_hot(places, images.labels, len(images), len(images.classes), images.name)


def task_of_labels(images: ImageDataset) -> TaskName:
    """What a network learns from them when nothing else is said."""
    return "multi_label" if has_several(images.labels) else "classification"


def for_task(images: ImageDataset, task: TaskName | None) -> ImageDataset:
    """The same images with labels of a task; as they are where none is given.

    Raises:
        DataError: they have several labels, and the task is to tell one.
    """
    if task == "multi_label" and not has_several(images.labels):
        return OneOfSeveral(images)
    if task == "classification" and has_several(images.labels):
        raise DataError(
            f"{images.name}: its pictures have any number of labels, and the task classification tells one of each; "
            "leave --task out, or give --task multi_label"
        )
    return images


def multi_hot(pictures: np.ndarray, labels: np.ndarray, images: int, classes: int, name: str) -> np.ndarray:
    """Which labels each picture has, ``bool (images, classes)``.

    Args:
        pictures: of each label there is, the picture's place, ``int64 (L,)``.
        labels: its class, ``int64 (L,)``.
        name: of the dataset.

    Raises:
        DataError: they are too many.
    """
    if images * classes > MAX_TARGET_BYTES:
        raise DataError(
            f"{name}: {images:,} images of {classes:,} classes are {images * classes / 2**30:.1f} GiB of labels, at "
            f"most {MAX_TARGET_BYTES // 2**30} are accepted; give fewer classes or images"
        )
    found = np.zeros((images, classes), dtype=bool)
    found[pictures, labels] = True
    return found


def class_counts(labels: np.ndarray, classes: int) -> np.ndarray:
    """Images of each class, ``int64 (classes,)``.

    Args:
        labels: a dataset's, ``int64 (N,)`` or ``bool (N, classes)``.
    """
    return labels.sum(axis=0, dtype=np.int64) if has_several(labels) else np.bincount(labels, minlength=classes)


def of_class(labels: np.ndarray, class_id: int) -> np.ndarray:
    """Which images are of a class, ``bool (N,)``."""
    return labels[:, class_id] if has_several(labels) else labels == class_id


def renumbered(labels: np.ndarray, places: Sequence[int], classes: int) -> np.ndarray:
    """Labels by the numbers of other classes.

    Args:
        places: of each class its new number; -1 for one that no image is of.
        classes: how many others there are.
    """
    new = np.asarray(places, dtype=np.int64)
    if not has_several(labels):
        return new[labels]
    found = np.zeros((len(labels), classes), dtype=bool)
    kept = np.flatnonzero(new >= 0)
    found[:, new[kept]] = labels[:, kept]
    return found


def classes_of(labels: np.ndarray, index: int) -> tuple[int, ...]:
    """The classes of one image, ascending."""
    return tuple(np.flatnonzero(labels[index]).tolist()) if has_several(labels) else (int(labels[index]),)


def named(classes: Sequence[ClassInfo], numbers: Sequence[int]) -> str:
    """Labels of a picture in words."""
    return ", ".join(classes[each].label for each in numbers) or "no label"
