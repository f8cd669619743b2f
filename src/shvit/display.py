"""Text from elsewhere (labels, names of files, errors), made harmless where people read it: terminals, spreadsheets.

All that the commands print goes through here.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import logging
import os
import re
import shutil
import sys
import textwrap
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # control codes: C0, DEL, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # what turns the direction of writing
    "\u2028\u2029"  # ends of lines and of paragraphs
    "\ud800-\udfff]"  # halves of pairs: bytes of a file's name that are no UTF-8
)

_HALVES = re.compile("[\ud800-\udfff]")

LOOKALIKES = {"█": "#", "×": "x", "–": "-", "…": "...", "≤": "<=", "±": "+-", "²": "^2", "·": "-"}
"""What the commands themselves print beyond ASCII, and what stands for it on a stream that cannot show it."""

STANDARD_OUTPUT, STANDARD_ERROR = "standard output", "standard error"

SHOWN = "shvit.shown"
"""How text streams are to encode what their encoding does not have, as ``errors`` of ``open``.

Bytes of file names that are no UTF-8 stay as they were, what the commands themselves print becomes ``LOOKALIKES``, and
anything else JSON's escapes (``\\u732b``), in which a line of JSON stays what it was.
"""

_PACKAGE = str(Path(__file__).parent) + os.sep

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""Begins of cells that spreadsheets may take for formulas."""


def printable(text: object) -> str:
    r"""A text on one line: what steers a terminal is an escape, such as ``\x1b`` or ``\n``.

    These are control codes, ends of lines, marks that turn the direction of writing, and bytes of file names that are
    no UTF-8.
    """
    return _UNSAFE.sub(_escape, str(text))


def as_text(name: str) -> str:
    r"""A file's name as any text in UTF-8 may hold it: of bytes that are no UTF-8 escapes, such as ``\xe9``."""
    return _HALVES.sub(_escape, name)


def _escape(found: re.Match[str]) -> str:
    character = found[0]
    if "\udc80" <= character <= "\udcff":  # how Python holds a byte that it cannot decode
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


NARROWEST = 30
"""Columns of a terminal that text is folded for, at least."""

GAP = "  "
"""Between the columns of a table."""


def columns(file: IO[str] | None = None) -> int | None:
    """How wide a terminal is; ``None`` where nothing is folded: in a pipe or a file, if ``COLUMNS`` does not tell.

    Args:
        file: default: stdout.
    """
    if not ((file or sys.stdout).isatty() or os.environ.get("COLUMNS", "").isdecimal()):
        return None
    return max(shutil.get_terminal_size().columns, NARROWEST)


def folded(text: object, hang: int, width: int | None) -> list[str]:
    """A ``printable`` text as lines of so many characters; words, numbers and paths stay whole.

    Args:
        hang: spaces before the second line and those after it; half the width at most.
        width: ``None`` for one line.
    """
    line = printable(text)
    if width is None or len(line) <= width:
        return [line]
    return textwrap.wrap(
        line,
        width,
        subsequent_indent=" " * min(hang, width // 2),
        break_long_words=False,
        break_on_hyphens=False,
    )


def say(text: object, file: IO[str] | None = None, hang: int | None = None) -> None:
    """Prints one line for people, whatever is in it.

    Args:
        file: default: stdout.
        hang: fold it where it is longer than the terminal is wide, with so many spaces before what follows. Not for
            what is to be copied, such as commands.
    """
    for line in [printable(text)] if hang is None else folded(text, hang, columns(file)):
        print(line, file=file, flush=True)


def say_all(items: Sequence[str], gap: str = GAP, indent: int = 2) -> None:
    """Prints short texts side by side, on as many lines as they need; each stays on one line if one can hold it."""
    width, lines = columns(), [""]
    for each in map(printable, items):
        joined = f"{lines[-1]}{gap}{each}" if lines[-1] else each
        if width is None or not lines[-1] or indent + len(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(each)
    for line in lines:
        say(f"{' ' * indent}{line}", hang=indent + 2)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], justify: str | None = None) -> None:
    """Prints a table on stdout; nothing in it is cut.

    In a terminal that is too narrow text is folded between words; where that is not enough, each row becomes a few
    lines that name its figures.

    Args:
        justify: for each column ``l``, text to the left, or ``r``, figures to the right; only the first has text when
            not given.
    """
    from rich.table import Table
    from rich.text import Text

    justify = justify or "l" + "r" * (len(header) - 1)
    header, *rows = [[printable(cell) for cell in row] for row in (header, *rows)]
    widths = _fitting([header, *rows], justify, columns())
    if widths is None:
        console = terminal(soft_wrap=True)
        for row in rows:
            console.print(row[0], style="bold")
            say_all([f"{name} {cell}" for name, cell in zip(header[1:], row[1:], strict=True) if cell])
        return
    table = Table(box=None, pad_edge=False)
    for name, side in zip(header, justify, strict=True):
        table.add_column(name, justify="right" if side == "r" else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text("\n".join(_pieces(cell, width))) for cell, width in zip(row, widths, strict=True)))
    terminal(width=sum(widths) + len(GAP) * len(widths)).print(table)


