"""Pictures that are there more than once: the same bytes, or embeddings next to each other."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import numpy as np

from shvit.embeddings.table import Embeddings
from shvit.errors import ArgumentError, DataError
from shvit.similarity.joined import Joined
from shvit.similarity.search import EmbeddingIndex

NEAR = 0.98
"""Cosine similarity from which two pictures count as the same one, changed a little (docs/similarity.md)."""

_ROWS, _COLUMNS = 2048, 4096
"""Of a block of similarities."""


class Group(NamedTuple):
    """Pictures that are the same, or nearly."""

    places: tuple[int, ...]
    """Among ``embeddings.pictures()``, in their order."""
    identical: bool
    """All have the same bytes."""
    similarities: tuple[float, ...]
    """Of each to the first; a chain of near ones may lead to pictures that are not."""


class Leak(NamedTuple):
    """A picture of one split that is in the other one too, or nearly."""

    place: int
    """Among ``pictures()`` of the second split."""
    other: int
    """Of the nearest picture, among ``pictures()`` of the first."""
    identical: bool
    similarity: float


def find_duplicates(embeddings: Embeddings | EmbeddingIndex, threshold: float = NEAR) -> list[Group]:
    """Groups of pictures that are the same: by their bytes, or by a cosine similarity of at least ``threshold``.

    Each picture is in one group at most: whatever is near to one of a group belongs to it. Groups of equal bytes come
    first, then the larger ones.

    Args:
        embeddings: of more than ``shvit.similarity.search.EXACT_ROWS`` pictures those of the same cell of the index,
            and of the cells beside it, are compared; otherwise all with all.
        threshold: in (0, 1]; with 1 or more than that only equal bytes count.

    Raises:
        ArgumentError: the threshold is not in that range.
        DataError: there are no embeddings.
    """
    check_threshold(threshold)
    index = embeddings if isinstance(embeddings, EmbeddingIndex) else EmbeddingIndex(embeddings)
    rows = range(len(index))
    sha256 = index.embeddings.sha256
    same: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        same[sha256[row]].append(row)
    joined = Joined(len(index.embeddings))
    representatives = np.array([places[0] for places in same.values()])
    if threshold < 1:
        for first, second in index.blocks(representatives, _ROWS, _COLUMNS):
            joined.join(first, second, index.units(first) @ index.units(second).T >= threshold)
    groups: dict[int, list[int]] = defaultdict(list)
    for places in same.values():
        groups[joined.root(places[0])] += places
    found = [_group(index, sorted(places)) for places in groups.values() if len(places) > 1]
    return sorted(found, key=lambda each: (not each.identical, -len(each.places), each.places))


def find_leaks(train: Embeddings | EmbeddingIndex, val: Embeddings, threshold: float = NEAR) -> list[Leak]:
    """Pictures of ``val`` that are in ``train`` too: by their bytes, or nearly; those with equal bytes come first.

    Args:
        threshold: as of ``find_duplicates``.

    Raises:
        ArgumentError: the threshold is not in (0, 1].
        DataError: one has no embeddings, or they are not of the same kind.
    """
    check_threshold(threshold)
    index = train if isinstance(train, EmbeddingIndex) else EmbeddingIndex(train)
    if difference := index.embeddings.info.difference(val.info):
        raise DataError(f"the two cannot be compared: {difference}; embed both with the same model and options")
    digests = {digest: place for place, digest in reversed(list(enumerate(index.embeddings.sha256)))}
    val = val.pictures()
    if not len(val):
        raise DataError("no embeddings to compare; every picture failed, or there were none")
    places, similarities = np.zeros(len(val), np.int64), np.zeros(len(val), np.float32)
    rows = np.flatnonzero(np.linalg.norm(val.stored.astype(np.float32), axis=1))  # of length 0 is like nothing
    if len(rows):
        nearest = index.search(val.stored[rows], 1)
        places[rows], similarities[rows] = nearest.places[:, 0], nearest.similarities[:, 0]
    leaks = []
    for row, (place, similarity) in enumerate(zip(places, similarities, strict=True)):
        same = digests.get(val.sha256[row])
        if same is not None:
            leaks.append(Leak(row, same, True, 1.0))
        elif similarity >= threshold:
            leaks.append(Leak(row, int(place), False, float(similarity)))
    return sorted(leaks, key=lambda each: (not each.identical, -each.similarity, each.place))


def check_threshold(threshold: float) -> None:
    """Raises: ArgumentError: no cosine similarity to be reached."""
    if not 0 < threshold <= 1:
        raise ArgumentError(f"threshold: expected a cosine similarity above 0 and up to 1, got {threshold}")


def _group(index: EmbeddingIndex, places: list[int]) -> Group:
    units = index.units(np.array(places))
    similarities = np.minimum(units @ units[0], 1)
    identical = len({index.embeddings.sha256[place] for place in places}) == 1
    return Group(tuple(places), identical, tuple(similarities.tolist()))
