"""Files that are made to be slow to open are refused at once, and no others."""

from __future__ import annotations

import io
import struct
import time
import zlib

import pytest
from PIL import Image

from shvit.errors import ImageError
from shvit.images.jpeg import read_header
from shvit.images.preprocess import decode

from ..conftest import SAMPLES

SIZE = 4 * 2**20


def encoded(kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, kind, **options)
    return buffer.getvalue()


def segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 255, marker, len(data) + 2) + data


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def jpeg(parts: bytes) -> bytes:
    whole = encoded("JPEG")
    return whole[:2] + parts + whole[2:]


def png(parts: bytes) -> bytes:
    whole = encoded("PNG")
    return whole[:33] + parts + whole[33:]


def gif(parts: bytes) -> bytes:
    whole = encoded("GIF")
    frame = whole.index(b",")
    return whole[:frame] + parts + whole[frame:]


def scans(count: int, **options) -> bytes:
    """A JPEG whose last scan is there so many times more."""
    whole = encoded("JPEG", **options)
    return whole[:-2] + whole[whole.rindex(b"\xff\xda") : -2] * count + whole[-2:]


def in_three_scans(more: int) -> bytes:
    """A JPEG that is not progressive, black, each of its channels in a scan of its own."""
    whole = encoded("JPEG", quality=50, subsampling=0)
    start = whole.index(b"\xff\xda")
    one = [segment(0xDA, bytes([1, number, 17 * (number > 1), 0, 63, 0])) + b"\x28\xff\x00" for number in (1, 2, 3)]
    return whole[:start] + b"".join(one) + one[2] * more + b"\xff\xd9"


SLOW = {
    "progressive JPEG of many scans": lambda: scans(200, progressive=True),
    "JPEG of many scans": lambda: in_three_scans(200),
    "JPEG of empty segments": lambda: jpeg(b"\xff\xeb\x00\x02" * (SIZE // 4)),
    "JPEG of comments": lambda: jpeg(segment(0xFE, b"a") * (SIZE // 5)),
    "JPEG of EXIF, long and short": lambda: jpeg(
        segment(0xE1, b"Exif\0\0" + bytes(65000)) * 32 + segment(0xE1, b"Exif\0\0y") * (SIZE // 22)
    ),
    "JPEG of fill bytes": lambda: jpeg(b"\xff" * SIZE),
    "JPEG of noise between segments": lambda: jpeg(b"a" * SIZE),
    "JPEG of restart markers": lambda: jpeg(b"\xff\xd0" * (SIZE // 2)),
    "PNG of empty chunks": lambda: png(chunk(b"prVt", b"") * (SIZE // 12)),
    "PNG of texts": lambda: png(chunk(b"tEXt", b"k\0v") * (SIZE // 15)),
    "PNG of empty pictures": lambda: png(chunk(b"IDAT", b"") * (SIZE // 12)),
    "GIF of comments": lambda: gif(b"!\xfe\x01a\0" * (SIZE // 5)),
    "GIF of one comment in small blocks": lambda: gif(b"!\xfe" + b"\x01a" * (SIZE // 2) + b"\0"),
    "PPM of comments": lambda: b"P6 " + b"#\n" * (SIZE // 2) + b"1 1 255\naaa",
}


@pytest.mark.parametrize("kind", SLOW)
def test_what_is_cut_into_too_many_parts_is_refused_at_once(kind):
    data = SLOW[kind]()
    started = time.process_time()
    with pytest.raises(ImageError, match="cut into more parts than any photograph"):
        decode(data)
    assert read_header(data) is None
    assert time.process_time() - started < 1  # without the limit, 2 s to minutes


FINE = {
    "progressive JPEG of some scans": lambda: scans(20, progressive=True),
    "JPEG of a hundred segments": lambda: jpeg(segment(0xE2, bytes(65000)) * 100 + segment(0xFE, b"a")),
    "JPEG with fill bytes": lambda: jpeg(b"\xff" * 100),
    "PNG of small pieces": lambda: png(b"".join(chunk(b"tEXt", b"k\0v") for _ in range(2000))),
    "GIF with a long comment": lambda: gif(b"!\xfe" + (b"\xff" + b"a" * 255) * 4000 + b"\0"),
    "GIF of many frames": lambda: encoded(
        "GIF", save_all=True, append_images=[Image.new("RGB", (16, 16), (each, 0, 0)) for each in range(200)]
    ),
    "PPM with a comment": lambda: b"P6\n# made by hand\n1 1\n255\nabc",
    "large PPM": lambda: b"P6 200 200 255\n" + b"\n" * (3 * 200 * 200),
    "EXIF in parts": lambda: jpeg(
        segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\0") + segment(0xE1, b"Exif\0\0" + bytes(9))
    ),
}


@pytest.mark.parametrize("kind", FINE)
def test_what_is_only_large_is_read(kind):
    assert decode(FINE[kind]()).mode == "RGB"


def test_photographs_cut_off_anywhere_are_not_refused_for_their_parts():
    data = (SAMPLES / "coffee.jpg").read_bytes()
    for kept in (2, 3, 4, 5, 20, 300, len(data) - 1):
        try:
            decode(data[:kept])
        except ImageError as error:
            assert "parts" not in str(error)
