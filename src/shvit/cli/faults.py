"""Whose fault an error is: the user's, told in a line, or the program's own, told with all that mending it takes."""

from __future__ import annotations

import os
import platform
import re
import shlex
import sys
from collections.abc import Sequence

from shvit._version import __version__
from shvit.display import say
from shvit.errors import ShvitError

FAULT = 70
"""Exit status of a fault of the program's own: EX_SOFTWARE of sysexits.h."""

DEBUG_VARIABLE = "SHVIT_DEBUG"

_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]*(?=@)")


def reason_for_user(error: Exception) -> str | None:
    """What is wrong, in a line for who gave the command; ``None`` where it is not theirs to mend."""
    if isinstance(error, ShvitError):
        return str(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # the latter is PyTorch's
        return f"out of memory ({' '.join(str(error).split())[:200]}); try less at once: a smaller --batch-size"
    if isinstance(error, ModuleNotFoundError) and (error.name or "shvit").partition(".")[0] != "shvit":
        from shvit.install import install_command

        return f"needs {error.name}, which is not installed; install the lab with: {install_command('torch')}"
    if isinstance(error, OSError) and error.errno is not None:  # the system's; a library's own have no number
        return f"{error.filename}: {error.strerror}" if error.filename is not None else str(error.strerror)
    return None


def trace_wanted() -> bool:
    """Whether the user's errors are to be shown with their trace too."""
    return os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0")


def print_trace(error: Exception) -> None:
    """On stderr, as ``guard_terminal`` has the interpreter show it."""
    sys.excepthook(type(error), error, error.__traceback__)


def report_fault(error: Exception, arguments: Sequence[str]) -> None:
    """Shows what a report of the fault should hold."""
    print_trace(error)
    for line in (
        "",
        "this is a fault of shvit; please report it in the project's issue tracker, with the lines above and these:",
        f"  shvit {__version__}, Python {platform.python_version()}, {platform.platform()}",
        f"  {_CREDENTIALS.sub('***', shlex.join(['shvit', *arguments]))}",
    ):
        say(line, sys.stderr)
