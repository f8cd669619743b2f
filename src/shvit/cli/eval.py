"""Measure a model file or a checkpoint on labelled images: accuracy, calibration, speed, robustness."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shvit.cli.arguments import add_csv_safe, check_folder_name, image_size, positive
from shvit.cli.data import IMAGE_KEY_HELP
from shvit.display import json_text, say, say_all
from shvit.engines import ENGINES

if TYPE_CHECKING:
    from shvit.card import Card
    from shvit.evaluation.task_measures import Measure

EPILOG = """\
examples:
  shvit eval --model mine.onnx --data data/
  shvit eval --model runs/mine/best.safetensors --data data/ --output report/     and open report/report.html
  shvit eval --model mine.onnx --data data/ --corruptions all --severity 3        as in ImageNet-C
  shvit eval --model mine.onnx --data imagenet/ --labels real.json                ImageNet-ReaL
  shvit eval --model mine.onnx --data data/ --engine openvino --threads 1 --format json

DATA as for `shvit train`; of images without splits that the model was trained on, those that the training held out are
measured. Its classes are matched to the model's by WordNet id or name, and may be fewer; folders named
0, 1, 2, ... (ImageNet-V2) are class numbers.

exit status: 0 all fine, 1 some images could not be read (the others are measured), 2 wrong usage
"""

BROKEN_SHOWN = 20
"""How many unreadable images are named on the terminal; results.json names all."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, metavar="NAME|FILE", help="shipped model, model file or checkpoint")
    parser.add_argument("--data", required=True, metavar="DATA", help="dataset folder or file")
    parser.add_argument("--image-key", metavar="EXTENSION", help=IMAGE_KEY_HELP)
    parser.add_argument("--split", choices=("val", "train"), default="val", help="default: val")
    parser.add_argument(
        "--held-out",
        type=seed_or_none,
        metavar="SEED|none",
        help="of data without splits, measure what shvit train --seed SEED held out, or all of it (default: what the "
        "training of this model held out, where these are its images; else all of it)",
    )
    parser.add_argument("--val-share", type=float, default=0.1, metavar="SHARE", help="with it: default 0.1")
    parser.add_argument("--output", type=Path, metavar="DIR", help="write a report here: HTML, JSON, CSV and pictures")
    add_csv_safe(parser)
    parser.add_argument("--labels", type=Path, metavar="FILE", help="JSON or CSV of file name and label(s)")
    parser.add_argument("--limit", type=positive, metavar="N", help="only N images, evenly spaced over the split")
    parser.add_argument(
        "--corruptions", metavar="all|NAME,...", help="also measure on images corrupted as in ImageNet-C"
    )
    parser.add_argument(
        "--severity",
        type=int,
        choices=range(1, 6),
        nargs="+",
        default=[3],
        metavar="1..5",
        help="of the corruptions, one or several (default: 3)",
    )
    parser.add_argument(
        "--unknown",
        type=Path,
        metavar="DIR",
        help="measure how many of these pictures, of none of its classes, it notices",
    )
    parser.add_argument("--fast-decode", action="store_true", help="measure also what fast decoding changes")
    parser.add_argument("--engine", choices=ENGINES, default="auto", help="for a model file (default: auto)")
    parser.add_argument("--threads", type=positive, metavar="N", help="threads of one inference (default: all)")
    parser.add_argument("--batch-size", type=positive, default=64, metavar="N", help="default: 64")
    parser.add_argument(
        "--image-size",
        type=image_size,
        metavar="N|HxW",
        help="another side of the input, in pixels, or height and width, as 160x320, for a checkpoint or a file "
        "exported with --dynamic-size",
    )
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="decoding processes (default: 2)")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="default: text")


def seed_or_none(text: str) -> int | str:
    """What ``--held-out`` takes."""
    if text == "none":
        return text
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number or none, got {text!r}") from None


