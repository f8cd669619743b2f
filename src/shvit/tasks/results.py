"""What a prediction returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shvit.card import TaskName


@dataclass(frozen=True)
class Prediction:
    """One label for an image."""

    label: str
    class_id: int
    wnid: str | None
    score: float
    """Probability, in [0, 1]."""
    short_label: str = field(default="", compare=False, repr=False)
    """The label as people are shown it: of WordNet's synonyms the first. The whole label where the card is not at hand,
    as in what ``Client`` returns."""
    accepted: bool | None = None
    """Whether it is an answer: the score reaches the class's threshold. ``None`` where no threshold is known, and for
    all but the first of labels that exclude each other."""

    def __post_init__(self) -> None:
        if not self.short_label:
            object.__setattr__(self, "short_label", self.label)

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it: the whole label."""
        values = {"label": self.label, "class_id": self.class_id, "wnid": self.wnid, "score": self.score}
        return values if self.accepted is None else {**values, "accepted": self.accepted}


@dataclass(frozen=True)
class Result:
    """What became of one input: its predictions, best first, or why there are none."""

    source: str
    predictions: tuple[Prediction, ...] = ()
    error: str | None = None
    embedding: np.ndarray | None = field(default=None, compare=False)  # arrays have no one answer
    """``float32 (channels,)``, the pooled features that the head judges by, where they were asked for."""
    known: bool | None = None
    """Whether the picture shows one of the model's classes; ``None`` where the model cannot tell, or was not asked."""
    unknown_score: float | None = None
    """What ``known`` was decided by: higher is stranger. The card has the limit."""
    task: TaskName = "classification"

    @property
    def answer(self) -> tuple[Prediction, ...] | None:
        """The predictions to act on: none of an unknown picture or where no score is high enough.

        ``None`` where nothing says from which score on a label is an answer: the card has no thresholds.
        """
        if self.known is False:
            return ()
        decided = [each for each in self.predictions if each.accepted is not None]
        return tuple(each for each in decided if each.accepted) if decided else None

    @property
    def decision(self) -> str | None:
        """``answer``, ``unsure`` (no score is high enough), ``unknown``, or ``None`` where nothing is decided."""
        if self.known is False:
            return "unknown"
        answer = self.answer
        return None if answer is None else "answer" if answer else "unsure"

    @property
    def headline(self) -> str:
        """The decision, or else the first label, as people read it."""
        if not self.predictions:
            return self.error or ""
        best, answer = self.predictions[0], self.answer
        if self.known is False:
            return f"unknown (nearest: {best.short_label})"
        if answer is None:
            return best.short_label
        if not answer:
            return f"unsure (best: {best.short_label})"
        return ", ".join(each.short_label for each in answer)

    def to_dict(self) -> dict[str, Any]:
        """As a line of JSON holds it: without the embedding, and with a decision where there is one."""
        if self.error is not None:
            return {"source": self.source, "error": self.error}
        values: dict[str, Any] = {"source": self.source, "predictions": [each.to_dict() for each in self.predictions]}
        if self.decision is not None:
            values["decision"] = self.decision
        if self.known is not None:
            values |= {"known": self.known, "unknown_score": self.unknown_score}
        return values
