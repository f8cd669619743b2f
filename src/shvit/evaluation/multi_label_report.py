"""An evaluation of several labels as a folder of files to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shvit.atomic import write_bytes, write_json, write_text
from shvit.card import Card
from shvit.data.protocol import ImageDataset
from shvit.evaluation import plots
from shvit.evaluation.evaluate import Evaluation
from shvit.evaluation.multi_label import card_thresholds, label_verdict, surest_mistakes, weakest_labels
from shvit.evaluation.pages import data_uri, jpeg, page_template
from shvit.evaluation.report import MISTAKES, write_csv, write_figure
from shvit.images.preprocess import decode

BETWEEN_LABELS = "|"
"""As in lists that are trained on."""


def write_label_report(
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
        results: of ``label_figures``, with whatever else is to be told.
        images: the whole dataset, from which the mistakes' pictures are read.
        card: the classifier's.
        csv_safe: put a ``'`` before text in the tables that a spreadsheet would take for a formula.
    """
    predictions, thresholds = evaluation.predictions, card_thresholds(card)
    sources = [images.source(int(index)) for index in predictions.indices]
    wrong = surest_mistakes(predictions, thresholds, MISTAKES)
    tiles = [plots.tile(decode(images.read(int(predictions.indices[row])))) for row, _ in wrong]

    def mistakes(names: Sequence[str]) -> list[dict[str, Any]]:
        return [
            {
                "source": sources[row],
                "labels": ", ".join(names[each] for each in np.flatnonzero(predictions.labels[row]).tolist()),
                "mistake": f"{'without' if predictions.labels[row, place] else 'wrongly'} {names[place]}",
                "score": float(predictions.scores[row, place]),
            }
            for row, place in wrong
        ]

    names = [each.label for each in card.classes]
    write_json({**results, "mistakes": mistakes(names)}, folder / "results.json")
    rows = (each.values() for each in results["per_class"])
    write_csv(folder / "per_class.csv", list(results["per_class"][0]), rows, csv_safe)
    given = predictions.answers(thresholds)
    write_csv(
        folder / "predictions.csv",
        ["source", "labels", "predicted", "scores", "exact"],
        (
            [
                source,
                BETWEEN_LABELS.join(names[each] for each in np.flatnonzero(right)),
                BETWEEN_LABELS.join(names[each] for each in np.flatnonzero(answers)),
                BETWEEN_LABELS.join(f"{score:.6f}" for score in scores[answers]),
                int((right == answers).all()),
            ]
            for source, right, answers, scores in zip(
                sources, predictions.labels, given, predictions.scores, strict=True
            )
        ),
        csv_safe,
    )
    reliability = predictions.calibration()
    figure = write_figure(lambda: plots.reliability_figure(reliability), folder / "reliability.png")
    shown = mistakes(card.short_labels)
    if tiles:
        captions = [(each["labels"] or "no label", each["mistake"], f"score {each['score']:.1%}") for each in shown]
        write_bytes(jpeg(plots.contact_sheet(tiles, captions)), folder / "mistakes.jpg")
    page = page_template("multi_label_report.html.jinja").render(
        results=results,
        verdict=label_verdict(results, card),
        names=card.short_labels,
        worst=weakest_labels(results),
        mistakes=[
            each | {"picture": data_uri("jpeg", jpeg(picture))} for each, picture in zip(shown, tiles, strict=True)
        ],
        figures={"reliability": figure},
    )
    write_text(page, folder / "report.html")
