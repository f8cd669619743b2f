"""Tar shards as WebDataset writes them: ``key.jpg`` beside ``key.cls`` or ``key.json``."""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shvit.atomic import atomic_path
from shvit.data.cache import derived_folder, download, files_key
from shvit.data.classes import encode_labels
from shvit.data.formats.patterns import is_remote, is_url
from shvit.data.unread import LABEL_ALONE, LINKED_MEMBER, describe_unread, is_unread_picture
from shvit.errors import DataError
from shvit.images.encoded import read_encoded
from shvit.images.sources import OTHER_NAME, is_image
from shvit.reading import utf8_path

MAX_LABEL_BYTES = 2**20
"""Larger ``.cls`` and ``.json`` members are refused before they are read."""

_INDEX = pa.schema(
    [
        ("member", pa.large_string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("label", pa.string()),
        ("sample", pa.int64()),  # number of its key in the shard: one may have several images
        ("extension", pa.string()),  # in lower case; all after the first dot
    ]
)

_LEFT_OUT = b"shvit.left_out"
"""Key in an index's metadata: what the shard holds that is not read."""


class Shard(NamedTuple):
    """One tar file."""

    name: str
    """Path or URL that the user knows it by."""
    path: Path
    """Where it lies on this machine."""


class ShardImages:
    """Images inside tar files, read where they lie: nothing is unpacked.

    Each shard is gone through once; where its images are is kept in the cache.

    Args:
        image_key: extension of the image where a key has several: ``jpg``, ``left.jpg``. Without it that is the one
            with a single extension: of ``key.jpg`` and ``key.seg.png`` the first.
    """

    takes_image_key = True

    def __init__(self, name: str, root: Path, shards: Sequence[Shard], image_key: str | None = None) -> None:
        self.name, self._shards = name, tuple(shards)
        self.left_out = Counter[str]()
        """What lies beside the images and is not read."""
        found = [_read_index(shard) for shard in shards]
        for index in found:
            self.left_out.update(json.loads(index.schema.metadata[_LEFT_OUT]))
        indices = _choose_images(found, shards, image_key, self.left_out)
        table = pa.concat_tables(indices)
        if not table.num_rows:
            there = f" ({describe_unread(self.left_out)})" if self.left_out else ""
            raise DataError(
                f"{name}: no images in {len(shards)} shards{there}; expected members key.jpg beside key.cls"
            )
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


def shard_images(names: Sequence[str], image_key: str | None = None) -> ShardImages:
    """Shards by path or by URL (``http``, ``https``, ``file``); those on the network are fetched into the cache.

    Args:
        image_key: as for ``ShardImages``.

    Raises:
        DataError: one cannot be fetched, is not an uncompressed tar file, is cut short, holds images without labels,
            or several under one key, so that it cannot be told which is meant.
        OSError: one cannot be read.
    """
    shards = [Shard(name, _local(name)) for name in names]
    parent = names[0].rpartition("/")[0] if len(names) > 1 else names[0]
    return ShardImages(parent or ".", Path() if is_url(names[0]) else shards[0].path.parent, shards, image_key)


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
        cached = derived_folder("shards") / f"{files_key([shard.path])}.parquet"
    if cached is not None and cached.exists():
        with suppress(OSError, pa.ArrowInvalid):
            with utf8_path(cached) as named:
                index = pq.read_table(named)
            if index.schema.equals(_INDEX) and _LEFT_OUT in (index.schema.metadata or {}):
                return index
    index = _make_index(shard)
    if cached is not None:
        with suppress(OSError), atomic_path(cached) as aside, aside.open("wb") as sink:
            pq.write_table(index, sink)
    return index


def _make_index(shard: Shard) -> pa.Table:
    images: list[tuple[str, int, int, str, str]] = []  # member, offset, size, key, extension
    classes: dict[str, str] = {}
    described: dict[str, str | DataError] = {}
    others: list[tuple[str, str]] = []
    try:
        with tarfile.open(shard.path, "r:", errors="replace") as tar:
            for member in tar:
                folder, _, name = member.name.rpartition("/")
                key, _, extension = name.partition(".")
                key, extension = f"{folder}/{key}", extension.lower()
                if member.isdir() or not key.rpartition("/")[2]:
                    continue
                if not member.isreg() or member.issparse():
                    others.append((key, LINKED_MEMBER))
                elif is_image(name):
                    images.append((member.name, member.offset_data, member.size, key, extension))
                elif extension == "cls":
                    label = _read_label(tar, member, shard)
                    if classes.setdefault(key, label) != label:
                        raise DataError(f"{shard.name}:{member.name}: is there twice, with different labels")
                elif extension == "json":
                    try:
                        described[key] = _read_label(tar, member, shard)
                    except DataError as error:  # no matter where there is a .cls
                        described[key] = error
                else:
                    others.append((key, Path(name).suffix.lower() or OTHER_NAME))
    except (tarfile.TarError, EOFError) as error:
        if is_remote(shard.name):
            shard.path.unlink()  # what the cache holds of it is no use
        raise DataError(f"{shard.name}: not an uncompressed tar file, or cut short: {error}") from None
    labels: list[str] = []
    unlabelled = dict.fromkeys(key for *_, key, _ in images if key not in classes and key not in described)
    for member_name, *_, key, _ in images:
        found = classes.get(key, described.get(key))
        if isinstance(found, DataError):
            raise found
        if found is None:
            raise DataError(
                f"{shard.name}:{member_name}: no label ({len(unlabelled)} such images); expected a member "
                f"{key.lstrip('/')}.cls, or .json with a key 'label', in the same shard"
            )
        labels.append(found)
    samples = {key: place for place, key in enumerate(dict.fromkeys(key for *_, key, _ in images))}
    # Beside an image may lie anything; without one, what is there instead may have been meant for it.
    without = dict.fromkeys(key for key in (*classes, *described) if key not in samples)
    left_out = Counter(kind for key, kind in others if key not in samples and (key in without or _may_be_image(kind)))
    left_out[LABEL_ALONE] = len(without.keys() - {key for key, _ in others})
    return pa.table(
        {
            "member": [member for member, *_ in images],
            "offset": [offset for _, offset, *_ in images],
            "size": [size for _, _, size, *_ in images],
            "label": labels,
            "sample": [samples[key] for *_, key, _ in images],
            "extension": [extension for *_, extension in images],
        },
        schema=_INDEX.with_metadata({_LEFT_OUT: json.dumps(+left_out)}),
    )


def _may_be_image(kind: str) -> bool:
    return kind == LINKED_MEMBER or is_unread_picture(f"key{kind}")


def _choose_images(
    indices: Sequence[pa.Table], shards: Sequence[Shard], image_key: str | None, left_out: Counter[str]
) -> list[pa.Table]:
    """One image of each key; counts in ``left_out`` the keys that have none of the extensions asked for."""
    single = [~np.char.count(_extensions(index), ".").astype(bool) for index in indices]
    if image_key is not None:
        wanted = {each.strip().lstrip(".").lower() for each in image_key.split(",")}
        chosen = [np.isin(_extensions(index), sorted(wanted)) for index in indices]
    elif any(each.any() for each in single):
        chosen = single
    else:
        chosen = [np.ones(index.num_rows, dtype=bool) for index in indices]
    kept = []
    for index, shard, mask in zip(indices, shards, chosen, strict=True):
        samples = index["sample"].to_numpy()
        counts = np.bincount(samples[mask], minlength=int(samples.max(initial=-1)) + 1)
        wrong = np.flatnonzero(counts > 1 if image_key is not None else counts != 1)
        if len(wrong):
            raise DataError(_ambiguous(index, shard, wrong, int(counts[wrong[0]]), image_key))
        if missing := int((counts == 0).sum()):
            left_out[f"sample without {image_key}"] += missing
        kept.append(index if mask.all() else index.filter(pa.array(mask)))
    if image_key is not None and not any(each.num_rows for each in kept) and any(index.num_rows for index in indices):
        there = sorted({each for index in indices for each in _extensions(index).tolist()})
        raise DataError(f"{shards[0].name}: no image has the extension {image_key}; there are {', '.join(there[:8])}")
    return kept


def _extensions(index: pa.Table) -> np.ndarray:
    return np.array(index["extension"].to_pylist(), dtype=str)


def _ambiguous(index: pa.Table, shard: Shard, samples: np.ndarray, count: int, image_key: str | None) -> str:
    rows = np.flatnonzero(index["sample"].to_numpy() == samples[0])
    members, extensions = index["member"].take(rows).to_pylist(), _extensions(index)[rows].tolist()
    key = members[0][: len(members[0]) - len(extensions[0]) - 1]
    such = f"({len(samples):,} such {'key' if len(samples) == 1 else 'keys'})"
    if len(set(extensions)) < len(extensions) and (image_key is None or count > 1):
        return (
            f"{shard.name}: {key} has the image {extensions[0]} more than once {such}; give each image a key of its own"
        )
    there = ", ".join(extensions)
    if count == 0:
        return (
            f"{shard.name}: {key} has only {there}, where other keys have an image with a single extension {such}; "
            f"choose one, such as --image-key {extensions[0]}"
        )
    return f"{shard.name}: {key} has several images, {there} {such}; choose one, such as --image-key {extensions[0]}"


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
