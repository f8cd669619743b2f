"""JPEG by simplejpeg (libjpeg-turbo): sizes before pixels, and pixels at a fraction of their size."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import ExifTags

from shvit.images.encoded import open_image
from shvit.images.preprocess import MAX_PIXELS, warnings_ignored
from shvit.images.structure import too_many_parts

TRANSPOSED = (5, 6, 7, 8)
"""EXIF orientations that exchange height and width."""


FRACTIONS = (8, 4, 2, 1)
"""A JPEG's pixels can be computed at one of these parts of each side, the sooner the smaller."""

SPARE_DETAIL = 2
"""A JPEG is decoded at a fraction of its size when that still has this many pixels for each of the wanted image's."""


class JPEGHeader(NamedTuple):
    """What is known of a JPEG before its pixels are decoded."""

    height: int
    """As stored, in pixels."""
    width: int
    orientation: int
    """EXIF's, 1 to 8."""

    @property
    def upright_size(self) -> tuple[int, int]:
        """Height and width, the right way up."""
        return (self.width, self.height) if self.orientation in TRANSPOSED else (self.height, self.width)


def read_header(data: bytes) -> JPEGHeader | None:
    """The header of a JPEG; ``None`` for what ``shvit.images.preprocess.decode`` has to look at.

    That is: other formats, damaged headers, files made to be slow, CMYK, and images of more than ``MAX_PIXELS``.
    """
    if too_many_parts(data):
        return None
    try:
        height, width, color_space, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    if color_space not in ("YCbCr", "Gray", "RGB") or height * width > MAX_PIXELS:
        return None
    if not _may_have_orientation(data):
        return JPEGHeader(height, width, 1)
    with warnings_ignored:
        try:
            orientation = open_image(data, "").getexif().get(ExifTags.Base.Orientation, 1)
        except Exception:  # hostile bytes: let the general decoder refuse them in its own words
            return None
    return JPEGHeader(height, width, orientation if orientation in range(1, 9) else 1)


def smallest_fraction(is_enough: Callable[[int], bool]) -> int:
    """The first of ``FRACTIONS`` that is enough; 1 where none is."""
    return next((fraction for fraction in FRACTIONS if is_enough(fraction)), 1)


def decode_fraction(data: bytes, header: JPEGHeader, fraction: int) -> np.ndarray | None:
    """The pixels of an undamaged JPEG at 1/``fraction`` of its height and width, the right way up.

    Args:
        fraction: 1, 2, 4 or 8. With 1 the pixels are Pillow's.

    Returns:
        ``uint8 (H, W, 3)``, RGB, each side rounded up; ``None`` if the file is damaged.
    """
    height, width = (-(-side // fraction) for side in (header.height, header.width))
    try:
        pixels = simplejpeg.decode_jpeg(data, min_height=height, min_width=width, min_factor=fraction)
    except ValueError:
        return None
    return _upright(pixels, header.orientation)


def _may_have_orientation(data: bytes) -> bool:
    """Whether a JPEG has an APP1 segment, in which EXIF and XMP are, or a start that is out of the ordinary."""
    place = 2
    while data[place : place + 1] == b"\xff" and data[place + 1 : place + 2] not in (b"\xe1", b"\xda", b"\xff"):
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return data[place : place + 2] != b"\xff\xda"


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Applies an EXIF orientation, 1 to 8, to ``(H, W, 3)``."""
    if orientation == 1:
        return pixels
    if orientation in TRANSPOSED:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
