"""What a crop of the centre cuts off pictures of these shapes, and what would cut off less."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from shvit.card import MAX_SIDE
from shvit.network.sides import in_words

MUCH = 0.4
"""Share of a picture's pixels: less is lost of photographs of 4:3 and 3:2, more of 16:9."""

FEW = 0.1
"""Share of the pictures that may lose much before anything is advised."""

LITTLE = 0.2
"""Share of a picture's pixels that an input of the pictures' own shape may cut off in the median to be advised."""

AREA = 224**2
"""Pixels of the input that is advised, nearly: what it costs goes by its area."""

STEP = 32
"""Pixels: sides are multiples of it, as those of the published networks."""


@dataclass(frozen=True)
class ShapeReport:
    """What cropping costs a folder's pictures; what ``crop_ratio`` cuts off all of them alike is not counted."""

    median_lost: float
    """Share of a picture's pixels that a square crop cuts off, in the median, in [0, 1)."""
    pictures_losing_much: float
    """Share of the pictures that lose more than ``MUCH``, in [0, 1]."""
    image_size: str
    """Height and width of an input of about the pictures' shape, such as 160x320."""
    median_lost_there: float
    """``median_lost`` with that input."""
    pictures_losing_much_there: float
    advice: Literal["image_size", "pad"] | None
    """What to train with: inputs of that size, or the resize mode pad; ``None`` where little is cut off."""


def examine_shapes(widths: np.ndarray, heights: np.ndarray) -> ShapeReport | None:
    """Figures and advice for pictures of these sizes.

    Args:
        widths, heights: ``(N,)``, in pixels, 1 or more.

    Returns:
        ``None`` where there are no pictures.
    """
    if not len(widths):
        return None
    lost = lost_to_crop(widths, heights, (1, 1))
    size = _size_of_shape(float(np.exp(np.median(np.log(widths / heights)))))
    there = lost_to_crop(widths, heights, size)
    much, much_there = float((lost > MUCH).mean()), float((there > MUCH).mean())
    advice: Literal["image_size", "pad"] | None = None
    if much > FEW:
        advice = "image_size" if much_there <= FEW and np.median(there) <= LITTLE else "pad"
    return ShapeReport(float(np.median(lost)), much, in_words(size), float(np.median(there)), much_there, advice)


def lost_to_crop(widths: np.ndarray, heights: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Share of each picture's pixels that the largest crop of the input's shape leaves out, ``(N,)`` in [0, 1).

    Args:
        size: height and width of the input.
    """
    aspect = size[1] / size[0]
    shapes = widths / heights
    return 1 - np.minimum(shapes, aspect) / np.maximum(shapes, aspect)


def _size_of_shape(aspect: float) -> tuple[int, int]:
    """Height and width of about ``AREA``."""

    def side(length: float) -> int:
        return min(max(round(length / STEP), 1) * STEP, MAX_SIDE)

    return side((AREA / aspect) ** 0.5), side((AREA * aspect) ** 0.5)
