"""Tar shards as WebDataset writes them: ``key.jpg`` beside ``key.cls`` or ``key.json``."""

from __future__ import annotations

import json
import math
import re
import tarfile
from collections.abc import Sequence
from contextlib import suppress
from glob import glob, has_magic
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shvit.atomic import atomic_path
from shvit.data.cache import cache_folder, download, files_key
from shvit.data.classes import encode_labels
from shvit.errors import DataError
from shvit.media.sources import is_image
from shvit.runtime.encoded import read_encoded

MAX_SHARDS = 100_000
"""A pattern that stands for more is a slip of the finger."""

MAX_LABEL_BYTES = 2**20
"""Larger ``.cls`` and ``.json`` members are refused before they are read."""

_BRACES = re.compile(r"\{(?:(\d{1,18})\.\.(\d{1,18})|([^{}]*,[^{}]*))\}")

_INDEX = pa.schema(
    [("member", pa.large_string()), ("offset", pa.int64()), ("size", pa.int64()), ("label", pa.string())]
)


class Shard(NamedTuple):
    """One tar file."""

    name: str
    """Path or URL that the user knows it by."""
    path: Path
    """Where it lies on this machine."""


class ShardImages:
    """Images inside tar files, read where they lie: nothing is unpacked.

    Each shard is gone through once; where its images are is kept in the cache.
    """

    def __init__(self, name: str, root: Path, shards: Sequence[Shard]) -> None:
        self.name, self._shards = name, tuple(shards)
        indices = [_read_index(shard) for shard in shards]
        table = pa.concat_tables(indices)
        if not table.num_rows:
            raise DataError(f"{name}: no images in {len(shards)} shards; expected members key.jpg beside key.cls")
        self._members = table["member"].combine_chunks()
        self._offsets, self._sizes = table["offset"].to_numpy(), table["size"].to_numpy()
        self._starts = np.cumsum([0] + [index.num_rows for index in indices])
        self.labels, self.classes = encode_labels(table["label"].to_pylist(), root, self.source)

    def __len__(self) -> int:
        return len(self.labels)

    def _shard(self, index: int) -> Shard:
        return self._shards[int(np.searchsorted(self._starts, index, side="right")) - 1]

    def read(self, index: int) -> bytes:
        path = self._shard(index).path
        return read_encoded(path, self.source(index), int(self._offsets[index]), int(self._sizes[index]))

    def source(self, index: int) -> str:
        return f"{self._shard(index).name}:{self._members[index].as_py()}"


def shard_images(names: Sequence[str]) -> ShardImages:
    """Shards by path or by URL (``http``, ``https``, ``file``); those on the network are fetched into the cache.

    Raises:
        DataError: one cannot be fetched, is not an uncompressed tar file, is cut short, or holds images without
            labels.
        OSError: one cannot be read.
    """
    shards = [Shard(name, _local(name)) for name in names]
    parent = names[0].rpartition("/")[0] if len(names) > 1 else names[0]
    return ShardImages(parent or ".", Path() if is_url(names[0]) else shards[0].path.parent, shards)


def is_url(name: str) -> bool:
    return re.match(r"[a-z][a-z0-9+.-]+://", name) is not None


def is_remote(name: str) -> bool:
    return name.startswith(("http://", "https://"))


def expand_pattern(pattern: str) -> list[str]:
    """Shard names that a pattern stands for: braces as in a shell, ``*`` and ``?`` for files on this machine.

    Raises:
        DataError: no file matches, or there are more than ``MAX_SHARDS``.
    """
    found: list[str] = []
    for name in expand_braces(pattern):
        if is_url(name) or not has_magic(name):
            found.append(name)
        else:
            found += sorted(glob(name, recursive=True))  # noqa: PTH207 - keeps the pattern relative as typed
    if not found:
        raise DataError(f"{pattern}: no file matches")
    return found


