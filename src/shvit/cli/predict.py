"""Classify images with a model file; needs no PyTorch."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING

from shvit.atomic import STDOUT, atomic_text, check_outputs, free_name, write_encoded
from shvit.cli.arguments import (
    add_answering,
    add_csv_safe,
    add_model,
    check_folder_name,
    check_format_of,
    check_not_read,
    image_size,
    positive,
)
from shvit.display import CSVWriter, columns, folded, json_text, notice, printable, say, terminal
from shvit.engines import BATCH_SIZE, ENGINES
from shvit.errors import ArgumentError
from shvit.images.decoding import Decoding
from shvit.images.sources import SourceError, expand_sources
from shvit.predicting.classifier import Classifier
from shvit.shipped import SHIPPED_MODELS
from shvit.tasks.results import Result

if TYPE_CHECKING:
    from shvit.evaluation.truth import Checked, Truth

CALIBRATED_FROM = 4000
"""From so many images on, the second or two that measuring the engines takes is worth while."""

EPILOG = """\
examples:
  shvit predict photo.jpg                              a table in the terminal
  shvit predict photos/ 'more/**/*.png'                folders and globs
  find . -name '*.jpg' | shvit predict - --format jsonl    paths on stdin, JSON lines out
  shvit predict photos/ --format csv --output labels.csv
  shvit predict photos/ --fast-decode                  nearly the same pixels, sooner
  shvit predict photos/ --save-images labelled/        copies with the labels drawn in
  shvit predict photos/ --truth photos/labels.csv      beside what is in them, and how many are right

exit status: 0 all fine, 1 some inputs failed (the others are done), 2 wrong usage
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="file, folder, glob, or - for paths on stdin")
    add_model(parser)
    add_answering(parser, "image")
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default="auto",
        help="default: auto, the one measured fastest here, else onnxruntime",
    )
    parser.add_argument(
        "--calibrate",
        action="store_true",
        help=f"measure the installed engines first; from {CALIBRATED_FROM:,} images on that is done once anyway",
    )
    parser.add_argument("--threads", type=positive, metavar="N", help="of the engine, and that decode (default: all)")
    parser.add_argument("--batch-size", type=positive, default=BATCH_SIZE, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--image-size",
        type=image_size,
        metavar="N|HxW",
        help="side of the input, in pixels, or height and width, as 160x320, for a model file exported with "
        "--dynamic-size (default: the file's)",
    )
    parser.add_argument(
        "--fast-decode",
        action="store_true",
        help="decode and resize to nearly the same pixels in about half the time (needs the extra fast)",
    )
    parser.add_argument("--format", choices=("table", "jsonl", "csv"), default="table", help="default: table")
    add_csv_safe(parser)
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="write the results here; default: -, which is stdout"
    )
    parser.add_argument("--save-images", type=Path, metavar="DIR", help="write copies with the labels drawn in")
    parser.add_argument(
        "--truth",
        type=Path,
        metavar="FILE",
        help="a CSV file filename,label: show what is in each picture, and how many are right; no label, or one that "
        "the model does not have: not taught, and to be called unknown",
    )


def run(args: argparse.Namespace) -> int:
    check_folder_name("--save-images", args.save_images)
    check_not_read("--save-images", args.save_images, args.sources)
    check_format_of("--output", args.output, args.format, {".csv": "csv", ".jsonl": "jsonl"})
    sources = list(expand_sources(args.sources, sys.stdin, notice=notice))
    if not sources:
        notice("standard input holds no paths")
    inputs = (each for each in sources if isinstance(each, str))
    read = [SHIPPED_MODELS.get(args.model, args.model), *([args.truth] if args.truth is not None else [])]
    check_outputs([("--output", args.output)], chain(read, inputs))
    decoding: Decoding = "fast" if args.fast_decode else "exact"
    classifier = Classifier(
        args.model, args.engine, args.threads, args.batch_size, decoding, len(sources), args.image_size
    )
    truth = None if args.truth is None else _read_truth(args.truth, classifier, sources)
    calibrated = bool(classifier.engine_choice.timings) or args.engine != "auto"
    if args.calibrate or (len(sources) >= CALIBRATED_FROM and not calibrated):
        choice = classifier.calibrate()
        say(f"engine: {choice.engine}, {choice.reason}", sys.stderr)
    if args.save_images is not None:
        args.save_images.mkdir(parents=True, exist_ok=True)
    failed = 0
    with ExitStack() as stack:
        try:
            output = stack.enter_context(atomic_text(args.output or STDOUT))
        except OSError as error:
            raise ArgumentError(f"--output {args.output}: {error.strerror}") from None
        write = WRITERS[args.format](output, args.csv_safe, truth is not None)
        for result in _with_progress(_predict(classifier, sources, args), len(sources)):
            checked = None if truth is None else truth.check(result)
            if args.save_images is not None and result.error is None:
                result = _save_image(result, args.save_images, checked)
            failed += result.error is not None
            write(result, checked)
        if truth is not None:
            # Lines of JSON and of CSV are for programs.
            say(truth.summary, output if args.format == "table" else sys.stderr)
    if failed:
        say(f"{failed} of {len(sources)} inputs failed", sys.stderr)
    return 1 if failed else 0


