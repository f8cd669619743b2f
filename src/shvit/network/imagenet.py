"""ImageNet-1k's classes."""

from __future__ import annotations

import csv
from functools import cache
from typing import Final

from shvit.card import ClassInfo
from shvit.shipped import ASSETS

IMAGENET: Final = "imagenet-1k"
"""What its classes are asked for by."""

_FILE = ASSETS / "imagenet_1k.csv"


@cache
def imagenet_classes() -> tuple[ClassInfo, ...]:
    """The thousand, in the order of the published networks' outputs, with all their names and WordNet ids."""
    with _FILE.open(encoding="utf-8", newline="") as table:
        return tuple(ClassInfo(place, each["label"], each["wnid"]) for place, each in enumerate(csv.DictReader(table)))
