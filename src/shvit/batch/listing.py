"""What a source holds, cut into units of work: always the same ones for the same source."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from glob import glob, has_magic
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from shvit.batch.stores import Found, filesystem, find, is_url, naming, open_binary, settled
from shvit.errors import BatchError
from shvit.images.sources import VIDEO_EXTENSIONS, describe_left_out, is_image, kind_of_other

Kind = Literal["images", "tar", "parquet", "video"]
KINDS: tuple[Kind, ...] = get_args(Kind)

KIND_NAMES: dict[Kind, str] = {"images": "images", "tar": "tar shards", "parquet": "Parquet files", "video": "videos"}

STDIN = "-"
"""As a source: what is listed on stdin."""

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")

_VIDEO_SUFFIXES = tuple(VIDEO_EXTENSIONS)

_FOOTER_BLOCK = 2**18
"""Bytes fetched at once for a Parquet file's footer."""

_FOOTERS_AT_ONCE = 16


class Item(NamedTuple):
    """The least that a listing tells apart: an image file, a shard, a video, or a row group of a Parquet file."""

    path: str
    """Absolute path or URL."""
    rows: int | None
    """Inputs in it, where that is known before it is read."""
    row_group: int | None = None
    """Of a Parquet file; ``None`` for the whole of one whose footer cannot be read."""
    first_row: int = 0
    """The row group's, counted over the whole file."""
    size: int | None = None
    """Bytes, where the listing of an object store told."""


@dataclass(frozen=True)
class Unit:
    """Some inputs that one worker does in one go and writes as one file."""

    number: int
    items: tuple[Item, ...]
    losses: int = 0
    """Workers that have died with it in their hands."""


def kind_of(path: str) -> Kind | None:
    """What a file is taken for, by its name."""
    name = path.rpartition("/")[2]
    if name.lower().endswith(TAR_SUFFIXES):
        return "tar"
    if name.lower().endswith(".parquet"):
        return "parquet"
    if name.lower().endswith(_VIDEO_SUFFIXES):
        return "video"
    return "images" if is_image(name) else None


def list_items(
    sources: Sequence[str],
    kind: Kind | None,
    column: str | None,
    left_out: Counter[str] | None = None,
    listed: Sequence[str] = (),
) -> tuple[Kind, Iterator[Item]]:
    """What the sources hold, in a settled order, and the one kind that it is of.

    Args:
        sources: files, folders and prefixes (all levels), patterns; paths or URLs; ``-`` for those of ``listed``.
        kind: take these and leave the others; ``None`` accepts one kind alone, but of folders of images and videos
            takes the images.
        column: of Parquet files, the one that holds the images.
        listed: sources too, but what is not there is an input that fails, not a reason to refuse.
        left_out: counts, while the iterator is read, the files that are of no kind, as ``walk_files`` names them.

    Raises:
        BatchError: a source is missing or holds nothing, the sources hold several kinds, or a Parquet file has no such
            column; some of that only while the iterator is read.
        OSError: a folder cannot be read.
    """
    files = _files_of_one_kind(sources, listed, kind, Counter() if left_out is None else left_out)
    first = next(files)  # there is one, or the sources were refused
    found = (file for _, file in chain([first], files))
    if first[0] == "parquet":
        return "parquet", _row_groups(found, column)
    rows = 1 if first[0] == "images" else None
    return first[0], (Item(path, rows, size=size) for path, size in found)


def cut(items: Iterable[Item], size: int) -> Iterator[Unit]:
    """Items in order, about ``size`` inputs in a unit; one of which it is not known how many are in it stands alone."""
    number, rows = 0, 0
    held: list[Item] = []
    for item in items:
        if item.rows is None or rows + item.rows > size:
            if held:
                yield Unit(number, tuple(held))
                number, held, rows = number + 1, [], 0
            if item.rows is None:
                yield Unit(number, (item,))
                number += 1
                continue
        held.append(item)
        rows += item.rows
    if held:
        yield Unit(number, tuple(held))


