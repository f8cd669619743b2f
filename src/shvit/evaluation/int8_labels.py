"""What 8 bits cost a file that tells any number of labels."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from shvit.card import Card, Metric
from shvit.data.alignment import describe_missing
from shvit.data.datasets import short_path
from shvit.data.protocol import ImageDataset
from shvit.errors import DataError
from shvit.evaluation.evaluate import evaluate_classifier
from shvit.evaluation.int8 import ENOUGH_TO_JUDGE, SIGNIFICANCE, Judge, Judgement
from shvit.evaluation.labels import LabelledImages, dataset_labels, evenly_spaced, match_classes
from shvit.evaluation.multi_label import LabelPredictions, answer_figures
from shvit.evaluation.samples import BATCH, calibration_images
from shvit.exporting import Int8Precision
from shvit.predicting.classifier import Classifier
from shvit.tasks.multi_label import USUAL_THRESHOLD
from shvit.tasks.ranking import mean_average_precision

RESAMPLES = 100
"""Sets of images on which both files are compared, to tell an accident."""

MOST_RESAMPLED = 100_000_000
"""Scores that are sorted for it at most; of more images, fewer sets."""


class PrecisionLoss(NamedTuple):
    """What one file loses to another, of the same images."""

    images: int
    points: float
    """Of mAP, of 100; negative if it ranks better."""


class PrecisionJudge(Judge):
    """By labelled images: how well a file ranks pictures with a label before those without (mAP).

    Args:
        card: of the network; the images' classes are found among its.
        train: images that the ranges are taken from.
        val: images that a file is measured on.
        max_loss: points of mAP that it may lose to float32, of 100; at 100 nothing is judged.
        name: of the file, for messages.
    """

    def __init__(self, card: Card, train: ImageDataset, val: ImageDataset, max_loss: float, name: str) -> None:
        self.calibration, _ = calibration_images(train, card)
        labels = dataset_labels(val, match_classes(val, card.classes, name)[0])
        self._val = LabelledImages(val, labels, evenly_spaced(list(labels), None))
        self._max_loss, self._classes = max_loss, card.classes

    def observe(self, float32: Path, tell: Callable[[str], None]) -> None:
        self._whole = self._measure(float32)
        count, chance = len(self._whole), float(self._whole.labels.mean(axis=0)[self._whole.labels.any(axis=0)].mean())
        found = f"{self._val.name}: float32 has mAP {self._whole.mean_average_precision:.2%} on {count:,} images"
        if self._max_loss < 100 and not self._whole.mean_average_precision > chance:
            raise DataError(
                f"{found}, no more than by chance ({chance:.2%}), so that what int8 costs cannot be judged; check with "
                "`shvit eval` that the labels are those of the network (--max-loss 100 does not judge)"
            )
        if missing := describe_missing(self._whole.labels, self._classes):
            tell(f"{self._val.name}: {missing}")
        if count < ENOUGH_TO_JUDGE:
            tell(
                f"{count:,} validation images hardly tell a loss of {self._max_loss:g} points; give at least "
                f"{ENOUGH_TO_JUDGE:,} to measure it"
            )

    def judge(self, written: Path, command: str) -> Judgement:
        found = self._measure(written)
        on = f"{short_path(self._val.name)} ({len(found):,} images)"
        before, after = self._whole.mean_average_precision, found.mean_average_precision
        loss = PrecisionLoss(len(found), 100 * (before - after))
        f1 = answer_figures(found.answers(USUAL_THRESHOLD), found.labels).f1_macro or 0.0
        return Judgement(
            loss,
            self._max_loss,
            loss.points > self._max_loss and self._accident(found) < SIGNIFICANCE,
            (Metric("map", round(after, 4), on, command), Metric("f1", round(f1, 4), on, command)),
            Int8Precision(round(after, 4), before, len(found)),
            f"on the {len(found):,} validation images it has mAP {after:.2%}, float32 {before:.2%}",
        )

    def _accident(self, found: LabelPredictions) -> float:
        """How often nothing is lost, on images drawn from these (bootstrap)."""
        rng, count = np.random.default_rng(0), len(found)
        draws = max(20, min(RESAMPLES, MOST_RESAMPLED // found.scores.size))
        kept = 0
        for _ in range(draws):
            drawn = rng.integers(0, count, count)
            before, after = (
                mean_average_precision(each.scores[drawn], each.labels[drawn]) for each in (self._whole, found)
            )
            kept += after >= before
        return kept / draws

    def _measure(self, file: Path) -> LabelPredictions:
        workers = 0 if "jax" in sys.modules else 1  # litert-torch starts its threads, of which a fork may hang
        return evaluate_classifier(Classifier(file), self._val, BATCH, workers=workers).predictions
