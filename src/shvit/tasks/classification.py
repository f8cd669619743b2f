"""One of the classes is in the picture: scores sum to 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from shvit.card import Card, TaskName
from shvit.tasks.task import Task


class Classification(Task):
    name: ClassVar[TaskName] = "classification"
    title: ClassVar[str] = "one label for a picture"

    def scores(self, logits: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):  # the difference of two may be more than a float holds
            exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return exponentials / exponentials.sum(axis=-1, keepdims=True)

    def targets(self, labels: Sequence[Sequence[int]], classes: int) -> np.ndarray:
        return np.array([each[0] for each in labels], np.int64)

    def losses(self, logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
        shifted = logits - logits.max(axis=1, keepdims=True)
        of_labels = np.take_along_axis(shifted, targets[:, None], axis=1)[:, 0]
        return np.log(np.exp(shifted).sum(axis=1, dtype=np.float64)) - of_labels

    def accepted(self, place: int, class_id: int, score: float, card: Card, min_score: float | None) -> bool | None:
        least = self.threshold(class_id, card) if min_score is None else min_score
        return None if place or least is None else score >= least
