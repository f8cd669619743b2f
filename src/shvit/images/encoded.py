"""Encoded images: what is read of a file, and which formats are opened. Every image comes through here."""

from __future__ import annotations

import io
import os
import re
from importlib import import_module
from importlib.util import find_spec

from PIL import Image, ImageFile, UnidentifiedImageError

from shvit.errors import ImageError
from shvit.images.structure import too_many_parts
from shvit.reading import open_regular, read_regular, too_large

MAX_IMAGE_BYTES = 256 * 2**20
"""Encoded images of more bytes are refused before they are read."""

HEIF_INSTALLED = find_spec("pillow_heif") is not None
"""Whether HEIC is read, which is an extra: ``shvit[heif]``."""

_USUAL = ("JPEG", "PNG", "GIF", "BMP", "PPM")
"""Formats that Pillow always has at hand, by its names. JPEG includes MPO, which cameras write."""

_OTHERS = {
    "WEBP": "PIL.WebPImagePlugin",
    "TIFF": "PIL.TiffImagePlugin",
    "AVIF": "PIL.AvifImagePlugin",
    "JPEG2000": "PIL.Jpeg2KImagePlugin",
}
"""Formats whose readers are loaded when none of the usual ones will do, and where each is."""

FORMATS = (*_USUAL, *_OTHERS, *(("HEIF",) if HEIF_INSTALLED else ()))
"""The formats that photographs come in, by Pillow's names. Nothing else is opened, whatever Pillow or another package
has readers for: some of them start programs (PostScript), or open other files."""

_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def read_encoded(file: str | os.PathLike[str], source: str, offset: int = 0, size: int | None = None) -> bytes:
    """The bytes of one encoded image: a whole file, or part of one.

    Raises:
        ImageError: they cannot be read, are not all there, are more than ``MAX_IMAGE_BYTES``, or lie in what is no
            regular file.
    """
    try:
        if size is None:
            return read_regular(file, MAX_IMAGE_BYTES)
        if size > MAX_IMAGE_BYTES:
            raise ImageError(f"{source}: {too_large(size, MAX_IMAGE_BYTES)}")
        with open_regular(file) as stream:
            stream.seek(offset)
            data = stream.read(size)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and re.match(r"[a-z][a-z0-9+.-]+://", os.fspath(file)):
            raise ImageError(f"{source}: is an address; only files are read: download it first") from None
        raise ImageError(f"{source}: {error.strerror or error}") from None
    except ValueError as error:  # a name that no file can have
        raise ImageError(f"{source}: {error}") from None
    if len(data) != size:
        raise ImageError(f"{source}: {len(data):,} of {size:,} bytes are there; the file was cut short")
    return data


def open_image(data: bytes, name: str) -> ImageFile.ImageFile:
    """Reads the header of an encoded image of one of ``FORMATS``; its pixels are not decoded yet.

    What Pillow warns of, and raises on damaged files, is the caller's to handle.

    Raises:
        ImageError: it is of none of these formats, empty, more than ``MAX_IMAGE_BYTES``, or made to be slow to open.
    """
    if not data:
        raise ImageError(f"{name}: the file is empty")
    if len(data) > MAX_IMAGE_BYTES:
        raise ImageError(f"{name}: {too_large(len(data), MAX_IMAGE_BYTES)}")
    if too_many_parts(data):
        raise ImageError(f"{name}: cannot be decoded: it is cut into more parts than any photograph")
    try:
        return Image.open(io.BytesIO(data), formats=_USUAL)
    except UnidentifiedImageError:
        pass
    try:
        return Image.open(io.BytesIO(data), formats=_other_formats())
    except UnidentifiedImageError:
        pass
    if not HEIF_INSTALLED and data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
        raise ImageError(f"{name}: is HEIC, which needs another package: pip install pillow-heif")
    if _is_video(data):
        raise ImageError(f"{name}: is a video, not an image; classify it with: shvit video")
    raise ImageError(f"{name}: not an image, or of a format that is not known")


def _is_video(data: bytes) -> bool:
    """Whether it begins as MP4 or QuickTime, Matroska or WebM, or AVI."""
    pictures = (*_HEIF_BRANDS, b"avif", b"avis")
    movie = data[4:8] == b"ftyp" and data[8:12] not in pictures
    return movie or data.startswith(b"\x1aE\xdf\xa3") or (data[:4], data[8:12]) == (b"RIFF", b"AVI ")


def _other_formats() -> tuple[str, ...]:
    """Those of the other formats that this Pillow has readers for."""
    for name, module in _OTHERS.items():
        if name not in Image.OPEN:
            try:
                import_module(module)
            except ImportError:  # an older Pillow, or one built without it
                continue
    if HEIF_INSTALLED and "HEIF" not in Image.OPEN:
        import_module("pillow_heif").register_heif_opener(thumbnails=False)
    return tuple(name for name in (*_OTHERS, "HEIF") if name in FORMATS and name in Image.OPEN)
