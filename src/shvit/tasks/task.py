"""What a task decides: how a graph's output becomes scores, and scores a result."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from shvit.card import Card, TaskName
from shvit.errors import ArgumentError, check_positive
from shvit.tasks.results import Prediction, Result


@dataclass(frozen=True)
class Answering:
    """What is wanted of a result.

    Raises:
        ArgumentError: a value is out of its range.
    """

    top_k: int = 5
    """Labels for each image; at most as many as there are classes."""
    min_score: float | None = None
    """From which score on a label is an answer, in [0, 1], in place of the card's thresholds."""
    unknown: bool = True
    """Whether a picture of none of the classes is called unknown, where the card has a limit."""

    def __post_init__(self) -> None:
        check_positive("top_k", self.top_k)
        if self.min_score is not None and not 0 <= self.min_score <= 1:
            raise ArgumentError(f"min_score: expected 0 to 1, got {self.min_score:g}")


class Judged(NamedTuple):
    """What a graph says of one image."""

    scores: np.ndarray
    """``float32 (classes,)``, in [0, 1]."""
    unknown: float | None = None
    """The unknown score, where the file has one."""
    embedding: np.ndarray | None = None
    """``float32 (channels,)``, where it was asked for."""


class Task(ABC):
    """One kind of answer."""

    name: ClassVar[TaskName]
    title: ClassVar[str]
    """For people."""

    @abstractmethod
    def scores(self, logits: np.ndarray) -> np.ndarray:
        """Scores in [0, 1] of logits divided by the temperature, both ``(N, classes)``."""

    @abstractmethod
    def targets(self, labels: Sequence[Sequence[int]], classes: int) -> np.ndarray:
        """What is right for N images, as ``losses`` takes it.

        Args:
            labels: the classes of each.
            classes: how many there are.
        """

    @abstractmethod
    def losses(self, logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Negative log-likelihood of each image, ``float64 (N,)``.

        Args:
            logits: divided by the temperature, ``(N, classes)``.
            targets: of one label its number, ``int64 (N,)``; of several whether each holds, ``bool (N, classes)``.
        """

    @abstractmethod
    def accepted(self, place: int, class_id: int, score: float, card: Card, min_score: float | None) -> bool | None:
        """Whether a score is an answer; ``None`` where nothing says so.

        Args:
            place: among the image's predictions, 0 for the best.
            min_score: in place of the card's thresholds.
        """

    def shown(self, scores: np.ndarray, card: Card, top_k: int, min_score: float | None) -> int:
        """How many labels of an image are given."""
        return top_k

    def threshold(self, class_id: int, card: Card) -> float | None:
        """From which score on the class is an answer, by the card."""
        return None if card.decision is None else card.decision.threshold(class_id)

    def known(self, judged: Judged, card: Card, answering: Answering) -> bool | None:
        """Whether the picture is of one of the classes; ``None`` where that is not told."""
        unknown = None if card.decision is None else card.decision.unknown
        if unknown is None or judged.unknown is None or not answering.unknown:
            return None
        return judged.unknown <= unknown.limit

    def predictions(
        self, scores: np.ndarray, card: Card, top_k: int = 5, min_score: float | None = None
    ) -> tuple[Prediction, ...]:
        """The classes of the highest scores of one image, best first, and of equals the first.

        Args:
            scores: ``float32 (classes,)``.
            card: has the classes.
        """
        classes, short = card.classes, card.short_labels
        found = []
        for place, each in enumerate(highest(scores, self.shown(scores, card, top_k, min_score)).tolist()):
            score, info = float(scores[each]), classes[each]
            accepted = self.accepted(place, each, score, card, min_score)
            found.append(Prediction(info.label, each, info.wnid, score, short[each], accepted))
        return tuple(found)

    def result(self, source: str, judged: Judged, card: Card, answering: Answering) -> Result:
        """What became of one image."""
        known = self.known(judged, card, answering)
        return Result(
            source,
            self.predictions(judged.scores, card, answering.top_k, answering.min_score),
            embedding=judged.embedding,
            known=known,
            unknown_score=None if known is None else judged.unknown,
            task=self.name,
        )


def highest(scores: np.ndarray, count: int) -> np.ndarray:
    """Places of the highest scores, best first, and of equals the first; without sorting all of a thousand."""
    candidates = np.arange(len(scores))
    if count < len(scores):
        least = np.partition(scores, -count)[-count]
        candidates = np.flatnonzero(scores >= least)
    return candidates[np.argsort(-scores[candidates], kind="stable")[:count]]