def run(args: argparse.Namespace) -> int:
    check_folder_name("--output", args.output)
    from shvit.evaluation.measure import EvaluationOptions, evaluate

    options = EvaluationOptions(
        split=args.split,
        held_out=args.held_out,
        val_share=args.val_share,
        image_key=args.image_key,
        labels=args.labels,
        limit=args.limit,
        corruptions=parse_corruptions(args.corruptions),
        severities=args.severity,
        fast_decode=args.fast_decode,
        unknown=args.unknown,
        engine=args.engine,
        threads=args.threads,
        image_size=args.image_size,
        batch_size=args.batch_size,
        workers=args.workers,
        report=args.output,
        csv_safe=args.csv_safe,
        command=shlex.join(["shvit", *sys.argv[1:]]),
    )
    result = evaluate(args.model, args.data, options, progress=True)
    if args.format == "json":
        print(json_text(result.figures, indent=2))
    else:
        print_summary(result.figures, result.evaluation.predictions, result.card, args.output)
    for each in result.broken[:BROKEN_SHOWN]:
        say(f"{each.source}: {each.reason}", sys.stderr)
    if result.broken:
        say(f"{len(result.broken)} of {result.measured + len(result.broken)} images could not be read", sys.stderr)
    unread = (result.figures["unknown"] or {}).get("broken", ())
    for line in unread[:BROKEN_SHOWN]:
        say(line, sys.stderr)
    if unread:
        say(f"{len(unread)} unknown pictures could not be read", sys.stderr)
    return 1 if result.broken or unread else 0


def parse_corruptions(text: str | None) -> list[str]:
    """Names of corruptions from ``all`` or a list with commas."""
    if text != "all":
        return [] if text is None else text.split(",")
    from shvit.evaluation.corruptions import CORRUPTIONS

    return list(CORRUPTIONS)


def print_decisions(results: dict[str, Any], measure: Measure) -> None:
    """How often the answers of a file that decides are right, and how many unknown pictures it notices."""
    if (before := results["ece_before_temperature"]) is not None:
        say(f"  calibration error {results['ece']:.2%}, without the card's temperature {before:.2%}", hang=4)
    for line in measure.answers(results):
        say(f"  {line}", hang=4)
    if (unknown := results["unknown"]) is not None:
        say(
            f"  unknown: {unknown['noticed']:.1%} of {unknown['pictures']:,} pictures of {unknown['data']} are "
            f"noticed, {unknown['known_kept']:.1%} of its own stay known (AUROC {unknown['auroc']:.3f}, "
            f"{unknown['fpr_at_95_recall']:.1%} missed at 95% kept; largest score alone: AUROC "
            f"{unknown['auroc_of_largest_score']:.3f})",
            hang=4,
        )


def print_summary(results: dict[str, Any], predictions: Any, card: Card, output: Path | None) -> None:
    from shvit.evaluation.tally import TALLIES
    from shvit.evaluation.task_measures import MEASURES

    measure, tally = MEASURES[card.task], TALLIES[card.task]
    figure = tally.figure
    latency = results["latency"]
    threads = f", --threads {results['threads']}" if results["threads"] else ""
    say(f"{results['model']} on {results['images']:,} images of {results['data']} ({results['split']} split)", hang=2)
    for note in results["notes"]:
        say(f"  {note}", hang=4)
    for sentence in measure.sentences(results, predictions, card):
        say(f"  {sentence}", hang=4)
    say_all(measure.line(results), gap="   ")
    say(
        f"  one image: {latency['median_ms']:.2f} ms median, {latency['p95_ms']:.2f} ms 95th percentile "
        f"({results['engine']}{threads}; decoding not included)",
        hang=4,
    )
    say(f"  {results['images_per_second']:.0f} images/s, decoding included")
    if fast := results["fast_decoding"]:
        say(
            f"  fast decoding: {tally.called} {fast[figure]:.2%} ({100 * fast[f'{figure}_change']:+.2f} points), "
            f"the same prediction for {fast['same_prediction']:.2%}, {fast['images_per_second']:.0f} images/s",
            hang=4,
        )
    print_decisions(results, measure)
    say(f"  {measure.weakest(results, card.short_labels)}", hang=4)
    if results["corruptions"]:
        say(f"  {tally.called} on corrupted images:")
        for each in results["corruptions"]:
            say(f"    {each[figure]:7.2%}  {each['corruption']}, severity {each['severity']}")
        say(f"    {results[f'corruptions_mean_{figure}']:7.2%}  mean")
    if output is not None:
        say(f"  report: {output / 'report.html'}")
