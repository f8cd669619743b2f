"""Which images are trained on and which are held out."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from shvit.data.protocol import ImageDataset
from shvit.data.stratify import has_several, hold_out
from shvit.errors import ArgumentError, DataError

SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "validation", "valid", "dev", "eval", "evaluation", "test", "testing"),
}
"""Names under which a split is looked for, in this order."""

_SPELLINGS = frozenset(chain(*SPLIT_NAMES.values()))

_ADDED = frozenset(
    {"set", "sets", "split", "data", "dataset", "folder", "dir", "image", "images", "img", "imgs", "photo", "photos"}
    | {"picture", "pictures"}
)
"""Words that a split's folder may have beside its name: ``training_set``, ``test-data``, ``train2017``."""

_JOINED = re.compile(rf"({'|'.join(sorted(_SPELLINGS, key=len, reverse=True))})({'|'.join(sorted(_ADDED))})")


@dataclass(frozen=True)
class Division:
    """How a dataset was divided into training and validation images."""

    seed: int
    val_share: float
    digest: str
    """``list_digest`` of the whole."""


class Subset:
    """Some of another dataset's images.

    Args:
        images: the whole dataset.
        indices: ``int64 (N,)``, which images, by their place in it.
        part: what the name says of them; nothing when not given.
        division: which they are a part of.
    """

    def __init__(
        self, images: ImageDataset, indices: np.ndarray, part: str | None = None, division: Division | None = None
    ) -> None:
        self.images, self.indices, self.division = images, indices, division
        self.name = images.name if part is None else f"{images.name} ({part})"
        self.classes = images.classes
        self.labels = images.labels[indices]

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int) -> bytes:
        return self.images.read(int(self.indices[index]))

    def source(self, index: int) -> str:
        return self.images.source(int(self.indices[index]))


def split_dataset(dataset: ImageDataset, val_share: float = 0.1, seed: int = 0) -> tuple[Subset, Subset]:
    """Holds out a share of each class: the same images whatever order they lie in and wherever the dataset is.

    Of a class of n images ``val_share · n`` are held out, to the nearest whole number, but at least one, and at
    least one stays; a class of a single image is trained on. Where pictures have several labels it is about so many of
    each label, and of the pictures without any (``hold_out``).

    Args:
        val_share: in (0, 1).

    Returns:
        Training and validation images, each in the dataset's order.

    Raises:
        DataError: no class has two images; or there are too few images of several labels.
    """
    if not 0 < val_share < 1:
        raise ArgumentError(f"val_share: expected more than 0 and less than 1, got {val_share}")
    draws = np.array([_draw(dataset, index, seed) for index in range(len(dataset))], dtype=np.uint64)
    choose = hold_out if has_several(dataset.labels) else _hold_out_of_each
    held_out = choose(dataset.labels, val_share, draws)
    if not held_out.any() or held_out.all():
        raise DataError(f"{dataset.name}: no class has two images, so that one could be held out; add images")
    division = Division(seed, val_share, list_digest(dataset))
    return (
        Subset(dataset, np.flatnonzero(~held_out), "train", division),
        Subset(dataset, np.flatnonzero(held_out), "val", division),
    )


def _hold_out_of_each(labels: np.ndarray, share: float, draws: np.ndarray) -> np.ndarray:
    """Which images to hold out, ``bool (N,)``, where each has one label: ``int64 (N,)``."""
    held_out = np.zeros(len(labels), dtype=bool)
    order = np.lexsort((draws, labels))
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    for of_class in np.split(order, starts[1:]):
        count = min(max(int(share * len(of_class) + 0.5), 1), len(of_class) - 1)
        held_out[of_class[:count]] = True
    return held_out


def list_digest(dataset: ImageDataset) -> str:
    """SHA-256, in hexadecimal, of the images' names within the dataset and their classes, whatever their order."""
    names = [each.label for each in dataset.classes]
    several = has_several(dataset.labels)
    lines = sorted(
        "\0".join(
            [_name(dataset, index), *(names[each] for each in (np.flatnonzero(label) if several else [label]))]
        ).encode(errors="surrogatepass")
        for index, label in enumerate(dataset.labels)
    )
    return hashlib.sha256(b"\n".join(lines)).hexdigest()


def _name(dataset: ImageDataset, index: int) -> str:
    """An image's name within the dataset, the same wherever that lies and however its path is written."""
    source = dataset.source(index)
    if source.startswith(dataset.name):
        return source[len(dataset.name) :]
    # Of a list of paths the dataset's name is the list's, and the images lie in its folder.
    return "/" + source.removeprefix(f"{Path(dataset.name).parent}/")


def _draw(dataset: ImageDataset, index: int, seed: int) -> int:
    """A random number that belongs to the image's name within the dataset."""
    digest = hashlib.blake2b(f"{seed}{_name(dataset, index)}".encode(errors="surrogateescape"), digest_size=8)
    return int.from_bytes(digest.digest(), "little")


def by_split(names: Iterable[str], words: bool = False) -> dict[str, list[str]]:
    """Names that speak of a split, under ``train`` and ``val``; of several validation splits the first counts.

    Args:
        words: they are names of files, of which one word may be the split: ``tiny-train-00000-of-00008.parquet``.
    """
    names = list(names)
    found = {}
    for split, spellings in SPLIT_NAMES.items():
        for spelling in spellings:
            if words:
                chosen = [name for name in names if _split_word(name) == spelling]
            else:
                exact = [name for name in names if name.lower() == spelling]
                chosen = exact or [name for name in names if split_and_rest(name) == (spelling, "")]
            if chosen:
                found[split] = chosen
                break
    return found


def split_and_rest(name: str) -> tuple[str, str] | None:
    """A folder's name as the split that it speaks of and its other words; ``None`` where it speaks of none.

    ``Train Set``, ``train_images`` and ``train2017`` are the split alone; ``seg_train`` is ``("train", "seg")``.
    """
    spaced = re.sub("(?<=[a-z])(?=[A-Z])", " ", name)
    words = [part for word in re.split("[^a-z]+", spaced.lower()) for part in _parts(word) if part]
    called = [word for word in words if word in _SPELLINGS]
    if len(called) != 1:
        return None
    return called[0], " ".join(word for word in words if word not in _SPELLINGS | _ADDED)


def _parts(word: str) -> tuple[str, ...]:
    joined = _JOINED.fullmatch(word)
    return joined.groups() if joined else (word,)


def _split_word(name: str) -> str | None:
    parts = re.split("[^a-z]+", name.rpartition("/")[2].lower())
    return next((part for part in parts if part in _SPELLINGS), None)
