"""Files that are there whole or not at all, and what the name of an output may stand for.

A regular file, or nothing: what is written gets the name when it is whole. A symbolic link: the same for the file that
it leads to; the link stays. A device, a FIFO or an open descriptor (``/dev/stdout``): written through. Anything else
is refused.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import IO, Any, NamedTuple

from shvit.display import SHOWN, NamedText, as_text
from shvit.errors import ArgumentError

STDOUT = "-"
"""As an output's name: the standard output, in commands that write text."""

NAME_BYTES = 255
"""Longest name of a file on the usual file systems."""

_MOST_LINKS = 40
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of writing, whose file the system does not name."""
_ASIDE = ".{}.{}.partial"
_ASIDE_BYTES = NAME_BYTES - len(_ASIDE.format("", "")) - 10
"""What a name may have, so that the name aside, with a process's number, is not too long."""


class Target(NamedTuple):
    """What an output's name leads to."""

    file: Path
    """A regular file, nothing yet, a folder, or what is written through; no link."""
    through: bool
    """It is written as it is, not replaced: a device, a FIFO or a descriptor."""
    descriptor: int | None = None
    """Of this process, where the name is one of it."""


def find_target(path: str | Path, folder: bool = False) -> Target:
    """Follows an output's name to what is to be written.

    Args:
        folder: a folder may be there.

    Raises:
        OSError: it cannot be written to, as a socket or a link to itself; the error has the name as it was given.
    """
    with naming(path):
        file = Path(path)
        for _ in range(_MOST_LINKS):
            if (descriptor := _descriptor(file)) is not None:
                os.fstat(descriptor)
                return Target(file, True, descriptor)
            if not file.is_symlink():
                break
            file = file.parent / os.readlink(file)  # noqa: PTH115 - Path drops what is before ".."
        else:
            raise OSError(errno.ELOOP, "is a symbolic link that leads nowhere but to links")
        try:
            mode = file.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return Target(file, False)
        if stat.S_ISREG(mode) or (folder and stat.S_ISDIR(mode)):
            return Target(file, False)
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) or stat.S_ISFIFO(mode):
            return Target(file, True)
        if stat.S_ISDIR(mode):
            raise OSError(errno.EISDIR, "is a folder; expected the name of a file")
        raise OSError(errno.EINVAL, "is a socket; expected the name of a file, a device or a FIFO")


def _descriptor(file: Path) -> int | None:
    """The number of a descriptor that this process has, if ``file`` is the name of one."""
    if not file.name.isdecimal():
        return None
    folder = os.path.realpath(file.parent)
    of_process = re.fullmatch(r"/proc/(\d+)(/task/\d+)?/fd", folder)
    mine = folder == "/dev/fd" or (of_process is not None and int(of_process[1]) == os.getpid())
    return int(file.name) if mine else None


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Errors of the system inside have the name that the user knows."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None


def check_outputs(outputs: Sequence[tuple[str, str | Path | None]], inputs: Iterable[str | Path]) -> None:
    """Refuses outputs that cannot be written to, are an input, or are the same file; to be called before all work.

    Args:
        outputs: each with its option, for messages; ``None`` and ``-`` are left out.
        inputs: whatever is read. What is no file is left out.

    Raises:
        ValueError: the message has the option and the name.
    """
    seen: dict[str, str] = {}
    there: dict[tuple[int, int], str] = {}
    for option, path in outputs:
        if path is None or str(path) == STDOUT:
            continue
        output = f"{option} {path}"
        try:
            target = find_target(path)
        except OSError as error:
            raise ArgumentError(f"{output}: {error.strerror}") from None
        if target.through:
            continue
        with suppress(OSError):
            there[_identity(target.file)] = output
        real = os.path.realpath(target.file)
        if real in seen:
            raise ArgumentError(f"{output}: is the file of {seen[real]} too; give each a name of its own")
        seen[real] = output
    for each in inputs if there else ():
        with suppress(OSError, ValueError):  # a URL, or nothing
            if output := there.get(_identity(each), ""):
                break
    else:
        return
    raise ArgumentError(f"{output}: is the same file as the input {each}; give the output another name")


def check_folder(option: str, path: str | Path, inputs: Iterable[str | Path]) -> None:
    """Refuses a folder that is to be replaced, if an input is in it.

    Raises:
        ValueError: the message has the option and the name.
    """
    folder = os.path.realpath(path)
    for each in inputs:
        if os.path.lexists(each) and f"{os.path.realpath(each)}{os.sep}".startswith(f"{folder}{os.sep}"):
            raise ArgumentError(f"{option} {path}: the input {each} is in it; give the output another name")


