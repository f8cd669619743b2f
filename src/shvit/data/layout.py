"""Which folders of a dataset are its splits and which its classes; what is neither is refused with the way to go on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from shvit.data.classes import are_listed
from shvit.data.formats.files import is_data, subfolders
from shvit.data.splits import by_split, split_and_rest
from shvit.errors import DataError
from shvit.images.sources import is_folder, is_image

MAX_DEPTH = 8
"""Folders in folders that are gone down to find where a dataset begins."""


def split_folders(root: Path, folders: Sequence[str]) -> dict[str, str]:
    """The folder of each split, under ``train`` and ``val``; nothing where the folders are classes.

    A class may be called like a split: a train is also a vehicle.

    Args:
        folders: names of all the folders in ``root``.

    Raises:
        DataError: two folders are called like the same split, or it cannot be told whether a folder is a split or a
            class.
    """
    if are_listed(root, folders):
        return {}
    found = by_split(folders) or _common_rest(root, folders)
    if not found:
        return {}
    called = [name for names in found.values() for name in names]
    others = [
        name
        for name in folders
        if name not in called and (split_and_rest(name) or ("", "-"))[1] and _holds_images(root / name)
    ]
    flat = all(_inner(root / name) is None for name in called)
    if others and flat:
        return {}
    if others and len(found) == 1:
        raise DataError(
            f"{root}: {called[0]}/ is called like a split, but {others[0]}/ beside it is not; to take the images of "
            f"{called[0]}/ alone, give {root / called[0]}; if they are all classes, list them in "
            f"{root / 'classes.txt'}, one a line"
        )
    for split, names in found.items():
        if len(names) > 1:
            raise DataError(f"{root}: {_named(names)} are all called like the {split} split; rename or move the others")
    return {split: names[0] for split, names in found.items()}


def check_class_folders(root: Path, split: bool = False) -> None:
    """Refuses folders that are no classes: whole datasets, splits, folds, or one folder around them.

    Args:
        split: ``root`` is the folder of a split, which itself was chosen among others.

    Raises:
        DataError: what is there instead; the message says what to give or to do.
    """
    folders = subfolders(root)
    if are_listed(root, folders):
        return
    inner = {name: found for name in folders if (found := _inner(root / name))}
    datasets = {name: found for name, found in inner.items() if _are_splits(found)}
    if datasets:
        name, splits = next(iter(datasets.items()))
        if any(_inner(root / name / each) for each in splits):
            others = f" (or {_named(list(datasets)[1:])})" if len(datasets) > 1 else ""
            raise DataError(
                f"{root}: {name}/ is no class but a dataset: it holds {_named(splits)}; did you mean "
                f"{root / name}{others}?"
            )
        raise DataError(
            f"{root}: {name}/ holds {_named(splits)}, so it has splits inside classes; expected classes inside splits, "
            f"such as {splits[0]}/{name}/: move them, or list all in a CSV file with the columns path, label and split"
        )
    if len(folders) == 1 and (place := _beginning(root / folders[0])):
        if split:
            raise DataError(
                f"{root}: holds one folder, {folders[0]}/, with folders in it; if those are the classes, move them up, "
                f"so that they lie in {root}"
            )
        raise DataError(f"{root}: holds one folder, {folders[0]}/; did you mean {place}?")
    if len(folders) > 1 and len(inner) == len(folders):
        shared = set.intersection(*map(set, inner.values()))
        if len(shared) > 1 and 2 * len(shared) >= len(set.union(*map(set, inner.values()))):
            raise DataError(
                f"{root}: its folders {_named(folders)} all hold the same folders, {_named(sorted(shared))}, so they "
                f"look like parts of a dataset; to take one, give {root / folders[0]}; if {_named(folders)} are the "
                f"classes, list them in {root / 'classes.txt'}, one a line"
            )


def _common_rest(root: Path, folders: Sequence[str]) -> dict[str, list[str]]:
    """Splits that are called ``seg_train`` and ``seg_test``."""
    parts = {name: found for name in folders if (found := split_and_rest(name))}
    rests: dict[str, dict[str, list[str]]] = {}
    for rest in {rest for _, rest in parts.values() if rest}:
        own = {called: name for name, (called, its) in parts.items() if its == rest}
        splits = {split: [own[called[0]]] for split, called in by_split(own).items()}
        if len(splits) == 2:
            rests[rest] = splits
    if len(rests) > 1:
        raise DataError(
            f"{root}: its folders, such as {_named(list(parts))}, name class and split at once; make a folder for each "
            "split with a folder for each class in it, or a CSV file with the columns path, label and split"
        )
    return next(iter(rests.values()), {})


def _are_splits(folders: Sequence[str]) -> bool:
    return len(by_split(folders)) == 2 or all((split_and_rest(name) or ("", "-"))[1] == "" for name in folders)


def _beginning(folder: Path) -> Path | None:
    """The first folder from here down that has several folders in it, each deeper one being alone."""
    for _ in range(MAX_DEPTH):
        inner = _inner(folder)
        if not inner:
            return None
        if len(inner) > 1 or _are_splits(inner):
            return folder
        folder /= inner[0]
    return None


def _inner(folder: Path) -> list[str] | None:
    """The folders in a folder; ``None`` where images lie directly in it."""
    with os.scandir(folder) as entries:
        found = list(entries)
    if any(is_image(entry.name) and not is_folder(entry) for entry in found):
        return None
    return sorted(entry.name for entry in found if is_data(entry.name) and is_folder(entry))


def _holds_images(folder: Path) -> bool:
    return any(is_image(name) for _, _, files in os.walk(folder) for name in files)


def _named(names: Sequence[str]) -> str:
    shown = [f"{name}/" for name in names[:4]] + (["..."] if len(names) > 4 else [])
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}".replace(" and ...", ", ...")
