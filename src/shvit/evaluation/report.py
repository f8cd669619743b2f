"""An evaluation as a folder of files to look at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from shvit.atomic import atomic_text, write_bytes, write_json, write_text
from shvit.card import Card
from shvit.data.protocol import ImageDataset
from shvit.display import CSVWriter
from shvit.errors import MissingDependencyError
from shvit.evaluation.evaluate import Evaluation
from shvit.evaluation.figures import PAIRS, worst_classes
from shvit.evaluation.metrics import (
    Predictions,
    calibration,
    class_counts,
    confident_mistakes,
    confused_pairs,
    confusion_matrix,
)
from shvit.evaluation.pages import data_uri, jpeg, page_template
from shvit.evaluation.selective import risk_coverage
from shvit.evaluation.verdict import verdict
from shvit.images.preprocess import decode
from shvit.install import install_command

try:
    import jinja2  # noqa: F401 - it is needed at the end: better told of now

    from shvit.evaluation import plots
except ModuleNotFoundError as error:
    raise MissingDependencyError(
        f"a report is made with {error.name}, which is not installed; install it with: {install_command('eval')}"
    ) from None

MISTAKES = 48
"""How many mistakes are shown."""


class _Material(NamedTuple):
    """What tables, pictures and page are made of."""

    predictions: Predictions
    card: Card
    present: np.ndarray
    """Classes that occur as label or as prediction, ``int64 (K,)``."""
    matrix: np.ndarray
    """Of these, ``int64 (K, K)``: a row for each label, a column for each prediction."""
    sources: list[str]
    """Of the images, by their place among the predictions."""
    mistakes: list[int]
    """Places of the most confident ones."""
    tiles: list[Image.Image]
    """Their pictures."""


def write_report(
    folder: Path,
    results: dict[str, Any],
    evaluation: Evaluation,
    images: ImageDataset,
    card: Card,
    csv_safe: bool = False,
) -> None:
    """Writes tables (CSV), pictures, ``results.json`` and ``report.html``, which needs no other file.

    Args:
        folder: is there; files of an earlier report are replaced.
        results: of ``summarize``, with whatever else is to be told.
        images: the whole dataset, from which the mistakes' pictures are read.
        card: the classifier's.
        csv_safe: put a ``'`` before text in the tables that a spreadsheet would take for a formula.
    """
    material = _collect(evaluation.predictions, images, card)
    _write_tables(folder, results, material, csv_safe)
    figures = _write_pictures(folder, material)
    _write_page(folder, results, material, figures)


def _collect(predictions: Predictions, images: ImageDataset, card: Card) -> _Material:
    mistakes = confident_mistakes(predictions, MISTAKES).tolist()
    return _Material(
        predictions,
        card,
        *confusion_matrix(predictions),
        [images.source(int(index)) for index in predictions.indices],
        mistakes,
        [plots.tile(decode(images.read(int(predictions.indices[row])))) for row in mistakes],
    )


def _mistakes(material: _Material, names: Sequence[str]) -> list[dict[str, Any]]:
    """Each in words and figures, with these names for the classes."""
    predictions = material.predictions
    return [
        {
            "source": material.sources[row],
            "label": names[predictions.labels[row]],
            "predicted": names[predictions.predicted[row]],
            "score": float(predictions.confidence[row]),
        }
        for row in material.mistakes
    ]


def _write_tables(folder: Path, results: dict[str, Any], material: _Material, csv_safe: bool) -> None:
    """For programs, so with the classes' whole names."""
    predictions, names = material.predictions, [each.label for each in material.card.classes]
    write_json({**results, "mistakes": _mistakes(material, names)}, folder / "results.json")
    header, rows = list(results["per_class"][0]), (each.values() for each in results["per_class"])
    write_csv(folder / "per_class.csv", header, rows, csv_safe)
    present = [names[place] for place in material.present]
    rows = ([name, *row.tolist()] for name, row in zip(present, material.matrix, strict=True))
    write_csv(folder / "confusion.csv", ["label \\ predicted", *present], rows, csv_safe)
    columns = (
        *(material.sources, predictions.labels, predictions.predicted, predictions.confidence),
        *(predictions.correct, predictions.in_top5),
    )
    write_csv(
        folder / "predictions.csv",
        ["source", "label", "predicted", "score", "correct", "in_top5"],
        (
            [source, names[label], names[taken], f"{score:.6f}", int(right), int(near)]
            for source, label, taken, score, right, near in zip(*columns, strict=True)
        ),
        csv_safe,
    )


def _write_pictures(folder: Path, material: _Material) -> dict[str, dict[str, str]]:
    """Returns: the figures for the page, by name and by its colours."""
    names = material.card.short_labels
    reliability, present = calibration(material.predictions), [names[place] for place in material.present]
    curve = risk_coverage(material.predictions.confidence, material.predictions.correct)
    draw = {
        "coverage": lambda: plots.coverage_figure(curve),
        "confusion": lambda: plots.confusion_figure(material.matrix, present),
        "reliability": lambda: plots.reliability_figure(reliability),
    }
    figures = {name: write_figure(figure, folder / f"{name}.png") for name, figure in draw.items()}
    if material.tiles:
        captions = [
            (f"true: {each['label']}", f"said: {each['predicted']}", f"score {each['score']:.1%}")
            for each in _mistakes(material, names)
        ]
        write_bytes(jpeg(plots.contact_sheet(material.tiles, captions)), folder / "mistakes.jpg")
    return figures


def write_figure(draw: Callable[[], plots.Figure], path: Path) -> dict[str, str]:
    """Writes a figure in light colours. Returns: it for the page, in both."""
    light, dark = (plots.render(draw, theme) for theme in (plots.LIGHT, plots.DARK))
    write_bytes(light, path)
    return {"light": data_uri("png", light), "dark": data_uri("png", dark)}


def _write_page(folder: Path, results: dict[str, Any], material: _Material, figures: dict[str, dict[str, str]]) -> None:
    predictions, names = material.predictions, material.card.short_labels
    images = class_counts(predictions, len(names)).images
    page = page_template("report.html.jinja").render(
        results=results,
        verdict=verdict(predictions, material.card),
        names=names,
        worst=worst_classes(results),
        pairs=[
            {"label": names[label], "predicted": names[taken], "images": times, "of": int(images[label])}
            for label, taken, times in confused_pairs(predictions, PAIRS)
        ],
        mistakes=[
            each | {"picture": data_uri("jpeg", jpeg(picture))}
            for each, picture in zip(_mistakes(material, names), material.tiles, strict=True)
        ],
        figures=figures,
    )
    write_text(page, folder / "report.html")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Iterable[Any]], safe: bool) -> None:
    with atomic_text(path) as file:
        writer = CSVWriter(file, safe)
        writer.row(header)
        writer.rows(rows)
