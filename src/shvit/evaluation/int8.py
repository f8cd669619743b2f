"""An 8-bit model file that is measured beside the float32 one before it takes its name."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx

from shvit.atomic import atomic_path
from shvit.data.datasets import ImageDataset, short_path
from shvit.data.loader import evaluation_loader
from shvit.data.splits import Subset
from shvit.errors import ExportError
from shvit.evaluation.evaluate import evaluate
from shvit.evaluation.labels import LabelledImages, dataset_labels, evenly_spaced, match_classes
from shvit.evaluation.metrics import Predictions
from shvit.export.onnx import ExportReport, export_onnx, set_card
from shvit.models import SHViT
from shvit.runtime.card import Card, Metric
from shvit.runtime.classifier import Classifier

CALIBRATION_IMAGES = 512
"""Training images that ranges are taken from."""

BATCH = 64


class MeasuredExport(NamedTuple):
    """What was written, and its accuracy on the validation images, in [0, 1]."""

    report: ExportReport
    top1: float
    float32_top1: float
    images: int
    """How many those are."""


def export_int8(
    model: SHViT, path: str | Path, card: Card, train: ImageDataset, val: ImageDataset, max_loss: float
) -> MeasuredExport:
    """Writes an 8-bit model file whose card says how often it is right.

    Args:
        card: what the file says of itself; its metrics, which are of other weights, are replaced.
        train: images that the ranges are taken from.
        val: images that it is measured on; their classes are found among the card's.
        max_loss: points of top-1 that it may lose to float32, of 100.

    Raises:
        ExportError: it loses more, or as for ``export_onnx``. No file is left.
        DataError: the classes do not match, or no image can be read.
    """
    path = Path(path)
    chosen = Subset(train, evenly_spaced(range(len(train)), CALIBRATION_IMAGES))
    batches = evaluation_loader(chosen, card.preprocessing, BATCH, workers=0)
    calibration = np.concatenate([batch.images.numpy() for batch in batches])
    labels = dataset_labels(val, match_classes(val, card.classes, path.name)[0])
    images = LabelledImages(val, labels, evenly_spaced(list(labels), None))

    def measure(file: Path) -> Predictions:
        return evaluate(Classifier(file), images, BATCH, workers=1).predictions

    with tempfile.TemporaryDirectory() as folder, atomic_path(path) as aside:
        float32 = Path(folder) / "float32.onnx"
        export_onnx(model, float32, card, "fp32")
        report = export_onnx(model, aside, card, "int8", calibration=calibration)
        whole, quantized = measure(float32), measure(aside)
        if whole.top1 - quantized.top1 > max_loss / 100:
            raise ExportError(
                f"{path}: int8 is right for {quantized.top1:.2%} of {len(images):,} images, float32 for "
                f"{whole.top1:.2%}; at most {max_loss:g} points may be lost (--max-loss)"
            )
        measured_on = f"{short_path(val.name)} ({len(images):,} images)"
        command = f"shvit eval --model {path.name} --data DATA"
        metrics = tuple(
            Metric(name, round(value, 4), measured_on, command)
            for name, value in (("top1", quantized.top1), ("top5", quantized.top5))
        )
        proto = onnx.load(aside)
        set_card(proto, replace(card, metrics=metrics))
        onnx.save(proto, aside)
    report = replace(report, path=path, size_bytes=path.stat().st_size)
    return MeasuredExport(report, quantized.top1, whole.top1, len(images))
