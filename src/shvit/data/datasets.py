"""Labelled image collections on disk, read one encoded image at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from shvit.errors import DataError
from shvit.media.sources import IMAGE_EXTENSIONS
from shvit.runtime.card import ClassInfo

SPLIT_NAMES = {"train": ("train", "training"), "val": ("val", "validation", "valid", "test")}
"""Names under which a split is looked for, in this order."""


class ImageDataset(Protocol):
    """Encoded images with labels."""

    name: str
    classes: tuple[ClassInfo, ...]
    labels: np.ndarray
    """``(N,)`` int64, each in ``[0, len(classes))``."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> bytes:
        """The encoded image (JPEG, PNG, ...)."""

    def source(self, index: int) -> str:
        """A name for the image that a person can find it by."""


class ImageFolder:
    """One sub-folder for each class, as torchvision and timm lay them out; images may lie deeper."""

    def __init__(self, root: Path) -> None:
        self.name = str(root)
        folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
        if not folders:
            raise DataError(f"{root}: expected one sub-folder for each class, found none")
        self._paths: list[Path] = []
        labels: list[int] = []
        for label, folder in enumerate(folders):
            found = sorted(
                path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_EXTENSIONS and path.is_file()
            )
            if not found:
                raise DataError(f"{folder}: no images in the folder of class {folder.name!r}")
            self._paths += found
            labels += [label] * len(found)
        self.labels = np.array(labels, dtype=np.int64)
        self.classes = name_classes([folder.name for folder in folders], root)

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, index: int) -> bytes:
        return self._paths[index].read_bytes()

    def source(self, index: int) -> str:
        return str(self._paths[index])


class ParquetImages:
    """Parquet in the Hugging Face ``datasets`` image layout: ``image.bytes``, ``image.path``, ``label``."""

    def __init__(self, files: Sequence[Path]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.name = str(files[0].parent)
        tables = []
        for file in files:
            try:
                table = pq.read_table(file, columns=["image", "label"])
            except (pa.ArrowInvalid, KeyError, OSError) as error:
                raise DataError(f"{file}: cannot be read as Parquet with image and label: {error}") from None
            tables.append(table)
        table = pa.concat_tables(tables)
        self._bytes, self._paths = (
            [chunk.field(field) for chunk in table["image"].chunks] for field in ("bytes", "path")
        )
        self._starts = np.cumsum([0] + [len(chunk) for chunk in self._bytes])
        self.labels = table["label"].to_numpy().astype(np.int64)
        names = _parquet_class_names(tables[0].schema) or [str(label) for label in range(int(self.labels.max()) + 1)]
        self.classes = name_classes(names, files[0].parent)
        if self.labels.min() < 0 or self.labels.max() >= len(self.classes):
            raise DataError(
                f"{self.name}: labels run from {self.labels.min()} to {self.labels.max()}, "
                f"but there are {len(self.classes)} classes"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def _locate(self, index: int) -> tuple[int, int]:
        chunk = int(np.searchsorted(self._starts, index, side="right")) - 1
        return chunk, index - int(self._starts[chunk])

    def read(self, index: int) -> bytes:
        chunk, offset = self._locate(index)
        return self._bytes[chunk][offset].as_py()

    def source(self, index: int) -> str:
        chunk, offset = self._locate(index)
        return f"{self.name}:{self._paths[chunk][offset].as_py() or index}"


def _parquet_class_names(schema: Any) -> list[str] | None:
    """Class names that the ``datasets`` library wrote into the file's schema."""
    raw = (schema.metadata or {}).get(b"huggingface")
    if raw is None:
        return None
    return json.loads(raw)["info"]["features"].get("label", {}).get("names")


def name_classes(names: Sequence[str], root: Path) -> tuple[ClassInfo, ...]:
    """Classes in label order; a ``classes.json`` beside the data gives readable names to WordNet ids.

    ``classes.json`` is a list of ``{"label": 0, "wnid": "n01443537", "name": "goldfish"}``.
    """
    for folder in (root, root.parent):
        file = folder / "classes.json"
        if not file.is_file():
            continue
        try:
            entries = json.loads(file.read_text())
            by_key = {entry["wnid"]: entry for entry in entries} | {str(entry["label"]): entry for entry in entries}
            matched = [by_key.get(name) for name in names]
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{file}: expected a list of label, wnid and name: {error!r}") from None
        return tuple(
            ClassInfo(index, entry["name"], entry["wnid"]) if entry else ClassInfo(index, name, _wnid(name))
            for index, (name, entry) in enumerate(zip(names, matched, strict=True))
        )
    return tuple(ClassInfo(index, name, _wnid(name)) for index, name in enumerate(names))


def _wnid(name: str) -> str | None:
    return name if len(name) == 9 and name[0] == "n" and name[1:].isdigit() else None


def open_dataset(path: str | Path, split: str) -> ImageDataset:
    """Opens one split of a dataset on disk.

    Args:
        path: a folder with ``train/`` and ``val/`` (or ``validation/``) of class folders; a folder of class
            folders; a folder of Parquet files named after their split (``train-00000-of-00008.parquet``);
            or one Parquet file.
        split: ``"train"`` or ``"val"``.

    Raises:
        DataError: there is nothing of the kind; the message says what was looked for and what is there.
    """
    root = Path(path)
    if not root.exists():
        raise DataError(f"{root}: no such file or folder")
    if root.is_file():
        return ParquetImages([root])
    names = SPLIT_NAMES[split]
    for name in names:
        if (root / name).is_dir():
            return ImageFolder(root / name)
        files = sorted(root.glob(f"{name}-*.parquet")) or sorted(root.glob(f"{name}.parquet"))
        if files:
            return ParquetImages(files)
    other = [name for key, group in SPLIT_NAMES.items() if key != split for name in group]
    if any((root / name).is_dir() or list(root.glob(f"{name}-*.parquet")) for name in other):
        raise DataError(f"{root}: no {split} split; looked for a folder or Parquet files named {', '.join(names)}")
    return ImageFolder(root)


def fingerprint(dataset: ImageDataset) -> str:
    """A digest that changes when the images, their order or their labels do (SHA-256 over a sample)."""
    digest = hashlib.sha256(dataset.labels.tobytes())
    for index in np.linspace(0, len(dataset) - 1, num=min(len(dataset), 256)).astype(int):
        digest.update(dataset.read(int(index)))
    return digest.hexdigest()
