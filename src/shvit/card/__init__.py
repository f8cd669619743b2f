"""The card inside a model file: what it is, what its outputs mean, how its inputs were prepared."""

from shvit.card.card import (
    CARD_FILE,
    IMAGENET_MEAN,
    IMAGENET_STD,
    MAX_CARD_BYTES,
    MAX_SIDE,
    METADATA_KEY,
    MIN_CROP_RATIO,
    SCHEMA_VERSION,
    Card,
    ClassInfo,
    Metric,
    Preprocessing,
    TaskName,
    TrainingSplit,
    Verification,
    Weights,
    short_labels,
)
from shvit.card.decision import Decision, Promise, Threshold, Unknown
from shvit.card.taught import Taught

__all__ = [
    "CARD_FILE",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "MAX_CARD_BYTES",
    "MAX_SIDE",
    "METADATA_KEY",
    "MIN_CROP_RATIO",
    "SCHEMA_VERSION",
    "Card",
    "ClassInfo",
    "Decision",
    "Metric",
    "Preprocessing",
    "Promise",
    "TaskName",
    "Taught",
    "Threshold",
    "TrainingSplit",
    "Unknown",
    "Verification",
    "Weights",
    "short_labels",
]
