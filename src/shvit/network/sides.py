"""The size of a network's input, as people give it: one side, or height and width."""

from __future__ import annotations

import re
from numbers import Integral

from shvit.card import MAX_SIDE
from shvit.errors import ArgumentError

ImageSize = int | str | tuple[int, int]
"""In pixels: the side of a square, or height and width, as numbers or as text such as 160x320."""

_TEXT = re.compile(r"\s*([0-9]{1,9})(?:[xX×]([0-9]{1,9}))?\s*")


def sides(image_size: ImageSize) -> tuple[int, int]:
    """Height and width.

    Raises:
        ArgumentError: they are none, or not 1 to ``MAX_SIDE`` pixels.
    """
    found: object = image_size
    if isinstance(image_size, str) and (match := _TEXT.fullmatch(image_size)):
        found = (int(match[1]), int(match[2] or match[1]))
    elif _is_side(image_size):
        found = (image_size, image_size)
    if isinstance(found, tuple | list) and len(found) == 2:
        height, width = found
        if _is_side(height) and _is_side(width):
            return int(height), int(width)
    raise ArgumentError(
        f"image_size: expected a side of 1 to {MAX_SIDE} pixels, such as 224, or height and width, such as 160x320, "
        f"got {str(image_size)[:60]!r}"
    )


def _is_side(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and 1 <= int(value) <= MAX_SIDE


def in_words(size: tuple[int, int]) -> str:
    """As ``sides`` reads it: 224 for a square, 160x320 for height 160 and width 320."""
    height, width = size
    return str(height) if height == width else f"{height}x{width}"
