"""What is known to be in pictures, beside what a model says of them."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from shvit.card import ClassInfo
from shvit.data.alignment import WAYS, first_synonym
from shvit.data.formats.listing import BETWEEN_LABELS, read_rows
from shvit.errors import DataError
from shvit.tasks.results import Result

_WITHHELD = {"unsure": "unsure", "unknown": "called unknown"}
"""What people read of a decision that is no answer."""


@dataclass(frozen=True)
class Checked:
    """What is in a picture, and whether the model says so."""

    labels: tuple[str, ...]
    """As the list has them; none where it leaves that open."""
    taught: bool
    """Whether the model has a class for it; else it should call the picture unknown."""
    right: bool | None
    """``None`` for what was not taught, if the model cannot tell what is unknown or was not asked."""
    decision: str | None
    """The result's."""

    @property
    def text(self) -> str:
        """For people: ``espresso · right``, ``hedgehog, not taught · called unknown``."""
        shown = BETWEEN_LABELS.join(self.labels)
        if not self.taught:
            shown = f"{shown}, not taught" if shown else "not taught"
            verdict = {True: "called unknown", False: "not noticed", None: ""}[self.right]
        else:
            shown = shown or "no label"
            verdict = "right" if self.right else _WITHHELD.get(self.decision or "", "wrong")
        return f"{shown} · {verdict}" if verdict else shown

    def to_dict(self) -> dict[str, object]:
        """As a line of JSON holds it."""
        return {"truth": list(self.labels), "taught": self.taught, "right": self.right}


class _Entry(NamedTuple):
    labels: tuple[str, ...]
    classes: tuple[frozenset[int], ...]
    """For each label that the model knows, the classes that are called so."""
    line: int


class Truth:
    """What a list says is in pictures, and how many a model is right about.

    The list is a CSV file as it lies in a labelled folder: ``filename,label``, or ``labels`` where a picture has any
    number of them, and names relative to the file's folder. A label is found among the classes by WordNet id, name or
    first synonym. A picture whose labels are none of them, or that has no label, was not taught; but under ``labels``,
    for a model that answers with any number of them, no label says that none is right.

    A model that answers with one label is right if it is one of the picture's; one that answers with any number, if
    they are just those of the picture's that it knows.

    Args:
        file: the list.
        classes: the model's.
        pictures: paths of those that are to be compared; the list may have more, or fewer.

    Raises:
        DataError: the list cannot be read, has two different labels for one picture, or none of the pictures.
    """

    def __init__(self, file: Path, classes: Sequence[ClassInfo], pictures: Sequence[str]) -> None:
        self.file = file
        self._called = [_by_name(classes, key) for key in WAYS.values()]
        try:
            listed = read_rows(file, unlabelled=True)
        except OSError as error:
            raise DataError(f"{file}: cannot be read: {error.strerror}") from None
        self._several = listed.several
        self._entries: dict[Path, _Entry] = {}
        for row in listed.rows:
            found = tuple(frozenset(names) for label in row.labels if (names := self._named(label)))
            entry = self._entries.setdefault(_place(file.parent / row.path), _Entry(row.labels, found, row.line))
            if set(entry.labels) != set(row.labels):
                raise DataError(
                    f"{file}, line {row.line}: {row.path} has another label than in line {entry.line}; "
                    "leave one of the two"
                )
        if pictures and not any(_place(each) in self._entries for each in pictures):
            raise DataError(
                f"{file}: lists none of the pictures, such as {pictures[0]}; its names are relative to its own folder, "
                f"and the first is {next(iter(self._entries))}"
            )
        self._counts = Counter[str]()

    def _named(self, label: str) -> set[int]:
        """The classes that are called so, by the surest way that finds any."""
        found = (called[name] for called in self._called for name in (label, first_synonym(label)) if name in called)
        return next(found, set())

    def check(self, result: Result) -> Checked | None:
        """Compares and counts a result; ``None`` where the picture is not in the list, or could not be read."""
        if result.error is not None:
            return None
        entry = self._entries.get(_place(result.source))
        if entry is None:
            self._counts["not listed"] += 1
            return None
        taught = bool(entry.classes) or (result.task == "multi_label" and self._several and not entry.labels)
        if taught:
            right: bool | None = _is_right(result, entry.classes)
        else:
            right = None if result.known is None else not result.known
        checked = Checked(entry.labels, taught, right, result.decision)
        self._counts["taught" if taught else "not taught"] += 1
        if right:
            self._counts["right" if taught else "noticed"] += 1
        elif not taught:
            self._counts["not told"] += right is None
        elif result.decision is not None:
            self._counts[result.decision] += 1
        return checked

    @property
    def summary(self) -> str:
        """Of all that was checked, for people: ``6 of 8 right, 2 of 2 not taught called unknown``."""
        counts, parts = self._counts, []
        if counts["taught"]:
            others = [f"{counts[each]} {shown}" for each, shown in _WITHHELD.items() if counts[each]]
            parts.append(
                f"{counts['right']} of {counts['taught']} right" + (f" ({', '.join(others)})" if others else "")
            )
        if counts["not taught"]:
            if counts["not told"]:
                parts.append(f"{counts['not taught']} not taught, and nothing says what is unknown")
            else:
                parts.append(f"{counts['noticed']} of {counts['not taught']} not taught called unknown")
        if counts["not listed"]:
            parts.append(f"{counts['not listed']} not in {self.file}")
        return ", ".join(parts) or "nothing to compare"


def _by_name(classes: Sequence[ClassInfo], key: Callable[[ClassInfo], str | None]) -> dict[str, set[int]]:
    called = defaultdict(set)
    for place, each in enumerate(classes):
        if (name := key(each)) is not None:
            called[name].add(place)
    return called


def _is_right(result: Result, classes: Sequence[frozenset[int]]) -> bool:
    """Of labels that exclude each other the first must be one of them; else the answers must be just these labels."""
    if result.task == "multi_label":
        given = {each.class_id for each in result.answer or ()}
        return given <= frozenset().union(*classes) and all(given & each for each in classes)
    if result.decision in ("unsure", "unknown"):
        return False
    return any(result.predictions[0].class_id in each for each in classes)


def _place(path: str | Path) -> Path:
    """By what a picture is known, whatever links or dots are in the path of its folder."""
    return Path(os.path.realpath(Path(path).parent), Path(path).name)
