"""Labelled image collections, read one encoded image at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from glob import has_magic
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np

from shvit.card import TaskName
from shvit.data.alignment import align
from shvit.data.classes import check_class_count, name_classes
from shvit.data.formats.coco import annotation_files, coco_images
from shvit.data.formats.files import ImageFiles, image_folder, subfolders
from shvit.data.formats.listing import listed_splits, lists_images, lists_several
from shvit.data.formats.patterns import expand_pattern, is_url
from shvit.data.layout import check_class_folders, split_folders
from shvit.data.protocol import ImageDataset
from shvit.data.splits import SPLIT_NAMES, by_split, split_and_rest, split_dataset
from shvit.data.targets import class_counts, for_task, task_of_labels
from shvit.errors import DataError, ImageError, MissingDependencyError
from shvit.install import install_command

__all__ = [
    "OpenedDatasets",
    "fingerprint",
    "name_classes",
    "open_dataset",
    "open_datasets",
    "short_path",
]


class OpenedDatasets(NamedTuple):
    """What to train on."""

    train: ImageDataset
    val: ImageDataset
    note: str | None
    """What to tell the user of a split that was made for them."""


Splits = dict[str, Callable[[], ImageDataset]]
"""How to open what was found: under ``train`` and ``val``, or all of it under ``""``."""


def open_dataset(
    path: str | Path, split: str, image_key: str | None = None, task: TaskName | None = None
) -> ImageDataset:
    """Opens one split of a dataset; all of it, where it is not divided into splits.

    Args:
        path: one of

            - a folder with ``train/`` and ``val/`` (or ``validation/``, ``valid/``, ``test/``) of class folders;
            - a folder of class folders;
            - Parquet files in the Hugging Face image layout: one, or a folder of them named after their split
              (``train-00000-of-00008.parquet``); a folder that ``datasets.save_to_disk`` wrote; ``hf://user/name``;
            - tar shards: one, a folder of them, a pattern (``data/train-{000..146}.tar``, ``data/*.tar``), or a
              URL or a pattern of URLs;
            - a CSV file with the columns ``path``, ``label`` (or ``labels``) and perhaps ``split``, or a folder with
              ``train.csv`` and ``val.csv``, or with ``labels.csv``;
            - COCO's annotations, ``instances_train2017.json``, or the folder that has them in ``annotations/``.
        split: ``"train"`` or ``"val"``.
        image_key: of tar shards with several images under one key: the extension of the one that is meant, such as
            ``jpg`` or ``left.jpg``; or several, with commas, of which each key has one.
        task: what the labels are for, as for ``for_task``.

    Raises:
        DataError: there is nothing of the kind; the message says what was looked for and what is there.
    """
    with _readable(path):
        images = _open(path, _find_splits(path, image_key), split)
        _check_image_key(images, image_key)
        return for_task(images, task)


def open_datasets(
    path: str | Path,
    seed: int = 0,
    val_share: float = 0.1,
    image_key: str | None = None,
    task: TaskName | None = None,
) -> OpenedDatasets:
    """Opens training and validation images; where there are no validation images, holds some out.

    Both have the classes of training; those of validation are found among them by name, and may be fewer.

    Args:
        path: as for ``open_dataset``.
        seed: decides which images are held out.
        val_share: share of each class that is held out, in (0, 1).
        image_key, task: as for ``open_dataset``.

    Raises:
        DataError: as ``open_dataset``; or a class has no training images, where a picture has one label.
    """
    with _readable(path):
        splits = _find_splits(path, image_key)
        train = _open(path, splits, "train")
        val = splits["val"]() if "val" in splits else None
        _check_image_key(train, image_key)
    chosen = task or task_of_labels(train)
    train, val = for_task(train, chosen), None if val is None else for_task(val, chosen)
    if chosen == "classification":
        _check_classes(train)
    if val is not None:
        return OpenedDatasets(train, align(train, val), None)
    train, val = split_dataset(train, val_share, seed)
    note = f"no validation split: {val_share * 100:.3g} % of each class held out ({len(val):,} images), seed {seed}"
    return OpenedDatasets(train, val, note)


def _check_classes(train: ImageDataset) -> None:
    """Raises: DataError: there is nothing to tell apart, or a class has no images."""
    check_class_count(train.classes, train.name)
    empty = np.flatnonzero(class_counts(train.labels, len(train.classes)) == 0)
    if len(empty):
        raise DataError(
            f"{train.name}: no training images of class {train.classes[empty[0]].label!r} ({len(empty)} such classes); "
            "add some, or leave the class out (numbered labels begin at 0)"
        )


def is_divided(path: str | Path, image_key: str | None = None) -> bool:
    """Whether a dataset has splits, or is one by its own name (``photos/val``).

    Raises:
        DataError: as ``open_dataset``.
    """
    with _readable(path):
        return split_and_rest(Path(path).name) is not None or "" not in _find_splits(path, image_key)


def is_listed(folder: Path) -> bool:
    """Whether a file in a folder lists the images there with their labels, or holds them itself."""
    return bool(annotation_files(folder) or _table_files(folder))


def short_path(name: str) -> str:
    """A path's last two parts: enough to know it by, and nothing of the rest of the machine."""
    return "/".join(Path(name).parts[-2:])


def fingerprint(dataset: ImageDataset) -> str:
    """A digest that changes when the images, their order or their labels do (SHA-256 over a sample)."""
    digest = hashlib.sha256(dataset.labels.tobytes())
    for index in np.linspace(0, len(dataset) - 1, num=min(len(dataset), 256)).astype(int):
        with suppress(ImageError):  # one that cannot be read is the loader's to report
            digest.update(dataset.read(int(index)))
    return digest.hexdigest()


def _open(path: str | Path, splits: Splits, split: str) -> ImageDataset:
    if "" in splits:
        return splits[""]()
    if split not in splits:
        looked_for = ", ".join(SPLIT_NAMES[split])
        raise DataError(f"{path}: no {split} split; looked for a folder, files or a split named {looked_for}")
    return splits[split]()


def _check_image_key(images: ImageDataset, image_key: str | None) -> None:
    if image_key is not None and not getattr(images, "takes_image_key", False):
        raise DataError(f"{images.name}: --image-key chooses among the images of tar shards; leave it out")


@contextmanager
def _readable(path: str | Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        remedy = "; give this user the right to read it" if isinstance(error, PermissionError) else ""
        raise DataError(f"{error.filename or path}: {error.strerror or error}{remedy}") from None


@contextmanager
def _pyarrow_wanted(name: str | Path, extra: str = "parquet") -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"{name}: Parquet files, tar shards and what `datasets` saves are read with {error.name}, which is not "
            f"installed; install it with: {install_command(extra)}"
        ) from None


def _find_splits(path: str | Path, image_key: str | None) -> Splits:
    text, root = str(path), Path(path)
    if text.startswith("hf://"):
        with _pyarrow_wanted(text, "datasets"):
            from shvit.data.formats.tables import hub_splits
        return _known(hub_splits(text), text)
    if is_url(text) or ((has_magic(text) or "{" in text) and not root.exists()):
        return _of_files(expand_pattern(text), image_key, chosen_by_user=True)
    if root.is_dir():
        return _in_folder(root, image_key)
    root.stat()  # nothing there, or no right to look: the system's own words
    return _of_files([text], image_key, chosen_by_user=True)


def _in_folder(root: Path, image_key: str | None) -> Splits:
    single, several = (root / "state.json").is_file(), (root / "dataset_dict.json").is_file()
    if single or several:
        with _pyarrow_wanted(root):
            from shvit.data.formats.tables import saved_images
        if single:
            return {"": partial(saved_images, root)}
        return _known({name: partial(saved_images, root / name) for name in subfolders(root)}, str(root))
    if files := annotation_files(root):
        return _of_files(files, image_key)
    if (listed := root / "labels.csv").is_file() and lists_several(listed):
        return _of_files([str(listed)], image_key)
    if splits := split_folders(root, subfolders(root)):
        return {split: partial(_open_split, root / name, image_key) for split, name in splits.items()}
    for folder in (root, root / "data"):
        if folder.is_dir() and (files := _table_files(folder)):
            return _of_files(files, image_key)
    return {"": partial(_class_folders, root)}


def _class_folders(root: Path, split: bool = False) -> ImageFiles:
    check_class_folders(root, split)
    return image_folder(root)


def _open_split(folder: Path, image_key: str | None) -> ImageDataset:
    files = annotation_files(folder) or _table_files(folder)
    return _of_files(files, image_key, chosen_by_user=True)[""]() if files else _class_folders(folder, split=True)


def _table_files(folder: Path) -> list[str]:
    """Parquet files, else tar shards, else CSV files; a CSV that is neither a split's nor a list of images is not."""
    files = sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    for suffix in FOUND_IN_FOLDERS:
        found = [str(file) for file in files if file.suffix.lower() == suffix]
        if suffix == ".csv" and not by_split(found, words=True):
            found = [name for name in found if lists_images(Path(name))]
        if found:
            return found
    return []


FOUND_IN_FOLDERS = (".parquet", ".tar", ".csv")
FILE_FORMATS = (*FOUND_IN_FOLDERS, ".json")


def _of_files(names: Sequence[str], image_key: str | None, chosen_by_user: bool = False) -> Splits:
    """Files of one format by their split; those that the user chose are one whole unless they are of two splits."""
    suffixes = {PurePosixPath(urlsplit(name).path if is_url(name) else name).suffix.lower() for name in names}
    suffix = suffixes.pop()
    if suffixes or suffix not in FILE_FORMATS:
        raise DataError(f"{names[0]}: expected a folder, or files of one of the formats {', '.join(FILE_FORMATS)}")
    groups = by_split(names, words=True)
    if not groups or (chosen_by_user and len(groups) == 1):
        groups = {"": list(names)}
    if suffix == ".csv":
        listed = listed_splits({Path(name): split for split, group in groups.items() for name in group})
        return _known({split: partial(_same, images) for split, images in listed.items()}, names[0])
    if suffix == ".json":
        return {split: partial(_annotated, group) for split, group in groups.items()}
    with _pyarrow_wanted(names[0]):
        from shvit.data.formats.shards import shard_images
        from shvit.data.formats.tables import parquet_images
    if suffix == ".tar":
        return {split: partial(shard_images, group, image_key) for split, group in groups.items()}
    return {split: partial(parquet_images, [Path(name) for name in group]) for split, group in groups.items()}


def _annotated(files: Sequence[str]) -> ImageFiles:
    if len(files) > 1:
        raise DataError(f"{files[0]}: one file of annotations for a split is expected, found {len(files)}; give one")
    return coco_images(Path(files[0]))


def _same(images: ImageFiles) -> ImageFiles:
    return images


def _known(found: Mapping[str, Callable[[], ImageDataset]], name: str) -> Splits:
    """Splits by the names that their maker gave them; a single one of another name is all there is."""
    splits = by_split(found)
    if splits:
        return {split: found[names[0]] for split, names in splits.items()}
    if len(found) != 1:
        raise DataError(f"{name}: expected splits named train and val, found {', '.join(found) or 'none'}")
    return {"": next(iter(found.values()))}