def _identity(path: str | Path) -> tuple[int, int]:
    """Two names of one file, as links are, have the same."""
    found = os.stat(path)  # noqa: PTH116 - there may be a million
    return found.st_dev, found.st_ino


def shorten(name: str, room: int = NAME_BYTES) -> str:
    """A file's name in so many bytes: of a longer one its begin, and a digest by which it differs from others."""
    if len(os.fsencode(name)) <= room:
        return name
    digest = f"-{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}"
    while len(os.fsencode(name)) > room - len(digest):
        name = name[:-1]
    return name + digest


def beside(path: Path, suffix: str) -> Path:
    """``path`` with a suffix after its own, for a file that belongs to it."""
    return path.with_name(shorten(path.name, NAME_BYTES - len(suffix)) + suffix)


def free_name(folder: Path, stem: str, suffix: str) -> Path:
    """A name in ``folder`` that nothing has yet: of a/cat.jpg and b/cat.jpg both are kept."""
    stem = shorten(stem, NAME_BYTES - len(suffix) - 10)
    path, number = folder / f"{stem}.{suffix}", 2
    while os.path.lexists(path):  # a link to nothing is something
        path, number = folder / f"{stem}-{number}.{suffix}", number + 1
    return path


def _aside(path: Path) -> Path:
    return path.with_name(_ASIDE.format(shorten(path.name, _ASIDE_BYTES), os.getpid()))


def _remove(path: Path) -> None:
    """Takes away a file, a link or a folder, such as what a killed process with this one's number left."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path to write to; when all went well the file is flushed and takes the place of ``path``.

    After an error nothing is left, and what ``path`` held before is untouched. A file that is replaced keeps its mode
    and, where this user may give files away, its owner. What is written through gets the file's bytes at the end.

    Raises:
        OSError: ``path`` cannot be written to; the error has its name.
    """
    target = find_target(path)
    if target.through:
        with tempfile.TemporaryDirectory(prefix="shvit-") as folder:
            aside = Path(folder, "output")
            aside.touch()
            yield aside
            _write_through(aside, target, path)
        return
    aside = _aside(target.file)
    try:
        with naming(path):
            _remove(aside)
            aside.touch(exist_ok=False)
            mode = stat.S_IMODE(aside.stat().st_mode)  # what this user's new files get; some writers make them private
        yield aside
        with naming(path):
            _replace(aside, target.file, mode)
    except OSError as error:
        if error.filename is None and error.errno in _FULL:
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise
    finally:
        with suppress(OSError):
            aside.unlink()


@contextmanager
def atomic_text(path: str | Path) -> Iterator[IO[str]]:
    """A file for text in UTF-8, whole or not at all; ``-`` is stdout.

    What is written through gets each line when it is written. Bytes of file names that are no UTF-8 stay as they are.

    Raises:
        OSError: ``path`` cannot be written to; the error has its name.
    """
    if str(path) == STDOUT:
        yield sys.stdout
        sys.stdout.flush()
        return
    target = find_target(path)
    options: dict[str, Any] = {"encoding": "utf-8", "errors": SHOWN, "newline": ""}
    if not target.through:
        with atomic_path(path) as aside, NamedText(aside.open("wb"), str(path), **options) as file:
            yield file
        return
    with naming(path):
        binary = open(_open_through(target), "wb")  # noqa: SIM115 - a descriptor, which NamedText closes
    with NamedText(binary, str(path), line_buffering=True, **options) as file:
        yield file


def put_in_place(written: Path, path: str | Path) -> None:
    """Flushes a finished file and lets it take the place of ``path``, as ``atomic_path`` does; ``written`` is gone.

    Raises:
        OSError: ``path`` cannot be written to; the error has its name.
    """
    target = find_target(path)
    with naming(path):
        if target.through:
            _write_through(written, target, path)
        elif written.stat().st_dev == target.file.parent.stat().st_dev:
            _replace(written, target.file, stat.S_IMODE(written.stat().st_mode))
        else:
            with atomic_path(path) as aside:
                shutil.copyfile(written, aside)
        written.unlink(missing_ok=True)


