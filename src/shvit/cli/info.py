"""Print the card of a model file: what it is, how it was made, how good it is."""

from __future__ import annotations

import argparse

from shvit.card import Verification, Weights
from shvit.cli.arguments import MODELS
from shvit.display import json_escaped, say
from shvit.predicting.classifier import Classifier

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
        "task": card.task,
        "architecture": card.architecture,
        "parameters": f"{card.parameters:,}" if card.parameters else None,
        "MACs": f"{card.macs:,}" if card.macs else None,
        "input": f"uint8 (N, {height}, {width}, 3) RGB, {card.preprocessing.resize_mode}, "
        f"crop ratio {card.preprocessing.crop_ratio}, {card.preprocessing.interpolation}",
        "output": card.output,
        "classes": labels + more,
        "training data": card.training_data,
        "licence": card.licence,
        "source": card.source,
        "weights": describe_weights(card.weights),
        "trained from": describe_weights(card.trained_from),
        "notes": card.notes,
        "created": card.created,
        "made by": f"shvit {card.shvit_version}" if card.shvit_version else None,
    }
    for key, value in rows.items():
        if value:
            say(f"{key:>14}  {value}", hang=16)
    if card.verification is not None:
        say(f"{'verified':>14}  {describe(card.verification)}", hang=16)
    for metric in card.metrics:
        say(f"{metric.name:>14}  {metric.value:.4g} on {metric.dataset}", hang=16)
        if metric.command:
            say(f"{'':>14}  measured by: {metric.command}")
    return 0


def describe_weights(weights: Weights | None) -> str | None:
    return None if weights is None else f"{weights.repository}, {weights.file}, SHA-256 {weights.sha256}"


def describe(verification: Verification) -> str:
    """What was found when the file was exported, in one line."""
    written = f"{verification.format} in {verification.precision}"
    if verification.max_difference is None or verification.top1_agreement is None:
        return f"{written}, {verification.notes}"
    return (
        f"{written}, run by {verification.engine} on {verification.images} images: same first label as its network on "
        f"{verification.top1_agreement:.1%}, logits within {verification.max_difference:.1e} of the largest"
    )
