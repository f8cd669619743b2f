"""Pictures moved between class folders by a table that a person has looked through; nothing is ever deleted."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from shvit.atomic import find_target, json_bytes, shorten, write_bytes
from shvit.data.formats.files import is_data, subfolders
from shvit.errors import ArgumentError, DataError
from shvit.reading import find_separator, open_table, read_regular

COLUMNS = ("source", "action", "from", "to")
"""That a table has; others are ignored."""

KEEP, MOVE, SET_ASIDE = "keep", "move", "set aside"
ACTIONS = (KEEP, MOVE, SET_ASIDE)

ASIDE = ".set-aside"
"""Folder in the dataset's for what is set aside: hidden, so that no command reads it."""

MAX_LINES = 1_000_000
"""Of a table, and of an undo file."""

_UNDO_BYTES = 512 * 2**20
_UNDO_FORMAT = "shvit data apply, undo"


@dataclass(frozen=True)
class Change:
    """One line of a table."""

    line: int
    source: str
    action: str
    label: str
    """The class whose folder the picture is to lie in."""
    to: str
    """The class whose folder it is moved to; empty for other actions."""


@dataclass(frozen=True)
class Move:
    """A file's way, relative to the dataset's folder."""

    source: str
    target: str


@dataclass(frozen=True)
class Plan:
    """What a table comes to."""

    moves: tuple[Move, ...]
    kept: int
    """Lines that leave their picture where it is."""
    refused: tuple[str, ...]
    """Lines that cannot be done, each with its number and the reason."""


def read_changes(path: Path) -> list[Change]:
    """The lines of a table.

    Raises:
        DataError: it cannot be read, a column is missing, a line has an action that is not known, or there are more
            than ``MAX_LINES``.
    """
    changes: list[Change] = []
    try:
        with open_table(path) as stream:
            reader = csv.DictReader(stream, delimiter=find_separator(stream, COLUMNS))
            reader.fieldnames = [each.strip().lower() for each in reader.fieldnames or ()]
            if missing := [each for each in COLUMNS if each not in reader.fieldnames]:
                raise DataError(
                    f"{path}: no column {missing[0]!r} in its first line; expected {','.join(COLUMNS)}, as shvit "
                    "similar writes them"
                )
            for row in reader:
                if len(changes) == MAX_LINES:
                    raise DataError(f"{path}: more than {MAX_LINES:,} lines; split it")
                changes.append(_change(path, reader.line_num, row))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: is no table: {error}") from None
    return changes


def _change(path: Path, line: int, row: dict[str, str | None]) -> Change:
    source, action, label, to = (_unescaped(row[name] or "") for name in COLUMNS)
    action = " ".join(action.lower().replace("-", " ").replace("_", " ").split())
    if action not in ACTIONS:
        raise DataError(f"{path}, line {line}: action {action!r}; expected {', '.join(ACTIONS[:-1])} or {ACTIONS[-1]}")
    return Change(line, source, action, label, to)


def _unescaped(text: str) -> str:
    """Without the ``'`` that keeps a spreadsheet from taking a text for a formula."""
    return text[1:] if text[:2] in ("'=", "'+", "'-", "'@", "'\t") else text


def plan_changes(changes: Sequence[Change], root: Path) -> Plan:
    """What is to be moved where, without touching anything; names that are taken already get a number.

    Args:
        root: the dataset's folder, with a folder for each class, or for each split and in these for each class.

    Raises:
        DataError: there is no such folder.
    """
    if not root.is_dir():
        raise DataError(f"{root}: is no folder; expected the one with the class folders")
    moves: list[Move] = []
    refused: list[str] = []
    taken: set[str] = set()
    kept = 0
    for change in changes:
        if change.action == KEEP:
            kept += 1
            continue
        try:
            moves.append(_planned(change, root, taken))
        except (DataError, OSError) as error:  # the system's: a name that is too long, a folder that is not to be read
            refused.append(f"line {change.line}: {_reason(error)}")
    repeated = {name for name, times in Counter(each.source for each in moves).items() if times > 1}
    refused += [f"{name}: is in several lines that move it; keep one of them" for name in sorted(repeated)]
    return Plan(tuple(each for each in moves if each.source not in repeated), kept, tuple(refused))


def _planned(change: Change, root: Path, taken: set[str]) -> Move:
    """Raises: DataError: it cannot be done."""
    inside = _inside(change.source, root)
    if not (root / inside).is_file():
        raise DataError(f"{change.source}: is not there; moved or renamed since the table was made")
    parts = inside.parts
    if change.action == SET_ASIDE:
        target = Path(ASIDE) / inside
    else:
        if change.label not in parts[:-1]:
            raise DataError(f"{change.source}: does not lie in the folder of class {change.label!r}")
        depth = parts.index(change.label)
        _check_class(change.to, root.joinpath(*parts[:depth]))
        target = Path(*parts[:depth], change.to, *parts[depth + 1 :])
    _check_inside(target.parent, root)
    return Move(str(inside), _free(root, target, taken))


