"""Images inside Arrow tables: Parquet files, folders that ``datasets`` saved, datasets of the Hugging Face Hub."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from shvit.atomic import atomic_path
from shvit.card import ClassInfo
from shvit.data.cache import derived_folder, files_key
from shvit.data.classes import check_labels, encode_labels, name_classes, number_classes
from shvit.data.targets import multi_hot
from shvit.errors import DataError, ImageError, MissingDependencyError
from shvit.images.encoded import read_encoded
from shvit.install import install_command
from shvit.reading import utf8_path

IN_MEMORY_BYTES = 2 * 2**30
"""Parquet of more bytes is not kept in memory, but rewritten once to a file that can be mapped."""


class TableImages:
    """A column of images and one of labels, as the ``datasets`` library writes them.

    The images are a struct with ``bytes`` and perhaps ``path``, or binary; the labels whole numbers or text, or lists
    of them where a picture has any number. No Python object is kept for an image.

    Args:
        name: what messages call the dataset.
        root: folder in or above which ``classes.json`` or ``classes.txt`` are looked for.
        load: makes the table; a worker process that is not forked calls it again instead of copying the images.
        follow_paths: read the file that ``path`` names where there are no bytes.
    """

    def __init__(self, name: str, root: Path, load: Callable[[], pa.Table], follow_paths: bool = False) -> None:
        self._arguments = (name, root, load, follow_paths)
        self.name, self._follow_paths = name, follow_paths
        table = load()
        if not table.num_rows:
            raise DataError(f"{name}: there are no images in it")
        features = _features(table.schema, name)
        image, label = _columns(table.schema, features, name)
        images = table[image]
        self._bytes = [_field(chunk, "bytes") for chunk in images.chunks]
        self._paths = [_field(chunk, "path") for chunk in images.chunks]
        self._starts = np.cumsum([0] + [len(chunk) for chunk in images.chunks])
        names = _described(features.get(label, {})).get("names")
        if names is not None and not (isinstance(names, list) and all(isinstance(each, str) for each in names)):
            raise DataError(f"{name}: the names of its classes are damaged: expected a list of text")
        self.labels, self.classes = _labels(table[label], names, root, name)

    def __reduce__(self) -> tuple[Any, ...]:
        return TableImages, self._arguments

    def __len__(self) -> int:
        return len(self.labels)

    def _value(self, chunks: list[pa.Array | None], index: int) -> Any:
        place = int(np.searchsorted(self._starts, index, side="right")) - 1
        chunk = chunks[place]
        return chunk[index - int(self._starts[place])].as_py() if chunk is not None else None

    def read(self, index: int) -> bytes:
        encoded = self._value(self._bytes, index)
        if encoded is not None:
            return encoded
        path = self._value(self._paths, index)
        if self._follow_paths and path:
            return read_encoded(path, path)
        raise ImageError(f"{self.source(index)}: the row holds no image, only its path; save the images with the table")

    def source(self, index: int) -> str:
        return f"{self.name}:{self._value(self._paths, index) or index}"


def parquet_images(files: Sequence[Path]) -> TableImages:
    """Parquet files, in this order, as one dataset."""
    folder = files[0].parent
    return TableImages(str(folder if len(files) > 1 else files[0]), folder, partial(_read_parquet, tuple(files)))


def saved_images(folder: Path) -> TableImages:
    """A folder that ``Dataset.save_to_disk`` of the ``datasets`` library wrote; that library is not needed."""
    return TableImages(str(folder), folder, partial(_read_saved, folder), follow_paths=True)


def hub_splits(address: str) -> dict[str, Callable[[], TableImages]]:
    """The splits of ``hf://user/name`` or ``hf://user/name/configuration``, fetched by the ``datasets`` library.

    Raises:
        MissingDependencyError: ``datasets`` is not installed.
        DataError: there is no such dataset, or it cannot be fetched.
    """
    try:
        import datasets
    except ImportError:
        raise MissingDependencyError(
            f"{address}: needs the datasets library, which is not installed: {install_command('datasets')}"
        ) from None
    parts = address.removeprefix("hf://").split("/")
    if not 1 <= len(parts) <= 3 or not all(parts):
        raise DataError(f"{address}: expected hf://user/name or hf://user/name/configuration")
    try:
        found = datasets.load_dataset("/".join(parts[:2]), name=parts[2] if len(parts) == 3 else None)
    except Exception as error:  # the library, and those under it, raise what they like
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{address}: the datasets library cannot load it: {reason}") from error
    return {
        split: partial(TableImages, f"{address} ({split})", Path(), partial(_hub_table, dataset), follow_paths=True)
        for split, dataset in found.items()
    }


def _hub_table(dataset: Any) -> pa.Table:
    return dataset.flatten_indices().data.table


def _read_saved(folder: Path) -> pa.Table:
    state = folder / "state.json"
    with _naming(state):
        # Names only: a file elsewhere is not this dataset's.
        files = [folder / Path(each["filename"]).name for each in json.loads(state.read_text())["_data_files"]]
    tables = []
    for file in files:
        with _naming(file), utf8_path(file) as named:
            tables.append(pa.ipc.open_stream(pa.memory_map(str(named))).read_all())
    return _concatenate(tables, files)


def _read_parquet(files: tuple[Path, ...]) -> pa.Table:
    if sum(file.stat().st_size for file in files) > IN_MEMORY_BYTES:
        return _read_mapped(files)
    tables = []
    for file in files:
        with _naming(file), utf8_path(file) as named:
            tables.append(pq.read_table(named, columns=_parquet_columns(file)))
    return _concatenate(tables, files)


def _read_mapped(files: tuple[Path, ...]) -> pa.Table:
    """The table out of an Arrow file in the cache, which takes no memory: written the first time, a batch at a time."""
    target = derived_folder("tables") / f"{files_key(files)}.arrow"
    if not target.exists():
        with _naming(files[0]):
            columns, found = _parquet_columns(files[0]), _parquet_schema(files[0])
            schema = pa.schema([found.field(name) for name in columns], found.metadata)
        with atomic_path(target) as aside, aside.open("wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for file in files:
                with _naming(file), utf8_path(file) as named:
                    for batch in pq.ParquetFile(named).iter_batches(1024, columns=columns):
                        writer.write_batch(batch.cast(schema))
    with _naming(target), utf8_path(target) as named:
        return pa.ipc.open_file(pa.memory_map(str(named))).read_all()


def _parquet_columns(file: Path) -> list[str]:
    schema = _parquet_schema(file)
    return list(_columns(schema, _features(schema, str(file)), str(file)))


def _parquet_schema(file: Path) -> pa.Schema:
    with utf8_path(file) as named:
        return pq.read_schema(named)


def _concatenate(tables: list[pa.Table], files: Sequence[Path]) -> pa.Table:
    try:
        return pa.concat_tables(tables)
    except pa.ArrowInvalid as error:
        raise DataError(f"{files[0].parent}: its files differ in their columns: {_one_line(error)}") from None


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    """What goes wrong inside is this file's fault."""
    try:
        yield
    except DataError:
        raise
    except (pa.ArrowException, KeyError, TypeError, ValueError, OSError) as error:
        raise DataError(f"{file}: cannot be read as a table of images and labels: {_one_line(error)}") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _features(schema: pa.Schema, name: str) -> dict[str, dict[str, Any]]:
    """What the ``datasets`` library wrote into the schema about the columns: their types and class names."""
    raw = (schema.metadata or {}).get(b"huggingface")
    if raw is None:
        return {}
    try:
        features = json.loads(raw)["info"]["features"]
        # Some versions of the library write a list of something as a list of its description.
        plain = {column: each[0] if isinstance(each, list) and each else each for column, each in features.items()}
        return {column: feature for column, feature in plain.items() if isinstance(feature, dict)}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{name}: the description of its columns is damaged: {error!r}") from None


