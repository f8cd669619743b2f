"""From an image, in whatever form, to the pixels a network sees. Evaluation and the runtime both use it."""

from __future__ import annotations

import math
import os
import re
import threading
import warnings
from collections.abc import Iterable, Mapping, Set
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from shvit.card import Preprocessing
from shvit.errors import ImageError, ImageTypeError
from shvit.images.encoded import open_image, read_encoded
from shvit.images.greyscale import no_data_value, scaled_to_eight_bits

MAX_PIXELS = 100_000_000
"""Images of more pixels are refused before they are decoded: 100 megapixels are 300 MB of RGB."""

LONG = 100
"""Aspect ratio above which the part of a resized image outside the crop is not computed."""

MAX_RESIZED = 50_000_000
"""Pixels of a whole resized image above which the same is done: 200 MB, in which Pillow keeps them."""

ImageSource = str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | np.ndarray

_ONE_IMAGE = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image, np.ndarray)
_KINDS = "a path, encoded bytes, a PIL image or an array uint8 (H, W, 3)"

_RESAMPLING = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
}


class _WarningsIgnored:
    """Silences Pillow's size warning and its remarks on damaged metadata, while any thread decodes.

    ``warnings.catch_warnings`` is not for threads: of two that overlap, here or in the caller's own code, the second to
    end puts back the filters of the first. So one entry is added, and that entry is taken away again.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._filters = warnings.filters

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                warnings.filterwarnings("ignore", module=rf"(PIL|{re.escape(__package__)})\.")
                self._filters, self._entry = warnings.filters, warnings.filters[0]

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                # The caller may have begun or ended a catch_warnings meanwhile, which works on a copy.
                for filters in (self._filters, warnings.filters):
                    with suppress(ValueError):
                        filters.remove(self._entry)  # type: ignore[attr-defined]


warnings_ignored = _WarningsIgnored()


def describe(source: ImageSource) -> str:
    """A short name of an image for messages and results."""
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    if isinstance(source, bytes | bytearray | memoryview):
        return f"<{memoryview(source).nbytes} bytes>"
    if isinstance(source, Image.Image):
        return getattr(source, "filename", "") or f"<{source.mode} image {source.width}×{source.height}>"
    return f"<array {source.shape}>" if isinstance(source, np.ndarray) else f"<{type(source).__name__}>"


def image_sources(images: ImageSource | Iterable[ImageSource]) -> Iterable[ImageSource]:
    """The images of a call, which may be one or several.

    An array is one image, of whatever shape. Each of several that is none is a failed input, not a failed call.

    Raises:
        ImageTypeError: it is neither an image nor several in an order, as a set, a mapping or an open file is not.
    """
    if isinstance(images, _ONE_IMAGE):
        return [images]
    # What a file or another library's tensor gives, one by one, is no image.
    others = isinstance(images, Set | Mapping) or hasattr(images, "read") or hasattr(images, "__array__")
    if others or not isinstance(images, Iterable):
        raise ImageTypeError(
            f"images: expected {_KINDS}, or a list, tuple or iterator of these, got {_kind_of(images)}"
        )
    return images


def one_image(image: ImageSource) -> ImageSource:
    """Raises: ImageTypeError: it is no image."""
    if not isinstance(image, _ONE_IMAGE):
        raise ImageTypeError(f"image: expected {_KINDS}, got {_kind_of(image)}")
    return image


def _kind_of(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def encoded_bytes(source: ImageSource, name: str) -> bytes | None:
    """The bytes of an image that is encoded, in a file or in memory; ``None`` of one that is pixels already.

    Raises:
        ImageError: the file cannot be read, or this is no image.
    """
    if isinstance(source, str | os.PathLike):
        return read_encoded(source, name)
    if isinstance(source, bytes):
        return source
    if isinstance(source, bytearray | memoryview):
        return bytes(source)  # what may be changed meanwhile is copied
    if isinstance(source, Image.Image | np.ndarray):
        return None
    raise ImageError(f"{name}: expected {_KINDS}, got {_kind_of(source)}")


def decode(source: ImageSource, max_pixels: int = MAX_PIXELS, name: str = "") -> Image.Image:
    """Reads an image as RGB, the right way up.

    The pixels are those of ``PIL.ImageOps.exif_transpose(image).convert("RGB")``: EXIF orientation applied,
    palettes and CMYK converted, transparency dropped, the first frame of an animation. 16-bit, 32-bit and
    floating-point greyscale, which that would clip to white, is scaled, as ``scaled_to_eight_bits`` does.

    Args:
        source: a path, the encoded bytes (``bytes``, ``bytearray`` or ``memoryview``), a PIL image, or an array ``uint8
            (H, W, 3)`` in RGB or ``(H, W)``.
        max_pixels: refuse larger images; nothing of their size is allocated.
        name: what messages call it, if not what ``describe`` does.

    Raises:
        ImageError: it is missing, unreadable, not an image of one of ``shvit.images.encoded.FORMATS``, damaged or too
            large.
    """
    name = name or describe(source)
    if isinstance(source, np.ndarray):
        return _from_array(source, name)
    try:
        if isinstance(source, Image.Image):
            return _to_rgb(source, name, max_pixels)
        encoded = encoded_bytes(source, name)
        assert encoded is not None  # all kinds of pixels are dealt with above
        with warnings_ignored, open_image(encoded, name) as image:
            return _to_rgb(image, name, max_pixels, ours=True)
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise ImageError(f"{name}: larger than the {max_pixels / 1e6:.0f} megapixels accepted") from None
    except OSError as error:
        # The operating system's errors carry a reason; Pillow's, of damaged files, only a text.
        raise ImageError(f"{name}: {error.strerror or error}") from None
    except Exception as error:  # decoders meet hostile bytes; whatever they trip over is the file's fault
        raise ImageError(f"{name}: cannot be decoded: {str(error) or type(error).__name__}") from None


def _to_rgb(image: Image.Image, name: str, max_pixels: int, ours: bool = False) -> Image.Image:
    """Upright and in RGB; ``ours`` to change instead of copying twice, a tenth of a small photograph's time."""
    if image.width * image.height > max_pixels:
        raise ImageError(
            f"{name}: {image.width}×{image.height} pixels, at most {max_pixels / 1e6:.0f} megapixels are accepted"
        )
    no_data = no_data_value(image)
    if ours:
        ImageOps.exif_transpose(image, in_place=True)
    else:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        return scaled_to_eight_bits(image, name, no_data)
    if image.mode != "RGB":
        return image.convert("RGB")
    image.load()
    return image


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        raise ImageError(
            f"{name}: expected uint8 of shape (H, W, 3) in RGB, or (H, W), got {array.dtype} {array.shape}"
            f"{'; several images are given as a list' if array.ndim == 4 else ''}"
        )
    if 0 in array.shape:
        raise ImageError(f"{name}: the array is empty")
    return Image.fromarray(array).convert("RGB")


