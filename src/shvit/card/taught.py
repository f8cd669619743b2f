"""What a card says of classes that were taught on the features of another file, by ``shvit teach`` or in the page."""

from __future__ import annotations

import re
from dataclasses import dataclass

from shvit.card.decision import check_share
from shvit.card.fields import check_fields, describe
from shvit.errors import ArgumentError


@dataclass(frozen=True)
class Taught:
    """Where a taught head comes from.

    Raises:
        ValueError: a value is out of its range.
    """

    model: str
    """Name of the model whose features the head reads."""
    backbone: str
    """SHA-256 of all that comes before the head, in hexadecimal: ``shvit.engines.onnx_graph.backbone_digest``."""
    images: int
    """Pictures that it was taught with."""
    accuracy: float | None = None
    """Share of these that are right where heads judge the pictures that they were not taught with, in [0, 1]."""
    low: float | None = None
    """Ends of its 95 % interval (binomial), in [0, 1]."""
    high: float | None = None
    created: str | None = None
    """ISO date."""

    def __post_init__(self) -> None:
        check_fields(self)
        if not re.fullmatch("[0-9a-f]{64}", self.backbone):
            raise ArgumentError(f"backbone: expected 64 hexadecimal digits, got {describe(self.backbone)}")
        for name in ("accuracy", "low", "high"):
            check_share(name, getattr(self, name))