def _replace(written: Path, file: Path, mode: int) -> None:
    owner = None
    with suppress(FileNotFoundError):
        earlier = file.stat()
        mode, owner = stat.S_IMODE(earlier.st_mode) & 0o777, (earlier.st_uid, earlier.st_gid)
    written.chmod(mode | stat.S_IRUSR | stat.S_IWUSR)
    with written.open("rb+") as flushed:
        os.fsync(flushed.fileno())
    mine = written.stat()
    if owner is not None and owner != (mine.st_uid, mine.st_gid):
        with suppress(OSError):  # only root may
            os.chown(written, *owner)
    written.chmod(mode)
    written.replace(file)


def _open_through(target: Target) -> int:
    if target.descriptor is not None:
        sys.stdout.flush()  # it may be the same
        return os.dup(target.descriptor)
    return os.open(target.file, os.O_WRONLY | getattr(os, "O_NOCTTY", 0))


def _write_through(written: Path, target: Target, path: str | Path) -> None:
    with naming(path), written.open("rb") as source, open(_open_through(target), "wb") as output:
        shutil.copyfileobj(source, output)


def write_json(contents: Any, path: Path) -> None:
    """Whole or not at all, as ``json_bytes`` writes it."""
    write_bytes(json_bytes(contents, indent=2) + b"\n", path)


def json_bytes(contents: Any, indent: int | None = None) -> bytes:
    r"""JSON in UTF-8; halves of pairs, as names of files that are no UTF-8 have, are escapes such as ``\udce9``.

    Python reads them as they were: what it opens by such a name is the same file.
    """
    return json.dumps(contents, indent=indent, ensure_ascii=False).encode("utf-8", "backslashreplace")


def write_text(text: str, path: Path) -> None:
    """Whole or not at all; bytes of file names that are no UTF-8 are escapes, as ``as_text`` gives them."""
    with atomic_path(path) as aside:
        aside.write_text(as_text(text), encoding="utf-8")


def write_bytes(contents: bytes, path: Path) -> None:
    """Whole or not at all."""
    with atomic_path(path) as aside:
        aside.write_bytes(contents)


def write_encoded(save: Callable[[IO[bytes]], object], path: Path) -> None:
    """What ``save`` writes into a file, whole or not at all.

    Pillow, and matplotlib with it, do not notice when a disk is full; so it is encoded in memory first.
    """
    encoded = io.BytesIO()
    save(encoded)
    write_bytes(encoded.getvalue(), path)


def clear_partials(path: str | Path) -> None:
    """Removes what killed processes left beside ``path`` of files that were to take its name."""
    path = Path(path)
    for left in path.parent.glob(_ASIDE.format(escape(shorten(path.name, _ASIDE_BYTES)), "*")):
        left.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """For what needs its own name while it is written, or companions: ``path``'s name in a temporary folder beside it.

    When all went well everything in that folder is flushed and takes its place beside ``path``, ``path`` itself last,
    as ``atomic_path`` does; a folder that has one of the names is replaced. After an error nothing is left, and what
    was there is untouched.

    Raises:
        OSError: ``path`` cannot be written to; the error has its name.
    """
    path = Path(path)
    find_target(path, folder=True)
    folder = _aside(path)
    with naming(path):
        _remove(folder)
        folder.mkdir()
        mode = folder.stat().st_mode & 0o777  # what this user's new folders get; some writers make theirs private
    try:
        yield folder / path.name
        for written in sorted(folder.iterdir(), key=lambda each: each.name == path.name):
            _make_readable(written, mode)
            place = path.with_name(written.name)
            if written.is_dir():
                _put_folder_in_place(written, place)
            else:
                put_in_place(written, place)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _make_readable(written: Path, mode: int) -> None:
    for each in [written, *written.rglob("*")] if written.is_dir() else [written]:
        if each.is_dir():
            each.chmod(mode)
        else:
            each.chmod(mode & 0o666)
            with each.open("rb+") as file:
                os.fsync(file.fileno())


def _put_folder_in_place(written: Path, path: Path) -> None:
    target = find_target(path, folder=True).file
    with naming(path):
        if target.exists() and not target.is_dir():
            raise OSError(errno.ENOTDIR, "is no folder; expected the name of a folder")
        if written.stat().st_dev != target.parent.stat().st_dev:  # a link leads to another disk
            copied = _aside(target)
            _remove(copied)
            shutil.copytree(written, copied)
            written = copied
        old = written.with_name(f"{shorten(written.name, NAME_BYTES - 4)}.old")
        try:
            if target.is_dir():  # a folder is not replaced in one step
                target.rename(old)
            written.replace(target)
        except OSError:
            if old.is_dir():
                old.rename(target)
            raise
        finally:
            shutil.rmtree(old, ignore_errors=True)
