"""Files that are there whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import Any


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to; when all went well the file is flushed and takes the name.

    After an error nothing is left, and what ``path`` held before is untouched.
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        aside.touch()
        mode = aside.stat().st_mode  # what this user's new files get; some writers make them private
        yield aside
        aside.chmod(mode)
        with aside.open("rb+") as file:
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        with suppress(OSError):
            aside.unlink()


def write_json(contents: Any, path: Path) -> None:
    """Whole or not at all."""
    with atomic_path(path) as aside:
        aside.write_text(json.dumps(contents, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_text(text: str, path: Path) -> None:
    """Whole or not at all."""
    with atomic_path(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_bytes(contents: bytes, path: Path) -> None:
    """Whole or not at all."""
    with atomic_path(path) as aside:
        aside.write_bytes(contents)


def clear_partials(path: str | Path) -> None:
    """Removes what killed processes left beside ``path`` of files that were to take its name."""
    path = Path(path)
    for left in path.parent.glob(f".{escape(path.name)}.*.partial"):
        left.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """For what needs its own name while it is written, or companions: ``path``'s name in a temporary folder beside it.

    When all went well everything in that folder is flushed and moved beside ``path``, ``path`` itself last; a file or a
    folder that has one of the names is replaced. After an error nothing is left, and what was there is untouched.
    """
    path = Path(path)
    folder = path.with_name(f".{path.name}.{os.getpid()}.partial")
    folder.mkdir()
    mode = folder.stat().st_mode & 0o777  # what this user's new folders get; some writers make theirs private
    try:
        yield folder / path.name
        for written in sorted(folder.iterdir(), key=lambda each: each.name == path.name):
            _flush(written, mode)
            target = path.with_name(written.name)
            if target.is_dir() and written.is_dir():  # a folder is not replaced in one step
                target.rename(folder / f".{written.name}.old")
            written.replace(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _flush(written: Path, mode: int) -> None:
    for each in [written, *written.rglob("*")] if written.is_dir() else [written]:
        if each.is_dir():
            each.chmod(mode)
        else:
            each.chmod(mode & 0o666)
            with each.open("rb+") as file:
                os.fsync(file.fileno())
