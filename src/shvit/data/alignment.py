"""The same classes by name, whatever their number in each dataset, split and classifier."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from shvit.card import ClassInfo, short_labels
from shvit.data.protocol import ImageDataset
from shvit.data.splits import Subset
from shvit.data.targets import class_counts, renumbered
from shvit.errors import DataError

NAMED = 5
"""How many of the classes without images a line names."""


def first_synonym(label: str) -> str:
    """What a folder may be called: the first synonym, in any case."""
    return label.split(",")[0].strip().replace("_", " ").casefold()


WAYS: dict[str, Callable[[ClassInfo], str | None]] = {
    "WordNet id": lambda each: each.wnid,
    "name": lambda each: each.label,
    "first synonym": lambda each: first_synonym(each.label),
}
"""How a class is recognised, surest way first."""


class Match(NamedTuple):
    """Classes of a dataset among others."""

    places: list[int]
    """For each class of the dataset the number of the other; -1 for none."""
    way: str
    """A key of ``WAYS``: all were matched by it."""
    unknown: list[ClassInfo]
    """Classes that have images in the dataset and are none of the others; nothing is to be measured then."""


class AlignedImages(Subset):
    """A dataset whose labels are numbers of another's classes.

    Args:
        images: the whole dataset.
        classes: the other's.
        match: of all classes that have images.
    """

    def __init__(self, images: ImageDataset, classes: tuple[ClassInfo, ...], match: Match) -> None:
        super().__init__(images, np.arange(len(images)))
        self.classes, self.way = classes, match.way
        self.labels = renumbered(images.labels, match.places, len(classes))


def unambiguous(classes: Sequence[ClassInfo], key: Callable[[ClassInfo], str | None]) -> dict[str, int]:
    """Class numbers by key; keys that two classes share are left out."""
    keys = [key(each) for each in classes]
    shared = Counter(keys)
    return {each: place for place, each in enumerate(keys) if each is not None and shared[each] == 1}


def match_by_name(images: ImageDataset, classes: Sequence[ClassInfo]) -> Match:
    """Finds a dataset's classes among others: by the first way that finds all that have images, else the best one."""
    present = has_images(images.labels, images.classes)
    if _are_numbered(images.classes) and have_numbers(classes):
        present[:] = True  # 0 to 2 are not 1 to 3, even where there is no image of 0
    attempts = []
    for way, key in WAYS.items():
        known, own = unambiguous(classes, key), unambiguous(images.classes, key)
        places = [-1] * len(images.classes)
        for name, place in own.items():
            places[place] = known.get(name, -1)
        unknown = [images.classes[place] for place in np.flatnonzero(present & (np.array(places) < 0))]
        attempts.append(Match(places, way, unknown))
        if not unknown:
            return attempts[-1]
    return min(attempts, key=lambda each: len(each.unknown))


def align(train: ImageDataset, val: ImageDataset) -> ImageDataset:
    """Validation images with the classes of training, found by name; validation may have fewer, in any order.

    Raises:
        DataError: validation has a class that training lacks; or one has names where the other has only numbers.
    """
    if val.classes == train.classes:
        return val
    match = match_by_name(val, train.classes)
    if not match.unknown:
        return AlignedImages(val, train.classes, match)
    for numbers, names in ((val, train), (train, val)):
        if _are_numbered(numbers.classes) and not any(each.label.isdecimal() for each in names.classes):
            raise DataError(
                f"{numbers.name}: its classes are numbers without names, but those of {names.name} have names "
                f"({examples(names.classes)}), so they cannot be aligned by name; name the numbers in classes.txt "
                "beside them, a name a line, that of 0 first; folders: rename them"
            )
    raise DataError(
        f"{val.name}: has class {match.unknown[0].label!r}, which {train.name} lacks ({len(match.unknown)} such "
        f"classes; training has {examples(train.classes)}); add training images of it, or leave it out of validation, "
        "or correct its name"
    )


def _are_numbered(classes: Sequence[ClassInfo]) -> bool:
    """Whether they have no names but their numbers."""
    return all(each.label == str(each.class_id) for each in classes)


def have_numbers(classes: Sequence[ClassInfo]) -> bool:
    """Whether some are called by another number than theirs: a number says nothing of a class's place then."""
    return any(each.label.isdecimal() and each.label != str(each.class_id) for each in classes)


def has_images(labels: np.ndarray, classes: Sequence[ClassInfo]) -> np.ndarray:
    """Which classes have any, ``bool (C,)``.

    Args:
        labels: a dataset's.
    """
    return class_counts(labels, len(classes)) > 0


def describe_alignment(val: ImageDataset) -> str:
    """What ``align`` found worth telling, in a line; empty where the classes are the same, and all have images."""
    way = val.way if isinstance(val, AlignedImages) else "name"
    how = f"classes matched by {way}, whatever its case" if way == "first synonym" else ""
    missing = describe_missing(val.labels, val.classes)
    return "; ".join(each for each in (how, missing and f"validation: {missing}") if each)


def describe_missing(
    labels: np.ndarray, classes: Sequence[ClassInfo], what: str = "of which nothing is measured"
) -> str:
    """Which classes have no images, in a line; empty where all have some.

    Args:
        labels: a dataset's.
        what: follows from it.
    """
    missing = [name for name, has in zip(short_labels(classes), has_images(labels, classes), strict=True) if not has]
    if not missing:
        return ""
    named = ", ".join(missing[:NAMED]) + (", ..." if len(missing) > NAMED else "")
    return f"no images of {len(missing):,} of the {len(classes):,} classes, {what}: {named}"


def examples(classes: Sequence[ClassInfo]) -> str:
    """The first few, for a message."""
    shown = [
        name if each.wnid in (None, each.label) else f"{each.wnid} ({name})"
        for each, name in zip(classes[:3], short_labels(classes[:3]), strict=True)
    ]
    return ", ".join(shown) + (", ..." if len(classes) > 3 else "")
