"""An evaluation in figures."""

from __future__ import annotations

import datetime
import math
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from shvit.card import ClassInfo
from shvit.evaluation.evaluate import Evaluation, Robustness
from shvit.evaluation.metrics import calibration, class_counts, confused_pairs, wilson_interval

PAIRS = 20
"""How many pairs of confused classes are listed."""
PACKAGES = ("shvit", "torch", "onnxruntime", "openvino", "numpy", "pillow")


def summarize(
    evaluation: Evaluation, latency: np.ndarray, robustness: Sequence[Robustness], classes: Sequence[ClassInfo]
) -> dict[str, Any]:
    """All figures, as JSON can hold them; shares are in [0, 1], times in milliseconds.

    Args:
        latency: milliseconds, ``(N,)``.
        classes: the classifier's.
    """
    predictions = evaluation.predictions
    counts = class_counts(predictions, len(classes))
    reliability = calibration(predictions)
    per_class = [
        {
            **asdict(each),
            "images": int(counts.images[place]),
            "correct": int(counts.correct[place]),
            "accuracy": _number(counts.accuracy[place]),
            "predicted": int(counts.predicted[place]),
            "precision": _number(counts.precision[place]),
        }
        for place, each in enumerate(classes)
        if counts.images[place] or counts.predicted[place]
    ]
    return {
        "images": len(predictions),
        "correct": int(predictions.correct.sum()),
        "correct_top5": int(predictions.in_top5.sum()),
        "top1": predictions.top1,
        "top1_interval": list(wilson_interval(int(predictions.correct.sum()), len(predictions))),
        "top5": predictions.top5,
        "loss": predictions.loss,
        "ece": reliability.error,
        "images_per_second": (len(predictions) + len(evaluation.broken)) / evaluation.seconds,
        "latency": {
            "median_ms": float(np.median(latency)),
            "p95_ms": float(np.percentile(latency, 95)),
            "runs": len(latency),
        },
        "corruptions": [asdict(each) for each in robustness],
        "corruptions_mean_top1": float(np.mean([each.top1 for each in robustness])) if robustness else None,
        "broken": [{"source": each.source, "reason": each.reason} for each in evaluation.broken],
        "per_class": per_class,
        "classes_without_images": [each.label for each in classes if not counts.images[each.class_id]],
        "confused_pairs": [
            {"label": classes[label].label, "predicted": classes[taken].label, "images": count}
            for label, taken, count in confused_pairs(predictions, PAIRS)
        ],
        "calibration": [
            {"images": int(count), "confidence": _number(confidence), "accuracy": _number(accuracy)}
            for count, confidence, accuracy in zip(
                reliability.counts, reliability.confidence, reliability.accuracy, strict=True
            )
        ],
    }


def provenance(command: str) -> dict[str, Any]:
    """What one needs to measure the same again: command, versions, machine, date."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "command": command,
        "versions": versions,
        "machine": platform.platform(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def worst_classes(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Entries of ``per_class`` that have images, least accurate first; of equals, the one of more images."""
    with_images = [each for each in results["per_class"] if each["images"]]
    return sorted(with_images, key=lambda each: (each["accuracy"], -each["images"]))


def _number(value: float) -> float | None:
    """NaN is not JSON."""
    return None if math.isnan(value) else float(value)
