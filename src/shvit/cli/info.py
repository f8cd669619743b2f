"""Print the card of a model file: what it is, how it was made, how good it is."""

from __future__ import annotations

import argparse

from shvit.card import Card, Preprocessing, Taught, Verification, Weights
from shvit.cli.arguments import MODELS
from shvit.display import json_escaped, say
from shvit.predicting.classifier import Classifier
from shvit.tasks import task_of

EPILOG = """\
examples:
  shvit info shvit_s1_tiny_imagenet
  shvit info shvit_s4                 published weights by name: what they are, how good, whose
  shvit info mine.onnx --format json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=MODELS)
    parser.add_argument("--format", choices=("text", "json"), default="text", help="default: text")


def run(args: argparse.Namespace) -> int:
    card = Classifier(args.model, threads=1, images=0).card
    if args.format == "json":
        print(json_escaped(card.to_json()))
        return 0
    height, width = card.preprocessing.image_size
    labels = ", ".join(card.short_labels[:5])
    more = f", ... ({len(card.classes)} in all)" if len(card.classes) > 5 else ""
    rows = {
        "name": card.name,
        "task": task_of(card).title,
        "architecture": card.architecture,
        "parameters": f"{card.parameters:,}" if card.parameters else None,
        "MACs": f"{card.macs:,}" if card.macs else None,
        "input": f"uint8 (N, {height}, {width}, 3) RGB, {_resizing(card.preprocessing)}",
        "output": card.output,
        "classes": labels + more,
        "training data": card.training_data,
        "licence": card.licence,
        "source": card.source,
        "weights": describe_weights(card.weights),
        "trained from": describe_weights(card.trained_from),
        "taught": describe_taught(card.taught),
        "notes": card.notes,
        "created": card.created,
        "made by": f"shvit {card.shvit_version}" if card.shvit_version else None,
    }
    for key, value in rows.items():
        if value:
            say(f"{key:>14}  {value}", hang=16)
    for line in describe_decision(card):
        say(f"{'decides':>14}  {line}", hang=16)
    if card.verification is not None:
        say(f"{'verified':>14}  {describe(card.verification)}", hang=16)
    for metric in card.metrics:
        say(f"{metric.name:>14}  {metric.value:.4g} on {metric.dataset}", hang=16)
        if metric.command:
            say(f"{'':>14}  measured by: {metric.command}")
    return 0


def _resizing(preprocessing: Preprocessing) -> str:
    detail = {
        "crop": f", crop ratio {preprocessing.crop_ratio}",
        "squash": "",
        "pad": " with {}, {}, {}".format(*preprocessing.pad_color),
    }[preprocessing.resize_mode]
    return f"{preprocessing.resize_mode}{detail}, {preprocessing.interpolation}"


def describe_weights(weights: Weights | None) -> str | None:
    return None if weights is None else f"{weights.repository}, {weights.file}, SHA-256 {weights.sha256}"


def describe_taught(taught: Taught | None) -> str | None:
    if taught is None:
        return None
    origin = f"with {taught.images:,} pictures, on the features of {taught.model}"
    if None in (taught.accuracy, taught.low, taught.high):
        return origin
    return f"{origin}; {taught.accuracy:.1%} right of those held out in turn ({taught.low:.1%} to {taught.high:.1%})"


def describe_decision(card: Card) -> list[str]:
    """When its scores are answers, a line for each thing that is decided; none where nothing is."""
    decision = card.decision
    if decision is None:
        return []
    fitted = f"fitted on {decision.images:,} images of {decision.data}"
    lines = []
    if decision.temperature != 1:
        errors = (decision.calibration_error, decision.calibration_error_before)
        measured = "" if None in errors else ": calibration error {:.1%}, without it {:.1%}".format(*errors)
        lines.append(f"temperature {decision.temperature:.3g}{measured}; {fitted}")
    if (promise := decision.promise) is not None:
        by = "" if decision.min_score is None else f" from a score of {decision.min_score:.3f} on"
        own = f", {len(decision.thresholds):,} classes by thresholds of their own" if decision.thresholds else ""
        lines.append(
            f"answers{by}{own}: right {promise.precision:.1%} of the time ({promise.low:.1%} to {promise.high:.1%}), "
            f"for {promise.coverage:.0%} of the images; {fitted}"
        )
    if (unknown := decision.unknown) is not None:
        lines.append(
            f"unknown above {unknown.limit:.3f}: {unknown.method}; keeps {unknown.kept:.1%} of its own; {fitted}"
        )
        if unknown.auroc is not None:
            noticed = "" if unknown.taken_for_known is None else f"{1 - unknown.taken_for_known:.0%} noticed, "
            lines.append(f"of {unknown.pictures:,} other unknown pictures {noticed}AUROC {unknown.auroc:.3f}")
    return lines


def describe(verification: Verification) -> str:
    """What was found when the file was exported, in one line."""
    written = f"{verification.format} in {verification.precision}"
    if verification.max_difference is None or verification.top1_agreement is None:
        return f"{written}, {verification.notes}"
    return (
        f"{written}, run by {verification.engine} on {verification.images} images: same first label as its network on "
        f"{verification.top1_agreement:.1%}, logits within {verification.max_difference:.1e} of the largest"
    )
