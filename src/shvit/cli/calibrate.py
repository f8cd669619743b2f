"""Fit when a model's scores are answers: temperature, thresholds, and what is none of its classes; needs no PyTorch."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from shvit.cli.arguments import MODELS, add_fitting, name_broken, positive
from shvit.cli.data import IMAGE_KEY_HELP
from shvit.display import json_text, print_table, say

if TYPE_CHECKING:
    from shvit.calibration.calibrate import CalibrationReport
    from shvit.card import Decision
    from shvit.evaluation.selective import RiskCoverage

EPILOG = """\
examples:
  shvit calibrate --model mine.onnx --data photos/ --output mine.onnx
  shvit calibrate --model mine.onnx --data photos/ --target-precision 0.95 --output sure.onnx
  shvit calibrate --model mine.onnx --data photos/ --unknown other/ --output mine.onnx
  shvit predict photo.jpg --model mine.onnx                then says "unknown" and "unsure" where it is

DATA as for `shvit eval`: labelled images that the model was not trained on, 200 or more. The file is written anew with
the same weights; what it answers is decided by its card, which `shvit info` prints.

exit status: 0 all fine, 1 some images could not be read (the others are used), 2 wrong usage or it could not go on
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, metavar="NAME|FILE", help=MODELS)
    parser.add_argument("--data", required=True, metavar="DATA", help="dataset folder or file, labelled")
    parser.add_argument(
        "--output", required=True, type=Path, metavar="FILE", help="model file to write; may be the one that is read"
    )
    add_fitting(parser)
    parser.add_argument(
        "--per-class", action="store_true", help="with it: a threshold of its own for each class with enough images"
    )
    parser.add_argument("--split", choices=("val", "train"), default="val", help="default: val")
    parser.add_argument("--image-key", metavar="EXTENSION", help=IMAGE_KEY_HELP)
    parser.add_argument("--limit", type=positive, metavar="N", help="only N images, evenly spaced over the split")
    parser.add_argument("--threads", type=positive, metavar="N", help="threads of one inference (default: all)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="decoding processes (default: 2)")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="default: text")


def run(args: argparse.Namespace) -> int:
    from shvit.calibration.calibrate import calibrate
    from shvit.calibration.fitting import CalibrationOptions

    options = CalibrationOptions(
        unknown=args.unknown,
        target_precision=args.target_precision,
        per_class=args.per_class,
        keep=args.keep,
        split=args.split,
        image_key=args.image_key,
        limit=args.limit,
        threads=args.threads,
        workers=args.workers,
    )
    report = calibrate(args.model, args.data, args.output, options, progress=True)
    if args.format == "json":
        print(json_text(report.to_dict(), indent=2))
    else:
        print_report(args.model, args.data, report)
    return name_broken(report.broken, "images")


def print_report(model: str, data: str, report: CalibrationReport) -> None:
    say(f"{model} on {report.images:,} images of {data}", hang=2)
    for note in report.notes:
        say(f"  {note}", hang=4)
    decision = report.decision
    if decision.temperature != 1:
        say(
            f"  temperature {decision.temperature:.2f}: calibration error {decision.calibration_error_before:.1%} "
            f"before, {decision.calibration_error:.1%} with it (on images that it was not fitted on)",
            hang=4,
        )
    if report.curve is not None:
        _print_coverage(report.curve)
    _print_thresholds(decision)
    if decision.unknown is not None:
        unknown = decision.unknown
        say(f"  unknown: {unknown.kept:.0%} of the pictures of its own classes stay known", hang=4)
        if unknown.auroc is not None and unknown.taken_for_known is not None:
            say(
                f"    of {unknown.pictures:,} unknown pictures {1 - unknown.taken_for_known:.0%} are noticed (AUROC "
                f"{unknown.auroc:.3f}), by what was learned from the other half of them",
                hang=6,
            )
    say(f"written: {report.path}")


def _print_coverage(curve: RiskCoverage) -> None:
    from shvit.evaluation.figures import PRECISIONS

    say("  how much of these it could answer; what holds for others too, --target-precision finds:")
    rows = [[f"right {each:.0%} of the time", f"{curve.coverage_at(each):.0%} {curve.of}"] for each in PRECISIONS]
    print_table(["to have been", "it would answer"], rows)


def _print_thresholds(decision: Decision) -> None:
    promise = decision.promise
    if promise is None and decision.thresholds:
        say(f"  {len(decision.thresholds)} labels have a threshold of their own", hang=4)
    if promise is None:
        return
    own = f", {len(decision.thresholds)} classes by their own" if decision.thresholds else ""
    common = "no common threshold" if decision.min_score is None else f"score {decision.min_score:.3f} or more"
    say(
        f"  answers from {common}{own}: right {promise.precision:.1%} of the time (95% interval {promise.low:.1%} to "
        f"{promise.high:.1%}), for {promise.coverage:.0%} of the images",
        hang=4,
    )
