"""Embeddings in Parquet files: a row a picture, and beside the rows what they were made by and how."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from shvit.atomic import atomic_path
from shvit.display import as_text
from shvit.errors import ArgumentError, DataError
from shvit.predicting.embeddings import EmbeddingsInfo
from shvit.reading import open_regular

__all__ = [
    "INFO",
    "MADE",
    "Embeddings",
    "EmbeddingsInfo",
    "EmbeddingsWriter",
    "Rows",
    "embeddings_schema",
    "part_files",
    "read_embeddings",
    "read_info",
    "rows_table",
]

INFO = "shvit.embeddings"
"""Key in a file's metadata: an ``EmbeddingsInfo`` in JSON."""

MAX_BYTES = 16 * 2**30
"""What is read has no more values than this holds as ``float32``: 9.5 million embeddings of 448 values."""

MAX_TEXT_BYTES = 64 * 2**10
"""Of a source, a label or a view; longer than any path."""

MAX_TEXTS_BYTES = 2 * 2**30
"""Of all texts of a file together: a small file may repeat one a million times. Digests and paths of 9.5 million
pictures are 1.6 GB."""

MAX_VALUE = 1e16
"""Of an embedding's numbers: the squares of 65,536 of these can be added up in ``float32``."""

ROW_GROUP = 8192
"""Rows that are written together, and so held in memory."""

_VALUES_AT_ONCE = 4 * 2**20
"""Values that are read at once."""

_BUFFER = 2**20
"""Bytes of a column that are read at once, instead of all of a row group's."""

_IS_DIGIT = np.isin(np.arange(256), np.frombuffer(b"0123456789abcdef", np.uint8))
"""By a byte's value."""

_VALUE_TYPES = {"float32": pa.float32(), "float16": pa.float16()}

MADE = "made"
"""View of what is no picture of anybody's, but made from random numbers; of it there is no file."""

_TEXTS = ("source", "sha256", "view", "label", "error")


@dataclass(frozen=True, eq=False)
class Rows:
    """Some rows of a file; every column has as many entries as there are pictures."""

    sources: Sequence[str]
    sha256: Sequence[str | None]
    """Of the encoded pictures, 64 hexadecimal digits; of pixels, of their bytes; ``None`` where one cannot be read."""
    matrix: np.ndarray
    """``(N, values)``; what is in the row of a failed picture does not matter."""
    errors: Sequence[str | None] | None = None
    """Why there is no embedding; ``None`` where there is one, or for all."""
    labels: Sequence[str | None] | None = None
    views: Sequence[str] | None = None
    times: Sequence[float | None] | None = None
    """Of frames of a video, seconds from its first one."""


@dataclass(frozen=True, eq=False)
class Embeddings:
    """What a file, or a folder of parts, holds: the N pictures without an error, in order."""

    info: EmbeddingsInfo
    sources: list[str]
    sha256: list[str]
    """Of the encoded pictures, 64 hexadecimal digits."""
    labels: list[str | None] | None
    """``None`` where the pictures have none."""
    views: list[str] | None
    """Which view of its picture each is; ``None`` where each is a picture of its own."""
    stored: np.ndarray = field(repr=False)
    """``float32`` or ``float16 (N, values)``, as they are kept; finite."""
    failed: int
    """Pictures with an error, which are left out."""

    def __len__(self) -> int:
        return len(self.stored)

    def rows_of_pictures(self) -> list[list[int]]:
        """Of each picture the places of its views, the first one first."""
        if self.views is None:
            return [[place] for place in range(len(self))]
        rows: dict[tuple[str, str], list[int]] = {}
        for place, (source, digest, view) in enumerate(zip(self.sources, self.sha256, self.views, strict=True)):
            if view != MADE:
                rows.setdefault((source, digest), []).append(place)
        return list(rows.values())

    def pictures(self) -> Embeddings:
        """One row for each picture, its first view: all of them where each is a picture of its own."""
        if self.views is None:
            return self
        places = [views[0] for views in self.rows_of_pictures()]
        return replace(
            self,
            sources=[self.sources[place] for place in places],
            sha256=[self.sha256[place] for place in places],
            labels=None if self.labels is None else [self.labels[place] for place in places],
            views=None,
            stored=self.stored[places],
        )

    @cached_property
    def matrix(self) -> np.ndarray:
        """``float32 (N, values)``; of ``float16`` a copy, made when it is asked for first."""
        return self.stored.astype(np.float32, copy=False)


