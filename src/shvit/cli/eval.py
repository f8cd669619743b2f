"""Measure a model file or a checkpoint on labelled images: accuracy, calibration, speed, robustness; needs the lab."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shvit.atomic import check_outputs
from shvit.cli.arguments import add_csv_safe, positive
from shvit.cli.data import IMAGE_KEY_HELP
from shvit.display import json_text, progress_bar, say
from shvit.engines import ENGINES

if TYPE_CHECKING:
    from shvit.card import Card, TrainingSplit
    from shvit.data import ImageDataset

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
    parser.add_argument("--fast-decode", action="store_true", help="measure also what fast decoding changes")
    parser.add_argument("--engine", choices=ENGINES, default="auto", help="for a model file (default: auto)")
    parser.add_argument("--threads", type=positive, metavar="N", help="threads of one inference (default: all)")
    parser.add_argument("--batch-size", type=positive, default=64, metavar="N", help="default: 64")
    parser.add_argument(
        "--image-size",
        type=positive,
        metavar="N",
        help="another input size, for a checkpoint or a file exported with --dynamic-size",
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


def open_images(args: argparse.Namespace, trained: TrainingSplit | None) -> tuple[ImageDataset, list[str], str | None]:
    """The images to measure, what is worth noting of them, and a warning where the model may know them.

    Args:
        trained: what the model remembers of its training.
    """
    from shvit.data.datasets import is_divided, open_dataset, open_datasets
    from shvit.data.trained_on import count_trained_on, divide_as_trained

    notes: list[str] = []
    if isinstance(args.held_out, int):
        train, val, note = open_datasets(args.data, args.held_out, args.val_share, args.image_key)
        if note is None:
            raise ValueError(f"--held-out: {args.data} is divided into splits already; leave it out")
        images = val if args.split == "val" else train
        notes.append(note)
    else:
        images = open_dataset(args.data, args.split, args.image_key)
        parts = divide_as_trained(images, trained) if trained is not None and args.held_out is None else None
        if parts is not None and trained is not None:
            images = parts[1] if args.split == "val" else parts[0]
            which = "held out by" if args.split == "val" else "used for"
            notes.append(
                f"the {len(images):,} of {len(images.images):,} images that were {which} this model's training (seed "
                f"{trained.seed}, {(trained.val_share or 0) * 100:.3g} % of each class held out); "
                "--held-out none measures all"
            )
    if args.split == "train":
        return images, notes, None
    if trained is None:
        if args.held_out is not None or is_divided(args.data, args.image_key):
            return images, notes, None
        return (
            images,
            notes,
            f"{args.model} does not tell which images it was trained on; if these are among them, the figures are too "
            "high (--held-out SEED measures those that training held out)",
        )
    known = count_trained_on(images, trained)
    if not known:
        return images, notes, None
    return (
        images,
        notes,
        f"the model was trained on some of these images ({known} of the {len(trained.remembered)} training images that "
        "it remembers are among them): the figures are too high; measure on images that it has not seen",
    )


def run(args: argparse.Namespace) -> int:
    from shvit.evaluation import (
        REPORT_FILES,
        LabelledImages,
        dataset_labels,
        evaluate,
        evaluate_corrupted,
        evaluate_fast_decoding,
        evenly_spaced,
        labels_from_file,
        match_classes,
        measure_latency,
        open_classifier,
        provenance,
        summarize,
        write_report,
    )
    from shvit.images.decoding import preparation
    from shvit.images.preprocess import decode, preprocess

    if args.fast_decode:
        preparation("fast")  # what it needs is missing: say so before the first pass, not after it
    corruptions = parse_corruptions(args.corruptions)
    classifier = open_classifier(args.model, args.engine, args.threads, args.image_size)
    images, origin, warning = open_images(args, classifier.card.training_split)
    if warning is not None:
        say(f"shvit eval: warning: {warning}", sys.stderr)
    if args.output is not None:
        read = [args.model, args.data, *([args.labels] if args.labels else ())]
        sources = (images.source(index) for index in range(len(images)))
        check_outputs([("--output", args.output / name) for name in REPORT_FILES], chain(read, sources))
    classes = classifier.card.classes
    if args.labels is None:
        matched, way = match_classes(images, classes, args.model)
        accepted = dataset_labels(images, matched)
        notes = [f"classes matched by {way}"]
    else:
        accepted = labels_from_file(args.labels, images, classes)
        notes = [f"labels of {args.labels}, which has none for {len(images) - len(accepted):,} images"]
    chosen = LabelledImages(images, accepted, evenly_spaced(list(accepted), args.limit))
    notes += [*origin, *([] if warning is None else [f"warning: {warning}"])]
    if len(chosen) < len(accepted):
        notes.append(f"{len(chosen):,} of {len(accepted):,} images, evenly spaced")
    if args.output is not None:
        args.output.mkdir(parents=True, exist_ok=True)

    passes = 1 + args.fast_decode + len(corruptions) * len(args.severity)
    with progress_bar("evaluating", passes * len(chosen)) as advance:
        evaluation = evaluate(classifier, chosen, args.batch_size, args.workers, advance)
        readable = LabelledImages(images, accepted, evaluation.predictions.indices)
        robustness = evaluate_corrupted(
            classifier, readable, corruptions, args.severity, args.batch_size, args.workers, advance
        )
        fast = None
        if args.fast_decode:
            fast = evaluate_fast_decoding(classifier, readable, evaluation, args.batch_size, args.workers, advance)
    first = decode(images.read(int(readable.indices[0])))
    latency = measure_latency(classifier, preprocess(first, classifier.card.preprocessing))
    results = {
        "model": args.model,
        "data": args.data,
        "split": args.split,
        "notes": notes,
        "engine": classifier.engine,
        "threads": args.threads,
        **summarize(evaluation, latency, robustness, classes),
        "fast_decoding": None if fast is None else asdict(fast),
        **provenance(),
    }
    if args.output is not None:
        write_report(args.output, results, evaluation, images, classifier.card, args.csv_safe)
    if args.format == "json":
        print(json_text(results, indent=2))
    else:
        print_summary(results, classifier.card, args.output)
    for each in evaluation.broken[:BROKEN_SHOWN]:
        say(f"{each.source}: {each.reason}", sys.stderr)
    if evaluation.broken:
        say(f"{len(evaluation.broken)} of {len(chosen)} images could not be read", sys.stderr)
    return 1 if evaluation.broken else 0


def parse_corruptions(text: str | None) -> list[str]:
    """Names of corruptions from ``all`` or a list with commas.

    Raises:
        ValueError: there is none of a name.
    """
    from shvit.evaluation.corruptions import CORRUPTIONS

    names = [] if text is None else list(CORRUPTIONS) if text == "all" else text.split(",")
    for name in names:
        if name not in CORRUPTIONS:
            raise ValueError(f"--corruptions {text}: expected all, or some of {', '.join(CORRUPTIONS)}")
    return names


def print_summary(results: dict[str, Any], card: Card, output: Path | None) -> None:
    from shvit.evaluation import worst_classes

    latency = results["latency"]
    threads = f", --threads {results['threads']}" if results["threads"] else ""
    say(f"{results['model']} on {results['images']:,} images of {results['data']} ({results['split']} split)")
    for note in results["notes"]:
        say(f"  {note}")
    say(
        f"  top-1 {results['top1']:.2%}   top-5 {results['top5']:.2%}   cross-entropy {results['loss']:.4f}   "
        f"calibration error {results['ece']:.2%}"
    )
    say(
        f"  one image: {latency['median_ms']:.2f} ms median, {latency['p95_ms']:.2f} ms 95th percentile "
        f"({results['engine']}{threads}; decoding not included)"
    )
    say(f"  {results['images_per_second']:.0f} images/s, decoding included")
    if fast := results["fast_decoding"]:
        say(
            f"  fast decoding: top-1 {fast['top1']:.2%} ({100 * fast['top1_change']:+.2f} points), "
            f"the same prediction for {fast['same_prediction']:.2%}, {fast['images_per_second']:.0f} images/s"
        )
    worst = (f"{card.short_labels[each['class_id']]} {each['accuracy']:.0%}" for each in worst_classes(results)[:5])
    say(f"  least recognised: {', '.join(worst)}")
    if results["corruptions"]:
        say("  top-1 on corrupted images:")
        for each in results["corruptions"]:
            say(f"    {each['top1']:7.2%}  {each['corruption']}, severity {each['severity']}")
        say(f"    {results['corruptions_mean_top1']:7.2%}  mean")
    if output is not None:
        say(f"  report: {output / 'report.html'}")
