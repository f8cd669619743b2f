"""CSV files that list paths and labels."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from shvit.data.classes import encode_labels
from shvit.data.formats.files import ImageFiles
from shvit.data.splits import SPLIT_NAMES
from shvit.errors import DataError
from shvit.reading import check_utf8, find_separator, open_table

COLUMNS = ("path", "label")

FORM = (
    "expected a first line path,label or path,label,split, then one line for each image (separators may be commas, "
    "semicolons or tabs)"
)

KNOWN_SPLITS = frozenset({"", *chain(*SPLIT_NAMES.values())})


class Row(NamedTuple):
    """One line of a CSV file."""

    path: str
    """Relative to the file's folder, or absolute."""
    label: str
    split: str
    """In lower case; empty where the line names none."""
    line: int


def read_rows(file: Path) -> list[Row]:
    """The lines of a CSV file with the columns ``path``, ``label`` and perhaps ``split``; others are ignored.

    Raises:
        DataError: a column or a value is missing; the message says in which line.
    """
    rows: list[Row] = []
    try:
        with open_table(file) as stream:
            reader = csv.reader(stream, delimiter=find_separator(stream, COLUMNS))
            header = _header(reader)
            if missing := [name for name in COLUMNS if name not in header]:
                raise DataError(f"{file}: no column {missing[0]!r} in its first line; {FORM}")
            path, label = header.index("path"), header.index("label")
            split = header.index("split") if "split" in header else None
            for fields in reader:
                if not fields:
                    continue
                if len(fields) != len(header) or not _is_path(fields[path]) or not fields[label].strip():
                    raise DataError(f"{file}, line {reader.line_num}: no path or no label, or too many fields; {FORM}")
                check_utf8(fields[label])
                named = fields[split].strip().lower() if split is not None else ""
                if named not in KNOWN_SPLITS:
                    raise DataError(
                        f"{file}, line {reader.line_num}: split {named!r} is not known; expected train, val or test"
                    )
                rows.append(Row(fields[path], fields[label].strip(), named, reader.line_num))
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read as CSV in UTF-8: {error}; {FORM}") from None
    if not rows:
        raise DataError(f"{file}: lists no images; {FORM}")
    return rows


def listed_splits(files: Mapping[Path, str]) -> dict[str, ImageFiles]:
    """The images that CSV files of one folder list, with one set of classes over all of them.

    Args:
        files: each with the split of those lines that name none.

    Returns:
        The images of each split, by its name.
    """
    rows = [(file, row) for file in files for row in read_rows(file)]
    splits = np.array([row.split or files[file] for file, row in rows])
    if (splits == "").any() and not (splits == "").all():
        file, row = rows[int(np.flatnonzero(splits == "")[0])]
        raise DataError(f"{file}, line {row.line}: no split, but other lines have one; fill it in")
    root = rows[0][0].parent
    if not any((root / row.path).is_file() for _, row in rows[:100]):
        raise DataError(f"{root / rows[0][1].path}: no such file; paths in {rows[0][0]} are relative to its folder")

    def where(index: int) -> str:
        file, row = rows[index]
        return f"{file}, line {row.line}"

    labels, classes = encode_labels([row.label for _, row in rows], root, where)
    found = {}
    for split in dict.fromkeys(splits.tolist()):
        chosen = np.flatnonzero(splits == split)
        paths = [rows[index][1].path for index in chosen]
        files_of_split = dict.fromkeys(rows[index][0] for index in chosen)
        name = str(next(iter(files_of_split))) if len(files_of_split) == 1 else str(root)
        found[split] = ImageFiles(f"{name} ({split})" if split else name, root, paths, labels[chosen], classes)
    return found


def lists_images(file: Path) -> bool:
    """Whether a CSV file's first line has the columns of such a list."""
    try:
        with open_table(file) as stream:
            return set(COLUMNS) <= set(_header(csv.reader(stream, delimiter=find_separator(stream, COLUMNS))))
    except (csv.Error, UnicodeDecodeError):
        return False


def _header(reader: Iterator[list[str]]) -> list[str]:
    return [name.strip().lower() for name in next(reader, [])]


def _is_path(text: str) -> bool:
    return text != "" and "\0" not in text
