"""Compare training runs: what they were, how far they came, how well they did. Needs no PyTorch."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, fields
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shvit.atomic import check_outputs
from shvit.cli.arguments import add_csv_safe, check_written_as
from shvit.display import CSVWriter, json_text, print_table, say
from shvit.errors import DataError
from shvit.runs.run_folder import (
    CURVES,
    RunRecord,
    RunSummary,
    differences,
    find_runs,
    read_run,
    summarize,
)

if TYPE_CHECKING:
    pass

EPILOG = """\
DIR is a run folder, or a folder of run folders. A damaged one is a row that says what is wrong with it.

examples:
  shvit runs                                   every run under runs/
  shvit runs --sort best_top1                  the best first
  shvit runs runs/a runs/b --diff              only the recipe's keys that differ
  shvit runs --plot runs.png                   validation accuracy of all in one picture
  shvit runs runs/a --curves                   draw runs/a/curves.png again
  shvit runs --format csv > runs.csv
"""

COLUMNS = tuple(field.name for field in fields(RunSummary))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", nargs="*", type=Path, default=[Path("runs")], metavar="DIR", help="default: runs")
    parser.add_argument(
        "--sort",
        choices=COLUMNS,
        default="name",
        metavar="COLUMN",
        help=f"numbers from the largest, text from A: {', '.join(COLUMNS)} (default: name)",
    )
    parser.add_argument("--reverse", action="store_true", help="sort the other way round")
    parser.add_argument("--format", choices=("table", "json", "csv"), default="table", help="default: table")
    add_csv_safe(parser)
    parser.add_argument("--diff", action="store_true", help="show the recipe's keys that differ between the runs")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the runs' validation top-1 in one picture")
    parser.add_argument("--curves", action="store_true", help=f"write {CURVES} into each run folder")


def run(args: argparse.Namespace) -> int:
    check_written_as("--plot", args.plot, "a PNG", (".png",))
    records, summaries = [], []
    for folder in (each for given in args.folders for each in find_runs(given)):
        try:
            record = read_run(folder)
            summary = summarize(record)
        except DataError as error:
            reason = str(error).removeprefix(f"{folder}/")
            summaries.append(RunSummary(str(folder), f"damaged: {reason}"))
        else:
            records.append(record)
            summaries.append(summary)
    read = (path for record in records for path in Path(record.name).iterdir() if path.name != CURVES)
    check_outputs([("--plot", args.plot)], read)
    if args.diff:
        _print_differences(records, args.format, args.csv_safe)
    else:
        _print_summaries(_sort(summaries, args.sort, args.reverse), args.format, args.csv_safe)
    if args.plot is not None or args.curves:
        from shvit.runs.curves import plot_comparison, plot_run

        if args.plot is not None:
            plot_comparison(records, args.plot)
        for record in records if args.curves else ():
            plot_run(record, Path(record.name) / CURVES)
    return 0


def _sort(summaries: list[RunSummary], column: str, reverse: bool) -> list[RunSummary]:
    """Runs that have no such figure come last either way."""
    known = [each for each in summaries if getattr(each, column) is not None]
    unknown = [each for each in summaries if getattr(each, column) is None]
    numbers = bool(known) and not isinstance(getattr(known[0], column), str)
    return sorted(known, key=lambda each: getattr(each, column), reverse=numbers != reverse) + unknown


def _print_summaries(summaries: list[RunSummary], form: str, csv_safe: bool) -> None:
    if form == "json":
        print(json_text([asdict(each) for each in summaries], indent=2))
        return
    if form == "csv":
        writer = CSVWriter(sys.stdout, csv_safe)
        writer.row(COLUMNS)
        writer.rows(asdict(each).values() for each in summaries)
        return
    rows = [
        (
            each.name,
            each.model or "",
            _text(each.image_size, ""),
            "" if each.epochs_done is None else f"{each.epochs_done:.3g}/{each.epochs}",
            f"mAP {each.best_map:.1%}" if each.best_map is not None else _text(each.best_top1, ".1%"),
            _text(each.last_loss, ".3f"),
            "" if each.seconds is None else str(timedelta(seconds=round(each.seconds))),
            _text(each.images_per_second, ",.0f"),
            _text(each.seed, "d"),
            each.teacher or "",
            each.state.partition(":")[0],
        )
        for each in summaries
    ]
    header = ("name", "model", "px", "epochs", "top-1", "last loss", "time", "images/s", "seed", "teacher", "state")
    print_table(header, rows, "llrrrrrrrll")
    for each in summaries:
        if ":" in each.state:
            say(f"{each.name}: {each.state}", hang=2)


def _print_differences(records: list[RunRecord], form: str, csv_safe: bool) -> None:
    names = [record.name for record in records]
    changed = differences(records)
    if form == "json":
        print(json_text({key: dict(zip(names, values, strict=True)) for key, values in changed.items()}, indent=2))
    elif form == "csv":
        writer = CSVWriter(sys.stdout, csv_safe)
        writer.row(["key", *names])
        writer.rows([key, *values] for key, values in changed.items())
    elif not changed:
        say(f"the recipes of {len(records)} runs are the same")
    else:
        rows = [(key, *("" if value is None else str(value) for value in values)) for key, values in changed.items()]
        print_table(("key", *names), rows, "l" * (1 + len(names)))


def _text(value: Any, form: str) -> str:
    return "" if value is None else format(value, form)
