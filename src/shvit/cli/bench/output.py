"""What the measurements print and write."""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shvit.atomic import check_outputs
from shvit.display import json_text, notice, print_table, progress_bar, say
from shvit.errors import ArgumentError

if TYPE_CHECKING:
    from shvit.bench.networks import Session


def print_rows(args: argparse.Namespace, contents: dict[str, Any], header: list[str], rows: list[list[str]]) -> None:
    """Prints what was asked for on stdout, and what failed on stderr."""
    from shvit.bench.tables import machine_line, markdown_table

    left = sum(each in ("model", "engine", "precision", "study", "choice", "layer", "operation") for each in header)
    if args.format == "json":
        print(json_text(contents, indent=2))
    elif args.format == "markdown":
        for line in (machine_line(contents["machine"]), "", *markdown_table(header, rows, left).splitlines()):
            say(line)
    else:
        say(machine_line(contents["machine"]), hang=2)
        print_table(header, rows, "l" * left + "r" * (len(header) - left))


def report_failures(results: list[dict[str, Any]]) -> int:
    """One line for each reason; the exit status."""
    failed = [each for each in results if each["error"] is not None]
    for reason in dict.fromkeys(each["error"] for each in failed):
        say(f"failed: {reason}", sys.stderr)
    if failed:
        say(f"{len(failed)} of {len(results)} configurations failed", sys.stderr)
    return 1 if failed else 0


@contextmanager
def exporting_then_timing(files: int, engines: int, rounds: int) -> Iterator[Session]:
    """A session for so many model files, with a bar over exporting them and timing each in so many engines."""
    from shvit.bench.networks import Session

    with (
        tempfile.TemporaryDirectory() as folder,
        progress_bar("exporting, then timing", files * (1 + engines * (rounds + 1))) as advance,
    ):
        yield Session(Path(folder), notice, advance)


def make_folder(path: Path | None, names: Iterable[str], inputs: Iterable[str]) -> None:
    """Before work that takes long, not after it; no file that is written may be one that is read."""
    if path is None:
        return
    check_outputs([("--output", path / name) for name in dict.fromkeys(names)], inputs)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArgumentError(f"--output {path}: cannot be made: {error.strerror}") from None


def typed() -> str:
    """The command that is running, as the user typed it."""
    return shlex.join(["shvit", *sys.argv[1:]])
