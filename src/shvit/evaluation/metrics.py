"""What is counted of predictions; NumPy only.

Of each image only its best few classes are kept, not its whole row of probabilities, so that fifty thousand images of
twenty thousand classes fit in memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

TOP = 5
"""How many classes are kept of each image."""

SMALLEST = 1e-30
"""Probabilities are taken to be at least this, so that one rounded to zero does not make the loss infinite."""


@dataclass(frozen=True)
class Predictions:
    """What a classifier said of N images, beside what is right; classes are the classifier's, by number."""

    indices: np.ndarray
    """``int64 (N,)``: which images of the dataset these are."""
    labels: np.ndarray
    """``int64 (N,)``: the right class; of several, the one that the classifier finds most probable."""
    ranked: np.ndarray
    """``int64 (N, K)``: the most probable classes, best first; K is 5, or the number of classes if that is less."""
    scores: np.ndarray
    """``float64 (N, K)``: their probabilities."""
    losses: np.ndarray
    """``float64 (N,)``: cross-entropy, the negative natural logarithm of the right class's probability."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def predicted(self) -> np.ndarray:
        """``int64 (N,)``: the most probable class."""
        return self.ranked[:, 0]

    @property
    def confidence(self) -> np.ndarray:
        """``float64 (N,)``: its probability."""
        return self.scores[:, 0]

    @property
    def correct(self) -> np.ndarray:
        """``bool (N,)``."""
        return self.predicted == self.labels

    @property
    def in_top5(self) -> np.ndarray:
        """``bool (N,)``: the right class is among those ranked."""
        return (self.ranked == self.labels[:, None]).any(axis=1)

    @property
    def top1(self) -> float:
        return float(self.correct.mean())

    @property
    def top5(self) -> float:
        return float(self.in_top5.mean())

    @property
    def loss(self) -> float:
        return float(self.losses.mean())


def rank(probabilities: np.ndarray, accepted: Sequence[Sequence[int]], indices: np.ndarray) -> Predictions:
    """Predictions from whole rows of probabilities.

    Where several classes are right (ImageNet-ReaL), the label is the most probable of them: the best class is then
    the label just when it is one of the set, and likewise for the best five.

    Args:
        probabilities: ``(N, C)``, rows summing to 1.
        accepted: for each image the classes that count as right, at least one.
        indices: ``(N,)``, which images these are.
    """
    labels = np.array([max(right, key=row.__getitem__) for row, right in zip(probabilities, accepted, strict=True)])
    ranked = np.argsort(-probabilities, axis=1, kind="stable")[:, :TOP]
    scores = np.take_along_axis(probabilities, ranked, axis=1).astype(np.float64)
    of_labels = np.take_along_axis(probabilities, labels[:, None], axis=1)[:, 0].astype(np.float64)
    return Predictions(np.asarray(indices), labels, ranked, scores, -np.log(of_labels.clip(SMALLEST, 1)))


def concatenate(parts: Sequence[Predictions]) -> Predictions:
    """The predictions of several batches as one."""
    return Predictions(
        np.concatenate([part.indices for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.ranked for part in parts]),
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.losses for part in parts]),
    )


def wilson_interval(right: int, total: int) -> tuple[float, float]:
    """Where the share of all such images that a classifier is right for lies, with 95 % confidence (Wilson, 1927).

    Args:
        right: images that it is right for.
        total: of so many, at least one.
    """
    z, share = 1.959964, right / total
    middle = share + z * z / (2 * total)
    reach = z * math.sqrt(share * (1 - share) / total + (z / (2 * total)) ** 2)
    scale = 1 + z * z / total
    # The ends of the range are exact, and would be missed by a rounding.
    low = (middle - reach) / scale if right else 0.0
    high = (middle + reach) / scale if right < total else 1.0
    return low, high


@dataclass(frozen=True)
class Calibration:
    """Whether a classifier that says 80 % is right in 80 % of the cases, in B bins of equal width.

    Guo et al., On Calibration of Modern Neural Networks, 2017. Bin b holds the images whose best class has a
    probability in ``(b / B, (b + 1) / B]``.
    """

    counts: np.ndarray
    """``int64 (B,)``: images in the bin."""
    confidence: np.ndarray
    """``float64 (B,)``: their mean probability of the best class, in [0, 1]; NaN where there are none."""
    accuracy: np.ndarray
    """``float64 (B,)``: the share of them that is right, in [0, 1]; NaN where there are none."""

    @property
    def error(self) -> float:
        """Expected calibration error (ECE), in [0, 1]: the mean gap of confidence and accuracy over the images."""
        gaps = np.abs(self.accuracy - self.confidence)
        return float(np.nansum(gaps * self.counts) / self.counts.sum())


def calibration(predictions: Predictions, bins: int = 15) -> Calibration:
    """Sorts predictions into bins by their confidence."""
    return calibration_of(predictions.confidence, predictions.correct, bins)


def calibration_of(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> Calibration:
    """Sorts answers into bins.

    Args:
        confidence: score of each, ``float (N,)`` in [0, 1].
        correct: whether it is right, ``bool (N,)``.
    """
    edges = np.linspace(0, 1, bins + 1)
    places = np.digitize(confidence, edges[1:-1], right=True)
    counts = np.bincount(places, minlength=bins)
    with np.errstate(invalid="ignore"):  # empty bins are NaN
        mean = np.bincount(places, confidence, minlength=bins) / counts
        accuracy = np.bincount(places, correct, minlength=bins) / counts
    return Calibration(counts, mean, accuracy)


@dataclass(frozen=True)
class ClassCounts:
    """Images of each of C classes."""

    images: np.ndarray
    """``int64 (C,)``: images of the class."""
    correct: np.ndarray
    """``int64 (C,)``: of these, those recognised."""
    predicted: np.ndarray
    """``int64 (C,)``: images that were taken for it, rightly or not."""

    @property
    def accuracy(self) -> np.ndarray:
        """``float64 (C,)`` in [0, 1]: the share of the class that was recognised (recall); NaN without images."""
        with np.errstate(invalid="ignore"):
            return self.correct / self.images

    @property
    def precision(self) -> np.ndarray:
        """``float64 (C,)`` in [0, 1]: the share of what was taken for the class that is; NaN if nothing was."""
        with np.errstate(invalid="ignore"):
            return self.correct / self.predicted


def class_counts(predictions: Predictions, classes: int) -> ClassCounts:
    """Counts by class.

    Args:
        classes: how many the classifier knows.
    """
    return ClassCounts(
        np.bincount(predictions.labels, minlength=classes),
        np.bincount(predictions.labels[predictions.correct], minlength=classes),
        np.bincount(predictions.predicted, minlength=classes),
    )


def confusion_matrix(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """How often each class was taken for each.

    Returns:
        The classes that occur as label or as prediction, ``int64 (K,)``, ascending; and counts ``int64 (K, K)``,
        a row for each label, a column for each prediction.
    """
    classes, places = np.unique(np.concatenate([predictions.labels, predictions.predicted]), return_inverse=True)
    size = len(classes)
    labels, predicted = np.split(places, 2)
    return classes, np.bincount(labels * size + predicted, minlength=size * size).reshape(size, size)


def confused_pairs(predictions: Predictions, most: int) -> list[tuple[int, int, int]]:
    """The mistakes made most often: label, prediction, how many times; most frequent first."""
    wrong = ~predictions.correct
    pairs = np.stack([predictions.labels[wrong], predictions.predicted[wrong]], axis=1)
    found, counts = np.unique(pairs, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:most]
    return [(int(found[i, 0]), int(found[i, 1]), int(counts[i])) for i in order]


def confident_mistakes(predictions: Predictions, most: int) -> np.ndarray:
    """Rows of the wrong predictions of the highest scores, highest first."""
    wrong = np.flatnonzero(~predictions.correct)
    return wrong[np.argsort(-predictions.confidence[wrong], kind="stable")[:most]]
