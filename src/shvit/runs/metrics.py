"""``metrics.csv``: a row for each logged step and each validation of a run."""

from __future__ import annotations

import csv
from pathlib import Path

from shvit.atomic import atomic_path
from shvit.errors import DataError

FILE = "metrics.csv"
PLACE = ("epoch", "step")
"""Where in the run a row was written: epochs finished, and optimizer steps taken since the run's start."""

Row = dict[str, float]


def read_metrics(path: Path) -> list[Row]:
    """The rows in the file's order; a figure that a row does not have is left out of it.

    A last line without an end is one that a killed process was writing: it is left out.

    Raises:
        DataError: the file cannot be read, or a line is not numbers.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    whole = text[: text.rfind("\n") + 1]
    lines = csv.reader(whole.splitlines())
    columns = next(lines, [])
    if not set(PLACE) <= set(columns):
        raise DataError(f"{path}: expected a header with {' and '.join(PLACE)}, got {','.join(columns)[:60]!r}")
    rows = []
    for cells in lines:
        try:
            row = {name: float(cell) for name, cell in zip(columns, cells, strict=True) if cell}
            rows.append({**{name: row[name] for name in PLACE}, **row})
        except (ValueError, KeyError):
            raise DataError(f"{path}: line {lines.line_num} is not {len(columns)} numbers") from None
    return rows


class MetricsFile:
    """Appends rows; a figure that was not there before gets a column.

    Rows later than the place where the run goes on are dropped: it is about to write them again.

    Args:
        epoch: epochs finished where the run goes on (or begins).
        step: optimizer steps taken there, since the run's start.

    Raises:
        DataError: there is a file, and it is damaged.
    """

    def __init__(self, path: Path, epoch: int = 0, step: int = 0) -> None:
        self.path = path
        rows = read_metrics(path) if path.exists() else []
        self.kept = [row for row in rows if (row["epoch"], row["step"]) <= (epoch, step)]
        """The rows of earlier sessions."""
        self.columns = list(dict.fromkeys([*PLACE, *(name for row in self.kept for name in row)]))
        self._write(self.kept)

    def append(self, row: Row) -> None:
        new = [name for name in row if name not in self.columns]
        if new:
            self.columns += new
            self._write([*read_metrics(self.path), row])
            return
        with self.path.open("a", encoding="utf-8", newline="") as file:
            csv.DictWriter(file, self.columns, lineterminator="\n").writerow(row)

    def _write(self, rows: list[Row]) -> None:
        with atomic_path(self.path) as aside, aside.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, self.columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows({name: _number(value) for name, value in row.items()} for row in rows)


def _number(value: float) -> float | int:
    """Whole numbers without a fraction, as they were before they were read from text."""
    return int(value) if value == value and abs(value) < 2**53 and value == int(value) else value
