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

from shvit.card import ClassInfo, Decision
from shvit.evaluation.evaluate import Evaluation, FastDecoding, Robustness
from shvit.evaluation.metrics import (
    Predictions,
    calibration,
    calibration_of,
    class_counts,
    confused_pairs,
    wilson_interval,
)
from shvit.evaluation.selective import RiskCoverage, auroc, risk_coverage, taken_for_known
from shvit.evaluation.thresholds import least_score

PRECISIONS = (0.8, 0.9, 0.95, 0.99)
"""Shares of right answers for which it is told how many images get one."""

SURE_CLASS = 0.9
"""Share of right answers for which each class's threshold is looked for: 35 right in a row are enough."""

CURVE_POINTS = 200
"""Of the risk over the coverage, as JSON has it."""

PAIRS = 20
"""How many pairs of confused classes are listed."""
PACKAGES = ("shvit", "torch", "onnxruntime", "openvino", "numpy", "pillow")


def unknown_figures(
    evaluation: Evaluation, strange: np.ndarray, folder: str, decision: Decision
) -> dict[str, Any] | None:
    """How well pictures of none of the classes are told apart.

    Args:
        strange: their unknown score and best score, ``(M, 2)``, at least one.
    """
    if evaluation.unknown is None or decision.unknown is None:
        return None
    limit, scores = decision.unknown.limit, strange[:, 0]
    noticed = int((scores > limit).sum())
    return {
        "data": folder,
        "pictures": len(strange),
        "noticed": noticed / len(strange),
        "noticed_interval": list(wilson_interval(noticed, len(strange))),
        "known_kept": float((evaluation.unknown <= limit).mean()),
        "auroc": auroc(evaluation.unknown, scores),
        "fpr_at_95_recall": taken_for_known(evaluation.unknown, scores),
        "auroc_of_largest_score": auroc(-evaluation.predictions.confidence, -strange[:, 1]),
    }


def decision_figures(evaluation: Evaluation, decision: Decision | None) -> dict[str, Any]:
    """How often answers are right where only high scores are answers."""
    predictions = evaluation.predictions
    curve = risk_coverage(predictions.confidence, predictions.correct)
    before = evaluation.confidence_before
    figures = {
        "aurc": curve.area,
        "coverage": [{"precision": each, "coverage": curve.coverage_at(each)} for each in PRECISIONS],
        "risk_coverage": [
            {"score": float(curve.scores[place]), "coverage": float(curve.coverage[place]), **_share(curve, place)}
            for place in np.unique(np.linspace(0, len(curve.scores) - 1, CURVE_POINTS).astype(int)).tolist()
        ],
        "ece_before_temperature": None if before is None else calibration_of(before, predictions.correct).error,
        "answers": None,
    }
    if decision is not None and (decision.min_score is not None or decision.thresholds):
        least = np.array([decision.threshold(each) or 0.0 for each in range(int(predictions.ranked.max()) + 1)])
        taken = predictions.confidence >= least[predictions.predicted]
        right, answers = int(predictions.correct[taken].sum()), int(taken.sum())
        figures["answers"] = {
            "coverage": answers / len(predictions),
            "precision": right / answers if answers else None,
            "interval": list(wilson_interval(right, answers)) if answers else None,
            "target_precision": None if decision.promise is None else decision.promise.target_precision,
        }
    return figures


def _share(curve: RiskCoverage, place: int) -> dict[str, Any]:
    right, answers = int(curve.right[place]), int(curve.answers[place])
    return {"precision": right / answers, "interval": list(wilson_interval(right, answers))}


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
            **_sure(predictions, place),
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
        **pass_figures(evaluation, latency, robustness),
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


def _sure(predictions: Predictions, place: int) -> dict[str, float | int | None]:
    """From which score on the answers of one class are surely right so often, and what was found there; ``None`` where
    its images are too few to tell, or no score is enough."""
    taken = predictions.predicted == place
    found = None
    if taken.any():
        found = least_score(risk_coverage(predictions.confidence[taken], predictions.correct[taken]), SURE_CLASS)
    if found is None:
        return dict.fromkeys(("sure_score", "sure_answers", "sure_precision", "sure_low", "sure_high"))
    score, kept = found
    answers = round(kept.coverage * int(taken.sum()))
    return {
        "sure_score": score,
        "sure_answers": answers,
        "sure_precision": kept.precision,
        "sure_low": kept.low,
        "sure_high": kept.high,
    }


def pass_figures(
    evaluation: Evaluation, latency: np.ndarray, robustness: Sequence[Robustness], figure: str = "top1"
) -> dict[str, Any]:
    """What there is to say of passes over images, whatever the task.

    Args:
        figure: by which they are compared.
    """
    values = [each.value for each in robustness]
    return {
        "images_per_second": (len(evaluation.predictions) + len(evaluation.broken)) / evaluation.seconds,
        "latency": {
            "median_ms": float(np.median(latency)),
            "p95_ms": float(np.percentile(latency, 95)),
            "runs": len(latency),
        },
        "corruptions": [
            {"corruption": each.corruption, "severity": each.severity, figure: each.value} for each in robustness
        ],
        f"corruptions_mean_{figure}": float(np.mean(values)) if values else None,
        "broken": [{"source": each.source, "reason": each.reason} for each in evaluation.broken],
    }


def fast_decoding_figures(fast: FastDecoding | None, figure: str) -> dict[str, Any] | None:
    """Args: figure: by which passes are compared."""
    if fast is None:
        return None
    return {
        figure: fast.value,
        f"{figure}_change": fast.change,
        "same_prediction": fast.same_prediction,
        "images_per_second": fast.images_per_second,
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