def _pieces(text: str, width: int) -> list[str]:
    """A cell's lines; words stay whole, but for those with hyphens."""
    return textwrap.wrap(text, width, break_long_words=False) if len(text) > width else [text]


def _fitting(rows: Sequence[Sequence[str]], justify: str, width: int | None) -> list[int] | None:
    """Widths of a table's columns; ``None`` if there is no room for them.

    Columns of text are made narrower where they must, down to their longest word; not the first, which has names.
    """
    from rich.cells import cell_len

    transposed = list(zip(*rows, strict=True))
    widths = [max(map(cell_len, column)) for column in transposed]
    if width is None:
        return widths
    least = [
        max(cell_len(piece) for cell in column for piece in _pieces(cell, 1)) if place and side == "l" else own
        for place, (own, column, side) in enumerate(zip(widths, transposed, justify, strict=True))
    ]
    room = width - len(GAP) * (len(widths) - 1)
    while sum(widths) > room:
        spare = [own - most for own, most in zip(widths, least, strict=True)]
        if max(spare) == 0:
            return None
        widths[spare.index(max(spare))] -= 1
    return widths


def json_text(contents: Any, indent: int | None = None) -> str:
    """JSON as ``json.dumps`` writes it, with all that ``printable`` escapes as JSON's own escapes."""
    return json_escaped(json.dumps(contents, indent=indent, ensure_ascii=False))


def json_escaped(text: str) -> str:
    """The same for JSON that is written already."""
    return "\n".join(_UNSAFE.sub(lambda found: json.dumps(found[0])[1:-1], line) for line in text.split("\n"))


