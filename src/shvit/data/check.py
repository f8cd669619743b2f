"""Looks a dataset over before anything is trained on it: every image is decoded."""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from shvit.card import short_labels
from shvit.data.picture_shapes import ShapeReport, examine_shapes
from shvit.data.protocol import ImageDataset
from shvit.data.stratify import has_several
from shvit.data.targets import class_counts, classes_of, named
from shvit.data.unread import left_out, missing_pictures
from shvit.data.workers import in_processes
from shvit.errors import ImageError
from shvit.images.encoded import open_image
from shvit.images.preprocess import decode, describe

NEAR_CONSTANT = 8
"""An image has next to nothing on it when each channel's values span no more than this, of 255."""

REPORTED = 64
"""Images between two reports of progress."""

TOGETHER = 32
"""Images that are given to a process at once."""


class Place(NamedTuple):
    """One image of the datasets that were checked."""

    split: str
    source: str
    """The name that a person can find it by."""
    class_id: int | tuple[int, ...]
    """Several, or none, where pictures have any number of labels."""
    label: str
    """Its class's name, or all of them."""


class UnreadableImage(NamedTuple):
    """An image that cannot be decoded."""

    place: Place
    reason: str


@dataclass(frozen=True)
class Duplicates:
    """Images of the same pixels, whatever file they are in."""

    places: tuple[Place, ...]

    @property
    def leaked(self) -> bool:
        """Some are trained on and others validated with."""
        return len({place.split for place in self.places}) > 1

    @property
    def conflicting(self) -> bool:
        """They do not all have the same label."""
        return len({place.class_id for place in self.places}) > 1


PAIRS = 10
"""How many pairs of labels that are often together are told."""


@dataclass(frozen=True)
class LabelSets:
    """What there is to say where pictures have any number of labels."""

    per_image: np.ndarray
    """``int64 (N,)``: labels of each image."""
    together: tuple[tuple[int, int, int], ...]
    """The pairs of classes that share most images, and how many; most first, ``PAIRS`` at most."""

    @property
    def unlabelled(self) -> int:
        """Images without any: examples of what no label is for."""
        return int((self.per_image == 0).sum())


def label_sets(labels: np.ndarray) -> LabelSets:
    """Counts of labels ``bool (N, classes)``."""
    ones = labels.astype(np.float32)  # its products are computed many at a time, and exact up to 16 million images
    shared = np.triu(ones.T @ ones, 1).astype(np.int64)
    best = np.argsort(-shared, axis=None, kind="stable")[:PAIRS]
    first, second = np.unravel_index(best, shared.shape)
    pairs = ((int(a), int(b), int(shared[a, b])) for a, b in zip(first, second, strict=True))
    return LabelSets(labels.sum(axis=1, dtype=np.int64), tuple(each for each in pairs if each[2]))


@dataclass(frozen=True)
class SplitSummary:
    """Figures of one split; those of sizes and kinds are of the images that could be decoded."""

    widths: np.ndarray
    """``int32 (N,)``, in pixels, the right way up; 0 for a broken image."""
    heights: np.ndarray
    formats: dict[str, int]
    """Images by file format (``JPEG``), most frequent first."""
    modes: dict[str, int]
    """Images by colour mode (``RGB``, ``L``, ``CMYK``), most frequent first."""
    class_counts: np.ndarray
    """``int64 (classes,)``: images of each class."""
    label_sets: LabelSets | None = None
    """Where pictures have any number of labels."""


