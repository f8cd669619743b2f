"""Decoding for training: of a large JPEG no more detail than its crop can show."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

from shvit.images.jpeg import SPARE_DETAIL, decode_fraction, read_header, smallest_fraction
from shvit.images.preprocess import decode


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
        self._header = read_header(source) if isinstance(source, bytes) else None
        if self._header is None:
            self._pixels = np.array(decode(source))
            height, width, _ = self._pixels.shape
            self.size = (height, width)
        else:
            self.size = self._header.upright_size

    def crop(self, box: Box, target: tuple[int, int]) -> np.ndarray:
        """The pixels in a box that is about to be resized to ``target`` (height, width).

        They are those of ``shvit.images.preprocess.decode``, but for a JPEG's box of four or more times the target's
        height and width: the decoder then computes a half, a quarter or an eighth of each side, still twice what is
        needed. Resized, they differ by less than 1 level on average and by up to 8 at sharp edges, and the box is
        rounded to that coarser grid, by no more than a quarter of a pixel of the target.

        Returns:
            ``uint8 (H, W, 3)``: of the box's height and width, or that fraction of them.
        """
        if self._header is None:
            return _cut(self._pixels, box)
        assert isinstance(self._source, bytes)  # only bytes have a header
        height, width = (SPARE_DETAIL * side for side in target)
        fraction = smallest_fraction(lambda part: box.height >= part * height and box.width >= part * width)
        pixels = decode_fraction(self._source, self._header, fraction)
        if pixels is None:  # damaged: what evaluation makes of it, or says of it
            return _cut(np.array(decode(self._source)), box)
        return _cut(pixels, Box(*(round(side / fraction) for side in box)))


def _cut(pixels: np.ndarray, box: Box) -> np.ndarray:
    return pixels[box.top : box.top + box.height, box.left : box.left + box.width]
