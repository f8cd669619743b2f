"""A unit's inputs, one after the other; what cannot be read is an input with an error."""

from __future__ import annotations

import tarfile
import tempfile
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import groupby
from lzma import LZMAError
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shvit.batch.listing import Item, Kind, image_column
from shvit.batch.stores import filesystem, is_url, one_line, open_binary, printable
from shvit.errors import ImageError, MissingDependencyError, VideoError
from shvit.images.encoded import MAX_IMAGE_BYTES, read_encoded
from shvit.images.sources import is_image
from shvit.reading import too_large

if TYPE_CHECKING:
    from shvit.video.frames import Frame

FETCHED_AHEAD = 32
"""Objects of a store that are asked for before they are needed: a request takes longer than an image."""

PARQUET_BATCH = 32
"""Rows of a Parquet file that are in memory at once."""

_PARQUET_BUFFER = 2**20
"""Bytes of a column that are read at once, instead of all of a row group's."""


class Input(NamedTuple):
    """One input: its encoded image or its pixels, or why there are none."""

    source: str
    data: bytes | np.ndarray = b""
    error: str | None = None
    time: float | None = None
    """Seconds from a video's first frame."""


class Sampling(NamedTuple):
    """Which frames of a video are inputs."""

    fps: float | None = None
    """At most so many a second; ``None`` for all."""
    keyframes: bool = False
    """Only those that stand by themselves."""


ALL_FRAMES = Sampling()


def read_items(
    items: Sequence[Item], kind: Kind, column: str | None, sampling: Sampling = ALL_FRAMES
) -> Iterator[Input]:
    """Everything in some items, in order; memory holds a few inputs at a time."""
    if kind == "tar":
        for item in items:
            yield from _tar_members(item.path)
    elif kind == "parquet":
        for path, groups in groupby(items, key=lambda item: item.path):
            yield from _parquet_rows(path, list(groups), column)
    elif kind == "video":
        for item in items:
            yield from _video_frames(item.path, sampling)
    elif any(is_url(item.path) for item in items):
        yield from _fetched(items)
    else:
        yield from map(_image_file, items)


def _image_file(item: Item) -> Input:
    source = printable(item.path)
    try:
        return Input(source, read_encoded(item.path, source))
    except ImageError as error:
        return Input(source, error=str(error).removeprefix(f"{source}: "))


def _image_object(item: Item) -> Input:
    if not is_url(item.path):
        return _image_file(item)
    if item.size is not None and item.size > MAX_IMAGE_BYTES:
        return Input(item.path, error=too_large(item.size, MAX_IMAGE_BYTES))
    try:
        store, inside = filesystem(item.path)
        return Input(item.path, store.cat_file(inside))
    except MissingDependencyError:
        raise
    except Exception as error:  # each store has its own
        return Input(item.path, error=_unreadable(error))


def _fetched(items: Sequence[Item]) -> Iterator[Input]:
    pending: deque[Future[Input]] = deque()
    with ThreadPoolExecutor(FETCHED_AHEAD, thread_name_prefix="shvit-fetch") as pool:
        try:
            for item in items:
                pending.append(pool.submit(_image_object, item))
                if len(pending) == FETCHED_AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _unreadable(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "No such file or directory"
    return f"cannot be read: {one_line(error)}"


class _StrictHeader(tarfile.TarInfo):
    """A header whose damage is an error. ``tarfile`` takes it for the end of the archive."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> tarfile.TarInfo:  # type: ignore[override]
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.EmptyHeaderError:  # type: ignore[attr-defined]
            raise tarfile.ReadError("it ends without its end mark, so it may have been cut short") from None
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"a member's header is damaged ({error})") from None


def _tar_members(path: str) -> Iterator[Input]:
    """Images in a shard as it goes by; damage ends it with one failed input, after what came before."""
    shard = source = printable(path)
    try:
        with (
            open_binary(path) as stream,
            tarfile.open(fileobj=stream, mode="r|*", tarinfo=_StrictHeader, errors="surrogateescape") as tar,
        ):
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined] # it would keep every header that it has seen
                source = shard
                if not member.isreg() or not is_image(member.name.rpartition("/")[2]):
                    continue
                source = f"{shard}:{printable(member.name)}"
                if member.size > MAX_IMAGE_BYTES:
                    yield Input(source, error=too_large(member.size, MAX_IMAGE_BYTES))
                    continue
                data = tar.extractfile(member)
                assert data is not None  # a regular member
                encoded = data.read()
                yield Input(source, encoded)
                source = shard
    except MissingDependencyError:
        raise
    except (tarfile.TarError, EOFError, zlib.error, LZMAError) as error:
        yield Input(source, error=f"the shard cannot be read from here on: {one_line(error)}")
    except Exception as error:  # each store has its own
        yield Input(source, error=_unreadable(error))


def _parquet_rows(path: str, items: Sequence[Item], column: str | None) -> Iterator[Input]:
    """Rows of some row groups; as many as were listed, whatever becomes of the file."""
    name = printable(path)
    parquet, wanted, reason = None, "", ""
    with ExitStack() as stack:
        try:
            parquet = pq.ParquetFile(stack.enter_context(open_binary(path)), buffer_size=_PARQUET_BUFFER)
            wanted = image_column(parquet.schema_arrow, column, name)
        except MissingDependencyError:
            raise
        except Exception as error:  # each store has its own
            reason = _unreadable(error)
        for item in items:
            listed = range(item.first_row, item.first_row + (item.rows or 0))
            sources = iter([name] if item.row_group is None else [f"{name}:{row}" for row in listed])
            if parquet is not None and item.row_group is not None:
                reason = "the row is not there any more: the file has changed since it was listed"
                try:
                    for data, source in zip(_images_of(parquet, item.row_group, wanted), sources, strict=False):
                        yield Input(source, data or b"", None if data is not None else "the row holds no image")
                except Exception as error:
                    reason = _unreadable(error)
            for source in sources:
                yield Input(source, error=reason or "the file's footer could not be read when it was listed")


def _images_of(parquet: pq.ParquetFile, group: int, column: str) -> Iterator[bytes | None]:
    for batch in parquet.iter_batches(PARQUET_BATCH, row_groups=[group], columns=[column], use_threads=False):
        images = batch.column(0)
        if pa.types.is_struct(images.type):
            images = images.field("bytes")
        for place in range(len(images)):
            yield images[place].as_py()


def _video_frames(path: str, sampling: Sampling) -> Iterator[Input]:
    """Frames of a video; damage is one failed input, after all that could be decoded."""
    from shvit.video.frames import frames

    name = printable(path)
    with ExitStack() as stack:
        try:
            local = path
            if is_url(path):  # libav opens none of these stores
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="shvit-"))
                local = f"{folder}/{path.rpartition('/')[2]}"
                store, inside = filesystem(path)
                store.get_file(inside, local)
            for frame in frames(local, *sampling):
                yield _video_frame(name, frame)
        except MissingDependencyError:
            raise
        except VideoError as error:
            yield Input(name, error=str(error).removeprefix(f"{local}: "))
        except Exception as error:  # each store has its own
            yield Input(name, error=_unreadable(error))


def _video_frame(name: str, frame: Frame) -> Input:
    try:
        return Input(name, frame.image, time=frame.time)
    except VideoError as error:
        return Input(name, error=str(error), time=frame.time)
