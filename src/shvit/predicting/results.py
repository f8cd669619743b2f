"""What a prediction returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


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

    def __post_init__(self) -> None:
        if not self.short_label:
            object.__setattr__(self, "short_label", self.label)

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it: the whole label."""
        return {"label": self.label, "class_id": self.class_id, "wnid": self.wnid, "score": self.score}


@dataclass(frozen=True)
class Result:
    """What became of one input: its predictions, best first, or why there are none."""

    source: str
    predictions: tuple[Prediction, ...] = ()
    error: str | None = None
    embedding: np.ndarray | None = field(default=None, compare=False)  # arrays have no one answer
    """``float32 (channels,)``, the pooled features that the head judges by, where they were asked for."""

    def to_dict(self) -> dict[str, Any]:
        """As a line of JSON holds it: without the embedding."""
        if self.error is not None:
            return {"source": self.source, "error": self.error}
        return {"source": self.source, "predictions": [each.to_dict() for each in self.predictions]}
