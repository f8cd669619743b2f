"""Names that stand for several files, and addresses on the network."""

from __future__ import annotations

import math
import re
from glob import glob, has_magic

from shvit.errors import DataError

MAX_SHARDS = 100_000
"""A pattern that stands for more is a slip of the finger."""

_BRACES = re.compile(r"\{(?:(\d{1,18})\.\.(\d{1,18})|([^{}]*,[^{}]*))\}")


def is_url(name: str) -> bool:
    return re.match(r"[a-z][a-z0-9+.-]+://", name) is not None


def is_remote(name: str) -> bool:
    return name.startswith(("http://", "https://"))


def expand_pattern(pattern: str) -> list[str]:
    """Shard names that a pattern stands for: braces as in a shell, ``*`` and ``?`` for files on this machine.

    Raises:
        DataError: no file matches, or there are more than ``MAX_SHARDS``.
    """
    found: list[str] = []
    for name in expand_braces(pattern):
        if is_url(name) or not has_magic(name):
            found.append(name)
        else:
            found += sorted(glob(name, recursive=True))  # noqa: PTH207 - keeps the pattern relative as typed
    if not found:
        raise DataError(f"{pattern}: no file matches")
    return found


def expand_braces(pattern: str) -> list[str]:
    """``a{00..02}.tar`` or ``{x,y}.tar`` to the names it stands for, as a shell does; each name once."""
    names = math.prod(_count(match) for match in _BRACES.finditer(pattern))
    if names > MAX_SHARDS:
        raise DataError(f"{pattern}: stands for {names:,} shards, at most {MAX_SHARDS:,} are accepted")
    match = _BRACES.search(pattern)
    if match is None:
        return [pattern]
    before, after = pattern[: match.start()], pattern[match.end() :]
    return list(dict.fromkeys(name for each in _choices(match) for name in expand_braces(f"{before}{each}{after}")))


def _count(braces: re.Match[str]) -> int:
    first, last, listed = braces.groups()
    return abs(int(last) - int(first)) + 1 if listed is None else listed.count(",") + 1


def _choices(braces: re.Match[str]) -> list[str]:
    first, last, listed = braces.groups()
    if listed is not None:
        return listed.split(",")
    # As in a shell, a leading zero asks for numbers of equal length.
    padded = any(len(end) > 1 and end.startswith("0") for end in (first, last))
    width = max(len(first), len(last)) if padded else 0
    step = 1 if int(first) <= int(last) else -1
    return [str(number).zfill(width) for number in range(int(first), int(last) + step, step)]
