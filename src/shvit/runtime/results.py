"""What a prediction returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Prediction:
    """One label for an image."""

    label: str
    class_id: int
    wnid: str | None
    score: float
    """Probability, in [0, 1]."""


@dataclass(frozen=True)
class Result:
    """What became of one input: its predictions, best first, or why there are none."""

    source: str
    predictions: tuple[Prediction, ...] = ()
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As a line of JSON holds it."""
        if self.error is not None:
            return {"source": self.source, "error": self.error}
        return {"source": self.source, "predictions": [dict(vars(each)) for each in self.predictions]}
