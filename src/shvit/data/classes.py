"""From labels as they are written on disk to class ids and names."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shvit.card import ClassInfo
from shvit.data.targets import multi_hot
from shvit.display import as_text
from shvit.errors import DataError
from shvit.reading import read_text

MAX_CLASSES = 1_000_000
"""Numbered labels above this are a mistake; a class is made for every number up to the highest."""


def name_classes(names: Sequence[str], root: Path) -> tuple[ClassInfo, ...]:
    r"""Classes in label order; a ``classes.json`` beside the data gives readable names to WordNet ids.

    Cards and model files are in UTF-8: in names of folders that are not, bytes are escapes, such as ``\xe9``.

    ``classes.json`` is a list of ``{"label": 0, "wnid": "n01443537", "name": "goldfish"}``.
    """
    entries = _classes_json(root)
    names = [as_text(name) for name in names]
    by_key = {str(entry["label"]): entry for entry in entries} | {entry["wnid"]: entry for entry in entries}
    return tuple(
        ClassInfo(index, by_key[name]["name"], by_key[name]["wnid"])
        if name in by_key
        else ClassInfo(index, name, _wnid(name))
        for index, name in enumerate(names)
    )


def number_classes(labels: np.ndarray, root: Path, where: Callable[[int], str]) -> tuple[ClassInfo, ...]:
    """Classes of integer labels: as many as ``classes.txt`` or ``classes.json`` list, or up to the highest label.

    Raises:
        DataError: a label is out of range; the message begins with ``where(index)``.
    """
    names = _listed_names(root)
    limit = len(names) if names is not None else MAX_CLASSES
    check_labels(labels, limit, where)
    return name_classes(names if names is not None else [str(i) for i in range(int(labels.max()) + 1)], root)


def check_labels(labels: np.ndarray, classes: int, where: Callable[[int], str]) -> None:
    """Raises ``DataError`` for the first label outside ``[0, classes)``."""
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise DataError(
            f"{where(int(wrong[0]))}: label {labels[wrong[0]]} is out of range, expected 0 to {classes - 1} "
            f"({len(wrong)} such labels); correct it, or complete the list of classes"
        )


def encode_labels(
    values: Sequence[str], root: Path, where: Callable[[int], str]
) -> tuple[np.ndarray, tuple[ClassInfo, ...]]:
    """Labels ``int64 (N,)`` and classes of labels written as text.

    Where all are whole numbers they are the class ids. Otherwise they are names, numbered in the order of
    ``classes.txt`` (one name a line, beside the data) or, without one, in alphabetical order.

    Raises:
        DataError: a label is out of range or not in ``classes.txt``; the message begins with ``where(index)``.
    """
    distinct = set(values)
    if all(value.isascii() and value.isdigit() and len(value) < 19 for value in distinct):
        labels = np.array([int(value) for value in values], dtype=np.int64)
        return labels, number_classes(labels, root, where)
    names = _classes_txt(root) or sorted(distinct)
    ids = {name: index for index, name in enumerate(names)}
    if unknown := distinct - ids.keys():
        index = next(index for index, value in enumerate(values) if value in unknown)
        raise DataError(f"{where(index)}: label {values[index]!r} is not in classes.txt; add it there, or correct it")
    return np.array([ids[value] for value in values], dtype=np.int64), name_classes(names, root)


def encode_label_sets(
    values: Sequence[Sequence[str]], root: Path, where: Callable[[int], str], name: str
) -> tuple[np.ndarray, tuple[ClassInfo, ...]]:
    """Labels ``bool (N, classes)`` and classes of pictures with any number of labels each, written as text.

    They are numbered as ``encode_labels`` does it.

    Args:
        name: of the dataset.

    Raises:
        DataError: as ``encode_labels``; or no picture has a label.
    """
    pictures = np.repeat(np.arange(len(values)), [len(each) for each in values])
    if not len(pictures):
        raise DataError(f"{name}: none of its {len(values):,} images has a label; fill some in")
    flat = [label for each in values for label in each]
    labels, classes = encode_labels(flat, root, lambda place: where(int(pictures[place])))
    return multi_hot(pictures, labels, len(values), len(classes), name), classes


def are_listed(root: Path, names: Sequence[str]) -> bool:
    """Whether ``classes.txt`` beside the data lists just these: then they are the classes, whatever they look like."""
    return sorted(_classes_txt(root) or ()) == sorted(names)


def check_class_count(classes: Sequence[ClassInfo], name: str) -> None:
    """Raises ``DataError`` where there is nothing to tell apart."""
    if len(classes) < 2:
        raise DataError(
            f"{name}: all images are of one class, {classes[0].label!r}; a classifier needs two or more to tell apart"
        )


def _listed_names(root: Path) -> list[str] | None:
    if names := _classes_txt(root):
        return names
    labels = sorted(str(entry["label"]) for entry in _classes_json(root))
    numbers = [str(label) for label in range(len(labels))]
    return numbers if labels and labels == sorted(numbers) else None


def _classes_txt(root: Path) -> list[str] | None:
    file = _beside(root, "classes.txt")
    if file is None:
        return None
    try:
        names = [line.strip() for line in read_text(file).splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise DataError(f"{file}: is not UTF-8 text; expected one class name a line") from None
    name, times = Counter(names).most_common(1)[0] if names else ("", 0)
    if times > 1:
        raise DataError(f"{file}: names class {name!r} {times} times")
    return names


def _classes_json(root: Path) -> list[dict[str, Any]]:
    file = _beside(root, "classes.json")
    if file is None:
        return []
    try:
        return [
            {"label": entry["label"], "wnid": entry["wnid"], "name": entry["name"]}
            for entry in json.loads(read_text(file))
        ]
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{file}: expected a list of label, wnid and name: {error!r}") from None


def _beside(root: Path, name: str) -> Path | None:
    """A file that describes the data: in its folder or, for a split's folder, in the one above."""
    return next((folder / name for folder in (root, root.parent) if (folder / name).is_file()), None)


def _wnid(name: str) -> str | None:
    return name if len(name) == 9 and name[0] == "n" and name[1:].isdigit() else None
