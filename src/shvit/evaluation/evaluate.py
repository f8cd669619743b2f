"""A classifier over a labelled set: every prediction, how fast, and how well when the images are corrupted."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from shvit.data.broken import BrokenImage, none_readable
from shvit.data.prepared import prepared_batches
from shvit.evaluation.classifiers import ImageClassifier
from shvit.evaluation.labels import LabelledImages
from shvit.evaluation.tally import TALLIES
from shvit.images.decoding import Decoding
from shvit.predicting.classifier import Classifier

SEVERITIES = range(1, 6)
"""Of corruptions."""


@dataclass(frozen=True)
class Evaluation:
    """What came of one pass over a labelled set."""

    predictions: Any
    """``Predictions``, or of several labels ``LabelPredictions``; their indices are places in the whole dataset."""
    broken: tuple[BrokenImage, ...]
    """Images that could not be read; they are in none of the figures."""
    seconds: float
    """Wall-clock time of the pass, decoding included."""
    unknown: np.ndarray | None = None
    """Each image's unknown score, ``float64 (N,)``, where the file has one."""
    confidence_before: np.ndarray | None = None
    """Each image's best score without the card's temperature, ``float64 (N,)``, where it has one; of several labels
    all scores, ``(N, classes)``."""


@dataclass(frozen=True)
class Robustness:
    """Accuracy under one corruption."""

    corruption: str
    severity: int
    value: float
    """Top-1, or mAP of several labels, in [0, 1]."""


@dataclass(frozen=True)
class FastDecoding:
    """What fast decoding changes, on the images that exact decoding was measured on."""

    value: float
    """Top-1, or mAP of several labels, in [0, 1]."""
    change: float
    """Minus what exact decoding gives."""
    same_prediction: float
    """Share of the images for which the most probable class is the same, or all labels from 0.5 on, in [0, 1]."""
    images_per_second: float
    """Decoding included; exact decoding's is the evaluation's own."""


def evaluate_classifier(
    classifier: ImageClassifier,
    images: LabelledImages,
    batch_size: int,
    workers: int,
    advance: Callable[[int], None] = lambda count: None,
    decoding: Decoding = "exact",
) -> Evaluation:
    """Runs the classifier on every image, through its own preprocessing.

    Args:
        workers: decoding processes; 0 decodes in this one.
        advance: told after each batch how many images it had.
        decoding: ``fast`` to see what that changes.

    Raises:
        DataError: not one image could be read, or a process that decodes died.
    """
    started = time.perf_counter()
    tally = TALLIES[classifier.card.task]
    parts: list[Any] = []
    broken: list[BrokenImage] = []
    unknown: list[np.ndarray] = []
    before: list[np.ndarray] = []
    decision = classifier.card.decision
    with closing(prepared_batches(images, classifier.card.preprocessing, batch_size, workers, decoding)) as batches:
        for batch in batches:
            broken += batch.broken
            if len(batch.indices):
                indices = images.indices[batch.indices]
                accepted = [images.accepted[index] for index in indices.tolist()]
                if decision is not None and decision.unknown is not None and isinstance(classifier, Classifier):
                    probabilities, scores = classifier.judge_batch(batch.images)
                    unknown.append(scores)
                else:
                    probabilities = classifier.predict_batch(batch.images)
                if decision is not None:
                    before.append(tally.without_temperature(probabilities, decision.temperature))
                parts.append(tally.judge(probabilities, accepted, indices))
            advance(len(batch.indices) + len(batch.broken))
    if not parts:
        raise none_readable(images, broken)
    seconds = time.perf_counter() - started
    unknown_scores, confidence = (np.concatenate(each) if each else None for each in (unknown, before))
    return Evaluation(tally.joined(parts), tuple(broken), seconds, unknown_scores, confidence)


def unknown_scores_of(classifier: Classifier, sources: Sequence[str], batch_size: int) -> tuple[np.ndarray, list[str]]:
    """Of pictures of none of the classes.

    Args:
        classifier: whose card has an unknown score.

    Returns:
        ``float64 (N, 2)``, the unknown score and the best label's score of each picture that can be read; and why
        others cannot.
    """
    rows: list[tuple[float, float]] = []
    broken: list[str] = []
    for result in classifier.stream(list(sources), top_k=1, batch_size=batch_size):
        if result.error is not None or result.unknown_score is None:
            broken.append(f"{result.source}: {result.error}")
        else:
            rows.append((result.unknown_score, result.predictions[0].score))
    return np.array(rows, np.float64).reshape(-1, 2), broken


def evaluate_corrupted(
    classifier: ImageClassifier,
    images: LabelledImages,
    corruptions: Sequence[str],
    severities: Sequence[int],
    batch_size: int,
    workers: int,
    advance: Callable[[int], None] = lambda count: None,
) -> list[Robustness]:
    """Top-1, or mAP of several labels, under each corruption (a key of ``CORRUPTIONS``) at each severity (1 to 5).

    Raises:
        MissingDependencyError: SciPy is not installed.
    """
    if not corruptions:
        return []
    from shvit.evaluation.corruptions import CorruptedImages

    found = []
    for name in corruptions:
        for severity in severities:
            corrupted = LabelledImages(CorruptedImages(images.images, name, severity), images.accepted, images.indices)
            result = evaluate_classifier(classifier, corrupted, batch_size, workers, advance)
            found.append(Robustness(name, severity, TALLIES[classifier.card.task].value(result.predictions)))
    return found


def evaluate_fast_decoding(
    classifier: ImageClassifier,
    images: LabelledImages,
    exact: Evaluation,
    batch_size: int,
    workers: int,
    advance: Callable[[int], None] = lambda count: None,
) -> FastDecoding:
    """The same pass with fast decoding.

    Args:
        images: those of ``exact`` that could be read.

    Raises:
        MissingDependencyError: what fast decoding needs is not installed.
    """
    fast = evaluate_classifier(classifier, images, batch_size, workers, advance, "fast")
    tally = TALLIES[classifier.card.task]
    value = tally.value(fast.predictions)
    return FastDecoding(
        value,
        value - tally.value(exact.predictions),
        tally.agreement(fast.predictions, exact.predictions),
        len(fast.predictions) / fast.seconds,
    )
