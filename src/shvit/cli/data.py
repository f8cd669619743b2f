"""Look a dataset over before training on it, and move pictures between its classes."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from shvit.atomic import check_outputs, write_json
from shvit.cli.arguments import check_folder_name, positive
from shvit.display import columns, folded, json_text, print_table, progress_bar, say, terminal

if TYPE_CHECKING:
    from rich.console import Console

    from shvit.data.check import DataReport, Place

EPILOG = """\
examples:
  shvit data check photos/
  shvit data check photos/ --output report/            report.json and report.png too
  shvit data check 'shards/train-{000..146}.tar' --format json
  shvit data apply labels.csv photos/                  says what the table would move; with --yes moves it

`shvit data check --help` and `shvit data apply --help` explain more.
"""

CHECK_EPILOG = """\
PATH is what `shvit train` takes: a folder with train/ and val/ of class folders, or of class folders alone; Parquet
files or a folder that datasets.save_to_disk wrote; hf://user/name; tar shards (a file, a folder, a pattern or a URL);
a CSV file with the columns path and label, or a folder with train.csv and val.csv; labels.csv with path and labels
(cat|dog); COCO's annotations. Where there is no validation split, the one that training would make with this seed is
checked. Of pictures with any number of labels, those without any and labels that are often together are counted.

Every image is decoded. Reported are counts, sizes, formats and class balance; images that are broken or next to
empty; shapes of which a crop of the centre cuts off much, and what to train with then; pictures that are there more
than once, pixel for pixel: within a split, in both (so that the accuracy measured is too high), or with different
labels; and files among the images that are not read, by suffix. Classes of validation are found among those of
training by name: one without validation images is named, one that training lacks is an error.

examples:
  shvit data check photos/
  shvit data check photos/ --output report/ --workers 8
  shvit data check labels.csv --format json | jq .problems

exit status: 0 clean, 1 images are broken, not read, leaked into validation or labelled in two ways, 2 wrong usage
"""

APPLY_EPILOG = """\
TABLE is a CSV file with the columns source, action, from and to, as `shvit similar` writes it for duplicates, leaks and
labels that look wrong. A person goes through it and edits the column `action`:

  keep        nothing (what `shvit similar` writes)
  move        the picture goes from the folder of the class `from` to the one of the class `to`
  set aside   it goes to FOLDER/.set-aside/, which no command reads

Pictures are renamed, never copied, changed or deleted; where a name is taken already, a number is put behind it. Only
pictures in FOLDER are moved, and only to classes that it has a folder of. Without --yes it is said what would be done.
With it, a file that undoes it is written beside the table before anything is moved.

examples:
  shvit similar --mislabelled photos/ --output labels.csv --output labels.html
  shvit data apply labels.csv photos/
  shvit data apply labels.csv photos/ --yes
  shvit data apply --undo labels-undo.json photos/ --yes

exit status: 0 all fine, 1 some lines cannot be done (the others are), 2 wrong usage
"""

IMAGE_KEY_HELP = "of tar shards with several images under one key, the one that is meant, such as jpg or left.jpg"
"""Of the option that all commands have which read datasets."""

REPORT = ("report.json", "report.png")
"""What is written to a folder."""

LISTED = 10
"""How many of a list's entries the terminal shows; the JSON has all."""