def _read_truth(file: Path, classifier: Classifier, sources: list[str | SourceError]) -> Truth:
    from shvit.evaluation.truth import Truth

    return Truth(file, classifier.card.classes, [each for each in sources if isinstance(each, str)])


def _predict(classifier: Classifier, sources: list[str | SourceError], args: argparse.Namespace) -> Iterator[Result]:
    paths = [source for source in sources if isinstance(source, str)]
    results = classifier.stream(paths, args.top_k, min_score=args.min_score, unknown=not args.no_unknown)
    for source in sources:
        if isinstance(source, SourceError):
            yield Result(source.source, error=source.reason)
        else:
            yield next(results)


def _with_progress(results: Iterator[Result], total: int) -> Iterable[Result]:
    """A progress bar where there is much to do and somebody watches."""
    if total < 32 or not sys.stderr.isatty():
        return results
    from rich.progress import track

    return track(results, "classifying", total=total, console=terminal(stderr=True), transient=True)


def _save_image(result: Result, folder: Path, checked: Checked | None) -> Result:
    from shvit.drawing.annotate import annotate
    from shvit.errors import ImageError
    from shvit.images.preprocess import decode

    path = free_name(folder, Path(result.source).stem, "jpg")
    try:
        heading = result.headline if result.decision in ("unsure", "unknown") else None
        caption = None if checked is None else printable(f"truth: {checked.text}")
        picture = annotate(decode(result.source), result.predictions, heading, caption)
        write_encoded(lambda file: picture.save(file, "JPEG", quality=90), path)
    except ImageError as error:
        return Result(result.source, error=str(error).removeprefix(f"{result.source}: "))
    except OSError as error:
        return Result(result.source, error=f"{path}: {error.strerror or error}")
    return result


Write = Callable[[Result, "Checked | None"], None]


def _write_jsonl(output: IO[str], csv_safe: bool, with_truth: bool) -> Write:
    def write(result: Result, checked: Checked | None) -> None:
        print(json_text({**result.to_dict(), **(checked.to_dict() if checked else {})}), file=output, flush=True)

    return write


def _write_csv(output: IO[str], csv_safe: bool, with_truth: bool) -> Write:
    writer = CSVWriter(output, csv_safe)
    columns = ("source", "rank", "label", "class_id", "wnid", "score", "error")
    writer.row(
        (*columns, "decision", "accepted", "unknown_score", *(("truth", "taught", "right") if with_truth else ()))
    )

    def write(result: Result, checked: Checked | None) -> None:
        beside = _truth_cells(checked) if with_truth else ()
        if result.error is not None:
            writer.row((result.source, "", "", "", "", "", result.error, "", "", "", *beside))
        strange = "" if result.unknown_score is None else f"{result.unknown_score:.6f}"
        for rank, each in enumerate(result.predictions, start=1):
            row = (result.source, rank, each.label, each.class_id, each.wnid or "", f"{each.score:.6f}", "")
            accepted = "" if each.accepted is None else int(each.accepted)
            writer.row((*row, result.decision or "", accepted, strange, *beside))

    return write


def _truth_cells(checked: Checked | None) -> tuple[object, ...]:
    if checked is None:
        return ("", "", "")
    right = "" if checked.right is None else int(checked.right)
    return ("|".join(checked.labels), int(checked.taught), right)


def _write_table(output: IO[str], csv_safe: bool, with_truth: bool) -> Write:
    """An image's name, then a line for each label; plain text, because it must start at once."""
    colour = output.isatty() and "NO_COLOR" not in os.environ
    bold, green, red, reset = ("\033[1m", "\033[32m", "\033[31m", "\033[0m") if colour else ("",) * 4
    width = columns(output)
    before = 30  # what a line has before its label
    beside = None if width is None else max(width - before, 10)

    def write(result: Result, checked: Checked | None) -> None:
        print(f"{bold}{printable(result.source)}{reset}", file=output)
        if checked is not None:
            shade = {True: green, False: red, None: ""}[checked.right]
            print(shade + "\n".join(folded(f"  truth: {checked.text}", 4, width)) + reset, file=output)
        if result.error is not None:
            print(red + "\n".join(folded(f"  error: {result.error}", 4, width)) + reset, file=output)
        if result.decision in ("unsure", "unknown") or result.task == "multi_label":
            print(bold + "\n".join(folded(f"  {result.headline}", 4, width)) + reset, file=output)
        for each in result.predictions:
            bar = "█" * round(each.score * 20)
            start = f"  {each.score:6.1%} {green}{bar:<20}{reset} "
            print(start + f"\n{'':{before}}".join(folded(each.short_label, 0, beside)), file=output)
        output.flush()

    return write


WRITERS = {"table": _write_table, "jsonl": _write_jsonl, "csv": _write_csv}
