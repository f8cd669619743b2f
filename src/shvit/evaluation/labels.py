"""Which of a classifier's classes is right for an image of a dataset."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from shvit.card import ClassInfo
from shvit.data.alignment import WAYS, examples, first_synonym, has_images, have_numbers, match_by_name, unambiguous
from shvit.data.protocol import ImageDataset
from shvit.data.splits import Subset
from shvit.data.targets import classes_of
from shvit.errors import DataError
from shvit.reading import check_utf8, find_separator, open_table, read_text

Accepted = Mapping[int, Sequence[int]]
"""For images, by their place in the dataset: the classes that count as right; none where a picture has no label."""

IMAGENET_VALIDATION = "ILSVRC2012_val_{:08d}"
"""Name of an ImageNet-1k validation image, numbered from 1."""


class LabelledImages(Subset):
    """Some images of a dataset with the classes that are right for them; a dataset itself.

    Args:
        images: the whole dataset.
        accepted: the right classes of, at least, those chosen.
        indices: ``int64 (N,)``, which images, by their place in the dataset.
    """

    def __init__(self, images: ImageDataset, accepted: Accepted, indices: np.ndarray) -> None:
        super().__init__(images, indices)
        self.accepted = accepted


def match_classes(images: ImageDataset, classes: Sequence[ClassInfo], model: str) -> tuple[list[int], str]:
    """The classifier's class for each class of a dataset, which may have fewer and in another order.

    They are matched by WordNet id; or else by name; or else by the first synonym, whatever its case. Folders named 0,
    1, 2, ... (ImageNet-V2) are class numbers, unless the classifier's classes are called by numbers themselves. A
    classifier whose classes have no names is taken to have been trained
    on just the dataset's, in its order.

    Args:
        classes: the classifier's.
        model: what to call it in errors.

    Returns:
        The class number for each class of the dataset, -1 for one that has no images and is none of the classifier's;
        and how they were matched.

    Raises:
        DataError: a class of the dataset's images is none of the classifier's; the message gives examples of both.
    """
    match = match_by_name(images, classes)
    if not match.unknown:
        return match.places, match.way
    names = [each.label for each in images.classes]
    present = has_images(images.labels, images.classes)
    if not have_numbers(classes):
        numbers = [int(name) if name.isdecimal() and int(name) < len(classes) else -1 for name in names]
        if all(place >= 0 for place, has in zip(numbers, present, strict=True) if has):
            return numbers, "number"
    # A card made from a checkpoint that does not know its classes calls them so.
    unnamed = all(each.label == f"class {each.class_id}" for each in classes)
    if unnamed and len(names) == len(classes):
        return list(range(len(classes))), "position"
    advice = (
        "the model knows no names: export it with --classes FILE, or --classes imagenet-1k"
        if unnamed
        else "leave their images out, or correct their names"
    )
    raise DataError(
        f"{images.name}: {len(match.unknown)} of its {int(present.sum())} classes are not among the {len(classes)} of "
        f"{model}: the data has {examples(match.unknown)}; the model knows {examples(classes)}; {advice}"
    )


def dataset_labels(images: ImageDataset, classes: Sequence[int]) -> Accepted:
    """The dataset's own labels.

    Args:
        classes: the classifier's class for each class of the dataset, from ``match_classes``.
    """
    return {
        index: tuple(classes[each] for each in classes_of(images.labels, index)) for index in range(len(images.labels))
    }


def labels_from_file(
    path: str | Path, images: ImageDataset, classes: Sequence[ClassInfo], unlabelled: bool = False
) -> Accepted:
    """Labels from a file beside the dataset; images of which the file says nothing are left out.

    The file is one of: a JSON object from file name to label or list of labels; a CSV with the columns ``file`` and
    ``label``, several rows for several labels; ImageNet-ReaL's ``real.json``, a list with a list of class numbers for
    each ImageNet-1k validation image, in the order of their numbers. A label is a class number, a WordNet id or a
    name. A file name may have folders before it, to tell images of the same name apart, and may lack its extension.

    Args:
        unlabelled: an empty list says that an image has no label, rather than nothing.

    Raises:
        DataError: the file cannot be read, names a class that the classifier does not know, or none of the images.
    """
    path = Path(path)
    entries = _read_entries(path)
    resolve = _resolver(path, classes)
    accepted = {}
    for index in range(len(images)):
        name = next((name for name in _names(images.source(index)) if name in entries), None)
        if name is not None and (entries[name] or unlabelled):
            accepted[index] = tuple(resolve(name, label) for label in entries[name])
    if not accepted:
        raise DataError(
            f"{path}: has no label for any of the {len(images)} images of {images.name}: the file has "
            f"{', '.join(list(entries)[:2]) or 'no entries'}; the images are {images.source(0)}, ..."
        )
    return accepted


def _names(source: str) -> Iterator[str]:
    """What a file may call an image: its path, ever shorter, then without extension, then its number in ImageNet."""
    parts = re.split(r"[/\\:]+", source)
    for start in range(len(parts)):
        yield "/".join(parts[start:])
    yield Path(parts[-1]).stem
    if number := re.search(r"ILSVRC2012_val_\d{8}", parts[-1]):
        yield number[0]


def _read_entries(path: Path) -> dict[str, list[Any]]:
    try:
        if path.suffix.lower() == ".csv":
            with open_table(path) as table:
                return _read_csv(path, table)
        text = read_text(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a text file in UTF-8: {error}") from None
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise DataError(f"{path}: expected JSON, or CSV in a file named .csv: {error}") from None
    if isinstance(raw, list):
        raw = {IMAGENET_VALIDATION.format(number): labels for number, labels in enumerate(raw, start=1)}
    if not isinstance(raw, dict):
        raise DataError(f"{path}: expected an object from file name to label, or a list of lists of class numbers")
    return {name: labels if isinstance(labels, list) else [labels] for name, labels in raw.items()}


def _read_csv(path: Path, table: TextIO) -> dict[str, list[Any]]:
    columns = ("file", "label")
    reader = csv.DictReader(table, delimiter=find_separator(table, columns))
    if not set(columns) <= set(reader.fieldnames or ()):
        raise DataError(
            f"{path}: expected the columns file and label, got {', '.join(reader.fieldnames or ['none'])}; they are "
            "separated by commas, semicolons or tabs"
        )
    entries: dict[str, list[Any]] = {}
    for row in reader:
        check_utf8(row["label"] or "")
        entries.setdefault(row["file"], []).append(row["label"])
    return entries


def _resolver(path: Path, classes: Sequence[ClassInfo]) -> Callable[[str, Any], int]:
    """From a label as a file has it to a class number."""
    by_text = {} if have_numbers(classes) else {str(place): place for place in range(len(classes))}
    for key in reversed(WAYS.values()):
        by_text |= unambiguous(classes, key)

    def resolve(name: str, label: Any) -> int:
        if type(label) is int and 0 <= label < len(classes):
            return label
        if isinstance(label, str):
            place = by_text.get(label.strip(), by_text.get(first_synonym(label)))
            if place is not None:
                return place
        raise DataError(
            f"{path}: {name}: {label!r} is not a class number below {len(classes)}, a WordNet id or a name that the "
            f"model knows, such as {examples(classes)}"
        )

    return resolve


def evenly_spaced(indices: Sequence[int], limit: int | None) -> np.ndarray:
    """At most ``limit`` of them, spread over the whole, ``int64``."""
    count = len(indices) if limit is None else min(limit, len(indices))
    return np.asarray(indices, dtype=np.int64)[np.linspace(0, len(indices) - 1, count).round().astype(np.int64)]
