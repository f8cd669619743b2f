"""Images that are files: class folders, and whatever else lists paths."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from shvit.card import ClassInfo
from shvit.data.classes import name_classes
from shvit.data.unread import OUTSIDE, REPEATED_LINK, describe_unread, is_unread_picture
from shvit.errors import DataError
from shvit.images.encoded import read_encoded
from shvit.images.sources import is_folder, is_image, kind_of_other

NOT_DATA = frozenset(
    {"__MACOSX", "__pycache__", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information"}
    | {"Thumbs.db", "desktop.ini"}
)
"""What operating systems and unpackers leave in folders; hidden files and folders are passed over too."""


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
        self.left_out = Counter[str]()
        """Files among them that are not read, by suffix or by what they are."""
        self._root = str(root)
        # One buffer for all: a Python object each would cost 100 MB for a million, in every worker process.
        encoded = [os.fsencode(path) for path in paths]
        self._paths = b"".join(encoded)
        self._starts = np.cumsum([0, *map(len, encoded)], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> bytes:
        source = self.source(index)
        return read_encoded(source, source)

    def source(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(index)
        path = self._paths[self._starts[index] : self._starts[index + 1]]
        return os.path.join(self._root, os.fsdecode(path))  # noqa: PTH118 - read() is hot


def image_folder(root: Path) -> ImageFiles:
    """One sub-folder for each class, as torchvision and timm lay them out; images may lie deeper.

    Links to folders are followed, each folder once in a class; ``left_out`` counts what is not read. An empty folder
    is a class without images.

    Raises:
        DataError: there are no class folders, none of them has images, one has only files that are not read, or is a
            link to a folder above.
        OSError: a folder cannot be read.
    """
    folders = subfolders(root)
    if not folders:
        raise DataError(f"{root}: expected one sub-folder for each class, found none")
    paths: list[str] = []
    labels: list[np.ndarray] = []
    left_out = Counter[str]()
    for label, folder in enumerate(folders):
        if _within(os.path.realpath(root), os.path.realpath(root / folder)):
            raise DataError(f"{root / folder}: is a link to a folder that it lies in; remove it")
        others = Counter[str]()
        found = _images_below(root / folder, others)
        if others and not found:
            raise DataError(
                f"{root / folder}: no images in the folder of class {folder!r} ({describe_unread(others)}); add some "
                "or remove it"
            )
        paths += (f"{folder}{os.sep}{path}" for path in found)
        labels.append(np.full(len(found), label, dtype=np.int64))
        left_out += others
    if not paths:
        raise DataError(f"{root}: no images in the folders of its classes, such as {folders[0]!r}; add some")
    with os.scandir(root) as entries:
        files = [entry.name for entry in entries if not is_folder(entry)]
    left_out[OUTSIDE] += sum(is_image(name) or is_unread_picture(name) for name in files if not name.startswith("."))
    images = ImageFiles(str(root), root, paths, np.concatenate(labels), name_classes(folders, root))
    images.left_out = +left_out
    return images


def subfolders(root: Path) -> list[str]:
    """Names of the folders in a folder, sorted; hidden ones and what systems put there are left out.

    Raises:
        DataError: a link is to nothing, so that a class or a split may be missing.
        OSError: the folder cannot be read.
    """
    found = []
    with os.scandir(root) as entries:
        for entry in entries:
            if not is_data(entry.name):
                continue
            if is_folder(entry):
                found.append(entry.name)
            elif entry.is_symlink() and not is_image(entry.name) and not os.path.exists(entry.path):  # noqa: PTH110
                raise DataError(
                    f"{entry.path}: is a link to {os.readlink(entry.path)}, where there is nothing; "  # noqa: PTH115
                    "mend it or remove it"
                )
    return sorted(found)


def is_data(folder: str) -> bool:
    """Whether a folder of this name is taken for part of a dataset."""
    return not folder.startswith(".") and folder not in NOT_DATA


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _images_below(folder: Path, others: Counter[str]) -> list[str]:
    """Paths relative to ``folder``, in an order of their own; counts in ``others`` what is not read."""

    def refuse(error: OSError) -> None:
        raise error

    found: list[str] = []
    trees = [os.path.realpath(folder)]  # real folders that are gone through, each with all below it
    for current, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        folders[:] = sorted(name for name in folders if is_data(name))
        for name in [name for name in folders if os.path.islink(f"{current}{os.sep}{name}")]:  # noqa: PTH114
            target = os.path.realpath(f"{current}{os.sep}{name}")
            if any(_within(target, tree) or _within(tree, target) for tree in trees):
                folders.remove(name)  # a loop, or what is read anyway
                others[REPEATED_LINK] += 1
            else:
                trees.append(target)
        below = os.path.relpath(current, folder)
        for name in sorted(files):
            if is_image(name):
                found.append(name if below == "." else f"{below}{os.sep}{name}")
            elif not name.startswith(".") and name not in NOT_DATA:
                others[kind_of_other(Path(current, name))] += 1
    return found