class Axis(NamedTuple):
    """What becomes of an image's rows, or of its columns: they are resized, then cropped or padded. In pixels."""

    source: int
    """Of the image."""
    resized: int
    """Of the whole image after the resize."""
    first: int
    """The first of those that the crop keeps; where padding comes before them, minus so many."""
    kept: int
    """How many the network's input has."""


def resize_and_crop(width: int, height: int, preprocessing: Preprocessing) -> tuple[Axis, Axis]:
    """What preprocessing does to the rows and the columns of an image of this size."""
    kept_height, kept_width = preprocessing.image_size
    if preprocessing.resize_mode == "squash":
        return Axis(height, kept_height, 0, kept_height), Axis(width, kept_width, 0, kept_width)
    full_width, full_height = resized_size(width, height, preprocessing)
    if preprocessing.resize_mode == "pad":
        return (
            Axis(height, full_height, -((kept_height - full_height) // 2), kept_height),
            Axis(width, full_width, -((kept_width - full_width) // 2), kept_width),
        )
    return (
        Axis(height, full_height, _crop_offset(full_height, kept_height), kept_height),
        Axis(width, full_width, _crop_offset(full_width, kept_width), kept_width),
    )


def is_long(rows: Axis, columns: Axis) -> bool:
    """Whether an image is more than ``LONG`` times as long as it is wide, or would have too many pixels resized."""
    longer, shorter = max(rows.resized, columns.resized), min(rows.resized, columns.resized)
    return longer > LONG * shorter or longer * shorter > MAX_RESIZED


def preprocess(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """A decoded image to a network's input.

    The pixels are those of torchvision's ``Resize`` and ``CenterCrop`` on a PIL image, as timm evaluates; where it is
    padded, those of timm's ``ResizeKeepRatio`` and ``CenterCropOrPad``. Where it is cropped, of an image more than
    ``LONG`` times as long as it is wide, or that would be resized to more than ``MAX_RESIZED`` pixels, only what the
    crop keeps is computed, so that it costs no more than another; its pixels are then the same
    only up to the rounding of where they lie.

    Args:
        image: RGB.

    Returns:
        ``uint8 (H, W, 3)`` with the H and W of ``preprocessing.image_size``.
    """
    resampling = _RESAMPLING[preprocessing.interpolation]
    rows, columns = resize_and_crop(image.width, image.height, preprocessing)
    if preprocessing.resize_mode == "pad":
        return padded(np.asarray(image.resize((columns.resized, rows.resized), resampling)), preprocessing)
    if not is_long(rows, columns):
        resized = image.resize((columns.resized, rows.resized), resampling)
        corner = (columns.first + columns.kept, rows.first + rows.kept)
        return np.asarray(resized.crop((columns.first, rows.first, *corner)))
    region = kept_region(image.width, image.height, preprocessing)
    return np.asarray(image.resize((columns.kept, rows.kept), resampling, box=region))


def padded(pixels: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """A resized image in the middle of the network's input, with ``pad_color`` around it.

    Args:
        pixels: ``uint8 (h, w, 3)``, not larger than the input.

    Returns:
        ``uint8 (H, W, 3)``; the pixels themselves where they fill it.
    """
    (height, width), (rows, columns) = preprocessing.image_size, pixels.shape[:2]
    if (rows, columns) == (height, width):
        return pixels
    filled = np.empty((height, width, 3), np.uint8)
    filled[:] = preprocessing.pad_color
    top, left = (height - rows) // 2, (width - columns) // 2
    filled[top : top + rows, left : left + columns] = pixels
    return filled


class Region(NamedTuple):
    """A part of an image, in its pixels: the edges lie between them, 0 before the first."""

    left: float
    top: float
    right: float
    bottom: float


def kept_region(width: int, height: int, preprocessing: Preprocessing) -> Region:
    """The part of an image of this size that the network's input shows: all but what the crop cuts off.

    Padding lies outside of the image, so with it the region is larger than the image.
    """
    rows, columns = resize_and_crop(width, height, preprocessing)
    (top, bottom), (left, right) = _source_range(rows), _source_range(columns)
    return Region(left, top, right, bottom)


def _source_range(axis: Axis) -> tuple[float, float]:
    scale = axis.source / axis.resized
    if axis.resized < axis.kept:
        return axis.first * scale, (axis.first + axis.kept) * scale
    # Rounding must not take the box past the image's edge by a hair: Pillow refuses that.
    return axis.first * scale, min((axis.first + axis.kept) * scale, axis.source)


def resized_size(width: int, height: int, preprocessing: Preprocessing) -> tuple[int, int]:
    """Width and height of the whole image after the resize that precedes the crop, or the padding.

    The scale is the smallest at which the image covers the input enlarged by ``1 / crop_ratio``; for a square
    input that brings the short side to that length. With padding it is the largest at which it fits into the input.
    """
    if preprocessing.resize_mode == "pad":
        input_height, input_width = preprocessing.image_size
        shrinking = max(height / input_height, width / input_width)
        # An image may be so long that it would get no pixel across.
        return max(1, round(width / shrinking)), max(1, round(height / shrinking))
    target_height, target_width = (math.floor(side / preprocessing.crop_ratio) for side in preprocessing.image_size)
    if width * target_height <= height * target_width:
        return target_width, max(target_height, int(target_width * height / width))
    return max(target_width, int(target_height * width / height)), target_height


def _crop_offset(full: int, kept: int) -> int:
    return round((full - kept) / 2.0)
