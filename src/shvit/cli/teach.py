"""Teach a model file classes of your own from a few photographs; needs no PyTorch."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from shvit.cli.arguments import MODELS, add_fitting, name_broken, positive, pyarrow_wanted
from shvit.cli.data import IMAGE_KEY_HELP
from shvit.display import json_text, notice, print_table, say
from shvit.errors import ArgumentError
from shvit.shipped import DEFAULT_MODEL

if TYPE_CHECKING:
    from shvit.teaching.report import TeachReport

EPILOG = """\
examples:
  shvit teach photos/ --output mine.onnx                      with the model that comes with shvit
  shvit teach photos/ --model shvit_s4 --output mine.onnx     a sub-folder for each class, 20 to 50 photographs each
  shvit teach photos/ --model shvit_s4 --unknown other/ --output mine.onnx    and what is none of them
  shvit teach more/ --add --model mine.onnx                   further photographs or classes
  shvit teach --forget cat --model mine.onnx                  one class less
  shvit predict photo.jpg --model mine.onnx

The network stays as it is; a new head is fitted to what it sees. So an 8-bit file stays one (--model mine8.onnx). Where
that finds too little, `shvit train photos/ --from mine.onnx` goes on from the same weights. Embeddings are kept beside
the file, in NAME.embeddings.parquet: --add and --forget need them; they do not hold the pictures, but their names.

exit status: 0 all fine, 1 some pictures could not be read (the others are used), 2 wrong usage or it could not go on
"""

MOST_IN_TABLE = 8
"""Classes of a confusion table; of more, the pairs are told that are confused most."""

PAIRS, DOUBTFUL = 8, 10
"""How many of these are told."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data", nargs="?", metavar="PHOTOS", help="folder with a sub-folder for each class, or any labelled dataset"
    )
    parser.add_argument("--model", metavar="NAME|FILE", help=f"what is to learn: {MODELS} (default: {DEFAULT_MODEL})")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="model file to write (default with --add or --forget: the model's)"
    )
    parser.add_argument(
        "--add", action="store_true", help="the model was taught before: what it knows stays, and PHOTOS are added"
    )
    parser.add_argument(
        "--forget", action="append", default=[], metavar="CLASS", help="take a class out again; may be given repeatedly"
    )
    add_fitting(parser)
    parser.add_argument("--image-key", metavar="EXTENSION", help=IMAGE_KEY_HELP)
    parser.add_argument(
        "--threads", type=positive, metavar="N", help="of one inference, and that decode (default: all)"
    )
    parser.add_argument("--format", choices=("text", "json"), default="text", help="default: text")


def run(args: argparse.Namespace) -> int:
    with pyarrow_wanted("teach"):
        from shvit.teaching.report import TeachOptions
        from shvit.teaching.teach import teach

    if args.model is None and (args.add or args.forget):
        raise ArgumentError("--model: say which file is to be changed, one that was taught before")
    options = TeachOptions(args.unknown, args.target_precision, args.keep, args.image_key, args.threads)
    report = teach(
        args.data, args.model or DEFAULT_MODEL, args.output, options, add=args.add, forget=args.forget, progress=True
    )
    if args.format == "json":
        print(json_text(report.to_dict(), indent=2))
    else:
        print_report(report)
    return name_broken(report.broken, "pictures")


def print_report(report: TeachReport) -> None:
    card, (low, high) = report.card, report.interval
    assert card.taught is not None  # by teach
    _print_what(report)
    say(
        f"  of others like these, about {100 * report.accuracy:.0f} of 100 are named right (95% interval "
        f"{100 * low:.0f} to {100 * high:.0f}), measured on pictures held back; those of another place or camera are "
        "harder",
        hang=4,
    )
    _print_decision(report)
    _print_confusion(report)
    _print_doubtful(report)
    for note in report.notes:
        notice(note)
    say(f"written: {report.path}, and {report.kept.name} beside it for --add and --forget")


def _print_what(report: TeachReport) -> None:
    """What was taught; and where something was added or taken out, what it knew before."""
    card, earlier = report.card, report.earlier
    assert card.taught is not None  # by teach
    say(
        f"{report.path.name} was taught {len(card.classes)} classes with {sum(report.counts.values()):,} pictures, on "
        f"the features of {card.taught.model}",
        hang=2,
    )
    if earlier is None or earlier.taught is None:
        return
    knew, knows = ([each.label for each in classes] for classes in (earlier.classes, card.classes))
    changes = [
        f"{what}: {', '.join(labels[:5])}{', ...' if len(labels) > 5 else ''}"
        for what, labels in (
            ("new", [each for each in knows if each not in knew]),
            ("forgotten", [each for each in knew if each not in knows]),
        )
        if labels
    ]
    before = f"before, {len(knew)} classes with {earlier.taught.images:,} pictures"
    if earlier.taught.accuracy is not None:
        before = f"{before}, of which about {100 * earlier.taught.accuracy:.0f} of 100 were named right"
    say(f"  {'; '.join([*changes, before])}", hang=4)


def _print_decision(report: TeachReport) -> None:
    decision = report.lesson.decision
    if decision.promise is not None:
        say(
            f"  answers from score {decision.min_score:.3f} on: right {decision.promise.precision:.1%} of the time, "
            f"for {decision.promise.coverage:.0%} of the pictures",
            hang=4,
        )
    unknown = decision.unknown
    if unknown is not None and unknown.taken_for_known is not None:
        say(
            f"  of {unknown.pictures:,} unknown pictures {1 - unknown.taken_for_known:.0%} are noticed, and "
            f"{unknown.kept:.0%} of its own stay known",
            hang=4,
        )
    elif unknown is not None:
        say(
            "  what looks very different is called unknown; with --unknown DIR it learns to notice more, and tells how "
            "many",
            hang=4,
        )


def _print_confusion(report: TeachReport) -> None:
    from shvit.evaluation.metrics import confused_pairs, confusion_matrix

    labels, predictions = report.card.short_labels, report.lesson.predictions
    if predictions.correct.all():
        return
    if len(labels) <= MOST_IN_TABLE:
        classes, matrix = confusion_matrix(predictions)
        shown = [labels[each] for each in classes.tolist()]
        rows = [[label, *map(str, row.tolist())] for label, row in zip(shown, matrix, strict=True)]
        print_table(["a picture of", *(f"named {label}" for label in shown)], rows)
        return
    pairs = [[labels[shown], labels[named], str(count)] for shown, named, count in confused_pairs(predictions, PAIRS)]
    print_table(["most often, a picture of", "is named", "times"], pairs, "llr")


def _print_doubtful(report: TeachReport) -> None:
    doubtful = report.lesson.doubtful
    if not doubtful:
        return
    from shvit.teaching.lesson import MOST_DOUBTFUL

    say("  look whether these labels are right; the least likely label is first:", hang=4)
    rows = [
        [each.source, each.label, f"{each.score:.2f}", each.looks_like, f"{each.looks_like_score:.2f}"]
        for each in doubtful[:DOUBTFUL]
    ]
    print_table(["picture", "its label", "score", "looks like", "score"], rows, "llrlr")
    if len(doubtful) > DOUBTFUL:
        say(f"  ... and {len(doubtful) - DOUBTFUL} more; --format json names up to {MOST_DOUBTFUL}", hang=4)
    command = f"shvit similar --mislabelled {shlex.quote(str(report.kept))} --output labels.html --output labels.csv"
    say(f"  to see and to move them: {command}", hang=4)
