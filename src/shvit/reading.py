"""Reading files that anybody may have put there: regular ones only, and no more than was agreed to."""

from __future__ import annotations

import errno
import io
import os
import re
import stat
from typing import IO, TextIO

MAX_TEXT_BYTES = 256 * 2**20
"""Lists, tables and other texts that are read whole have no more bytes; a million lines of paths are about 100 MB."""

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
    """A text in UTF-8, without the byte order mark that it may begin with; each line ends with a line feed.

    Raises:
        OSError: as of ``read_regular``.
        UnicodeDecodeError: it is not UTF-8.
    """
    with io.TextIOWrapper(io.BytesIO(read_regular(path, limit)), encoding="utf-8-sig") as text:
        return text.read()


def open_table(path: str | os.PathLike[str], limit: int = MAX_TEXT_BYTES) -> TextIO:
    """A text as ``read_text`` gives it, but as a stream with the line ends that are there, as ``csv`` wants it."""
    return io.TextIOWrapper(io.BytesIO(read_regular(path, limit)), encoding="utf-8-sig", newline="")


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
