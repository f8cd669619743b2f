"""What a card says about deciding: when a score is high enough to act on, and what is none of the classes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from shvit.card.fields import check_fields, check_text, describe
from shvit.errors import ArgumentError

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 100.0

MAX_LABEL = 1000
"""Characters of a label or a WordNet id."""


@dataclass(frozen=True)
class Threshold:
    """From which score on one class is an answer."""

    class_id: int
    label: str
    """The class's, so that thresholds of another model are noticed."""
    score: float
    """In [0, 1]."""

    def __post_init__(self) -> None:
        check_text("label", self.label, MAX_LABEL)
        check_share("score", self.score)


@dataclass(frozen=True)
class Promise:
    """How often answers are right from the thresholds on, as it was measured on the images that they were fitted on."""

    target_precision: float
    """Share of the answers that was asked to be right, in (0, 1)."""
    precision: float
    """The share that was, in [0, 1]."""
    low: float
    """Ends of its 95 % interval (binomial), in [0, 1]."""
    high: float
    coverage: float
    """Share of the images that get an answer, in [0, 1]."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            check_share(name, value)
        if not self.low <= self.precision <= self.high:
            raise ArgumentError(f"precision: expected {self.low:g} to {self.high:g}, got {self.precision:g}")


@dataclass(frozen=True)
class Unknown:
    """Which pictures show none of the classes, by the graph's second output, ``unknown``: ``float32 (N, 1)``."""

    method: str
    """What the score is, in words."""
    limit: float
    """A picture whose score is above is unknown."""
    kept: float
    """Share of the pictures of its own classes that are below, in [0, 1]."""
    pictures: int = 0
    """Unknown pictures that it was measured on; 0 where none were given."""
    auroc: float | None = None
    """Chance that an unknown picture has a higher score than one of its own, in [0, 1]."""
    taken_for_known: float | None = None
    """Share of the unknown pictures that are below the limit, in [0, 1]."""

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("kept", "auroc", "taken_for_known"):
            check_share(name, getattr(self, name))


@dataclass(frozen=True)
class Decision:
    """When to answer, fitted by ``shvit calibrate``.

    Raises:
        ValueError: a value is out of its range.
    """

    precision: Literal["fp32", "fp16", "int8"]
    """Of the file that it was fitted on: 8 bits have scores of their own."""
    data: str
    """The images that it was fitted on."""
    images: int
    temperature: float = 1.0
    """Logits are divided by it before they become scores."""
    calibration_error: float | None = None
    """Expected calibration error (15 bins) with the temperature, in [0, 1], measured by cross-validation."""
    calibration_error_before: float | None = None
    """Without it."""
    min_score: float | None = None
    """From which score on the first label is an answer, in [0, 1], where the class has no threshold of its own; of
    several labels, from which each is one."""
    thresholds: tuple[Threshold, ...] = ()
    """By class."""
    promise: Promise | None = None
    unknown: Unknown | None = None
    created: str | None = None
    """ISO date."""

    def __post_init__(self) -> None:
        check_fields(self)
        if not MIN_TEMPERATURE <= self.temperature <= MAX_TEMPERATURE:
            raise ArgumentError(
                f"temperature: expected {MIN_TEMPERATURE} to {MAX_TEMPERATURE:g}, got {describe(self.temperature)}"
            )
        for name in ("calibration_error", "calibration_error_before", "min_score"):
            check_share(name, getattr(self, name))
        if len({each.class_id for each in self.thresholds}) < len(self.thresholds):
            raise ArgumentError("thresholds: expected one for a class, got several for one")

    def threshold(self, class_id: int) -> float | None:
        """From which score on a class is an answer."""
        return self._by_class.get(class_id, self.min_score)

    @cached_property
    def _by_class(self) -> dict[int, float]:
        return {each.class_id: each.score for each in self.thresholds}


def check_share(name: str, value: float | None) -> None:
    """Raises: ArgumentError: it is neither ``None`` nor in [0, 1]."""
    if value is not None and not 0 <= value <= 1:
        raise ArgumentError(f"{name}: expected 0 to 1, got {describe(value)}")