@dataclass(frozen=True)
class DataReport:
    """What was found in a dataset's splits."""

    classes: tuple[str, ...]
    short_labels: tuple[str, ...]
    """The classes as people are shown them."""
    splits: dict[str, SplitSummary]
    broken: tuple[UnreadableImage, ...]
    duplicates: tuple[Duplicates, ...]
    near_constant: tuple[Place, ...]
    left_out: Mapping[str, int]
    """Files among the images that are not read, by suffix or by what they are."""

    @property
    def problems(self) -> list[str]:
        """What should be mended before training, a line each; empty for a clean dataset."""
        leaked = [group for group in self.duplicates if group.leaked]
        contradictory = sum(group.conflicting for group in leaked)
        conflicting = sum(group.conflicting for group in self.duplicates) - contradictory
        missing = missing_pictures(self.left_out)
        return [
            line
            for count, line in (
                (len(self.broken), f"{len(self.broken):,} images cannot be decoded"),
                (missing, f"{missing:,} files among the images are not read"),
                (
                    len(leaked),
                    f"{len(leaked):,} images are both in training and in validation, "
                    f"{contradictory:,} of them with different labels",
                ),
                (conflicting, f"{conflicting:,} images are in one split more than once, with different labels"),
            )
            if count
        ]

    def kinds(self) -> tuple[Counter[str], Counter[str]]:
        """Images by file format and by colour mode, over all splits."""
        formats: Counter[str] = sum((Counter(summary.formats) for summary in self.splits.values()), Counter())
        modes: Counter[str] = sum((Counter(summary.modes) for summary in self.splits.values()), Counter())
        return formats, modes

    def size_histogram(self) -> tuple[np.ndarray, np.ndarray]:
        """Images by their shorter side, over all splits.

        Returns:
            Counts, and the edges in pixels between which they are: at most ten bins of about equal ratio.
        """
        sides = np.concatenate([np.minimum(summary.widths, summary.heights) for summary in self.splits.values()])
        sides = sides[sides > 0]
        if not len(sides):
            return np.zeros(0, dtype=np.int64), np.zeros(1)
        return np.histogram(sides, np.unique(np.geomspace(sides.min(), sides.max() + 1, num=11).round()))

    def shapes(self) -> ShapeReport | None:
        """What a crop of the centre cuts off the pictures of all splits; ``None`` where there are none."""
        sizes = np.concatenate([np.stack([each.widths, each.heights]) for each in self.splits.values()], axis=1)
        widths, heights = sizes[:, sizes[0] > 0]
        return examine_shapes(widths, heights)

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        shapes = self.shapes()
        counts, edges = self.size_histogram()
        return {
            "problems": self.problems,
            "classes": len(self.classes),
            "shorter_side_histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
            "shapes": None if shapes is None else asdict(shapes),
            "splits": {name: self._split_to_dict(summary) for name, summary in self.splits.items()},
            "broken": [{**each.place._asdict(), "reason": each.reason} for each in self.broken],
            "duplicates": [
                {
                    "leaked": group.leaked,
                    "conflicting": group.conflicting,
                    "images": [place._asdict() for place in group.places],
                }
                for group in self.duplicates
            ],
            "left_out": dict(self.left_out),
            "near_constant": [place._asdict() for place in self.near_constant],
        }

    def _split_to_dict(self, summary: SplitSummary) -> dict[str, Any]:
        whole = summary.widths > 0
        sets = summary.label_sets
        several = (
            {}
            if sets is None
            else {
                "without_labels": sets.unlabelled,
                "labels_per_image": _spread(sets.per_image),
                "together": [
                    {"labels": [self.classes[first], self.classes[second]], "images": count}
                    for first, second, count in sets.together
                ],
            }
        )
        return {
            "images": len(summary.widths),
            "broken": int((~whole).sum()),
            "width": _spread(summary.widths[whole]),
            "height": _spread(summary.heights[whole]),
            "formats": summary.formats,
            "modes": summary.modes,
            "images_per_class": _spread(summary.class_counts),
            "classes_without_images": [
                label for label, count in zip(self.classes, summary.class_counts, strict=True) if not count
            ],
            "class_counts": [
                {"class_id": class_id, "label": label, "images": int(count)}
                for class_id, (label, count) in enumerate(zip(self.classes, summary.class_counts, strict=True))
            ],
            **several,
        }


def _spread(values: np.ndarray) -> dict[str, float] | None:
    if not len(values):
        return None
    return {"min": int(values.min()), "median": float(np.median(values)), "max": int(values.max())}


