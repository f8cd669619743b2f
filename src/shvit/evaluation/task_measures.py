"""How each task's evaluation is told: figures, sentences, lines for a terminal, a report."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from shvit.card import Card, TaskName
from shvit.data.protocol import ImageDataset
from shvit.evaluation.evaluate import Evaluation, Robustness
from shvit.evaluation.figures import decision_figures, pass_figures, summarize, worst_classes
from shvit.evaluation.multi_label import label_figures, label_verdict, weakest_labels
from shvit.evaluation.verdict import verdict


class Measure(ABC):
    """Of one task."""

    report_files: ClassVar[tuple[str, ...]]
    """What a report is made of."""

    @abstractmethod
    def figures(
        self, evaluation: Evaluation, latency: np.ndarray, robustness: Sequence[Robustness], card: Card
    ) -> dict[str, Any]:
        """All of them, as JSON can hold them."""

    @abstractmethod
    def sentences(self, results: dict[str, Any], predictions: Any, card: Card) -> tuple[str, ...]:
        """The verdict."""

    @abstractmethod
    def line(self, results: dict[str, Any]) -> list[str]:
        """The main figures, in words."""

    @abstractmethod
    def answers(self, results: dict[str, Any]) -> list[str]:
        """How good answers by the card's thresholds are, a line each."""

    @abstractmethod
    def weakest(self, results: dict[str, Any], names: Sequence[str]) -> str:
        """The classes that are recognised least, in a line."""

    @abstractmethod
    def write_report(
        self,
        folder: Path,
        results: dict[str, Any],
        evaluation: Evaluation,
        images: ImageDataset,
        card: Card,
        csv_safe: bool,
    ) -> None:
        """Raises: MissingDependencyError: what draws it is not installed."""


class OneLabelMeasure(Measure):
    report_files: ClassVar[tuple[str, ...]] = (
        *("results.json", "per_class.csv", "confusion.csv", "predictions.csv"),
        *("coverage.png", "confusion.png", "reliability.png", "mistakes.jpg", "report.html"),
    )

    def figures(
        self, evaluation: Evaluation, latency: np.ndarray, robustness: Sequence[Robustness], card: Card
    ) -> dict[str, Any]:
        found = summarize(evaluation, latency, robustness, card.classes)
        return found | decision_figures(evaluation, card.decision)

    def sentences(self, results: dict[str, Any], predictions: Any, card: Card) -> tuple[str, ...]:
        return verdict(predictions, card)

    def line(self, results: dict[str, Any]) -> list[str]:
        return [
            f"top-1 {results['top1']:.2%}",
            f"top-5 {results['top5']:.2%}",
            f"cross-entropy {results['loss']:.4f}",
            f"calibration error {results['ece']:.2%}",
        ]

    def answers(self, results: dict[str, Any]) -> list[str]:
        answers = results["answers"]
        if answers is None or answers["precision"] is None:
            return []
        low, high = answers["interval"]
        return [
            f"answers {answers['coverage']:.1%} of the images, right {answers['precision']:.1%} of the time (95% "
            f"interval {low:.1%} to {high:.1%})"
        ]

    def weakest(self, results: dict[str, Any], names: Sequence[str]) -> str:
        worst = (
            f"{names[each['class_id']]} {each['accuracy']:.0%} ({each['correct']:,} of {each['images']:,})"
            for each in worst_classes(results)[:5]
        )
        return f"least recognised: {', '.join(worst)}"

    def write_report(
        self,
        folder: Path,
        results: dict[str, Any],
        evaluation: Evaluation,
        images: ImageDataset,
        card: Card,
        csv_safe: bool,
    ) -> None:
        from shvit.evaluation.report import write_report

        write_report(folder, results, evaluation, images, card, csv_safe)


class SeveralLabelsMeasure(Measure):
    report_files: ClassVar[tuple[str, ...]] = (
        *("results.json", "per_class.csv", "predictions.csv", "reliability.png", "mistakes.jpg", "report.html"),
    )

    def figures(
        self, evaluation: Evaluation, latency: np.ndarray, robustness: Sequence[Robustness], card: Card
    ) -> dict[str, Any]:
        found = label_figures(evaluation.predictions, card, evaluation.confidence_before)
        return found | pass_figures(evaluation, latency, robustness, "map")

    def sentences(self, results: dict[str, Any], predictions: Any, card: Card) -> tuple[str, ...]:
        return label_verdict(results, card)

    def line(self, results: dict[str, Any]) -> list[str]:
        f1 = results["at_half"]["f1_macro"]
        return [
            f"mAP {results['map']:.2%}",
            f"F1 at 0.5 {'–' if f1 is None else f'{f1:.2%}'}",
            f"exact match {results['at_half']['exact_match']:.2%}",
            f"binary cross-entropy {results['loss']:.4f}",
            f"calibration error {results['ece']:.2%}",
        ]

    def answers(self, results: dict[str, Any]) -> list[str]:
        return [
            f"{where}: F1 {figures['f1_macro']:.1%} (all labels together {figures['f1']:.1%}), precision "
            f"{figures['precision']:.1%}, recall {figures['recall']:.1%}, exact match {figures['exact_match']:.1%}"
            for where, figures in (
                ("from 0.5 on", results["at_half"]),
                ("by its card's thresholds", results["at_card_thresholds"]),
                ("by thresholds fitted on the other half of the images", results["at_fitted_thresholds"]),
            )
            if figures is not None and None not in figures.values()
        ]

    def weakest(self, results: dict[str, Any], names: Sequence[str]) -> str:
        worst = (
            f"{names[each['class_id']]} {each['average_precision']:.0%} ({each['images']:,} images)"
            for each in weakest_labels(results)[:5]
        )
        return f"least average precision: {', '.join(worst)}"

    def write_report(
        self,
        folder: Path,
        results: dict[str, Any],
        evaluation: Evaluation,
        images: ImageDataset,
        card: Card,
        csv_safe: bool,
    ) -> None:
        from shvit.evaluation.multi_label_report import write_label_report

        write_label_report(folder, results, evaluation, images, card, csv_safe)


MEASURES: dict[TaskName, Measure] = {"classification": OneLabelMeasure(), "multi_label": SeveralLabelsMeasure()}
