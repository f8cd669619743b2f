"""Only the formats that photographs come in are opened, and only regular files of a bounded size are read."""

from __future__ import annotations

import ast
import io
import os
import socket
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

import shvit
from shvit.card import Preprocessing
from shvit.data.check import _examine
from shvit.errors import ImageError
from shvit.images import encoded
from shvit.images.crop import TrainingImage
from shvit.images.encoded import FORMATS, read_encoded
from shvit.images.fast import preprocess_fast
from shvit.images.jpeg import read_header
from shvit.images.preprocess import decode

Image.init()

EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 100 100
%%EndComments
{ } loop
showpage
%%EOF
"""
# An EPS file may begin with a table that says where in it the PostScript is.
EPS_BEHIND_A_TABLE = b"\xc5\xd0\xd3\xc6" + (32).to_bytes(4, "little") + len(EPS).to_bytes(4, "little") + bytes(20) + EPS

READERS = {
    "decode": decode,
    "fast": lambda data: preprocess_fast(data, Preprocessing((32, 32))),
    "training": TrainingImage,
}


def saved(kind: str) -> bytes:
    """A small picture in one of Pillow's formats; empty where it cannot write it."""
    for mode in ("RGB", "L", "P", "1", "F"):
        buffer = io.BytesIO()
        with suppress(OSError, ValueError, KeyError, SystemError):
            Image.new(mode, (16, 16), 1).save(buffer, kind)
            return buffer.getvalue()
    return b""


@pytest.fixture
def started(tmp_path, monkeypatch) -> Path:
    """Where a program that stands in for Ghostscript, and for whatever else is started, notes that it was."""
    marker = tmp_path / "started"
    for name in ("gs", "djpeg", "ppmtogif", "netpbm"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\necho {name} >> {marker}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    return marker


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("data", [EPS, EPS_BEHIND_A_TABLE], ids=["plain", "behind a table"])
def test_postscript_is_no_image_and_starts_nothing(reader, data, started, tmp_path):
    for source in (data, tmp_path / "eps.jpg") if reader != "training" else (data,):
        if isinstance(source, Path):
            source.write_bytes(data)
        with pytest.raises(ImageError, match=r": not an image, or of a format that is not known$") as refused:
            READERS[reader](source)
        assert not started.exists()
        assert str(refused.value).startswith(f"{source}: " if isinstance(source, Path) else f"<{len(data)} bytes>: ")
    assert read_header(data) is None


def test_of_all_readers_that_pillow_has_only_those_of_photographs_are_asked(monkeypatch):
    """Also of those that another package adds: whatever they would take, they do not get."""
    Image.register_open("ANYTHING", lambda *_: None, lambda prefix: True)  # type: ignore[arg-type, return-value]
    others = set(Image.OPEN) - set(FORMATS)
    assert {"EPS", "PSD", "WMF", "ICO", "HDF5", "MPEG", "FITS", "ANYTHING"} <= others
    asked: list[str] = []

    def trap(name: str):
        return lambda *_: asked.append(name), lambda prefix: True

    for name in others:
        monkeypatch.setitem(Image.OPEN, name, trap(name))
    try:
        tried = {kind: saved(kind) for kind in set(Image.ID) | {"ANYTHING"} if kind in Image.SAVE}
        tried |= {"EPS": EPS, "noise": np.random.default_rng(0).bytes(5000), "text": b"not an image" * 20}
        for kind, data in tried.items():
            if not data or kind in FORMATS or kind == "DIB":
                continue
            for read in READERS.values():
                with pytest.raises(ImageError, match="not an image"):
                    read(data)
        assert len(tried) > 12 and asked == []
    finally:
        Image.ID.remove("ANYTHING")
        del Image.OPEN["ANYTHING"]


@pytest.mark.parametrize("kind", [*FORMATS, "MPO"])
def test_photographs_of_every_format_are_read(kind):
    if kind == "HEIF":
        encoded._other_formats()  # registers it
    data = saved(kind)
    assert data, f"this Pillow cannot write {kind}"
    image = decode(data)
    assert image.size == (16, 16) and image.mode == "RGB"


def test_formats_are_read_before_pillow_has_loaded_their_readers(monkeypatch):
    """A process that has not decoded anything yet; what is not compiled in is left out, not an error."""
    for kind in ("WEBP", "TIFF"):
        data = saved(kind)
        monkeypatch.setitem(encoded._OTHERS, "JPEG2000", "PIL.nothing_such")
        monkeypatch.delitem(Image.OPEN, "JPEG2000", raising=False)
        assert decode(data).size == (16, 16)


def test_heic_names_the_package_that_reads_it(monkeypatch):
    monkeypatch.setattr(encoded, "HEIF_INSTALLED", False)
    monkeypatch.setattr(encoded, "FORMATS", tuple(each for each in FORMATS if each != "HEIF"))
    data = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)
    with pytest.raises(ImageError, match=r"is HEIC, which needs .*: pip install pillow-heif"):
        decode(data)


