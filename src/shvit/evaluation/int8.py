"""An 8-bit model file that is measured beside the float32 one before it takes its name."""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx

from shvit.card import Card, Metric
from shvit.data.datasets import short_path
from shvit.data.protocol import ImageDataset
from shvit.errors import DataError, ExportError, ShvitError
from shvit.evaluation.evaluate import evaluate_classifier
from shvit.evaluation.labels import LabelledImages, dataset_labels, evenly_spaced, match_classes
from shvit.evaluation.metrics import Predictions
from shvit.evaluation.samples import BATCH, calibration_images
from shvit.exporting import FORMATS, ExportReport, FileOptions, Int8Accuracy, export_model, export_onnx
from shvit.modelfile.quantize import rank_layers
from shvit.models import SHViT
from shvit.predicting.classifier import Classifier

RANKING_IMAGES = 64
"""Calibration images that layers are compared on."""

ENOUGH_TO_JUDGE = 1000
"""Validation images that tell half a point. With fewer, those calibrated on are judged by too, and a note says so."""

SIGNIFICANCE = 0.05
"""Probability below which a difference between two classifiers is no accident."""

LAYERS_CAN_BE_KEPT = ("onnx", "openvino", "web")


class PairedLoss(NamedTuple):
    """What one classifier loses to another, of the same images."""

    images: int
    lost: int
    """Images that only the other one is right about."""
    won: int
    """Images that only this one is right about."""

    @property
    def points(self) -> float:
        """Of 100; negative if it is right more often."""
        return 100 * (self.lost - self.won) / self.images

    def exceeds(self, points: float) -> bool:
        """Whether it is more than this, and more than an accident: a one-sided sign test (McNemar's, exact)."""
        if self.points <= points:
            return False
        differ = self.lost + self.won
        accident = sum(math.comb(differ, lost) for lost in range(self.lost, differ + 1)) / 2**differ
        return accident < SIGNIFICANCE


def paired_loss(before: np.ndarray, after: np.ndarray) -> PairedLoss:
    """Compares what two classifiers are right about, ``bool (N,)`` each."""
    return PairedLoss(len(before), int((before & ~after).sum()), int((after & ~before).sum()))


class Candidate(NamedTuple):
    """Which layers of a file stay in float32."""

    kept: tuple[str, ...]
    ranked: int
    """Of how many that were compared; 0 before any were."""


def candidates(rank: Callable[[], list[str]]) -> Iterator[Candidate]:
    """All in 8 bits; then without the layer that costs most, without two, four and so on, up to half of them.

    Args:
        rank: the layers, the one that costs most first; asked only when the first candidate was not good enough.
    """
    yield Candidate((), 0)
    ranked = rank()
    kept = 0
    while 2 * kept < len(ranked):
        kept = max(1, 2 * kept)
        yield Candidate(tuple(ranked[:kept]), len(ranked))


class _Judge(NamedTuple):
    """What an 8-bit file is measured on."""

    val: LabelledImages
    calibration: np.ndarray
    """``uint8 (N, H, W, 3)``."""
    calibration_labels: np.ndarray

    def measure(self, file: Path) -> tuple[Predictions, np.ndarray]:
        """On the validation images; and which images a file is right about, of all that are judged by."""
        classifier = Classifier(file)
        workers = 0 if "jax" in sys.modules else 1  # litert-torch starts its threads, of which a fork may hang
        predictions = evaluate_classifier(classifier, self.val, BATCH, workers=workers).predictions
        if len(predictions) >= ENOUGH_TO_JUDGE:
            return predictions, predictions.correct
        pixels = self.calibration
        parts = [pixels[start : start + BATCH] for start in range(0, len(pixels), BATCH)]
        answers = np.concatenate([classifier.predict_batch(part).argmax(axis=1) for part in parts])
        return predictions, np.concatenate([predictions.correct, answers == self.calibration_labels])