def terminal(stderr: bool = False, width: int | None = None, soft_wrap: bool = False) -> Console:
    """A terminal of Rich's, on which strings are shown as ``printable`` gives them; markup in them is text."""
    from rich.console import Console
    from rich.text import Text

    class PlainConsole(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(printable(text), **options)

        def on_broken_pipe(self) -> None:  # the base class ends the process
            raise  # the error that it is called for

    return PlainConsole(stderr=stderr, width=width, soft_wrap=soft_wrap, markup=False, emoji=False, highlight=False)


@contextmanager
def progress_bar(
    description: str, total: int | None, done: int = 0, wanted: bool = True
) -> Iterator[Callable[[int], None]]:
    """A bar on stderr where somebody watches; gives what is to be told how many more images are done.

    Args:
        total: ``None`` where it is not known.
        done: before the start.
        wanted: whether to show any.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(description), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    disable = not (wanted and sys.stderr.isatty())
    with Progress(*columns, console=terminal(stderr=True), transient=True, disable=disable) as bar:
        task = bar.add_task(description, total=total, completed=done)
        yield lambda count: bar.advance(task, count)


@contextmanager
def download_bar(
    description: str, total: int | None, done: int = 0, wanted: bool = True
) -> Iterator[Callable[[int], None]]:
    """The same for bytes, with how many come in a second."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    name = TextColumn("{task.description}", markup=False)
    columns = (name, BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    disable = not (wanted and sys.stderr.isatty())
    with Progress(*columns, console=terminal(stderr=True), transient=True, disable=disable) as bar:
        task = bar.add_task(printable(description), total=total, completed=done)
        yield lambda count: bar.advance(task, count)


class CSVWriter:
    """Rows of a table; cells keep their bytes, but where they are shown on a terminal.

    Args:
        safe: cells that a spreadsheet would take for formulas get a ``'`` before them.
    """

    def __init__(self, file: IO[str], safe: bool = False) -> None:
        self._file, self._safe, self._shown = file, safe, file.isatty()
        self._writer = csv.writer(self)  # its own end of a row lets it quote cells with a carriage return

    def row(self, cells: Iterable[Any]) -> None:
        self._writer.writerow([self._cell(each) if isinstance(each, str) else each for each in cells])

    def write(self, row: str) -> None:
        """What ``csv`` writes: a row."""
        self._file.write(row.removesuffix("\r\n") + "\n")

    def rows(self, rows: Iterable[Iterable[Any]]) -> None:
        for each in rows:
            self.row(each)

    def _cell(self, text: str) -> str:
        if self._safe and text.startswith(FORMULA):
            text = f"'{text}"
        return printable(text) if self._shown else text


def _encode_shown(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character = error.object[error.start]
    if "\udc80" <= character <= "\udcff" and not error.encoding.startswith(("utf-16", "utf-32")):
        return bytes([ord(character) - 0xDC00]), error.start + 1
    return LOOKALIKES.get(character) or json.dumps(character)[1:-1], error.start + 1


codecs.register_error(SHOWN, _encode_shown)


class NamedText(io.TextIOWrapper):
    """A text stream to write to, whose errors say what could not be written: of an open file the system gives no name.

    Args:
        label: what errors have as ``filename``.
        lossy: what cannot be written is dropped, and no error.
    """

    def __init__(self, binary: IO[bytes], label: str, lossy: bool = False, **options: Any) -> None:
        super().__init__(binary, **options)
        self._label, self._lossy = label, lossy

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            return self._failed(error, len(text))

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._failed(error)

    def close(self) -> None:
        try:
            super().close()
        except OSError as error:
            self._failed(error)

    def _failed(self, error: OSError, written: int = 0) -> int:
        if self._lossy:
            return written
        if error.filename == self._label:  # closing flushes
            raise error
        raise OSError(error.errno, f"cannot be written: {error.strerror or error}", self._label) from None


class LineFormatter(logging.Formatter):
    """Records as one line each, then the traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(printable(line) for line in super().format(record).split("\n"))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the base class's name
        return printable(super().formatMessage(record))


def guard_terminal() -> None:
    """Lets a process print whatever there is, wherever its output goes.

    Warnings, log records and tracebacks, which libraries write to stderr too, are ``printable``. What a stream's
    encoding does not have is no error (``SHOWN``). Errors of stdout are of ``STANDARD_OUTPUT``; what stderr cannot take
    ends nothing. Where the process was started without one of them, that one goes nowhere, and stdin is
    empty.
    """
    if sys.stdin is None:
        sys.stdin = open(os.devnull)  # noqa: PTH123, SIM115 - as long as the process
    sys.stdout = _guarded(sys.stdout, STANDARD_OUTPUT)
    sys.stderr = _guarded(sys.stderr, STANDARD_ERROR)
    warnings.formatwarning = _format_warning
    sys.excepthook = _print_exception
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(LineFormatter("%(message)s"))


def _guarded(stream: TextIO | None, label: str) -> TextIO:
    binary = open(os.devnull, "wb") if stream is None else getattr(stream, "buffer", None)  # noqa: PTH123, SIM115
    if binary is None:  # somebody's own, in this process
        return stream  # type: ignore[return-value]
    encoding = "utf-8" if stream is None else stream.encoding
    as_it_was = {name: getattr(stream, name, False) for name in ("line_buffering", "write_through")}
    return NamedText(binary, label, label == STANDARD_ERROR, encoding=encoding, errors=SHOWN, **as_it_was)


def release_output() -> None:
    """Lets what stdout could not be given go nowhere, or the interpreter would complain of it at its exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    # Our own are written for whoever runs the command, who need not know the line of code.
    where = "shvit: warning" if filename.startswith(_PACKAGE) else f"{filename}:{lineno}: {category.__name__}"
    return f"{printable(f'{where}: {message}')}\n"


def _print_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    for line in "".join(traceback.format_exception(kind, error, trace)).rstrip("\n").split("\n"):
        say(line, sys.stderr)


def notice(line: str) -> None:
    """Tells of what was left out, where it is in nobody's way."""
    say(f"note: {line}", file=sys.stderr)