def _columns(schema: pa.Schema, features: dict[str, dict[str, Any]], name: str) -> tuple[str, str]:
    """The column of images and the column of labels: as called by convention, else the only one of its type."""
    chosen: list[str] = []
    for type_name, *roles in (("Image", "image"), ("ClassLabel", "label", "labels")):
        candidates = [
            column for column in schema.names if _described(features.get(column, {})).get("_type") == type_name
        ]
        candidates = [role for role in roles if role in schema.names][:1] or candidates
        if len(candidates) != 1:
            raise DataError(
                f"{name}: expected a column named {' or '.join(map(repr, roles))}, or one column of type {type_name}; "
                f"its columns are {', '.join(schema.names)}"
            )
        chosen += candidates
    return chosen[0], chosen[1]


def _described(feature: dict[str, Any]) -> dict[str, Any]:
    """What is said of a column's values, or of those in its lists."""
    inner = feature.get("feature")
    return inner if isinstance(inner, dict) else feature


def _field(chunk: pa.Array, name: str) -> pa.Array | None:
    if not pa.types.is_struct(chunk.type):
        return chunk if name == "bytes" else None
    return chunk.field(name) if chunk.type.get_field_index(name) >= 0 else None


def _labels(
    column: pa.ChunkedArray, names: list[str] | None, root: Path, name: str
) -> tuple[np.ndarray, tuple[ClassInfo, ...]]:
    if column.null_count:
        raise DataError(f"{name}: {column.null_count} images have no label; leave them out")
    if not _is_list(column.type):
        return _plain_labels(column, names, root, name, lambda index: f"{name}, row {index}")
    values = pa.chunked_array([chunk.flatten() for chunk in column.chunks], column.type.value_type)
    if values.null_count:
        raise DataError(f"{name}: {values.null_count} labels in its lists are missing (null); leave them out")
    if not len(values):
        raise DataError(f"{name}: none of its {len(column):,} images has a label; fill some in")
    pictures = np.repeat(np.arange(len(column)), pc.list_value_length(column).to_numpy())
    labels, classes = _plain_labels(values, names, root, name, lambda place: f"{name}, row {pictures[place]}")
    return multi_hot(pictures, labels, len(column), len(classes), name), classes


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _plain_labels(
    column: pa.ChunkedArray, names: list[str] | None, root: Path, name: str, where: Callable[[int], str]
) -> tuple[np.ndarray, tuple[ClassInfo, ...]]:
    """Labels ``int64 (N,)`` of whole numbers or text."""
    if pa.types.is_integer(column.type):
        labels = column.to_numpy().astype(np.int64)
        if names is None:
            return labels, number_classes(labels, root, where)
        check_labels(labels, len(names), where)
        return labels, name_classes(names, root)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return encode_labels(column.to_pylist(), root, where)
    raise DataError(f"{name}: labels are {column.type}; expected whole numbers, text, or lists of these")
