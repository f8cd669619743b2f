"""Rows of figures as a table in the terminal, as Markdown, and on disk."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from shvit.display import printable, terminal

WIDE = 240
"""Columns of a file or a pipe."""


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> None:
    """A table on stdout, the first ``left`` columns of which are text."""
    table = Table(box=None, pad_edge=False)
    for place, column in enumerate(header):
        table.add_column(column, justify="left" if place < left else "right", no_wrap=place == 0)
    for row in rows:
        table.add_row(*row)
    wide = None if sys.stdout.isatty() else WIDE
    terminal(width=wide).print(table)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """The same in Markdown."""
    rule = ["---" if place < left else "---:" for place in range(len(header))]
    return "\n".join(
        "| " + " | ".join(printable(each).replace("|", "\\|") for each in row) + " |" for row in (header, rule, *rows)
    )


def figure(value: float | None, digits: int = 3) -> str:
    """A number of so many significant digits; a dash where there is none."""
    if value is None:
        return "-"
    if value >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def spread(ratio: dict[str, float]) -> str:
    """A ratio's median with its range."""
    return f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})"


def machine_line(machine: dict[str, Any]) -> str:
    """The machine in a line of text."""
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    instructions = ", ".join(machine.get("instructions", ())) or "unknown instructions"
    return f"{machine['processor']}, {machine['cores']} cores ({instructions}); Python {machine['python']}; {packages}"