NAMED = 5
"""How many of the most and of the least frequent classes the terminal names."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    check = actions.add_parser(
        "check",
        help="decode every image; report sizes, class balance, broken files and duplicates",
        description="Decode every image of a dataset and report what would harm a training.",
        epilog=CHECK_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    check.add_argument("path", metavar="PATH", help="dataset: a folder, a file, a pattern, a URL or hf://NAME")
    check.add_argument("--output", type=Path, metavar="DIR", help="write report.json and report.png here")
    check.add_argument("--image-key", metavar="EXTENSION", help=IMAGE_KEY_HELP)
    check.add_argument("--seed", type=int, default=0, metavar="N", help="of the split to be made, if any (default: 0)")
    check.add_argument("--format", choices=("text", "json"), default="text", help="default: text")
    check.add_argument(
        "--workers", type=positive, default=os.cpu_count() or 1, metavar="N", help="processes (default: all cores)"
    )
    check.set_defaults(perform=_check)
    apply = actions.add_parser(
        "apply",
        help="move pictures between class folders by a table that you edited; never deletes",
        description="Move pictures between class folders, or aside, by a table that a person has gone through.",
        epilog=APPLY_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    apply.add_argument("table", type=Path, metavar="TABLE", help="CSV of shvit similar; with --undo, the undo file")
    apply.add_argument("folder", type=Path, metavar="FOLDER", help="with a folder for each class, or for each split")
    apply.add_argument("--yes", action="store_true", help="do it; otherwise it is only said what would be done")
    apply.add_argument("--undo", action="store_true", help="TABLE is an undo file: move everything back")
    apply.add_argument(
        "--undo-file", type=Path, metavar="FILE", help="where to write it (default: beside TABLE, NAME-undo.json)"
    )
    apply.set_defaults(perform=_apply)


def run(args: argparse.Namespace) -> int:
    return args.perform(args)


def _apply(args: argparse.Namespace) -> int:
    from shvit.data.apply import apply_moves, plan_changes, read_changes, read_undo, undo_name, write_undo

    plan = read_undo(args.table, args.folder) if args.undo else plan_changes(read_changes(args.table), args.folder)
    for each in plan.refused:
        say(f"error: {each}", sys.stderr)
    for move in plan.moves if not args.yes else plan.moves[:LISTED]:
        say(f"{move.source} -> {move.target}")
    if args.yes and len(plan.moves) > LISTED:
        say(f"... and {len(plan.moves) - LISTED:,} more")
    kept = f", {plan.kept:,} kept" if plan.kept else ""
    if not args.yes:
        say(f"{len(plan.moves):,} pictures to move{kept}; nothing was done yet: add --yes", hang=2)
    elif plan.moves:
        undo = args.undo_file or undo_name(args.table)
        check_outputs([("--undo-file", undo)], [args.table])
        write_undo(plan.moves, undo)
        back = f"to undo it: shvit data apply --undo {shlex.quote(str(undo))} {shlex.quote(str(args.folder))} --yes"
        try:
            done = apply_moves(plan.moves, args.folder)
        except BaseException:  # also where the user ends it
            say(f"not all of the {len(plan.moves):,} pictures were moved; {back}", sys.stderr)
            raise
        say(f"{done:,} pictures moved{kept}; {back}")
        if done < len(plan.moves):
            say(f"error: {len(plan.moves) - done:,} pictures or their places changed meanwhile; left alone", sys.stderr)
            return 1
    else:
        say(f"nothing to move{kept}")
    return 1 if plan.refused else 0


def _check(args: argparse.Namespace) -> int:
    check_folder_name("--output", args.output)
    from shvit.data.alignment import describe_alignment
    from shvit.data.check import check_datasets
    from shvit.data.datasets import open_datasets

    train, val, note = open_datasets(args.path, args.seed, image_key=args.image_key)
    splits = {"train": train, "val": val}
    if args.output is not None:
        from shvit.data.check_picture import draw_report

        sources = (each.source(index) for each in splits.values() for index in range(len(each)))
        files = [("--output", args.output / name) for name in REPORT]
        check_outputs(files, chain([args.path], sources))
        args.output.mkdir(parents=True, exist_ok=True)
    with progress_bar("decoding", len(train) + len(val)) as advance:
        report = check_datasets(splits, args.workers, advance)
    contents = {"path": args.path, "seed": args.seed, "note": note, **report.to_dict()}
    notes = [each for each in (note, describe_alignment(val)) if each]
    if args.output is not None:
        write_json(contents, args.output / "report.json")
        draw_report(report, splits, Path(args.path).name or args.path, args.output / "report.png")
    if args.format == "json":
        print(json_text(contents, indent=2))
    else:
        _print_report(report, args.path, notes, args.output)
    return 1 if report.problems else 0


def _print_report(report: DataReport, path: str, notes: Sequence[str], output: Path | None) -> None:
    console = terminal(soft_wrap=True)
    width = columns()
    counts = " and ".join(f"{len(summary.widths):,} {split}" for split, summary in report.splits.items())
    for line in folded(f"{path}: {counts} images of {len(report.classes):,} classes", 2, width):
        console.print(line, style="bold")
    for note in notes:
        say(f"({note})", hang=1)
    rows = []
    for split, summary in report.splits.items():
        whole = summary.widths > 0
        sizes = (_range(values) for values in (summary.widths[whole], summary.heights[whole], summary.class_counts))
        rows.append((split, f"{len(whole):,}", f"{(~whole).sum():,}", *sizes))
    console.print()
    print_table(("split", "images", "broken", "width", "height", "per class"), rows, "lrrrrr")
    console.print("width, height, images per class: min / median / max", style="dim")
    console.print()
    for title, kinds in zip(("formats", "modes"), report.kinds(), strict=True):
        say(f"{title:<8} {', '.join(f'{kind} {count:,}' for kind, count in kinds.items())}", hang=9)
    _print_sizes(report, console)
    _print_shapes(report, console)
    _print_classes(report, console)
    _print_label_sets(report, console)
    _print_findings(report, console)
    if output is not None:
        console.print()
        console.print(f"report and picture: {output / 'report.json'}, {output / 'report.png'}")


def _range(values: np.ndarray) -> str:
    if not len(values):
        return "-"
    low, high = values.min(), values.max()
    return f"{low}" if low == high else f"{low} / {np.median(values):g} / {high}"


def _print_sizes(report: DataReport, console: Console) -> None:
    counts, edges = report.size_histogram()
    if len(counts) < 2:
        return
    console.print()
    console.print("shorter side, pixels")
    for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True):
        bar = "█" * round(30 * count / counts.max())
        console.print(f"  {low:>6.0f} to {high - 1:<6.0f} {bar:<30} {count:,}")


def _print_shapes(report: DataReport, console: Console) -> None:
    """Only where a crop of the centre cuts off much."""
    from shvit.data.picture_shapes import MUCH

    shapes = report.shapes()
    if shapes is None or shapes.advice is None:
        return
    console.print()
    console.print("shapes", style="yellow")
    say(
        f"  a square crop of the centre cuts off {shapes.median_lost:.0%} of a picture in the median; "
        f"{shapes.pictures_losing_much:.0%} of the pictures lose more than {MUCH:.0%}",
        hang=4,
    )
    if shapes.advice == "image_size":
        say(
            f"  most are of one shape: a crop of {shapes.image_size} cuts off {shapes.median_lost_there:.0%}, at about "
            "the cost of 224 pixels square",
            hang=4,
        )
        flags = f"--image-size {shapes.image_size}"
    else:
        say("  they are of many shapes: with padding the network sees all of each", hang=4)
        flags = "--resize-mode pad"
    say(f"  train with: {flags}")


def _print_classes(report: DataReport, console: Console) -> None:
    counts = next(iter(report.splits.values())).class_counts
    if counts.min() == counts.max():
        return
    order = (-counts).argsort(kind="stable")
    console.print()
    ends = {"most frequent classes": order[:NAMED], "least frequent classes": order[NAMED:][-NAMED:]}
    for title, classes in ends.items():
        if len(classes):
            named = ", ".join(f"{report.short_labels[each]} ({counts[each]:,})" for each in classes)
            say(f"{title:<23} {named}", hang=4)


def _print_label_sets(report: DataReport, console: Console) -> None:
    """Where pictures have any number of labels: how many, and which are often together in training."""
    lines = []
    for split, summary in report.splits.items():
        if (sets := summary.label_sets) is not None:
            counts = f"{_range(sets.per_image)} labels a picture, {sets.unlabelled:,} pictures without labels"
            lines.append(f"{split:<8} {counts}")
    if not lines:
        return
    console.print()
    for line in lines:
        say(line, hang=9)
    sets = next(iter(report.splits.values())).label_sets
    if sets is not None and sets.together:
        pairs = (
            f"{report.short_labels[first]} + {report.short_labels[second]} ({count:,})"
            for first, second, count in sets.together[:NAMED]
        )
        say(f"together {', '.join(pairs)}", hang=9)


def _print_findings(report: DataReport, console: Console) -> None:
    from shvit.data.unread import unread_lines

    def describe(place: Place) -> str:
        label = report.short_labels[place.class_id] if isinstance(place.class_id, int) else place.label
        return f"{place.source} [{place.split}, {label}]"

    leaked: list[str] = []
    conflicting: list[str] = []
    repeated: list[str] = []
    for group in report.duplicates:
        chosen = leaked if group.leaked else conflicting if group.conflicting else repeated
        chosen.append(" = ".join(describe(place) for place in group.places))
    findings = (
        ("cannot be decoded", "red", [f"{describe(each.place)}: {each.reason}" for each in report.broken]),
        ("both in training and in validation", "red", leaked),
        ("in one split with different labels", "red", conflicting),
        ("in one split more than once, with the same label", "yellow", repeated),
        ("with next to nothing on them", "yellow", [describe(place) for place in report.near_constant]),
    )
    if report.left_out:
        console.print()
        console.print(f"files not read: {sum(report.left_out.values()):,}", style="yellow")
        for line in unread_lines(report.left_out):
            say(f"  {line}", hang=6)
    for title, style, lines in findings:
        if lines:
            console.print()
            console.print(f"images {title}: {len(lines):,}", style=style)
        for line in lines[:LISTED]:
            say(f"  {line}", hang=6)
        if len(lines) > LISTED:
            say(f"  ... and {len(lines) - LISTED:,} more; --output and --format json list all", hang=6)
    if not report.problems:
        console.print()
        console.print("no problems found", style="green")