def test_heic_is_read_upright_and_bounded_where_its_package_is():
    pytest.importorskip("pillow_heif")
    encoded._other_formats()
    picture = Image.fromarray(np.arange(48 * 32, dtype=np.uint16).reshape(32, 48).astype(np.uint8)).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    picture.save(buffer, "HEIF", quality=90, exif=exif.tobytes())
    data = buffer.getvalue()
    assert decode(data).size == (32, 48)
    for damaged in (data[: len(data) // 2], data[:40], data[:8] + b"mif1" + data[12:300]):
        with pytest.raises(ImageError):
            decode(damaged)
    with pytest.raises(ImageError, match="pixels, at most"):
        decode(data, max_pixels=1000)


def test_nothing_else_in_the_package_opens_images():
    """``Image.open`` takes every format that anybody has registered, unless it is told which."""
    for file in Path(shvit.__file__).parent.rglob("*.py"):
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("Image.open"):
                assert any(keyword.arg == "formats" for keyword in call.keywords), f"{file}:{call.lineno}"


def special(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / f"{kind.replace(' ', '_')}.jpg"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link to a pipe":
        os.mkfifo(tmp_path / "fifo")
        path.symlink_to(tmp_path / "fifo")
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))
    elif kind == "endless device":
        path.symlink_to("/dev/zero")  # is only ever read, or not
    elif kind == "loop":
        path.symlink_to(path)
    else:
        with path.open("wb") as file:
            file.truncate(6 * 2**30)
    return path


SPECIAL = {
    "pipe": r"is a pipe \(FIFO\); expected a regular file; a pipe is read as /dev/stdin or <\(command\)",
    "link to a pipe": r"is a pipe \(FIFO\); expected a regular file",
    "folder": "Is a directory",
    "socket": "is a socket; expected a regular file",
    "endless device": "is a device; expected a regular file",
    "loop": "symbolic links",
    "sparse": r"6,442,450,944 bytes, at most 268,435,456 are accepted",
}


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_no_file_or_too_large_is_refused_at_once(kind, tmp_path):
    path = special(tmp_path, kind)
    for read in (decode, READERS["fast"], lambda path: read_encoded(path, str(path)), lambda path: decode(str(path))):
        with pytest.raises(ImageError, match=SPECIAL[kind]) as refused:
            read(path)
        assert str(refused.value).startswith(f"{path}: ")


def test_bytes_have_the_same_limit(monkeypatch, tmp_path):
    data = saved("PNG")
    monkeypatch.setattr(encoded, "MAX_IMAGE_BYTES", len(data) - 1)
    (tmp_path / "a.png").write_bytes(data)
    for source in (data, tmp_path / "a.png"):
        with pytest.raises(ImageError, match=rf"{len(data):,} bytes, at most {len(data) - 1:,} are accepted"):
            decode(source)


@pytest.mark.parametrize("reader", ["decode", "fast"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_pipe_of_the_shells_is_read_once_and_to_its_end(reader, kind):
    data = saved(kind)
    reading, writing = os.pipe()
    try:
        os.write(writing, data)
        os.close(writing)
        READERS[reader](f"/dev/fd/{reading}")
    finally:
        os.close(reading)


def test_a_pipe_without_end_is_given_up(monkeypatch, tmp_path):
    monkeypatch.setattr(encoded, "MAX_IMAGE_BYTES", 1000)
    reading, writing = os.pipe()
    try:
        os.write(writing, bytes(1001))
        with pytest.raises(ImageError, match="more than the 1,000 bytes that are accepted"):
            decode(f"/dev/fd/{reading}")
    finally:
        os.close(reading)
        os.close(writing)


def test_nothing_is_left_open(tmp_path):
    before = len(list(Path("/proc/self/fd").iterdir()))
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        for kind in SPECIAL:
            with pytest.raises(ImageError):
                decode(special(tmp_path, kind))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_the_check_of_a_dataset_names_the_format():
    assert _examine(Single(saved("TIFF")), 0).format == "TIFF"
    assert _examine(Single(EPS), 0).reason == "not an image, or of a format that is not known"


class Single:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, index: int) -> bytes:
        return self._data

    def source(self, index: int) -> str:
        return "a.jpg"
