"""What teaching can be told, and what came of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shvit.calibration.fitting import CalibrationOptions
from shvit.card import Card
from shvit.errors import check_positive
from shvit.evaluation.metrics import confused_pairs
from shvit.teaching.lesson import Lesson

MOST_CONFUSIONS = 100
"""Pairs of classes in JSON."""


@dataclass(frozen=True)
class TeachOptions:
    """All that ``shvit teach`` can be told besides files."""

    unknown: str | Path | None = None
    """A folder of pictures of none of the classes: to tell how many of such are noticed, and to notice more."""
    target_precision: float | None = None
    """Share of the answers that are to be right, in (0, 1); lower scores are then no answers."""
    keep: float = 0.95
    """Share of the pictures of its own classes that stay known, in (0, 1)."""
    image_key: str | None = None
    """Of tar shards with several images under one key, the extension of the one that is meant."""
    threads: int | None = None
    """Threads of one inference, and that decode; all when not given."""

    def __post_init__(self) -> None:
        self.calibration  # noqa: B018 - checks its values
        if self.threads is not None:
            check_positive("threads", self.threads)

    @property
    def calibration(self) -> CalibrationOptions:
        return CalibrationOptions(self.unknown, self.target_precision, keep=self.keep)


@dataclass(frozen=True, repr=False)
class TeachReport:
    """What was taught, and what to expect of it."""

    path: Path
    """The model file that was written."""
    kept: Path
    """The embeddings beside it, for what is taught to it later."""
    card: Card
    counts: dict[str, int]
    """Pictures of each class, by its label, in the classes' order."""
    lesson: Lesson
    notes: tuple[str, ...]
    """Which pictures were left out, and what could not be fitted, and why."""
    broken: tuple[str, ...]
    """Pictures that could not be read, and why."""
    earlier: Card | None = None
    """Of the taught file that something was added to or taken out of."""

    @property
    def accuracy(self) -> float:
        """Share of the pictures that heads which had not seen them name right, in [0, 1]."""
        return self.lesson.predictions.top1

    @property
    def interval(self) -> tuple[float, float]:
        """Ends of its 95 % interval, in [0, 1]."""
        return self.lesson.interval

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        labels = [each.label for each in self.card.classes]
        return {
            "output": str(self.path),
            "embeddings": str(self.kept),
            "classes": self.counts,
            "accuracy": self.accuracy,
            "interval": list(self.interval),
            "earlier": None if self.earlier is None else self._earlier(self.earlier),
            "confusions": [
                {"shown": labels[shown], "named": labels[named], "times": times}
                for shown, named, times in confused_pairs(self.lesson.predictions, MOST_CONFUSIONS)
            ],
            "decision": asdict(self.lesson.decision),
            "doubtful_labels": [each._asdict() for each in self.lesson.doubtful],
            "notes": list(self.notes),
            "broken": list(self.broken),
        }

    def _earlier(self, card: Card) -> dict[str, Any]:
        assert card.taught is not None  # or nothing could be added to it
        return {
            "classes": [each.label for each in card.classes],
            "pictures": card.taught.images,
            "accuracy": card.taught.accuracy,
        }

    def __repr__(self) -> str:
        low, high = self.interval
        return (
            f"TeachReport({str(self.path)!r}, classes={len(self.counts)}, pictures={sum(self.counts.values())}, "
            f"accuracy={self.accuracy:.3f}, interval=({low:.3f}, {high:.3f}))"
        )
