"""Reading files that anybody may have put there: regular ones only, and no more than was agreed to."""

from __future__ import annotations

import codecs
import csv
import errno
import io
import os
import re
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TextIO

from shvit.display import as_text
from shvit.errors import ArgumentError

MAX_TEXT_BYTES = 256 * 2**20
"""Lists, tables and other texts that are read whole have no more bytes; a million lines of paths are about 100 MB."""

MAX_LINE_BYTES = 64 * 2**10
"""A line of a list has no more; systems' longest paths are of 4,096 to 32,767 characters, a URL may be longer."""

_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

_OWN_PIPE = re.compile(r"/dev/stdin|/dev/fd/\d+|/proc/self/fd/\d+")
"""Names of what the process was started with, as the shell gives them for ``<(command)``."""

_KINDS = {
    stat.S_IFDIR: "Is a directory",
    stat.S_IFIFO: "is a pipe (FIFO)",
    stat.S_IFSOCK: "is a socket",
    stat.S_IFCHR: "is a device",
    stat.S_IFBLK: "is a device",
}


def open_regular(path: str | os.PathLike[str]) -> IO[bytes]:
    """Opens a regular file to read, or a link to one.

    Nothing else is opened: a pipe without a writer would never answer, a device may have no end. An exception are pipes
    that the process was given, ``/dev/stdin`` and ``/dev/fd/N``, which are those of ``command | ...`` and
    ``<(command)``: a folder or a list does not hold them, a person names them.

    Raises:
        OSError: it cannot be opened, or is no regular file; ``strerror`` says which.
    """
    name = os.fspath(path)
    accepted = (stat.S_IFREG, stat.S_IFIFO) if _OWN_PIPE.fullmatch(name) else (stat.S_IFREG,)
    _check_kind(os.stat(name), name, accepted)  # noqa: PTH116 - the path is a string where there are many
    # What lies there may be another by now: opening must not wait, and what was opened is looked at again. Of a pipe
    # of its own, O_NONBLOCK would change how others read it.
    waits = getattr(os, "O_NONBLOCK", 0) if accepted == (stat.S_IFREG,) else 0
    descriptor = os.open(name, os.O_RDONLY | waits | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
    try:
        _check_kind(os.fstat(descriptor), name, accepted)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: str | os.PathLike[str], limit: int) -> bytes:
    """The bytes of a regular file, or of a pipe as ``open_regular`` opens them.

    Args:
        limit: bytes; of more, nothing is kept.

    Raises:
        OSError: as of ``open_regular``, or it holds more; ``strerror`` says which.
    """
    with open_regular(path) as file:
        found = os.fstat(file.fileno())
        size = found.st_size if stat.S_ISREG(found.st_mode) else None  # a pipe's is not known before its end
        if size is not None and size > limit:
            raise OSError(errno.EFBIG, too_large(size, limit), os.fspath(path))
        data = file.read(limit + 1 if size is None else size)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"more than the {limit:,} bytes that are accepted", os.fspath(path))
    return data


def read_text(path: str | os.PathLike[str], limit: int = MAX_TEXT_BYTES) -> str:
    """A text in UTF-8, or in UTF-16 with a byte order mark; without the mark, and each line ends with a line feed.

    Raises:
        OSError: as of ``read_regular``.
        UnicodeDecodeError: it is not in that encoding.
    """
    with _text(read_regular(path, limit)) as text:
        return text.read()


def open_table(path: str | os.PathLike[str], limit: int = MAX_TEXT_BYTES) -> TextIO:
    """A text for ``csv``: as ``read_text`` gives it, but as a stream with the line ends that are there.

    It may hold names of files: bytes that are no UTF-8 are as ``os.fsdecode`` gives them. ``check_utf8`` refuses them.
    """
    return _text(read_regular(path, limit), newline="", errors="surrogateescape")


def _text(data: bytes, newline: str | None = None, errors: str = "strict") -> TextIO:
    encoding = "utf-16" if data.startswith(_UTF16_MARKS) else "utf-8-sig"
    return io.TextIOWrapper(io.BytesIO(data), encoding, errors, newline)


def check_utf8(text: str) -> None:
    """Raises: UnicodeDecodeError: bytes in a cell of a table were no UTF-8."""
    text.encode(errors="surrogateescape").decode()