def _reason(error: DataError | OSError) -> str:
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror or error}"
    return str(error)


def _inside(source: str, root: Path) -> Path:
    """A file's name relative to ``root``, both without links.

    Raises:
        DataError: it lies elsewhere, or is a link.
    """
    try:
        if b"\0" in os.fsencode(source):
            raise ValueError
        folder = os.path.realpath(Path(source).parent)
        inside = Path(folder, Path(source).name).relative_to(os.path.realpath(root))
    except ValueError:  # of another folder, or no name that a file can have
        raise DataError(f"{source}: does not lie in {root}; only what does is moved") from None
    if not source or inside.name in ("", "..") or Path(source).is_symlink():
        raise DataError(f"{source}: is no file of its own; only these are moved")
    return inside


def _check_inside(folder: Path, root: Path) -> None:
    """Raises: DataError: links lead out of ``root`` on the way to a folder in it."""
    if not Path(os.path.realpath(root / folder)).is_relative_to(os.path.realpath(root)):
        raise DataError(
            f"{root / folder}: is, or lies in, a link that leads out of {root}; only what is in it is moved"
        )


def _check_class(name: str, folder: Path) -> None:
    """Raises: DataError: there is no such class folder."""
    found = subfolders(folder)
    if not is_data(name) or name not in found:
        near = get_close_matches(name, found, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "; make the folder first, if it is to be a new class"
        raise DataError(f"no folder of class {name!r} in {folder}{hint}")


def _free(root: Path, wanted: Path, taken: set[str]) -> str:
    """``wanted``, or with a number what nothing is called yet, on the disk or in this plan."""
    stem, suffix = shorten(wanted.stem, 200), wanted.suffix
    path, number = wanted, 2
    while str(path) in taken or os.path.lexists(root / path):
        path, number = wanted.with_name(f"{stem}-{number}{suffix}"), number + 1
    taken.add(str(path))
    return str(path)


def apply_moves(moves: Sequence[Move], root: Path) -> int:
    """Renames the files of a plan.

    Nothing is overwritten, even where a file of a target's name came up since it was planned: that move is left out.

    Returns:
        How many were done.

    Raises:
        OSError: the disk or the rights do not allow it; what was done until then is in the undo file.
    """
    done = 0
    for move in moves:
        source, target = root / move.source, root / move.target
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            target.touch(exist_ok=False)  # nobody else gets the name meanwhile
        except FileExistsError:
            continue
        try:
            source.replace(target)
            done += 1
        except FileNotFoundError:
            target.unlink()
        except BaseException:  # also where the user ends it
            if os.path.lexists(source):
                target.unlink()
            raise
    return done


def write_undo(moves: Sequence[Move], path: Path) -> None:
    """The way back of a plan, to be written before it is carried out.

    Raises:
        ArgumentError: something is there already: another way back, or a picture.
        OSError: it cannot be written.
    """
    if not find_target(path).through and os.path.lexists(path):
        raise ArgumentError(f"{path}: is there already, and would be lost; give the undo file another name")
    rows = [[each.target, each.source] for each in moves]
    write_bytes(json_bytes({"format": _UNDO_FORMAT, "moves": rows}) + b"\n", path)


def read_undo(path: Path, root: Path) -> Plan:
    """The way back as a plan.

    Raises:
        DataError: it is no such file.
    """
    try:
        found = json.loads(read_regular(path, _UNDO_BYTES))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        found = None
    rows = found.get("moves") if isinstance(found, dict) and found.get("format") == _UNDO_FORMAT else None
    if not isinstance(rows, list) or len(rows) > MAX_LINES or not all(map(_is_pair, rows)):
        raise DataError(f"{path}: is no undo file of: shvit data apply")
    moves, refused = [], []
    taken: set[str] = set()
    for now, before in reversed(rows):
        try:
            inside, target = _inside(str(root / now), root), _inside(str(root / before), root)
            _check_inside(target.parent, root)
            if not (root / inside).is_file():
                raise DataError(f"{now}: is not there; it was not moved, or was moved again")
            moves.append(Move(str(inside), _free(root, target, taken)))
        except (DataError, OSError) as error:
            refused.append(_reason(error))
    return Plan(tuple(moves), 0, tuple(refused))


def _is_pair(row: object) -> bool:
    return isinstance(row, list) and len(row) == 2 and all(isinstance(each, str) and each for each in row)


def undo_name(table: Path) -> Path:
    """Beside a table, a name for its undo file that nothing has yet.

    Raises:
        ArgumentError: there are a thousand.
    """
    for number in range(1, 1000):
        path = table.with_name(f"{shorten(table.stem, 200)}-undo{'' if number == 1 else f'-{number}'}.json")
        if not os.path.lexists(path):
            return path
    raise ArgumentError(f"{table}: there are a thousand undo files beside it; name one with --undo-file")