def expand_braces(pattern: str) -> list[str]:
    """``a{00..02}.tar`` or ``{x,y}.tar`` to the names it stands for, as a shell does; each name once."""
    names = math.prod(_count(match) for match in _BRACES.finditer(pattern))
    if names > MAX_SHARDS:
        raise DataError(f"{pattern}: stands for {names:,} shards, at most {MAX_SHARDS:,} are accepted")
    match = _BRACES.search(pattern)
    if match is None:
        return [pattern]
    before, after = pattern[: match.start()], pattern[match.end() :]
    return list(dict.fromkeys(name for each in _choices(match) for name in expand_braces(f"{before}{each}{after}")))


def _count(braces: re.Match[str]) -> int:
    first, last, listed = braces.groups()
    return abs(int(last) - int(first)) + 1 if listed is None else listed.count(",") + 1


def _choices(braces: re.Match[str]) -> list[str]:
    first, last, listed = braces.groups()
    if listed is not None:
        return listed.split(",")
    # As in a shell, a leading zero asks for numbers of equal length.
    padded = any(len(end) > 1 and end.startswith("0") for end in (first, last))
    width = max(len(first), len(last)) if padded else 0
    step = 1 if int(first) <= int(last) else -1
    return [str(number).zfill(width) for number in range(int(first), int(last) + step, step)]


def _local(name: str) -> Path:
    if not is_url(name):
        return Path(name)
    if name.startswith("file://"):
        return Path(unquote(urlsplit(name).path))
    if not is_remote(name):
        raise DataError(f"{name}: expected a path or an address that begins with http, https or file")
    return download(name)


def _read_index(shard: Shard) -> pa.Table:
    """``_INDEX``: the images of a shard, from the cache if it knows the file."""
    cached = None
    with suppress(OSError):  # a cache that cannot be written is done without
        cached = cache_folder("shards") / f"{files_key([shard.path])}.parquet"
    if cached is not None and cached.exists():
        with suppress(OSError, pa.ArrowInvalid):
            return pq.read_table(cached, schema=_INDEX)
    index = _make_index(shard)
    if cached is not None:
        with suppress(OSError), atomic_path(cached) as aside:
            pq.write_table(index, aside)
    return index


def _make_index(shard: Shard) -> pa.Table:
    images: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, str] = {}
    try:
        with tarfile.open(shard.path, "r:", errors="replace") as tar:
            for member in tar:
                if not member.isreg() or member.issparse():
                    continue
                folder, _, name = member.name.rpartition("/")
                key, _, extension = name.partition(".")
                key = f"{folder}/{key}"
                if is_image(name):
                    images[key] = member.name, member.offset_data, member.size
                elif extension.lower() in ("cls", "json") and (extension.lower() == "cls" or key not in labels):
                    labels[key] = _read_label(tar, member, shard)
    except (tarfile.TarError, EOFError) as error:
        if is_remote(shard.name):
            shard.path.unlink()  # what the cache holds of it is no use
        raise DataError(f"{shard.name}: not an uncompressed tar file, or cut short: {error}") from None
    if unlabelled := [key for key in images if key not in labels]:
        raise DataError(
            f"{shard.name}:{images[unlabelled[0]][0]}: no label ({len(unlabelled)} such images); expected a member "
            f"{unlabelled[0].lstrip('/')}.cls, or .json with a key 'label', in the same shard"
        )
    return pa.table(
        {
            "member": [member for member, _, _ in images.values()],
            "offset": [offset for _, offset, _ in images.values()],
            "size": [size for _, _, size in images.values()],
            "label": [labels[key] for key in images],
        },
        schema=_INDEX,
    )


def _read_label(tar: tarfile.TarFile, member: tarfile.TarInfo, shard: Shard) -> str:
    source = f"{shard.name}:{member.name}"
    if member.size > MAX_LABEL_BYTES:
        raise DataError(f"{source}: {member.size:,} bytes are too many for a label, at most {MAX_LABEL_BYTES:,}")
    stream = tar.extractfile(member)
    assert stream is not None  # a regular member
    try:
        text = stream.read().decode()
        label = str(json.loads(text)["label"]) if member.name.lower().endswith(".json") else text
        label.encode()  # JSON can escape half of a surrogate pair
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DataError(f"{source}: expected text, or JSON with a key 'label': {error!r}") from None
    return label.strip()