def find_separator(table: TextIO, columns: Iterable[str]) -> str:
    """What separates the columns of a CSV file: the comma, or what spreadsheets write in half of Europe.

    That is the semicolon or the tab, where the first line has all ``columns`` by it and not by the comma.

    Args:
        table: at its beginning, and left there.
        columns: names in small letters.
    """
    first = table.readline()
    table.seek(0)
    for separator in ",;\t":
        if set(columns) <= {each.strip().lower() for each in next(csv.reader([first], delimiter=separator), [])}:
            return separator
    return ","


def listed_paths(stream: TextIO) -> Iterator[str]:
    """The paths of a list on stdin, one a line; empty lines are left out.

    It is in UTF-8, with or without a byte order mark, or in UTF-16 with one, as PowerShell writes it. Where names are
    bytes, any are taken: those that are no UTF-8 stay as ``os.fsdecode`` gives them. On Windows other lists are taken
    to be in the encoding of ``stream``.

    Raises:
        ArgumentError: a line has a NUL, as text in other encodings does, or is longer than ``MAX_LINE_BYTES``; or it is
            no UTF-16 where the mark says so.
        OSError: as UTF-16, it is larger than ``MAX_TEXT_BYTES``.
    """
    binary = getattr(stream, "buffer", None)
    for number, line in enumerate(stream if binary is None else _decoded(binary, stream.encoding), start=1):
        path = (line.removeprefix("\ufeff") if number == 1 else line).rstrip("\r\n")
        if "\0" in path:
            raise ArgumentError(
                f"standard input, line {number}: has a NUL; expected paths, one a line, in UTF-8, or in UTF-16 with a "
                "byte order mark (of `find -print0`, leave -print0 out)"
            )
        if path:
            yield path


def _decoded(binary: IO[bytes], encoding: str) -> Iterable[str]:
    first = binary.readline(MAX_LINE_BYTES + 1)
    if first.startswith(_UTF16_MARKS):
        data = first + binary.read(MAX_TEXT_BYTES + 1 - len(first))
        if len(data) > MAX_TEXT_BYTES:
            raise OSError(errno.EFBIG, f"more than the {MAX_TEXT_BYTES:,} bytes that are accepted", "standard input")
        try:
            yield from data.decode("utf-16").split("\n")
        except UnicodeDecodeError as error:
            raise ArgumentError(f"standard input: begins as UTF-16, but is not: {error.reason}") from None
        return
    number, line = 1, first
    while line:
        if len(line) > MAX_LINE_BYTES:
            raise ArgumentError(
                f"standard input, line {number}: longer than the {MAX_LINE_BYTES:,} bytes that are accepted; expected "
                "paths, one a line"
            )
        yield _name(line, encoding)
        number, line = number + 1, binary.readline(MAX_LINE_BYTES + 1)


def _name(line: bytes, encoding: str) -> str:
    if os.name != "nt":
        return os.fsdecode(line)
    try:
        return line.decode()
    except UnicodeDecodeError:
        return line.decode(encoding, "replace")


@contextmanager
def utf8_path(path: Path) -> Iterator[Path]:
    """The same file for libraries that open names in UTF-8 alone: where its own is not, a link, gone afterwards."""
    if as_text(str(path)) == str(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="shvit-") as folder:
        link = Path(folder, f"file{as_text(path.suffix)}")
        link.symlink_to(path.absolute())
        yield link


def why_irregular(path: str | os.PathLike[str]) -> str:
    """Why what lies there is not read, because it is no regular file; empty if it is one, or if nothing is there."""
    try:
        _check_kind(os.stat(path), os.fspath(path), (stat.S_IFREG,))  # noqa: PTH116 - as above
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        return str(getattr(error, "strerror", None) or error)
    return ""


def too_large(size: int, limit: int) -> str:
    """Why so many bytes are refused."""
    return f"{size:,} bytes, at most {limit:,} are accepted"


def _check_kind(found: os.stat_result, name: str, accepted: tuple[int, ...]) -> None:
    kind = stat.S_IFMT(found.st_mode)
    if kind not in accepted:
        reason = _KINDS.get(kind, "is no file")
        if kind == stat.S_IFDIR:
            raise IsADirectoryError(errno.EISDIR, reason, name)
        advice = "; a pipe is read as /dev/stdin or <(command)" if kind == stat.S_IFIFO else ""
        raise OSError(errno.EINVAL, f"{reason}; expected a regular file{advice}", name)