class _Facts(NamedTuple):
    """What a worker tells of one image."""

    size: tuple[int, int]
    """Width and height; 0 for a broken image."""
    format: str
    mode: str
    digest: bytes
    near_constant: bool
    reason: str
    """Why it is broken, or empty."""


def check_datasets(
    splits: Mapping[str, ImageDataset], workers: int, advance: Callable[[int], None] = lambda count: None
) -> DataReport:
    """Decodes every image and reports what is there.

    Args:
        splits: datasets of the same classes, by the split's name.
        workers: processes that decode.
        advance: told now and then how many more images are done.

    Raises:
        DataError: a worker process died.
    """
    classes = next(iter(splits.values())).classes
    names = tuple(each.label for each in classes)
    summaries: dict[str, SplitSummary] = {}
    broken: list[UnreadableImage] = []
    near_constant: list[Place] = []
    first_seen: dict[bytes, tuple[str, int]] = {}
    copies: dict[bytes, list[tuple[str, int]]] = defaultdict(list)

    def place(split: str, index: int) -> Place:
        images = splits[split]
        numbers = classes_of(images.labels, index)
        class_id = numbers if has_several(images.labels) else numbers[0]
        return Place(split, images.source(index), class_id, named(classes, numbers))

    for split, images in splits.items():
        sizes = np.zeros((len(images), 2), dtype=np.int32)
        formats: Counter[str] = Counter()
        modes: Counter[str] = Counter()
        for index, facts in enumerate(_examine_all(images, workers)):
            if facts.reason:
                broken.append(UnreadableImage(place(split, index), facts.reason))
            else:
                sizes[index] = facts.size
                formats[facts.format] += 1
                modes[facts.mode] += 1
                if facts.digest in first_seen:
                    copies[facts.digest].append((split, index))
                else:
                    first_seen[facts.digest] = split, index
                if facts.near_constant:
                    near_constant.append(place(split, index))
            if index % REPORTED == REPORTED - 1:
                advance(REPORTED)
        summaries[split] = SplitSummary(
            sizes[:, 0],
            sizes[:, 1],
            dict(formats.most_common()),
            dict(modes.most_common()),
            class_counts(images.labels, len(names)),
            label_sets(images.labels) if has_several(images.labels) else None,
        )
    duplicates = [
        Duplicates(tuple(place(*each) for each in (first_seen[digest], *others))) for digest, others in copies.items()
    ]
    # The worst first: a list of thousands is read from the top.
    duplicates.sort(key=lambda group: (not group.leaked, not group.conflicting))
    return DataReport(
        names,
        short_labels(classes),
        summaries,
        tuple(broken),
        tuple(duplicates),
        tuple(near_constant),
        left_out(*splits.values()),
    )


def _examine_all(images: ImageDataset, workers: int) -> Iterator[_Facts]:
    parts = (range(start, min(start + TOGETHER, len(images))) for start in range(0, len(images), TOGETHER))
    with closing(in_processes(partial(_examine_part, images), parts, workers, images.name)) as examined:
        yield from chain.from_iterable(examined)


def _examine_part(images: ImageDataset, part: range) -> list[_Facts]:
    return [_examine(images, index) for index in part]


def _examine(images: ImageDataset, index: int) -> _Facts:
    name = images.source(index)
    try:
        encoded = images.read(index)
        name = describe(encoded)
        image = decode(encoded)
    except ImageError as error:
        return _Facts((0, 0), "", "", b"", False, str(error).removeprefix(f"{name}: "))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with open_image(encoded, name) as header:
            kind, mode = header.format or "unknown", header.mode
    digest = hashlib.sha256(repr(image.size).encode() + image.tobytes()).digest()
    extrema = image.getextrema()
    near_constant = all(high - low <= NEAR_CONSTANT for low, high in extrema)  # type: ignore[misc]
    return _Facts(image.size, kind, mode, digest, near_constant, "")
