"""COCO's annotations as labels: the categories of the objects in each picture."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from shvit.data.classes import name_classes
from shvit.data.formats.files import ImageFiles
from shvit.data.targets import multi_hot
from shvit.errors import DataError
from shvit.reading import read_text

MAX_BYTES = 2**30
"""Of a file; COCO's own of 118,000 images has 0.45 GiB."""

MAX_ENTRY = 16 * 2**20
"""Characters of one picture, object or category."""

MAX_PATH = 4096
"""Characters of a picture's path, as systems have them."""

MAX_CATEGORIES = 100_000

FORM = (
    "expected COCO's JSON: images with id and file_name, annotations with image_id and category_id, categories with id "
    "and name"
)

LISTS = ("images", "annotations", "categories")

_WINDOW = 8192
"""Characters that are looked at first to read one entry."""

_SPACE = re.compile(r"[ \t\n\r]*")

_DECODER = json.JSONDecoder()


def annotation_files(folder: Path) -> list[str]:
    """``annotations/instances_*.json``, ``instances_*.json`` or ``_annotations.coco.json`` in a folder."""
    for pattern in ("annotations/instances_*.json", "instances_*.json", "_annotations.coco.json"):
        if found := sorted(str(each) for each in folder.glob(pattern) if each.is_file()):
            return found
    return []


def coco_images(file: Path) -> ImageFiles:
    """The pictures of one file of annotations, each with the categories of its objects.

    Pictures without objects have no label; one that is listed twice has the objects of both. Categories are classes in
    the order of their numbers, with or without objects. Objects that stand for a crowd count.

    Raises:
        DataError: it is no such file, an entry is damaged, or an object is of a picture or category that is not listed.
        OSError: it cannot be read.
    """
    places: dict[int, int] = {}
    found: dict[str, int] = {}
    categories: dict[int, str] = {}
    objects: set[tuple[int, int]] = set()
    try:
        for key, place, entry in _entries(read_text(file, MAX_BYTES)):
            if key == "images":
                number, path = _number(entry, "id"), entry["file_name"]
                if not isinstance(path, str) or not 0 < len(path) <= MAX_PATH or "\0" in path or number in places:
                    raise ValueError(
                        f"images[{place}]: no file_name of 1 to {MAX_PATH:,} characters, or an id that an earlier one "
                        "has"
                    )
                os.fsencode(path)  # JSON can write halves of characters, which no file is called by
                places[number] = found.setdefault(path, len(found))
            elif key == "annotations":
                objects.add((_number(entry, "image_id"), _number(entry, "category_id")))
            else:
                number, name = _number(entry, "id"), entry["name"]
                if not isinstance(name, str) or not name.strip() or number in categories:
                    raise ValueError(f"categories[{place}]: no name, or an id that an earlier one has")
                categories[number] = name.strip()
                if len(categories) > MAX_CATEGORIES:
                    raise ValueError(f"more than {MAX_CATEGORIES:,} categories")
    except UnicodeDecodeError:
        raise DataError(f"{file}: is not UTF-8 text; {FORM}") from None
    except UnicodeEncodeError as error:
        raise DataError(f"{file}: file_name {error.object[:80]!r} has half of a character; {FORM}") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)[:200] or type(error).__name__
        raise DataError(f"{file}: {reason}; {FORM}") from None
    return _labelled(file, places, list(found), categories, objects)


def _labelled(
    file: Path, places: dict[int, int], paths: list[str], categories: dict[int, str], objects: set[tuple[int, int]]
) -> ImageFiles:
    if not paths or not categories:
        raise DataError(f"{file}: lists no {'images' if not paths else 'categories'}; {FORM}")
    numbers = sorted(categories)
    names = [categories[each] for each in numbers]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{file}: names category {twice!r} twice; give each its own name")
    class_ids = {number: place for place, number in enumerate(numbers)}
    for image, category in objects:
        if image not in places or category not in categories:
            what = f"image_id {image}" if image not in places else f"category_id {category}"
            raise DataError(f"{file}: an annotation has {what}, which is not listed; add it, or leave the object out")
    found = np.array([(places[image], class_ids[category]) for image, category in objects], np.int64).reshape(-1, 2)
    labels = multi_hot(found[:, 0], found[:, 1], len(paths), len(names), str(file))
    root = _pictures(file, paths)
    return ImageFiles(str(file), root, paths, labels, name_classes(names, file.parent))


def _pictures(file: Path, paths: list[str]) -> Path:
    """The folder that the files' names are relative to: named like the annotations, or the one that they lie in."""
    called = file.stem.partition("_")[2] or file.stem
    beside = (file.parent, file.parent.parent)
    folders = [parent / name for parent in beside for name in (called, f"images/{called}", "images", ".")]
    # A path that is absolute is the same in every folder.
    relative = [path for path in paths if not Path(path).is_absolute()][:100]
    if not relative:
        return file.parent
    for folder in folders:
        if any(os.path.isfile(folder / path) for path in relative):  # noqa: PTH113 - Path raises for names too long
            return folder
    raise DataError(
        f"{file}: {relative[0]} is neither in {folders[0]} nor in {folders[4]}, nor beside it; put the pictures into "
        "one of these"
    )


def _number(entry: Any, key: str) -> int:
    value = entry[key]
    if type(value) is not int:
        raise ValueError(f"{key}: expected a whole number, got {str(value)[:40]!r}")
    return value


def _entries(text: str) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """The entries of the three lists, one at a time: their outlines would take many times the memory of the text.

    Raises:
        ValueError: it is not such JSON.
    """
    at = _after(text, 0, "{")
    seen = set()
    while True:
        key, at = _value(text, at)
        at = _after(text, at, ":")
        if key not in LISTS or text[at : at + 1] != "[":
            _, at = _value(text, at)
        else:
            seen.add(key)
            at = _after(text, at, "[")
            place = 0
            while text[at : at + 1] != "]":
                entry, at = _value(text, at)
                if not isinstance(entry, dict):
                    raise ValueError(f"{key}[{place}]: expected an object")
                yield key, place, entry
                place, at = place + 1, _skip(text, at)
                if text[at : at + 1] == ",":
                    at = _skip(text, at + 1)
                elif text[at : at + 1] != "]":
                    raise ValueError(f"{key}[{place}]: expected a comma, or the list's end")
            at = _skip(text, at + 1)
        at = _skip(text, at)
        if text[at : at + 1] == "}":
            break
        at = _after(text, at, ",")
    if missing := [key for key in LISTS if key not in seen]:
        raise ValueError(f"no list {missing[0]!r}")


def _value(text: str, at: int) -> tuple[Any, int]:
    """A value that begins here, and where it ends."""
    at, window = _skip(text, at), _WINDOW
    while True:
        part = text[at : at + window]
        try:
            value, length = _DECODER.raw_decode(part)
        except json.JSONDecodeError as error:
            if at + window >= len(text):
                raise ValueError(f"not JSON at character {at + error.pos:,}") from None
            if window >= MAX_ENTRY:
                raise ValueError(f"not JSON, or an entry of more than {MAX_ENTRY:,} characters") from None
            window = min(16 * window, MAX_ENTRY)
            continue
        # A number may go on behind the window.
        if length < len(part) or at + window >= len(text):
            return value, at + length
        window = min(16 * window, MAX_ENTRY)


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None
    return match.end()


def _after(text: str, at: int, sign: str) -> int:
    at = _skip(text, at)
    if text[at : at + 1] != sign:
        raise ValueError(f"not JSON at character {at:,}: expected {sign!r}")
    return _skip(text, at + 1)
