"""Any number of the classes is in the picture: each has a score of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from shvit.card import Card, TaskName
from shvit.tasks.task import Task

USUAL_THRESHOLD = 0.5
"""Where the card has none: more likely there than not."""


class MultiLabel(Task):
    name: ClassVar[TaskName] = "multi_label"
    title: ClassVar[str] = "several labels for a picture"

    def scores(self, logits: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            return (1 / (1 + np.exp(-logits))).astype(logits.dtype, copy=False)

    def targets(self, labels: Sequence[Sequence[int]], classes: int) -> np.ndarray:
        found = np.zeros((len(labels), classes), dtype=bool)
        for row, right in zip(found, labels, strict=True):
            row[list(right)] = True
        return found

    def losses(self, logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
        # log(1 + exp(x)) of minus the logit where the label holds, without overflow.
        against = np.where(targets, -logits, logits).astype(np.float64)
        return np.logaddexp(0, against).sum(axis=1)

    def accepted(self, place: int, class_id: int, score: float, card: Card, min_score: float | None) -> bool | None:
        least = self.threshold(class_id, card) if min_score is None else min_score
        return score >= (USUAL_THRESHOLD if least is None else least)

    def shown(self, scores: np.ndarray, card: Card, top_k: int, min_score: float | None) -> int:
        """Enough for every label that is an answer."""
        lowest = min_score
        if lowest is None:
            given = () if card.decision is None else card.decision.thresholds
            others = None if card.decision is None else card.decision.min_score
            lowest = min((USUAL_THRESHOLD if others is None else others, *(each.score for each in given)))
        # Of thousands of labels most are below all thresholds, and to ask for each takes milliseconds.
        possible = int((scores.astype(np.float64) >= lowest).sum())
        ranked = np.argsort(-scores, kind="stable")[:possible].tolist()
        answers = [self.accepted(0, each, float(scores[each]), card, min_score) for each in ranked]
        last = max((place for place, each in enumerate(answers) if each), default=-1)
        return max(top_k, last + 1)