def embeddings_schema(
    info: EmbeddingsInfo, labelled: bool = False, views: bool = False, times: bool = False
) -> pa.Schema:
    """The columns of a file, with ``info`` in its metadata.

    Args:
        labelled: pictures have labels.
        views: there are several views of a picture.
        times: they are frames of videos.
    """
    columns = [
        pa.field("source", pa.string(), nullable=False),
        *([pa.field("time", pa.float64())] if times else []),
        pa.field("sha256", pa.string()),
        *([pa.field("view", pa.string())] if views else []),
        *([pa.field("label", pa.string())] if labelled else []),
        pa.field("embedding", pa.list_(_VALUE_TYPES[info.dtype], info.values)),
        pa.field("error", pa.string()),
        *(pa.field(name, pa.string(), nullable=False) for name in ("model", "model_sha256", "version")),
    ]
    return pa.schema(columns, {INFO: info.to_json()})


def rows_table(rows: Rows, info: EmbeddingsInfo) -> pa.Table:
    """Rows as a table of ``embeddings_schema``; it has the columns for labels, views and times that ``rows`` has.

    Raises:
        ArgumentError: columns are not of one length, or the matrix has another number of values.
    """
    count = len(rows.sources)
    if rows.matrix.shape != (count, info.values):
        raise ArgumentError(f"matrix: expected ({count}, {info.values}), got {rows.matrix.shape}")
    errors = rows.errors if rows.errors is not None else [None] * count
    failed = np.array([error is not None for error in errors], bool)
    numbers = np.where(failed[:, None], 0, rows.matrix).astype(info.dtype)
    columns: dict[str, object] = {
        "source": [as_text(source) for source in rows.sources],
        "time": rows.times,
        "sha256": rows.sha256,
        "view": rows.views,
        "label": rows.labels,
        "embedding": pa.FixedSizeListArray.from_arrays(
            pa.array(numbers.reshape(-1)), info.values, mask=pa.array(failed)
        ),
        "error": [None if error is None else as_text(error) for error in errors],
        **{name: [getattr(info, name)] * count for name in ("model", "model_sha256", "version")},
    }
    schema = embeddings_schema(info, rows.labels is not None, rows.views is not None, rows.times is not None)
    for name in schema.names:
        if len(columns[name]) != count:  # type: ignore[arg-type]
            raise ArgumentError(f"{name}: expected {count} entries, got {len(columns[name])}")  # type: ignore[arg-type]
    return pa.table([pa.array(columns[each.name], each.type) for each in schema], schema)


class EmbeddingsWriter:
    """A file of embeddings, there whole or not at all. To be used with ``with``.

    Args:
        path: of the file.
        labelled, views, times: which columns there are, as of ``embeddings_schema``; all rows have the same.
    """

    def __init__(
        self, path: str | Path, info: EmbeddingsInfo, labelled: bool = False, views: bool = False, times: bool = False
    ) -> None:
        self._path, self.info = path, info
        self._schema = embeddings_schema(info, labelled, views, times)
        self._held: list[pa.Table] = []

    def __enter__(self) -> EmbeddingsWriter:
        self._stack = ExitStack()
        with ExitStack() as stack:
            aside = stack.enter_context(atomic_path(self._path))
            sink = stack.enter_context(aside.open("wb"))  # a name need not be text, which pyarrow takes it for
            self._writer = stack.enter_context(_parquet_writer(sink, self._schema))
            self._stack = stack.pop_all()
        return self

    def write(self, rows: Rows) -> None:
        """Raises:
        ArgumentError: as of ``rows_table``, or they have other columns than the file.
        OSError: the file cannot be written.
        """
        self.write_table(rows_table(rows, self.info))

    def write_table(self, table: pa.Table) -> None:
        """The same for a table that ``rows_table`` made, or that was read from a part."""
        if table.schema.names != self._schema.names:
            raise ArgumentError(
                f"expected rows with the columns {', '.join(self._schema.names)}, got {', '.join(table.schema.names)}"
            )
        self._held.append(table)
        if sum(map(len, self._held)) >= ROW_GROUP:
            whole = pa.concat_tables(self._held)
            end = len(whole) - len(whole) % ROW_GROUP
            self._writer.write_table(whole.slice(0, end), ROW_GROUP)
            self._held = [whole.slice(end)] if end < len(whole) else []

    def note(self, key: str, text: str) -> None:
        """Puts a text under a key into the file's metadata."""
        self._writer.add_key_value_metadata({key: text})

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            if error is not None:
                raise error
            if self._held:
                self._writer.write_table(pa.concat_tables(self._held), ROW_GROUP)


