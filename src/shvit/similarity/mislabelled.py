"""Labels that look wrong: what a head that has not seen a picture says of it, against the label that was given."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from shvit.embeddings.table import Embeddings
from shvit.errors import DataError
from shvit.heads.linear import FEWEST_PICTURES, fit_linear_head
from shvit.predicting.embeddings import unit_rows
from shvit.tasks import TASKS


class Suspect(NamedTuple):
    """A picture whose label looks wrong."""

    place: int
    """Among ``embeddings.pictures()``."""
    given: str
    """The class that its label says."""
    suggested: str
    """The class that looks right."""
    given_score: float
    """How likely the given class is, in [0, 1]."""
    suggested_score: float


def find_mislabelled(embeddings: Embeddings, advance: Callable[[int], None] = lambda count: None) -> list[Suspect]:
    """Pictures whose labels look wrong, the likeliest first.

    A linear head judges each picture without having seen it or a copy of it, and ``suspects`` compares that with the
    labels. Pictures without a label, and classes of one picture alone, are left out. Where there are several views of
    each picture, as `shvit teach` keeps them, the head learns of all. Places are those of ``embeddings.pictures()``.

    Args:
        embeddings: with labels; 5,000 of ten classes take half a minute, of 200 classes some minutes.
        advance: as of ``shvit.heads.linear.fit_linear_head``.

    Raises:
        DataError: there are no labels, or fewer than two classes with two different pictures.
        MissingDependencyError: scikit-learn is not installed.
    """
    if embeddings.labels is None:
        raise DataError("the embeddings have no labels; give a labelled dataset, or embed one")
    rows, stored, embeddings = embeddings.rows_of_pictures(), embeddings.stored, embeddings.pictures()
    assert embeddings.labels is not None  # as before
    labels, digests = embeddings.labels, embeddings.sha256
    different: dict[str, set[str]] = defaultdict(set)
    for digest, label in zip(digests, labels, strict=True):
        if label is not None:
            different[label].add(digest)
    names = sorted(label for label, found in different.items() if len(found) >= FEWEST_PICTURES)
    if len(names) < 2:
        raise DataError(
            f"labels can be checked where at least two classes have {FEWEST_PICTURES} different pictures each; found "
            f"{len(names)} such classes"
        )
    numbers = {name: number for number, name in enumerate(names)}
    kept = [row for row, label in enumerate(labels) if label in numbers]
    targets = np.array([numbers[str(labels[row])] for row in kept])
    _, groups = np.unique([digests[row] for row in kept], return_inverse=True)
    views = min(len(rows[place]) for place in kept)
    features = stored[[rows[place][:views] for place in kept]].astype(np.float32)
    fitted = fit_linear_head(features, targets, len(names), groups, advance)
    held_out = TASKS["classification"].scores(fitted.held_out.astype(np.float64))
    return [
        Suspect(
            kept[row],
            names[targets[row]],
            names[other],
            float(held_out[row, targets[row]]),
            float(held_out[row, other]),
        )
        for row, other in suspects(held_out, targets)
    ]


def suspects(held_out: np.ndarray, targets: np.ndarray) -> list[tuple[int, int]]:
    """Rows whose label looks wrong, each with the class that looks right; the likeliest first.

    By confident learning (Northcutt, Jiang and Chuang, 2021): a picture is counted for the class that is the likeliest
    of those at least as likely as they are on the mean of the pictures with that label. Where that is another class
    than the label's it is suspected, and those with the least likely labels come first.

    Args:
        held_out: ``(N, classes)``, probabilities by heads that have not seen the picture.
        targets: ``int64 (N,)``, the given classes.
    """
    rows = np.arange(len(targets))
    given = held_out[rows, targets]
    counts = np.bincount(targets, minlength=held_out.shape[1])
    usual = np.bincount(targets, weights=given, minlength=held_out.shape[1]) / np.maximum(counts, 1)
    confident = np.where(held_out >= usual, held_out, 0.0)
    counted = confident.argmax(axis=1)
    suspected = np.flatnonzero((counted != targets) & (confident[rows, counted] > given))
    return [(row, int(counted[row])) for row in suspected[np.argsort(given[suspected], kind="stable")].tolist()]


def compared_with(embeddings: Embeddings, suspect: Suspect, count: int = 3) -> tuple[list[int], list[int]]:
    """Places of pictures to lay beside a suspect: of the given class and of the suggested one, the most similar."""
    assert embeddings.labels is not None  # it has one
    labels = np.array(embeddings.labels, object)
    row = unit_rows(embeddings.stored[[suspect.place]])[0]
    beside = []
    for name in (suspect.given, suspect.suggested):
        others = np.flatnonzero(labels == name)
        others = others[others != suspect.place]
        similarities = unit_rows(embeddings.stored[others]) @ row
        beside.append(others[np.argsort(-similarities, kind="stable")[:count]].tolist())
    return beside[0], beside[1]
