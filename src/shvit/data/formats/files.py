"""Images that are files: class folders, and whatever else lists paths."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from shvit.data.classes import name_classes
from shvit.errors import DataError, ImageError
from shvit.media.sources import IMAGE_EXTENSIONS
from shvit.runtime.card import ClassInfo

MAX_IMAGE_BYTES = 256 * 2**20
"""Encoded images of more bytes are refused before they are read."""


def is_image(name: str) -> bool:
    """Whether a file of this name is taken for an image; hidden files never are."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS  # noqa: PTH122 - 4× faster


def read_encoded(file: str | Path, source: str, offset: int = 0, size: int | None = None) -> bytes:
    """The bytes of one encoded image: a whole file, or part of one.

    Raises:
        ImageError: they cannot be read, are not all there, or are more than ``MAX_IMAGE_BYTES``.
    """
    try:
        with open(file, "rb") as stream:  # noqa: PTH123 - the path is a string where there are many
            if size is None:
                size = os.fstat(stream.fileno()).st_size
            if size > MAX_IMAGE_BYTES:
                raise ImageError(f"{source}: {size:,} bytes, at most {MAX_IMAGE_BYTES:,} are accepted")
            stream.seek(offset)
            data = stream.read(size)
    except OSError as error:
        raise ImageError(f"{source}: {error.strerror or error}") from None
    if len(data) != size:
        raise ImageError(f"{source}: {len(data):,} of {size:,} bytes are there; the file was cut short")
    return data


class ImageFiles:
    """Image files under one folder.

    Args:
        name: what messages call the dataset.
        root: folder that the paths are relative to.
        paths: one for each image.
        labels: ``int64 (N,)``.
    """

    def __init__(
        self, name: str, root: Path, paths: Sequence[str], labels: np.ndarray, classes: tuple[ClassInfo, ...]
    ) -> None:
        self.name, self.labels, self.classes = name, labels, classes
        self._root = str(root)
        # One buffer for all: a Python object each would cost 100 MB for a million, in every worker process.
        self._paths = pa.array([os.fsencode(path) for path in paths], pa.large_binary())

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> bytes:
        source = self.source(index)
        return read_encoded(source, source)

    def source(self, index: int) -> str:
        return os.path.join(self._root, os.fsdecode(self._paths[index].as_py()))  # noqa: PTH118 - read() is hot


def image_folder(root: Path) -> ImageFiles:
    """One sub-folder for each class, as torchvision and timm lay them out; images may lie deeper.

    Raises:
        DataError: there are no class folders, or one of them has no images.
        OSError: a folder cannot be read.
    """
    folders = subfolders(root)
    if not folders:
        raise DataError(f"{root}: expected one sub-folder for each class, found none")
    paths: list[str] = []
    labels: list[np.ndarray] = []
    for label, folder in enumerate(folders):
        found = _images_below(root / folder)
        if not found:
            raise DataError(f"{root / folder}: no images in the folder of class {folder!r}; add some or remove it")
        paths += (f"{folder}{os.sep}{path}" for path in found)
        labels.append(np.full(len(found), label, dtype=np.int64))
    return ImageFiles(str(root), root, paths, np.concatenate(labels), name_classes(folders, root))


def subfolders(root: Path) -> list[str]:
    """Names of the folders in a folder, sorted; hidden ones are left out."""
    with os.scandir(root) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())


def _images_below(folder: Path) -> list[str]:
    """Paths relative to ``folder``, in an order of their own; links to folders are not followed."""

    def refuse(error: OSError) -> None:
        raise error

    found: list[str] = []
    for current, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = os.path.relpath(current, folder)
        found += (name if below == "." else f"{below}{os.sep}{name}" for name in sorted(files) if is_image(name))
    return found