def _parquet_writer(sink: object, schema: pa.Schema) -> pq.ParquetWriter:
    repeated = [
        each.name for each in schema if each.name in ("view", "label", "error", "model", "model_sha256", "version")
    ]
    return pq.ParquetWriter(sink, schema, compression="zstd", use_dictionary=repeated)


def part_files(path: str | Path) -> list[Path]:
    """The Parquet files of a folder, by name, or the one that ``path`` is; names that begin with _ or . are left out.

    Raises:
        DataError: there is no such file, or there are none in the folder.
    """
    path = Path(path)
    if not path.is_dir():
        if not path.exists():
            raise DataError(f"{path}: no such file or folder; make one with: shvit embed")
        return [path]
    found = sorted(each for each in path.glob("*.parquet") if not each.name.startswith(("_", ".")))
    if not found:
        raise DataError(f"{path}: there are no Parquet files in this folder; expected those of: shvit embed")
    return found


def read_info(path: str | Path) -> EmbeddingsInfo:
    """What a file's embeddings, or those of a folder's first part, were made by.

    Raises:
        DataError: it holds none; the message says what was expected.
    """
    with _opened(part_files(path)[0]) as part:
        return part.info


def read_embeddings(path: str | Path) -> Embeddings:
    """Reads a file of embeddings, or a folder of parts.

    The file may be anybody's: nothing in it is believed before it is checked.

    Raises:
        DataError: it cannot be read, is no such file, holds more than ``MAX_BYTES``, or parts are of different kinds.
    """
    files = part_files(path)
    rows = 0
    first: EmbeddingsInfo | None = None
    names: list[str] = []
    for file in files:
        with _opened(file) as part:
            if first is None:
                first, names = part.info, part.names
            difference = first.difference(part.info)
            if difference is None and (names, first.dtype) != (part.names, part.info.dtype):
                difference = "they have other columns"
            if difference is not None:
                raise DataError(f"{file}: does not belong together with {files[0].name}: {difference}")
            rows += part.parquet.metadata.num_rows
            if rows * part.info.values * 4 > MAX_BYTES:
                raise DataError(
                    f"{path}: {rows:,} rows of {part.info.values} values, at most {MAX_BYTES // 2**30} GiB of float32 "
                    "are accepted; split it"
                )
    assert first is not None  # there is a file, or they were refused
    return _read(files, first, rows, names)


def _read(files: Sequence[Path], info: EmbeddingsInfo, rows: int, names: Sequence[str]) -> Embeddings:
    stored = np.empty((rows, info.values), info.dtype)
    texts: dict[str, list[str | None]] = {name: [] for name in ("source", "sha256", "label", "view") if name in names}
    count = failed = written = 0
    for file in files:
        with _opened(file) as part:
            for batch in part.batches():
                good = batch.filter(pc.is_valid(batch.column("embedding")))
                failed += len(batch) - len(good)
                numbers = _checked_numbers(good, batch, file)
                if count + len(numbers) > rows:
                    raise DataError(f"{file}: has more rows than its footer says")
                stored[count : count + len(numbers)] = numbers
                count += len(numbers)
                for name, found in texts.items():
                    column = _checked_texts(good, name, file)
                    written += pc.sum(pc.binary_length(column)).as_py() or 0
                    if written > MAX_TEXTS_BYTES:
                        raise DataError(
                            f"{file}: names, digests and labels of more than {MAX_TEXTS_BYTES // 2**30} GiB; split it"
                        )
                    found += column.to_pylist()
    return Embeddings(
        info,
        texts["source"],  # type: ignore[arg-type] # those of no text were refused
        texts["sha256"],  # type: ignore[arg-type]
        texts.get("label"),
        texts.get("view"),  # type: ignore[arg-type]
        stored[:count],
        failed,
    )


def _checked_numbers(good: pa.RecordBatch, batch: pa.RecordBatch, file: Path) -> np.ndarray:
    """``(N, values)`` of the rows that have an embedding."""
    said = len(batch) - batch.column("error").null_count
    if said != len(batch) - len(good) or good.column("error").null_count != len(good):
        raise DataError(f"{file}: a row has neither an embedding nor an error, or both")
    column = good.column("embedding")
    flat = column.flatten()
    if flat.null_count:
        raise DataError(f"{file}: an embedding has values that are missing")
    numbers = flat.to_numpy(zero_copy_only=False).reshape(len(good), column.type.list_size)
    usable = (np.abs(numbers) <= np.float32(MAX_VALUE)).all(1)  # which what is not finite is not
    if not usable.all():
        source = _checked_texts(good, "source", file)[int(np.argmin(usable))]
        raise DataError(f"{file}: the embedding of {as_text(source.as_py())} is not finite, or above {MAX_VALUE:g}")
    return numbers


