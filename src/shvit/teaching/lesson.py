"""From features of labelled pictures to a head, its card, and what to expect of both."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from shvit._version import __version__
from shvit.calibration.fitting import CalibrationOptions, Fitting
from shvit.calibration.outputs import Outputs
from shvit.card import Card, ClassInfo, Decision, Metric, Taught
from shvit.errors import DataError
from shvit.evaluation.metrics import Predictions, rank, wilson_interval
from shvit.heads.linear import FEWEST_PICTURES, FittedHead, evenly_of_classes, fit_linear_head
from shvit.modelfile.program import Program
from shvit.predicting.embeddings import unit_rows
from shvit.similarity.joined import Joined
from shvit.similarity.mislabelled import suspects
from shvit.tasks import task_of
from shvit.teaching.kept import Others
from shvit.teaching.pictures import Pictures

MOST_DOUBTFUL = 100
"""Pictures whose labels look wrong that are named."""

SAME = 0.999
"""Cosine similarity from which pictures of a class are the same, encoded again; other pictures are below 0.997, where
they are close-ups of one kind."""

EQUAL = 0.999999
"""The same of pictures whose pixels are the same, up to rounding."""

TOGETHER = 1024
"""Pictures that are compared with all others of their class at once."""

MOST_LEARNED = 50_000
"""Pictures that a head is fitted to at most, so that memory is bounded."""


class DoubtfulLabel(NamedTuple):
    """A picture whose label looks wrong to a head that had not seen it; scores are in [0, 1]."""

    source: str
    label: str
    """As it is labelled."""
    score: float
    """Of that."""
    looks_like: str
    looks_like_score: float


@dataclass(frozen=True, eq=False)
class Lesson:
    """What was learned of some pictures."""

    classes: tuple[ClassInfo, ...]
    fitted: FittedHead
    decision: Decision
    program: Program | None
    """What computes the unknown score."""
    predictions: Predictions
    """Of each picture by a head that was not fitted on it, with the temperature."""
    doubtful: tuple[DoubtfulLabel, ...]
    """The pictures whose labels look the most wrong."""
    notes: tuple[str, ...]
    """What could not be fitted, and why."""

    @property
    def interval(self) -> tuple[float, float]:
        """Ends of the accuracy's 95 % interval, in [0, 1]."""
        return wilson_interval(int(self.predictions.correct.sum()), len(self.predictions))


def learn(
    pictures: Pictures,
    others: Others,
    classes: tuple[ClassInfo, ...],
    card: Card,
    options: CalibrationOptions,
    advance: Callable[[int], None],
) -> Lesson:
    """Fits a head, and when its scores are answers.

    Args:
        classes: all of the pictures' labels are among them.
        card: of the file whose features these are.
        advance: as for ``fit_linear_head``.

    Raises:
        DataError: there are too few classes, or pictures of one.
    """
    place = {each.label: each.class_id for each in classes}
    targets = np.array([place[label] for label in pictures.labels], np.int64)
    _check_counts(targets, classes)
    notes = []
    if len(pictures) > MOST_LEARNED:
        chosen = evenly_of_classes(targets, MOST_LEARNED)
        notes.append(
            f"the head was fitted to {len(chosen):,} of {len(pictures):,} pictures, the same share of each class"
        )
        pictures, targets = pictures.of(chosen.tolist()), targets[chosen]
    features = pictures.features.astype(np.float32)
    groups, more = _same_pictures(features[:, 0], targets, classes)
    notes += more
    fitted = fit_linear_head(features, targets, len(classes), groups, advance)
    taught = replace(card, classes=classes, decision=None)

    def outputs(values: np.ndarray) -> Outputs:
        whole = values.astype(np.float32)
        return Outputs(fitted.head.logits(whole), whole)

    made = [outputs(each) for each in others.made.values()]
    strange = None if others.unknown is None else outputs(others.unknown.features[:, 0])
    fitting = Fitting(taught, Outputs(fitted.held_out, features[:, 0]), targets, made, strange, options)
    decision = fitting.decision("its own pictures, held out in turn")
    scores = task_of(card).scores(fitted.held_out / np.float32(decision.temperature))
    predictions = rank(scores, [[target] for target in targets.tolist()], np.arange(len(targets)))
    doubtful = _doubtful(scores, targets, pictures, classes)
    return Lesson(classes, fitted, decision, fitting.program, predictions, doubtful, (*notes, *fitting.notes))