def export_int8(
    model: SHViT,
    path: str | Path,
    card: Card,
    train: ImageDataset,
    val: ImageDataset,
    max_loss: float,
    options: FileOptions | None = None,
    *,
    verify_on: np.ndarray | None = None,
    on_search: Callable[[str], None] = lambda message: None,
) -> ExportReport:
    """Writes an 8-bit model file whose card says how often it is right.

    If it loses too much with everything in 8 bits, in ONNX and OpenVINO the layers that cost most stay in float32: one,
    two, four and so on, up to half of them. Too much is more than ``max_loss`` and more than an accident could be; with
    fewer than ``ENOUGH_TO_JUDGE`` validation images, those calibrated on are counted too.

    Args:
        card: what the file says of itself; its metrics, which are of other weights, are replaced.
        train: images that the ranges are taken from.
        val: images that it is measured on; their classes are found among the card's.
        max_loss: points of top-1 that it may lose to float32, of 100; at 100 nothing is judged.
        options: what kind of file, of a format that has int8 and an engine: onnx (when not given), openvino, litert or
            web. With ``dynamic_size`` it is calibrated and measured at the card's size.
        verify_on: as ``images`` of ``export_model``.
        on_search: told in a sentence how the search for such layers goes, and where there is little to judge by.

    Raises:
        ExportError: it loses more all the same, or as for ``export_model``. No file is left.
        DataError: the classes do not match, float32 is right less often than by chance, the images to calibrate on
            do not do, or no image can be read.
    """
    path, options = Path(path), replace(options or FileOptions(), precision="int8")
    notes: list[str] = []

    def tell(note: str) -> None:
        notes.append(note)
        on_search(note)

    calibration, calibration_labels = calibration_images(train, card)
    labels = dataset_labels(val, match_classes(val, card.classes, path.name)[0])
    judge = _Judge(LabelledImages(val, labels, evenly_spaced(list(labels), None)), calibration, calibration_labels)
    with tempfile.TemporaryDirectory() as folder:
        float32 = Path(folder) / "float32.onnx"
        export_onnx(model, float32, card, "fp32")
        whole, right = judge.measure(float32)
        graph = onnx.load(float32)
    if max_loss < 100:
        _check_above_chance(whole, len(card.classes), val.name, tell)
    if len(whole) < ENOUGH_TO_JUDGE:
        tell(
            f"{len(whole):,} validation images do not tell a loss of {max_loss:g} points; the {len(calibration):,} "
            f"images calibrated on are judged by too; give at least {ENOUGH_TO_JUDGE:,} validation images to measure it"
        )

    def assess(written: Path) -> tuple[Metric, ...]:
        inside = FORMATS[options.format].inside
        found, answers = judge.measure(written / inside)
        loss = paired_loss(right, answers)
        if loss.exceeds(max_loss):
            raise _TooMuchLostError(loss, found)
        measured_on = f"{short_path(val.name)} ({len(found):,} images)"
        command = f"shvit eval --model {Path(path.name) / inside} --data DATA"
        return (
            Metric("top1", round(found.top1, 4), measured_on, command),
            Metric("top5", round(found.top5, 4), measured_on, command),
        )

    def rank() -> list[str]:
        if options.format not in LAYERS_CAN_BE_KEPT:
            return []
        tell("comparing layers")
        return rank_layers(graph, calibration[:RANKING_IMAGES])

    for kept, ranked in candidates(rank):
        try:
            report = export_model(
                model,
                path,
                card,
                options,
                images=verify_on,
                calibration=calibration,
                keep_float=kept,
                assess=assess,
            )
        except _TooMuchLostError as error:
            loss, found = error.loss, error.found
            tried = f", with {len(kept)} of {ranked} layers in float32" if kept else ""
            tell(
                f"int8 loses {loss.points:.2f} points on {loss.images:,} images with {', '.join(kept) or 'nothing'} in "
                "float32"
            )
            continue
        top1 = report.card.metrics[0].value
        return replace(report, int8=Int8Accuracy(top1, whole.top1, len(whole), kept, tuple(notes)))
    raise ExportError(
        f"{path}: int8 loses {loss.points:.2f} points on {loss.images:,} images{tried} (on the {len(found):,} "
        f"validation images it is right for {found.top1:.2%}, float32 for {whole.top1:.2%}); at most "
        f"{max_loss:g} points may be lost (--max-loss); fine-tune it for 8 bits with: "
        "shvit train DATA --pretrained CHECKPOINT --quantization-aware true"
    )


def _check_above_chance(predictions: Predictions, classes: int, data: str, warn: Callable[[str], None]) -> None:
    """Refuses labels by which nothing could be lost, and warns of those by which little could.

    Raises:
        DataError: the network is right less often than one that guesses.
    """
    count, chance = len(predictions), 1 / classes
    right, expected = int(predictions.correct.sum()), len(predictions) * chance
    found = f"{data}: float32 is right for {predictions.top1:.2%} of {count:,} validation images"
    if right < expected:
        raise DataError(
            f"{found}, less than by chance ({chance:.2%}), so that what int8 costs cannot be judged; check with "
            "`shvit eval` that the labels are those of the network's classes, and give more images if they are "
            "(--max-loss 100 does not judge)"
        )
    # 1.645 standard deviations: what guessing stays below in 95 of 100 cases.
    if classes > 1 and right <= expected + 1.645 * math.sqrt(expected * (1 - chance)):
        warn(f"{found}, hardly more than by chance ({chance:.2%}): what int8 costs shows in little of that")


class _TooMuchLostError(ShvitError):
    """An 8-bit file is less accurate than it may be; no name is given to it."""

    def __init__(self, loss: PairedLoss, found: Predictions) -> None:
        super().__init__(f"loses {loss.points:.2f} points")
        self.loss, self.found = loss, found
