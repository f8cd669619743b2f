"""List the variants and the models shipped in the package."""

from __future__ import annotations

import argparse
from typing import Any

from shvit.display import json_text, print_table
from shvit.predicting.classifier import Classifier
from shvit.shipped import SHIPPED_MODELS

EPILOG = """\
examples:
  shvit models
  shvit models --format json

Weights: "hub" are the published ones, timm/NAME.in1k on the Hugging Face Hub (their top-1 as timm measured it on
ImageNet's 50,000 validation images); "shipped" come inside this package.
"""

VARIANTS = (
    {"name": "shvit_s1", "parameters": 6_307_596, "macs": 241_400_128, "input": 224, "top1": 72.780},
    {"name": "shvit_s2", "parameters": 11_452_020, "macs": 365_505_144, "input": 224, "top1": 75.184},
    {"name": "shvit_s3", "parameters": 14_208_300, "macs": 600_707_607, "input": 224, "top1": 77.356},
    {"name": "shvit_s4", "parameters": 16_544_088, "macs": 986_431_488, "input": 256, "top1": 79.362},
)
"""Folded, 1000 classes. Written down, because counting them needs PyTorch; a test counts them again."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=("table", "json"), default="table", help="default: table")


def rows() -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = [{**each, "data": "ImageNet-1k", "weights": "hub"} for each in VARIANTS]
    for name, file in SHIPPED_MODELS.items():
        card = Classifier(file, threads=1).card
        top1 = next((metric.value * 100 for metric in card.metrics if metric.name == "top1"), None)
        listed.append(
            {
                "name": name,
                "parameters": card.parameters,
                "macs": card.macs,
                "input": card.preprocessing.image_size[0],
                "top1": top1,
                "data": card.training_data,
                "weights": "shipped",
            }
        )
    return listed


def run(args: argparse.Namespace) -> int:
    if args.format == "json":
        print(json_text(rows(), indent=2))
        return 0
    listed = [
        (
            each["name"],
            (each["data"] or "").split(" (")[0].split(",")[0],
            f"{each['parameters'] / 1e6:.1f} M",
            f"{each['macs'] / 1e6:.0f} M",
            f"{each['input']}²",
            f"{each['top1']:.1f}" if each["top1"] is not None else "",
            each["weights"],
        )
        for each in rows()
    ]
    print_table(("name", "data", "parameters", "MACs", "input", "top-1", "weights"), listed, "llrrrrl")
    return 0
