"""Decoding for training: of a large JPEG no more detail than its crop can show."""

from __future__ import annotations

import io
import warnings
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import ExifTags, Image

from shvit.runtime.preprocess import MAX_PIXELS, decode

_SPARE_DETAIL = 2
"""A JPEG is decoded at a fraction of its size when the crop still has this many pixels for each of the target's."""


class Box(NamedTuple):
    """A part of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


class TrainingImage:
    """An image whose size is known before its pixels are decoded.

    Args:
        source: the encoded bytes, or a decoded image.

    Raises:
        ImageError: it cannot be decoded (by ``crop`` too).
    """

    size: tuple[int, int]
    """Height and width, the right way up."""

    def __init__(self, source: bytes | Image.Image) -> None:
        self._source = source
        self._orientation: int | None = None
        header = _jpeg_header(source) if isinstance(source, bytes) else None
        if header is None:
            self._pixels = np.array(decode(source))
            height, width, _ = self._pixels.shape
        else:
            height, width, self._orientation = header
        self._stored_size = (height, width)
        self.size = (width, height) if self._orientation in _TRANSPOSED else (height, width)

    def crop(self, box: Box, target: tuple[int, int]) -> np.ndarray:
        """The pixels in a box that is about to be resized to ``target`` (height, width).

        They are those of ``shvit.runtime.preprocess.decode``, but for a JPEG's box of four or more times the target's
        height and width: the decoder then computes a half, a quarter or an eighth of each side, still twice what is
        needed. Resized, they differ by less than 1 level on average and by up to 8 at sharp edges, and the box is
        rounded to that coarser grid, by no more than a quarter of a pixel of the target.

        Returns:
            ``uint8 (H, W, 3)``: of the box's height and width, or that fraction of them.
        """
        if self._orientation is None:
            return _cut(self._pixels, box)
        wanted = [_SPARE_DETAIL * side for side in target]
        fraction = 8
        while fraction > 1 and (box.height < fraction * wanted[0] or box.width < fraction * wanted[1]):
            fraction //= 2
        height, width = (-(-side // fraction) for side in self._stored_size)
        try:
            pixels = simplejpeg.decode_jpeg(self._source, min_height=height, min_width=width, min_factor=fraction)
        except ValueError:  # damaged: what evaluation makes of it, or says of it
            return _cut(np.array(decode(self._source)), box)
        return _cut(_upright(pixels, self._orientation), Box(*(round(side / fraction) for side in box)))


_TRANSPOSED = (5, 6, 7, 8)
"""EXIF orientations that exchange height and width."""


def _jpeg_header(data: bytes) -> tuple[int, int, int] | None:
    """Stored height and width, and EXIF orientation; ``None`` for what the general decoder has to look at."""
    try:
        height, width, color_space, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    if color_space not in ("YCbCr", "Gray", "RGB") or height * width > MAX_PIXELS:
        return None
    if not _may_have_orientation(data):
        return height, width, 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # oddities of damaged metadata
        try:
            orientation = Image.open(io.BytesIO(data)).getexif().get(ExifTags.Base.Orientation, 1)
        except Exception:  # hostile bytes: let the general decoder refuse them in its own words
            return None
    return height, width, orientation if orientation in range(1, 9) else 1


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
    if orientation in _TRANSPOSED:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _cut(pixels: np.ndarray, box: Box) -> np.ndarray:
    return pixels[box.top : box.top + box.height, box.left : box.left + box.width]
