"""From a label's scores, frame by frame, to events: when it was seen, from when to when, and how clearly."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from shvit.errors import ArgumentError


@dataclass(frozen=True)
class EventSettings:
    """What makes an event. Times are in seconds of the video, so that they mean the same at any frame rate."""

    smoothing: float = 0.5
    """Time constant of the exponential mean over a label's scores: what was seen so long ago counts 37 %. 0: none."""
    enter: float = 0.5
    """Smoothed score, in [0, 1], from which on an event begins."""
    leave: float = 0.3
    """Smoothed score below which it ends; not more than ``enter``."""
    minimum: float = 0.5
    """Events shorter than this are dropped."""
    gap: float = 1.0
    """Two events of a label with no more than this between them are one."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (value >= 0 and math.isfinite(value)):
                raise ArgumentError(f"{field.name}: expected 0 or more, got {value}")
        if not self.leave <= self.enter <= 1:
            raise ArgumentError(f"leave and enter: expected leave ≤ enter ≤ 1, got {self.leave} and {self.enter}")


@dataclass(frozen=True)
class Event:
    """A label that was seen for a while."""

    class_id: int
    start: float
    """Seconds: the first frame whose smoothed score reached ``enter``."""
    end: float
    """Seconds: the first frame whose smoothed score was below ``leave`` again, or where the video ends."""
    peak_score: float
    """The highest smoothed score."""
    peak_time: float
    picture: bytes | None = None
    """The frame at the peak, if pictures were asked for."""


@dataclass
class _Open:
    """An event that may still grow."""

    start: float
    end: float | None
    """``None`` while its score is high enough."""
    peak_score: float
    peak_time: float
    picture: bytes | None


class EventTracker:
    """Takes a video's scores in the order of time and gives each event once nothing can be added to it.

    Args:
        classes: how many labels there are.
    """

    smoothed: np.ndarray | None
    """``float64 (classes)``, of the last frame; ``None`` before the first."""

    def __init__(self, settings: EventSettings, classes: int) -> None:
        self.settings, self._classes = settings, classes
        self.smoothed = None
        self._time = self._until = 0.0
        self._open: dict[int, _Open] = {}

    def update(
        self, time: float, duration: float, scores: np.ndarray, picture: Callable[[], bytes] | None = None
    ) -> list[Event]:
        """Takes one frame.

        Args:
            time: seconds; more than the last frame's.
            duration: how long it is shown, for an event that lasts to the end.
            scores: probabilities ``(classes)``.
            picture: makes the picture that an event keeps of its peak.

        Returns:
            Events that are complete by now, earliest first.
        """
        if self.smoothed is None:
            self.smoothed = scores.astype(np.float64)
        else:
            smoothing = self.settings.smoothing
            share = 1.0 if smoothing == 0 else -math.expm1(-(time - self._time) / smoothing)
            self.smoothed += share * (scores - self.smoothed)
        self._time, self._until = time, time + duration
        late = [each for each, event in self._open.items() if self._gap(event) > self.settings.gap]
        finished = self._close(late)
        high = np.flatnonzero(self.smoothed >= self.settings.enter).tolist()
        taken: bytes | None = None
        for class_id in sorted({*self._open, *high}):
            score, event = float(self.smoothed[class_id]), self._open.get(class_id)
            if event is None:
                event = self._open[class_id] = _Open(time, None, -1.0, time, None)
            elif event.end is None and score < self.settings.leave:
                event.end = time
            elif event.end is not None and score >= self.settings.enter:
                event.end = None
            if event.end is None and score > event.peak_score:
                event.peak_score, event.peak_time = score, time
                if picture is not None:
                    taken = picture() if taken is None else taken
                    event.picture = taken
        return finished

    def _gap(self, event: _Open) -> float:
        """Seconds since it ended, 0 if it has not."""
        return 0.0 if event.end is None else self._time - event.end

    def _close(self, class_ids: list[int]) -> list[Event]:
        """Takes these out; returns those that lasted long enough, earliest first."""
        closed = []
        for class_id in class_ids:
            event = self._open.pop(class_id)
            end = self._until if event.end is None else event.end
            if end - event.start >= self.settings.minimum:
                closed.append(Event(class_id, event.start, end, event.peak_score, event.peak_time, event.picture))
        return in_order(closed)

    def finish(self) -> list[Event]:
        """The events that are still open, at the end of the video; what comes after is as another video."""
        closed = self._close(list(self._open))
        self.smoothed = None
        return closed

    def state(self) -> dict[str, Any]:
        """Everything, for JSON; ``restore`` goes on from it exactly."""
        return {
            "smoothed": None if self.smoothed is None else self.smoothed.tolist(),
            "time": self._time,
            "until": self._until,
            "open": [{"class_id": each, **_to_json(event)} for each, event in self._open.items()],
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.smoothed = None if state["smoothed"] is None else np.array(state["smoothed"], np.float64)
        self._time, self._until = state["time"], state["until"]
        self._open = {
            each["class_id"]: _Open(**_from_json({key: each[key] for key in each if key != "class_id"}))
            for each in state["open"]
        }


def in_order(events: list[Event]) -> list[Event]:
    """Earliest first; of those that begin together, the lower class number."""
    return sorted(events, key=lambda event: (event.start, event.class_id))


def clock(seconds: float) -> str:
    """Such as 1:02:03.45."""
    hundredths = round(seconds * 100)
    minutes, hundredths = divmod(hundredths, 6000)
    hours, minutes = divmod(minutes, 60)
    end = f"{hundredths // 100:02d}.{hundredths % 100:02d}"
    return f"{hours}:{minutes:02d}:{end}" if hours else f"{minutes}:{end}"


def event_to_json(event: Event) -> dict[str, Any]:
    return _to_json(event)


def event_from_json(values: dict[str, Any]) -> Event:
    return Event(**_from_json(values))


def _to_json(event: Event | _Open) -> dict[str, Any]:
    picture = None if event.picture is None else base64.b64encode(event.picture).decode()
    return {**asdict(event), "picture": picture}


def _from_json(values: dict[str, Any]) -> dict[str, Any]:
    picture = values["picture"]
    return {**values, "picture": None if picture is None else base64.b64decode(picture)}