def _check_counts(targets: np.ndarray, classes: tuple[ClassInfo, ...]) -> None:
    if len(classes) < 2:
        only = f"only {classes[0].label!r}" if classes else "none"
        raise DataError(f"expected at least two classes to tell apart, found {only}; add a folder for another one")
    counts = np.bincount(targets, minlength=len(classes))
    few = [
        f"{each.label!r} has {count}" if count else f"{each.label!r} has none left (take it out: --forget {each.label})"
        for each, count in zip(classes, counts.tolist(), strict=True)
        if count < FEWEST_PICTURES
    ]
    if few:
        more = f", and {len(few) - 5} more classes" if len(few) > 5 else ""
        raise DataError(
            f"expected at least {FEWEST_PICTURES} different pictures of each class, better 20 or more: "
            f"{', '.join(few[:5])}{more}"
        )


def _same_pictures(
    features: np.ndarray, targets: np.ndarray, classes: tuple[ClassInfo, ...]
) -> tuple[np.ndarray, list[str]]:
    """Groups of pictures that are the same but for their encoding, which no head may be judged on that saw one of them.

    Returns:
        For each picture the number of its group, ``int64 (N,)``, and what there is to tell.
    """
    units = unit_rows(features)
    groups, alike, notes = np.arange(len(targets)), [], []
    for each in classes:
        places = np.flatnonzero(targets == each.class_id)
        firsts = _firsts(units[places], SAME)
        if len(np.unique(firsts)) < FEWEST_PICTURES:
            firsts = _firsts(units[places], EQUAL)
            alike.append(each.label)
        if len(np.unique(firsts)) >= FEWEST_PICTURES:
            groups[places] = places[firsts]
    if same := len(targets) - len(np.unique(groups)):
        notes.append(f"pictures that look the same as another of their class, judged together with it: {same}")
    if alike:
        notes.append(f"all pictures look the same of {', '.join(alike[:5])}: the estimate says nothing of others")
    return groups, notes


def _firsts(units: np.ndarray, threshold: float) -> np.ndarray:
    """For each row the place of the first one that it is joined with, by rows that are so near to each other."""
    joined, places = Joined(len(units)), np.arange(len(units))
    for start in range(0, len(units), TOGETHER):
        block, later = places[start : start + TOGETHER], places[start:]
        joined.join(block, later, units[block] @ units[later].T >= threshold)
    return joined.roots(places)


def _doubtful(
    scores: np.ndarray, targets: np.ndarray, pictures: Pictures, classes: tuple[ClassInfo, ...]
) -> tuple[DoubtfulLabel, ...]:
    return tuple(
        DoubtfulLabel(
            pictures.sources[row],
            pictures.labels[row],
            float(scores[row, targets[row]]),
            classes[other].label,
            float(scores[row, other]),
        )
        for row, other in suspects(scores, targets)[:MOST_DOUBTFUL]
    )


def taught_card(card: Card, lesson: Lesson, name: str, data: str, backbone: str) -> Card:
    """The card of a taught file.

    Args:
        card: of the file whose features its head reads.
        name: the taught file's.
        data: what it was taught with, in words.
        backbone: digest of all before the head.
    """
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    accuracy, (low, high) = lesson.predictions.top1, lesson.interval
    count, (classes, channels) = len(lesson.predictions), lesson.fitted.head.weight.shape
    more = classes - len(card.classes)
    origin = card.taught.model if card.taught is not None else card.name
    return replace(
        card,
        name=name,
        classes=lesson.classes,
        parameters=None if card.parameters is None else card.parameters + more * (channels + 1),
        macs=None if card.macs is None else card.macs + more * channels,
        training_data=f"{data}; features of {origin}"
        + (f", trained on {card.training_data}" if card.taught is None and card.training_data else ""),
        source=f"taught by shvit on the features of {origin}",
        taught=Taught(origin, backbone, count, accuracy, low, high, today),
        metrics=(Metric("top1", accuracy, f"{data}, cross-validated"),),
        decision=lesson.decision,
        notes=None,
        created=today,
        shvit_version=__version__,
    )
