"""Embeddings that are kept beside a taught model file, so that more can be taught to it without its pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from shvit.embeddings.table import MADE, Embeddings, EmbeddingsInfo, EmbeddingsWriter, Rows, read_embeddings
from shvit.errors import DataError
from shvit.similarity.pictures import TAUGHT
from shvit.teaching.pictures import VIEWS, Pictures, in_half

UNKNOWN = "unknown"
"""View of pictures that were given as showing none of the classes."""

TOGETHER = 1024
"""Pictures that are written at once."""


@dataclass(frozen=True, eq=False)
class Others:
    """Features of pictures that show none of the classes."""

    made: dict[str, np.ndarray]
    """By kind, ``float16 (N, channels)``."""
    unknown: Pictures | None
    """Those that were given; their only view is the centre."""


def kept_path(model: Path) -> Path:
    """Where they are kept."""
    return model.with_suffix(TAUGHT)


def write_kept(path: Path, info: EmbeddingsInfo, pictures: Pictures, others: Others) -> None:
    """Writes them, whole or not at all: pictures, a row a view, then made ones, then unknown ones."""
    with EmbeddingsWriter(path, info, labelled=True, views=True) as writer:
        for start in range(0, len(pictures), TOGETHER):
            writer.write(_rows(pictures.of(range(start, min(start + TOGETHER, len(pictures)))), VIEWS))
        for kind, features in others.made.items():
            count = len(features)
            names = [f"{MADE}: {kind} {place}" for place in range(count)]
            writer.write(Rows(names, ["0" * 64] * count, features, labels=[None] * count, views=[MADE] * count))
        if others.unknown is not None:
            writer.write(_rows(others.unknown, (UNKNOWN,), labelled=False))


def _rows(pictures: Pictures, views: tuple[str, ...], labelled: bool = True) -> Rows:
    count, seen, channels = pictures.features.shape

    def each_view(values: list[str]) -> list[str]:
        return [value for value in values for _ in range(seen)]

    return Rows(
        each_view(pictures.sources),
        each_view(pictures.sha256),
        pictures.features.reshape(count * seen, channels),
        labels=each_view(pictures.labels) if labelled else [None] * count,
        views=[*views[:seen]] * count,
    )


def read_kept(path: Path, info: EmbeddingsInfo, model: Path) -> tuple[Pictures, Others]:
    """Reads what ``write_kept`` wrote.

    Args:
        info: what they should be of.
        model: the file that they should belong to, for errors.

    Raises:
        DataError: they are gone, are another model's, or anything else.
    """
    if not path.exists():
        raise DataError(
            f"{path}: is not there; {model} can be taught more only with the embeddings that shvit teach left beside "
            "it: put them back, or teach it anew from all photographs"
        )
    found = read_embeddings(path)
    if (difference := info.difference(found.info)) is not None:
        raise DataError(
            f"{path}: does not belong to {model}: {difference}; put its own back, or teach it anew from all photographs"
        )
    views, labels = found.views, found.labels
    if views is None or labels is None:
        raise DataError(f"{path}: are embeddings, but not of shvit teach: they have no views and labels")
    places: dict[bool, list[int]] = {True: [], False: []}
    for place, view in enumerate(views):
        places[view in VIEWS].append(place)
    return _pictures(found, places[True], labels, views, path), _others(found, places[False], views, path)


def _pictures(found: Embeddings, places: list[int], labels: list[str | None], views: list[str], path: Path) -> Pictures:
    """Raises: DataError: not each picture has the same views, or one has no label."""
    firsts, counts = [], set()
    for _, group in groupby(places, key=lambda place: (found.sha256[place], labels[place])):
        of_one = list(group)
        firsts.append(of_one[0])
        counts.add(tuple(views[place] for place in of_one))
    if len(counts) != 1 or counts.pop() not in {VIEWS[:count] for count in range(1, len(VIEWS) + 1)}:
        raise DataError(f"{path}: was changed since shvit teach wrote it: not each picture has the same views")
    named = [label for place in firsts if (label := labels[place]) is not None]
    if len(named) < len(firsts):
        raise DataError(f"{path}: was changed since shvit teach wrote it: a picture has no label")
    features = in_half(found.stored[places], path).reshape(len(firsts), -1, found.info.values)
    return Pictures(
        [found.sources[place] for place in firsts], [found.sha256[place] for place in firsts], named, features
    )


def _others(found: Embeddings, places: list[int], views: list[str], path: Path) -> Others:
    made = [place for place in places if views[place] == MADE]
    given = [place for place in places if views[place] == UNKNOWN]
    unknown = None
    if given:
        sources, digests = ([values[place] for place in given] for values in (found.sources, found.sha256))
        unknown = Pictures(sources, digests, [""] * len(given), in_half(found.stored[given], path)[:, None])
    return Others(dict(_by_kind(found, made, path)), unknown)


def _by_kind(found: Embeddings, places: list[int], path: Path) -> Iterator[tuple[str, np.ndarray]]:
    for kind, group in groupby(places, key=lambda place: found.sources[place].rpartition(" ")[0]):
        yield kind.removeprefix(f"{MADE}: "), in_half(found.stored[list(group)], path)