def _files_of_one_kind(
    sources: Sequence[str], listed: Sequence[str], kind: Kind | None, left_out: Counter[str]
) -> Iterator[tuple[Kind, Found]]:
    chosen, others = kind, Counter[Kind]()
    videos: list[Found] = []  # of folders, where pictures may lie beside them, as phones save both
    for source in sources:
        nothing, of_source = True, Counter[str]()
        for file, named in _listed_files(listed) if source == STDIN else _files(source):
            its = kind_of(file.path) or ("images" if named else None)
            if its is None:
                of_source[kind_of_other(Path(file.path))] += 1
                continue
            if kind is not None and its != kind:
                continue
            nothing = False
            if kind is None and its == "video" and not named:
                videos.append(file)
                continue
            chosen = chosen or its
            if its == chosen:
                yield its, file
            else:
                others[its] += 1
        if nothing:
            if source == STDIN and not listed:
                raise BatchError("standard input holds no paths")
            expected = "images, tar shards, Parquet files or videos" if kind is None else KIND_NAMES[kind]
            raise BatchError(
                f"{source}: there are no {expected}{'; ' if of_source else ''}{describe_left_out(of_source)}"
            )
        left_out.update(of_source)
    if chosen in (None, "video"):
        chosen = "video"
        yield from (("video", file) for file in videos)
    elif chosen == "images":
        left_out.update(kind_of_other(Path(file.path)) for file in videos)
    elif videos:
        others["video"] += len(videos)
    if others:
        found = ", ".join(
            f"{count:,} {KIND_NAMES[each] if count > 1 else KIND_NAMES[each][:-1]}" for each, count in others.items()
        )
        raise BatchError(f"the sources hold {KIND_NAMES[chosen]}, but also {found}: say which are meant with --kind")


def _listed_files(listed: Sequence[str]) -> Iterator[tuple[Found, bool]]:
    for path in listed:
        place = settled(path)
        if is_url(place) or os.path.lexists(place) or has_magic(place):
            yield from _files(path)
        else:
            yield Found(place, None), True


def _files(source: str) -> Iterator[tuple[Found, bool]]:
    """Files of a source, and whether they were named by themselves: such are tried whatever they are called."""
    place = settled(source)
    if place.startswith(("http://", "https://")):
        raise BatchError(f"{source}: web pages are not listed; download what it names, or give an object store (s3://)")
    if is_url(place):
        with naming(source):
            yield from _objects(place)
    elif os.path.isdir(place):  # noqa: PTH112 - a path is text here, because it may be a URL
        yield from ((file, False) for file in find(place))
    elif os.path.lexists(place):
        yield Found(place, None), True
    elif has_magic(place):
        for path in sorted(glob(place, recursive=True)):  # noqa: PTH207
            if not os.path.isdir(path):  # noqa: PTH112
                yield Found(path, None), True
    else:
        raise BatchError(f"{source}: no such file or folder")


def _objects(url: str) -> Iterator[tuple[Found, bool]]:
    store, inside = filesystem(url)
    store.invalidate_cache()
    if "*" in url:
        for path, details in sorted(store.glob(inside, detail=True).items()):
            if details["type"] == "file":
                yield Found(store.unstrip_protocol(path), details.get("size")), True
    elif store.isfile(inside):
        yield Found(url, store.size(inside)), True
    else:
        yield from ((file, False) for file in find(url))


def image_column(schema: pa.Schema, column: str | None, name: str) -> str:
    """The column of encoded images, as ``iter_batches`` is to be asked for it.

    It is binary, or a struct with ``bytes`` as the ``datasets`` library writes it.

    Args:
        column: its name; when not given, the only one that can be.

    Raises:
        BatchError: there is no such column, or there are several.
    """
    candidates = {field.name: _bytes_of(field) for field in schema if _bytes_of(field)}
    if column is None and len(candidates) == 1:
        return next(iter(candidates.values()))
    if column in candidates:
        return candidates[column]
    wanted = "one column" if column is None else f"a column {column!r}"
    raise BatchError(
        f"{name}: expected {wanted} of encoded images (binary, or a struct with bytes); its columns are "
        + ", ".join(f"{field.name} ({str(field.type)[:40]})" for field in schema)
        + ("; name it with --column" if column is None else "")
    )


def _bytes_of(field: pa.Field) -> str:
    """What to ask for to have the bytes in a field; nothing if there are none."""
    if pa.types.is_struct(field.type):
        place = field.type.get_field_index("bytes")
        return f"{field.name}.bytes" if place >= 0 and _is_binary(field.type.field(place).type) else ""
    return field.name if _is_binary(field.type) else ""


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)


def _row_groups(files: Iterator[Found], column: str | None) -> Iterator[Item]:
    with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:
        while some := list(islice(files, 4 * _FOOTERS_AT_ONCE)):
            for items in pool.map(lambda file: _row_groups_of(file, column), some):
                yield from items


def _row_groups_of(file: Found, column: str | None) -> list[Item]:
    try:
        with open_binary(file.path, _FOOTER_BLOCK) as stream, pq.ParquetFile(stream) as parquet:
            footer, schema = parquet.metadata, parquet.schema_arrow
            rows = [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
    except (OSError, pa.ArrowException):
        return [Item(file.path, 1)]  # whoever reads it makes a failed row of it
    image_column(schema, column, file.path)
    placed = zip(rows, accumulate(rows, initial=0), strict=False)  # there is one first row more: the next one's
    return [Item(file.path, count, group, first) for group, (count, first) in enumerate(placed) if count]