def _checked_texts(good: pa.RecordBatch, name: str, file: Path) -> pa.Array:
    # As a dictionary: a text that a small file repeats a million times is measured before it is there so often.
    column = good.column(name)
    longest = pc.max(pc.binary_length(column.dictionary)).as_py() or 0
    if longest > MAX_TEXT_BYTES:
        raise DataError(
            f"{file}: a text of {longest:,} bytes in the column {name}, at most {MAX_TEXT_BYTES:,} expected"
        )
    texts = column.dictionary_decode()
    if name != "label" and texts.null_count:
        raise DataError(f"{file}: a row with an embedding has no {name}")
    if name == "sha256" and not _are_digests(texts):
        raise DataError(f"{file}: the column sha256 holds what is no digest of 64 hexadecimal digits")
    return texts


def _are_digests(texts: pa.Array) -> bool:
    """Whether each is of 64 hexadecimal digits; a regular expression takes ten times as long."""
    lengths = pc.min_max(pc.binary_length(texts)).as_py()
    if not len(texts) or set(lengths.values()) != {64}:
        return not len(texts)
    written = np.frombuffer(texts.buffers()[2], np.uint8, 64 * len(texts))
    return bool(_IS_DIGIT[written].all())


@dataclass(frozen=True, eq=False)
class _Part:
    """A file that was opened, with its schema checked."""

    parquet: pq.ParquetFile
    info: EmbeddingsInfo
    names: list[str]
    """Its columns, of those that are read."""

    def batches(self) -> Iterator[pa.RecordBatch]:
        rows = max(min(ROW_GROUP, _VALUES_AT_ONCE // self.info.values), 1)
        for group in range(self.parquet.num_row_groups):  # of all at once, the buffers of each would stay to the end
            yield from self.parquet.iter_batches(rows, row_groups=[group], columns=self.names, use_threads=False)


@contextmanager
def _opened(file: Path) -> Iterator[_Part]:
    """Raises: DataError: it cannot be read, or has not the columns that it should have; also of what is done inside."""
    try:
        with open_regular(file) as stream:
            footer = pq.read_metadata(stream)
            raw = (footer.metadata or {}).get(INFO.encode())
            if raw is None:
                raise DataError(f"{file}: this Parquet file holds no embeddings; expected one of: shvit embed")
            info = EmbeddingsInfo.from_json(raw, str(file))
            leaves = {footer.schema.column(place).path for place in range(footer.num_columns)}
            texts = [name for name in _TEXTS if name in leaves]
            with pq.ParquetFile(stream, metadata=footer, read_dictionary=texts, buffer_size=_BUFFER) as parquet:
                yield _Part(parquet, info, _checked_columns(parquet.schema_arrow, info, file))
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:300]
        raise DataError(f"{file}: cannot be read as embeddings: {reason}") from None


def _checked_columns(schema: pa.Schema, info: EmbeddingsInfo, file: Path) -> list[str]:
    text = pa.dictionary(pa.int32(), pa.string())
    expected = dict.fromkeys(_TEXTS, text)
    expected["embedding"] = pa.list_(_VALUE_TYPES[info.dtype], info.values)
    if len(set(schema.names)) != len(schema.names):
        raise DataError(f"{file}: two of its columns have the same name")
    for name, kind in expected.items():
        place = schema.get_field_index(name)
        if place < 0 and name in ("view", "label"):
            continue
        found = None if place < 0 else schema.field(place).type
        if place < 0 or not (found == kind or _same_list(found, kind)):
            wanted = "text" if kind == text else f"lists of {info.values} {info.dtype}"
            raise DataError(
                f"{file}: expected a column {name} of {wanted}, got {'none' if found is None else str(found)[:60]}"
            )
    return [name for name in schema.names if name in expected]


def _same_list(found: pa.DataType, kind: pa.DataType) -> bool:
    """Whatever the field inside is called, and whether it may be null."""
    return (
        pa.types.is_fixed_size_list(found)
        and pa.types.is_fixed_size_list(kind)
        and found.list_size == kind.list_size
        and found.value_type == kind.value_type
    )
