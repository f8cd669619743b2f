"""CSV files that list paths and labels."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np

from shvit.data.classes import encode_label_sets, encode_labels
from shvit.data.formats.files import ImageFiles
from shvit.data.splits import SPLIT_NAMES
from shvit.errors import DataError
from shvit.reading import check_utf8, open_table

PATHS = ("path", "file", "file_name", "filename", "image")
"""What the column of paths may be called; the first is what messages say."""

LABEL, LABELS = "label", ("labels", "tags", "classes")
"""What the column of labels may be called; by one of ``LABELS`` a picture has any number of them."""

BETWEEN_LABELS = "|"

SEPARATORS = ",;\t"

FORM = (
    "expected a first line path,label or path,label,split, then one line for each image (separators may be commas, "
    "semicolons or tabs); where a picture has any number of labels path,labels, then for example a.jpg,cat|dog"
)

KNOWN_SPLITS = frozenset({"", *chain(*SPLIT_NAMES.values())})


class Row(NamedTuple):
    """One line of a CSV file."""

    path: str
    """Relative to the file's folder, or absolute."""
    labels: tuple[str, ...]
    """One, or any number where the list says so."""
    split: str
    """In lower case; empty where the line names none."""
    line: int


class Listed(NamedTuple):
    """What a CSV file lists."""

    rows: list[Row]
    several: bool
    """Whether a picture has any number of labels: the column is called so, or one has several."""


def read_rows(file: Path, unlabelled: bool = False) -> Listed:
    """The lines of a CSV file with columns for paths, labels and perhaps ``split``; others are ignored.

    Args:
        unlabelled: a line may have no label, also where a picture has just one.

    Raises:
        DataError: a column or a value is missing; the message says in which line.
    """
    rows: list[Row] = []
    without_label = 0
    try:
        with open_table(file) as stream:
            reader = csv.reader(stream, delimiter=_separator(stream))
            header = _header(reader)
            path, label = _column(header, PATHS), _column(header, (LABEL, *LABELS))
            if path is None or label is None:
                missing = PATHS[0] if path is None else LABEL
                raise DataError(f"{file}: no column {missing!r} in its first line; {FORM}")
            several = header[label] in LABELS
            split = header.index("split") if "split" in header else None
            for fields in reader:
                if not fields:
                    continue
                line = reader.line_num
                if len(fields) != len(header) or not _is_path(fields[path]):
                    raise DataError(_incomplete(file, line))
                check_utf8(fields[label])
                labels = tuple(each for part in fields[label].split(BETWEEN_LABELS) if (each := part.strip()))
                several |= BETWEEN_LABELS in fields[label]
                without_label = without_label or (0 if labels else line)
                named = fields[split].strip().lower() if split is not None else ""
                if named not in KNOWN_SPLITS:
                    raise DataError(f"{file}, line {line}: split {named!r} is not known; expected train, val or test")
                rows.append(Row(fields[path], labels, named, line))
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read as CSV in UTF-8: {error}; {FORM}") from None
    if not rows:
        raise DataError(f"{file}: lists no images; {FORM}")
    if without_label and not several and not unlabelled:
        raise DataError(_incomplete(file, without_label))
    return Listed(rows, several)


def _incomplete(file: Path, line: int) -> str:
    return f"{file}, line {line}: no path or no label, or too many fields; {FORM}"


def listed_splits(files: Mapping[Path, str]) -> dict[str, ImageFiles]:
    """The images that CSV files of one folder list, with one set of classes over all of them.

    Args:
        files: each with the split of those lines that name none.

    Returns:
        The images of each split, by its name.
    """
    lists = {file: read_rows(file) for file in files}
    rows = [(file, row) for file, listed in lists.items() for row in listed.rows]
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

    sets = [row.labels for _, row in rows]
    if any(listed.several for listed in lists.values()):
        first: dict[str, int] = {}
        for index, (_, row) in enumerate(rows):
            earlier = first.setdefault(row.path, index)
            if set(row.labels) != set(sets[earlier]):
                raise DataError(
                    f"{where(index)}: {row.path} has other labels than in line {rows[earlier][1].line}; give all of an "
                    f"image's labels in one line, such as {row.path},cat{BETWEEN_LABELS}dog"
                )
        labels, classes = encode_label_sets(sets, root, where, str(rows[0][0]))
    else:
        labels, classes = encode_labels([label for (label,) in sets], root, where)
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
            header = _header(csv.reader(stream, delimiter=_separator(stream)))
    except (csv.Error, UnicodeDecodeError):
        return False
    # Other tables have such columns too: by their other names only a file that is called so is such a list.
    any_name = file.stem.lower() == "labels"
    return (
        _column(header, PATHS if any_name else PATHS[:1]) is not None and _column(header, (LABEL, *LABELS)) is not None
    )


def lists_several(file: Path) -> bool:
    """Whether a CSV file's first line says that pictures have any number of labels."""
    try:
        with open_table(file) as stream:
            header = _header(csv.reader(stream, delimiter=_separator(stream)))
    except (csv.Error, UnicodeDecodeError):
        return False
    return _column(header, PATHS) is not None and _column(header, LABELS) is not None


def _separator(table: TextIO) -> str:
    """What separates the columns, by the first line; the table is left at its beginning."""
    first = table.readline()
    table.seek(0)
    for separator in SEPARATORS:
        header = _header(csv.reader([first], delimiter=separator))
        if _column(header, PATHS) is not None and _column(header, (LABEL, *LABELS)) is not None:
            return separator
    return SEPARATORS[0]


def _column(header: Sequence[str], names: Sequence[str]) -> int | None:
    """The place of the first of the names that there is."""
    return next((header.index(name) for name in names if name in header), None)


def _header(reader: Iterator[list[str]]) -> list[str]:
    return [name.strip().lower() for name in next(reader, [])]


def _is_path(text: str) -> bool:
    return text != "" and "\0" not in text
