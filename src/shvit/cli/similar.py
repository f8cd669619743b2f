"""Find pictures that are alike: similar ones, duplicates, leaks between splits, labels that look wrong."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from shvit.atomic import atomic_text, check_outputs
from shvit.cli.arguments import MODELS, add_csv_safe, positive
from shvit.display import json_text, notice, print_table, progress_bar, say
from shvit.errors import ArgumentError
from shvit.shipped import DEFAULT_MODEL

if TYPE_CHECKING:
    from shvit.embeddings.table import Embeddings
    from shvit.similarity.pictures import Pictures
    from shvit.similarity.reports import Report
    from shvit.similarity.search import EmbeddingIndex
    from shvit.similarity.sheet import Read

EPILOG = """\
examples:
  shvit embed photos/ --output embeddings.parquet
  shvit similar photo.jpg --in embeddings.parquet
  shvit similar photo.jpg --in embeddings.parquet --top-k 24 --output sheet.html
  shvit similar --duplicates photos/ --output duplicates.html --output duplicates.csv
  shvit similar --leaks data/train data/val --output leaks.html
  shvit similar --mislabelled data/train --output labels.html --output labels.csv
  shvit data apply labels.csv data/train              after editing its column `action`

Where embeddings are given instead of pictures, those of `shvit embed` are meant: a file or a folder of parts. More than
50,000 are searched through an index, which is made once and kept beside them. Of --output, the suffix says what is
written: .html a page with the pictures, .csv a table, .json or .jsonl the same for programs.

