"""What came of an export. Needs no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from shvit.card import Card


@dataclass(frozen=True)
class Int8Accuracy:
    """What 8 bits cost, on the validation images; shares in [0, 1]."""

    top1: float
    float32_top1: float
    images: int
    """How many those are."""
    kept_float: tuple[str, ...] = ()
    """Layers that stayed in float32, since with them in 8 bits it would lose too much."""
    notes: tuple[str, ...] = ()
    """How these were found, and where there was little to judge by."""

    @property
    def sentence(self) -> str:
        return (
            f"top-1 {self.top1:.2%} in int8, {self.float32_top1:.2%} in float32, on {self.images:,} validation images"
        )


@dataclass(frozen=True)
class Int8Precision:
    """What 8 bits cost a file of several labels, on the validation images: mean average precision, in [0, 1]."""

    mean_average_precision: float
    float32_mean_average_precision: float
    images: int
    """How many those are."""
    kept_float: tuple[str, ...] = ()
    """Layers that stayed in float32, since with them in 8 bits it would lose too much."""
    notes: tuple[str, ...] = ()
    """How these were found, and where there was little to judge by."""

    @property
    def sentence(self) -> str:
        return (
            f"mAP {self.mean_average_precision:.2%} in int8, {self.float32_mean_average_precision:.2%} in float32, on "
            f"{self.images:,} validation images"
        )


@dataclass(frozen=True)
class Int8Agreement:
    """What 8 bits change, on photographs without labels that were not calibrated on."""

    agreement: float
    """Share of them with the same first label as in float32, in [0, 1]."""
    score_shift: float
    """Mean change of the score of float32's first label, in [0, 1]."""
    images: int
    calibrated_on: int
    """Photographs that the ranges are of."""
    kept_float: tuple[str, ...] = ()
    """Layers that stayed in float32, since with them in 8 bits too many labels would change."""
    notes: tuple[str, ...] = ()
    """How these were found, and where there was little to judge by."""

    @property
    def sentence(self) -> str:
        return (
            f"same first label in int8 as in float32 on {self.agreement:.1%} of {self.images:,} photographs that it "
            f"was not calibrated on; its score moves by {self.score_shift:.1%} in the mean"
        )


@dataclass(frozen=True, repr=False)
class ExportReport:
    """How the written file compares with the network it was made from."""

    path: Path
    size_bytes: int
    """Of the file and its companions."""
    card: Card
    """What the file says of itself."""
    images: int
    """Real images that both were run on; 0 where the format cannot be run on this machine, and where a finished model
    file was packed as it is."""
    max_difference: float | None
    """Largest difference of a logit, relative to the largest logit."""
    top1_agreement: float | None
    """Share of the images with the same first label, in [0, 1]."""
    int8: Int8Accuracy | Int8Precision | Int8Agreement | None = None
    """Of a file in 8 bits that was measured on images."""

    pushed: str | None = None
    """The address of the repository that it was pushed to."""

    def __repr__(self) -> str:
        agreement = "not run here" if self.top1_agreement is None else f"top1_agreement={self.top1_agreement:.4f}"
        return f"ExportReport({str(self.path)!r}, size_bytes={self.size_bytes}, images={self.images}, {agreement})"
