"""Images that are files: class folders, and whatever else lists paths."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from shvit.data.classes import name_classes
from shvit.errors import DataError
from shvit.media.sources import is_image
from shvit.runtime.card import ClassInfo
from shvit.runtime.encoded import read_encoded


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
