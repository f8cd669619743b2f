"""Rows of figures as a table in Markdown, and what stands in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shvit.display import printable


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A table in Markdown, the first ``left`` columns of which are text."""
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