How near is near, and what was measured: docs/similarity.md.
exit status: 0 all fine, 1 some pictures failed (the others are done), 2 wrong usage
"""

LISTED = 20
"""How many of what was found the terminal shows; the outputs have all."""

COMPARED = 100
"""Suspects that similar pictures are laid beside; a page shows no more."""

SUFFIXES = (".html", ".csv", ".json", ".jsonl")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths", nargs="*", metavar="PATH", help="pictures to look for; or what is to be looked through, see below"
    )
    parser.add_argument("--in", dest="within", type=Path, metavar="FILE", help="embeddings to search, of shvit embed")
    tasks = parser.add_mutually_exclusive_group()
    tasks.add_argument("--duplicates", action="store_true", help="the same picture twice, or nearly: of PATH or --in")
    tasks.add_argument("--leaks", action="store_true", help="pictures of the second PATH that the first one has too")
    tasks.add_argument(
        "--mislabelled",
        action="store_true",
        help="labels that look wrong: of PATH, a dataset as shvit train takes it, or of embeddings with labels",
    )
    parser.add_argument("--top-k", type=positive, default=12, metavar="K", help="similar pictures (default: 12)")
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="S",
        help="cosine similarity from which pictures are nearly the same, up to 1: only equal bytes (default: 0.98)",
    )
    parser.add_argument(
        "--split", choices=("train", "val"), default="train", help="of a dataset for --mislabelled (default: train)"
    )
    parser.add_argument(
        "--model", help=f"{MODELS} (default: with --in the one that its embeddings were made by, else {DEFAULT_MODEL})"
    )
    parser.add_argument(
        "--output", type=Path, action="append", default=[], metavar="FILE", help=".html, .csv, .json or .jsonl; again"
    )
    add_csv_safe(parser)
    parser.add_argument("--threads", type=positive, metavar="N", help="of the engine (default: all)")


def run(args: argparse.Namespace) -> int:
    _check(args)
    if args.duplicates:
        report, read, failed = _duplicates(args)
    elif args.leaks:
        report, read, failed = _leaks(args)
    elif args.mislabelled:
        report, read, failed = _mislabelled(args)
    else:
        report, read, failed = _search(args)
    for each in failed:
        say(f"error: {each}", sys.stderr)
    for path in args.output:  # first: whoever reads what is printed may stop reading
        _write(report, read, path, args.csv_safe)
    _print(report)
    return 1 if failed else 0


def _check(args: argparse.Namespace) -> None:
    """Refuses what cannot be done before anything is read."""
    for path in args.output:
        if path.suffix.lower() not in SUFFIXES:
            raise ArgumentError(f"--output {path}: expected a name that ends in {', '.join(SUFFIXES)}")
    inputs = [*args.paths, *([args.within] if args.within is not None else [])]
    check_outputs([("--output", path) for path in args.output], inputs)
    if args.threshold is not None:
        if not (args.duplicates or args.leaks):
            raise ArgumentError("--threshold: is for --duplicates and --leaks")
        from shvit.similarity.duplicates import check_threshold

        check_threshold(args.threshold)
    if args.leaks:
        if args.within is not None or len(args.paths) != 2:
            raise ArgumentError("--leaks: expected two paths and no --in, as in: shvit similar --leaks train/ val/")
    elif args.duplicates or args.mislabelled:
        task = "--duplicates" if args.duplicates else "--mislabelled"
        if len(inputs) != 1:
            raise ArgumentError(f"{task}: expected one path, or --in with a file of embeddings; got {len(inputs)}")
    elif args.within is None or not args.paths:
        raise ArgumentError(
            "expected pictures to look for and --in with the embeddings to search, as in: shvit similar photo.jpg --in "
            "embeddings.parquet (made by: shvit embed photos/ --output embeddings.parquet)"
        )


def _search(args: argparse.Namespace) -> tuple[Report, Read, Sequence[str]]:
    from shvit.images.sources import expand_sources
    from shvit.similarity.pictures import embedder_for, files, together
    from shvit.similarity.reports import Query, search_report

    searched, index = _indexed(args.within, args)
    embeddings = index.embeddings
    embedder = embedder_for(embeddings.info, args.model, args.threads, str(args.within))
    sources = list(expand_sources(args.paths, sys.stdin, notice=notice))
    with progress_bar("embedding", len(sources)) as advance:
        looked_for = files("the pictures", sources, embedder, advance)
    found = index.search(looked_for.embeddings.matrix, args.top_k)
    queries = [Query(name, len(embeddings) + place) for place, name in enumerate(looked_for.embeddings.sources)]
    return search_report(queries, found, embeddings), together(searched, looked_for), looked_for.failed


def _duplicates(args: argparse.Namespace) -> tuple[Report, Read, Sequence[str]]:
    from shvit.similarity.duplicates import NEAR, find_duplicates
    from shvit.similarity.reports import duplicates_report

    threshold = NEAR if args.threshold is None else args.threshold
    pictures, index = _indexed(args.within or args.paths[0], args)
    groups = find_duplicates(index, threshold)
    return duplicates_report(groups, pictures.embeddings, pictures.name, threshold), pictures.read, pictures.failed


def _leaks(args: argparse.Namespace) -> tuple[Report, Read, Sequence[str]]:
    from shvit.similarity.duplicates import NEAR, find_leaks
    from shvit.similarity.pictures import together
    from shvit.similarity.reports import leaks_report

    threshold = NEAR if args.threshold is None else args.threshold
    train, index = _indexed(args.paths[0], args)
    val = _pictures(args.paths[1], args)
    leaks = find_leaks(index, val.embeddings, threshold)
    report = leaks_report(leaks, train.embeddings, val.embeddings, (train.name, val.name), threshold)
    return report, together(val, train), [*train.failed, *val.failed]


def _mislabelled(args: argparse.Namespace) -> tuple[Report, Read, Sequence[str]]:
    from shvit.heads.linear import steps
    from shvit.similarity.mislabelled import compared_with, find_mislabelled
    from shvit.similarity.reports import mislabelled_report

    pictures, views = _labelled(args.within or args.paths[0], args)
    with progress_bar("judging", steps()) as advance:
        suspects = find_mislabelled(views, advance)
    beside = [compared_with(pictures.embeddings, each) for each in suspects[:COMPARED]]
    return mislabelled_report(suspects, pictures.embeddings, pictures.name, beside), pictures.read, pictures.failed


def _indexed(path: str | Path, args: argparse.Namespace) -> tuple[Pictures, EmbeddingIndex]:
    from shvit.similarity.pictures import of_files_named
    from shvit.similarity.search import EmbeddingIndex

    if _is_file(path, args):
        with progress_bar("indexing", None) as advance:
            index = EmbeddingIndex(path, notice=notice, advance=advance)
        return of_files_named(str(path), index.embeddings), index
    pictures = _pictures(path, args)
    return pictures, EmbeddingIndex(pictures.embeddings)


def _pictures(path: str | Path, args: argparse.Namespace) -> Pictures:
    from shvit.images.sources import expand_sources
    from shvit.predicting.embedder import Embedder
    from shvit.similarity.pictures import embeddings_file, files

    if _is_file(path, args):
        return embeddings_file(path)[0]
    sources = list(expand_sources([str(path)], sys.stdin, notice=notice))
    embedder = Embedder(args.model or DEFAULT_MODEL, threads=args.threads)
    with progress_bar("embedding", len(sources)) as advance:
        return files(str(path), sources, embedder, advance)


def _labelled(path: str | Path, args: argparse.Namespace) -> tuple[Pictures, Embeddings]:
    """Pictures, and all views of them that there are."""
    from shvit.data.datasets import open_dataset
    from shvit.predicting.embedder import Embedder
    from shvit.similarity.pictures import dataset, embeddings_file

    if _is_file(path, args, pictures_in_parquet=True):
        return embeddings_file(path)
    images = open_dataset(path, args.split)
    embedder = Embedder(args.model or DEFAULT_MODEL, threads=args.threads)
    with progress_bar("embedding", len(images)) as advance:
        pictures = dataset(images, embedder, advance)
    return pictures, pictures.embeddings


def _is_file(path: str | Path, args: argparse.Namespace, pictures_in_parquet: bool = False) -> bool:
    """Whether it is embeddings, and not pictures to be embedded.

    Args:
        pictures_in_parquet: a Parquet file may hold pictures; otherwise it is taken for embeddings, if damaged ones.
    """
    from shvit.similarity.pictures import is_embeddings

    if args.within is not None or is_embeddings(path):
        return True
    return not pictures_in_parquet and Path(path).suffix.lower() == ".parquet" and Path(path).is_file()


def _print(report: Report) -> None:
    for sentence in report.sheet.about:
        say(sentence, hang=2)
    if report.rows:
        header, rows = report.header, report.rows[:LISTED]
        say("")
        justify = "".join("r" if isinstance(cell, float | int) else "l" for cell in rows[0])
        print_table(
            header, [[f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows], justify
        )
        if len(report.rows) > LISTED:
            say(f"... and {len(report.rows) - LISTED:,} more; --output writes all of them")


def _write(report: Report, read: Read, path: Path, csv_safe: bool) -> None:
    suffix = path.suffix.lower()
    if suffix == ".html":
        from shvit.similarity.sheet import write_sheet

        if missing := write_sheet(path, report.sheet, read):
            notice(f"{path}: {missing:,} pictures were moved, changed or cannot be read, and are not shown")
        return
    with atomic_text(path) as file:
        if suffix == ".csv":
            from shvit.display import CSVWriter

            writer = CSVWriter(file, csv_safe)
            writer.row(report.header)
            writer.rows(report.rows)
        elif suffix == ".jsonl":
            for record in report.records:
                print(json_text(record), file=file)
        else:
            print(json_text(report.records, indent=2), file=file)
