"""What is kept of each batch, by task, and by which figure passes over the same images are compared."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from shvit.card import TaskName
from shvit.evaluation.labels import Accepted
from shvit.evaluation.metrics import SMALLEST, concatenate, rank
from shvit.evaluation.multi_label import concatenate_labels, label_predictions
from shvit.tasks.multi_label import USUAL_THRESHOLD


class Tally(ABC):
    """Of one task; what it calls predictions is its own kind."""

    figure: ClassVar[str]
    """The one by which passes are compared, as JSON has it; in [0, 1]."""
    called: ClassVar[str]
    """For people."""
    data_task: ClassVar[TaskName | None]
    """What labelled images are opened for; ``None``: as they are."""

    unlabelled: ClassVar[bool]
    """Whether an image may have no label."""

    @abstractmethod
    def measurable(self, accepted: Accepted) -> Accepted:
        """The images that can be measured, with what is right for them."""

    @abstractmethod
    def judge(self, scores: np.ndarray, accepted: Sequence[Sequence[int]], indices: np.ndarray) -> Any:
        """Predictions of a batch.

        Args:
            scores: ``float32 (N, classes)``.
            accepted: for each image the classes that are right.
            indices: ``(N,)``, which images these are.
        """

    @abstractmethod
    def joined(self, parts: Sequence[Any]) -> Any:
        """The predictions of several batches as one."""

    @abstractmethod
    def value(self, predictions: Any) -> float:
        """Their ``figure``."""

    @abstractmethod
    def agreement(self, predictions: Any, others: Any) -> float:
        """Share of the images of which both say the same, in [0, 1]."""

    @abstractmethod
    def without_temperature(self, scores: np.ndarray, temperature: float) -> np.ndarray:
        """What calibration is measured on, as it would be had logits not been divided."""


class OneLabelTally(Tally):
    figure: ClassVar[str] = "top1"
    called: ClassVar[str] = "top-1"
    data_task: ClassVar[TaskName | None] = None
    unlabelled: ClassVar[bool] = False

    def measurable(self, accepted: Accepted) -> Accepted:
        return {index: right for index, right in accepted.items() if right}

    def judge(self, scores: np.ndarray, accepted: Sequence[Sequence[int]], indices: np.ndarray) -> Any:
        return rank(scores, accepted, indices)

    def joined(self, parts: Sequence[Any]) -> Any:
        return concatenate(parts)

    def value(self, predictions: Any) -> float:
        return predictions.top1

    def agreement(self, predictions: Any, others: Any) -> float:
        return float((predictions.predicted == others.predicted).mean())

    def without_temperature(self, scores: np.ndarray, temperature: float) -> np.ndarray:
        """The best probability of each row, ``(N,)``: softmax(l / T)^T, scaled."""
        logarithms = temperature * np.log(scores.astype(np.float64).clip(SMALLEST, 1))
        return np.exp(logarithms.max(axis=1) - np.logaddexp.reduce(logarithms, axis=1))


class SeveralLabelsTally(Tally):
    figure: ClassVar[str] = "map"
    called: ClassVar[str] = "mAP"
    data_task: ClassVar[TaskName | None] = "multi_label"
    unlabelled: ClassVar[bool] = True

    def measurable(self, accepted: Accepted) -> Accepted:
        return accepted

    def judge(self, scores: np.ndarray, accepted: Sequence[Sequence[int]], indices: np.ndarray) -> Any:
        return label_predictions(scores, accepted, indices)

    def joined(self, parts: Sequence[Any]) -> Any:
        return concatenate_labels(parts)

    def value(self, predictions: Any) -> float:
        return predictions.mean_average_precision

    def agreement(self, predictions: Any, others: Any) -> float:
        given, other = (each.answers(USUAL_THRESHOLD) for each in (predictions, others))
        return float((given == other).all(axis=1).mean())

    def without_temperature(self, scores: np.ndarray, temperature: float) -> np.ndarray:
        """All scores, ``(N, classes)``: the logistic function of T times their logits."""
        certain = scores.astype(np.float64).clip(SMALLEST, 1 - 1e-12)
        return 1 / (1 + ((1 - certain) / certain) ** temperature)


TALLIES: dict[TaskName, Tally] = {"classification": OneLabelTally(), "multi_label": SeveralLabelsTally()}
