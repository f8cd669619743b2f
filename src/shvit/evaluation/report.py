"""An evaluation in figures, and as a folder of files to look at."""

from __future__ import annotations

import base64
import datetime
import io
import math
import platform
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from shvit.atomic import atomic_path, write_bytes, write_json, write_text
from shvit.card import ClassInfo, short_labels
from shvit.data.protocol import ImageDataset
from shvit.display import CSVWriter
from shvit.evaluation import plots
from shvit.evaluation.evaluate import Evaluation, Robustness
from shvit.evaluation.metrics import (
    calibration,
    class_counts,
    confident_mistakes,
    confused_pairs,
    confusion_matrix,
)
from shvit.images.preprocess import decode

PAIRS = 20
"""How many pairs of confused classes are listed."""
MISTAKES = 48
"""How many mistakes are shown."""
REPORT_FILES = (
    *("results.json", "per_class.csv", "confusion.csv", "predictions.csv"),
    *("confusion.png", "reliability.png", "mistakes.jpg", "report.html"),
)
"""What a report is made of."""
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
        "top1": predictions.top1,
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


def provenance() -> dict[str, Any]:
    """What one needs to measure the same again: command, versions, machine, date."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "command": shlex.join(["shvit", *sys.argv[1:]]),
        "versions": versions,
        "machine": platform.platform(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def worst_classes(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Entries of ``per_class`` that have images, least accurate first; of equals, the one of more images."""
    with_images = [each for each in results["per_class"] if each["images"]]
    return sorted(with_images, key=lambda each: (each["accuracy"], -each["images"]))


def write_report(
    folder: Path,
    results: dict[str, Any],
    evaluation: Evaluation,
    images: ImageDataset,
    classes: Sequence[ClassInfo],
    csv_safe: bool = False,
) -> None:
    """Writes tables (CSV), pictures, ``results.json`` and ``report.html``, which needs no other file.

    Args:
        folder: is there; files of an earlier report are replaced.
        results: of ``summarize``, with whatever else is to be told.
        images: the whole dataset, from which the mistakes' pictures are read.
        classes: the classifier's.
        csv_safe: put a ``'`` before text in the tables that a spreadsheet would take for a formula.
    """
    predictions = evaluation.predictions
    names = short_labels(classes)
    present, matrix = confusion_matrix(predictions)
    present_names = [names[place] for place in present]
    reliability = calibration(predictions)
    mistakes = [
        {
            "source": images.source(int(predictions.indices[row])),
            "label": names[predictions.labels[row]],
            "predicted": names[predictions.predicted[row]],
            "score": float(predictions.confidence[row]),
        }
        for row in confident_mistakes(predictions, MISTAKES)
    ]
    tiles = [
        plots.tile(decode(images.read(int(predictions.indices[row]))))
        for row in confident_mistakes(predictions, MISTAKES)
    ]

    write_json({**results, "mistakes": mistakes}, folder / "results.json")
    _write_csv(
        folder / "per_class.csv",
        list(results["per_class"][0]),
        (each.values() for each in results["per_class"]),
        csv_safe,
    )
    _write_csv(
        folder / "confusion.csv",
        ["label \\ predicted", *present_names],
        ([name, *row.tolist()] for name, row in zip(present_names, matrix, strict=True)),
        csv_safe,
    )
    _write_csv(
        folder / "predictions.csv",
        ["source", "label", "predicted", "score", "correct", "in_top5"],
        (
            [images.source(int(index)), names[label], names[taken], f"{score:.6f}", int(right), int(near)]
            for index, label, taken, score, right, near in zip(
                predictions.indices,
                predictions.labels,
                predictions.predicted,
                predictions.confidence,
                predictions.correct,
                predictions.in_top5,
                strict=True,
            )
        ),
        csv_safe,
    )
    figures = {
        "confusion": lambda: plots.confusion_figure(matrix, present_names),
        "reliability": lambda: plots.reliability_figure(reliability),
    }
    light = {name: plots.render(draw, plots.LIGHT) for name, draw in figures.items()}
    for name, png in light.items():
        write_bytes(png, folder / f"{name}.png")
    if tiles:
        captions = [
            (f"true: {each['label']}", f"said: {each['predicted']}", f"score {each['score']:.1%}") for each in mistakes
        ]
        write_bytes(_jpeg(plots.contact_sheet(tiles, captions)), folder / "mistakes.jpg")

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("shvit.evaluation", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "percent": _percent,
        "short": dict(zip((each.label for each in classes), names, strict=True)).__getitem__,
    }
    page = environment.get_template("report.html.jinja").render(
        results=results,
        worst=worst_classes(results),
        mistakes=[
            each | {"picture": _data_uri("jpeg", _jpeg(picture))} for each, picture in zip(mistakes, tiles, strict=True)
        ],
        figures={
            name: {
                "light": _data_uri("png", light[name]),
                "dark": _data_uri("png", plots.render(draw, plots.DARK)),
            }
            for name, draw in figures.items()
        },
    )
    write_text(page, folder / "report.html")


def _number(value: float) -> float | None:
    """NaN is not JSON."""
    return None if math.isnan(value) else float(value)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Iterable[Any]], safe: bool) -> None:
    with atomic_path(path) as aside, aside.open("w", encoding="utf-8", newline="") as file:
        writer = CSVWriter(file, safe)
        writer.row(header)
        writer.rows(rows)
