"""Each label's score over the time of a video, in little memory however long it is."""

from __future__ import annotations

from typing import Any

import numpy as np

STRETCHES = 400
"""Parts of equal length that a video is divided into, at most; a page is hardly wider in pixels."""

FIRST_STEP = 0.05
"""Seconds of a part at first; doubled when there are too many."""

LEAST = 0.02
"""Scores below this are taken for nothing."""

KEPT = 24
"""Labels of a part: those of the highest scores."""


class ScoreHistory:
    """The highest smoothed scores in each part of a video."""

    def __init__(self) -> None:
        self.step = FIRST_STEP
        """Seconds of a part."""
        self._parts: list[dict[int, float] | None] = []
        """By class; ``None`` where there was no frame."""

    def add(self, time: float, smoothed: np.ndarray) -> None:
        """Takes one frame's.

        Args:
            time: seconds; not less than before.
            smoothed: in [0, 1], ``(classes)``.
        """
        while (place := int(time / self.step)) >= STRETCHES:
            self._halve()
        while len(self._parts) <= place:
            self._parts.append(None)
        high = np.flatnonzero(smoothed >= LEAST)
        if len(high) > KEPT:
            high = high[np.argpartition(smoothed[high], -KEPT)[-KEPT:]]
        # Rounded at once, so that a run that was killed goes on with the same.
        found = {int(each): round(float(smoothed[each]), 3) for each in high}
        self._parts[place] = _highest(self._parts[place], found)

    def _halve(self) -> None:
        parts, self.step = [*self._parts, None], 2 * self.step
        self._parts = [_highest(*parts[place : place + 2]) for place in range(0, len(parts) - 1, 2)]

    def curve(self, class_id: int) -> list[tuple[float, float]]:
        """Seconds and score, a point for each part in which there were frames."""
        return [
            ((place + 0.5) * self.step, part.get(class_id, 0.0))
            for place, part in enumerate(self._parts)
            if part is not None
        ]

    def to_json(self) -> dict[str, Any]:
        return {"step": self.step, "parts": [None if part is None else list(part.items()) for part in self._parts]}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ScoreHistory:
        history = cls()
        history.step = values["step"]
        history._parts = [None if part is None else dict(part) for part in values["parts"]]
        return history


def _highest(one: dict[int, float] | None, other: dict[int, float] | None) -> dict[int, float] | None:
    """Both as one part."""
    if one is None or other is None:
        return other if one is None else one
    both = {each: max(one.get(each, 0.0), other.get(each, 0.0)) for each in sorted({*one, *other})}
    if len(both) <= KEPT:
        return both
    return dict(sorted(both.items(), key=lambda item: -item[1])[:KEPT])
