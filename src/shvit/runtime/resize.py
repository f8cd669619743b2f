"""Resizing with the processor's vector instructions, by kornia-rs, of no more than the crop keeps.

Its bicubic and Lanczos filters are Pillow's, but for the rounding that Pillow does between rows and columns.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image

from shvit.errors import MissingDependencyError
from shvit.runtime.card import Preprocessing
from shvit.runtime.preprocess import LONG, Axis, preprocess, resize_and_crop

try:
    from kornia_rs.imgproc import resize
except ImportError as error:
    raise MissingDependencyError(
        "video needs kornia-rs to resize, which is not installed; install it with: pip install 'shvit[video]'"
    ) from error

GRID_TOLERANCE = 1 / 32
"""How far, in pixels of the resized image, the part that is resized may lie from where it belongs."""

_MARGINS = {"bicubic": 2, "lanczos": 3}
"""How many pixels of the resized image the interpolation's kernel reaches to either side."""


def preprocess_pixels(pixels: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """Like ``preprocess``, of pixels, in a tenth of the time; they differ by a fraction of a level on average.

    Args:
        pixels: ``uint8 (height, width, 3)``, RGB.

    Returns:
        ``uint8 (H, W, 3)`` with the H and W of ``preprocessing.image_size``.
    """
    height, width = pixels.shape[:2]
    if (parts := needed_parts(width, height, 1, preprocessing)) is None:
        return preprocess(Image.fromarray(pixels), preprocessing)
    return resize_parts(pixels, parts, preprocessing)


class Part(NamedTuple):
    """The rows or columns of a decoded image that are resized, into how many, and which of those are kept."""

    taken: slice
    resized: int
    kept: slice
    scale: float
    """Pixels of the decoded image for each that is resized."""
    shift: float
    """How far its ends are from where they belong, in resized pixels."""


def needed_parts(width: int, height: int, fraction: int, preprocessing: Preprocessing) -> tuple[Part, Part] | None:
    """Of an image of this size, the rows and the columns to resize.

    Args:
        fraction: it is decoded at 1/``fraction`` of its size, rounded up.

    Returns:
        ``None`` where ``preprocess`` is to be asked: for bilinear interpolation, and for an image more than ``LONG``
        times as long as it is wide.
    """
    rows, columns = resize_and_crop(width, height, preprocessing)
    margin = _MARGINS.get(preprocessing.interpolation)
    if margin is None or max(rows.resized, columns.resized) > LONG * min(rows.resized, columns.resized):
        return None
    return _part(rows, fraction, margin), _part(columns, fraction, margin)


def resize_parts(pixels: np.ndarray, parts: tuple[Part, Part], preprocessing: Preprocessing) -> np.ndarray:
    """What the crop keeps of a decoded image, ``uint8 (H, W, 3)``."""
    rows, columns = parts
    part = np.ascontiguousarray(pixels[rows.taken, columns.taken])
    resized = np.asarray(resize(part, (rows.resized, columns.resized), preprocessing.interpolation))
    return resized[rows.kept, columns.kept]


@lru_cache(maxsize=4096)
def _part(axis: Axis, fraction: int, margin: int) -> Part:
    """The smallest part that can be cut out along whole pixels and contains what is kept, with a margin.

    A part from ``taken.start`` to ``taken.stop`` of the decoded image that becomes ``resized`` pixels has its pixels
    where the whole image would have them if both its ends fall where a pixel of the whole resized image begins.

    Args:
        fraction: the image is decoded at 1/``fraction`` of its length, rounded up.
        margin: how far the kernel reaches, in resized pixels.
    """
    scale = axis.source / fraction / axis.resized

    def shift(place: int) -> float:
        return abs(round(place * scale) - place * scale) / scale

    def best(places: range) -> int:
        return next((each for each in places if shift(each) <= GRID_TOLERANCE), min(places, key=shift))

    start = best(range(max(axis.first - margin, 0), -1, -1))
    stop = best(range(min(axis.first + axis.kept + margin, axis.resized), axis.resized + 1))
    taken = slice(round(start * scale), round(stop * scale))
    kept = slice(axis.first - start, axis.first - start + axis.kept)
    return Part(taken, stop - start, kept, scale, max(shift(start), shift(stop)))
