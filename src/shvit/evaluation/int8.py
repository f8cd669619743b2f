"""An 8-bit model file that is measured beside the float32 one before it takes its name."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx

from shvit.data.datasets import ImageDataset, short_path
from shvit.errors import ExportError, ShvitError
from shvit.evaluation.evaluate import evaluate
from shvit.evaluation.labels import LabelledImages, dataset_labels, evenly_spaced, match_classes
from shvit.evaluation.metrics import Predictions
from shvit.evaluation.samples import BATCH, calibration_images
from shvit.export import FORMATS, ExportReport, Format, export_model, export_onnx
from shvit.export.quantize import rank_layers
from shvit.models import SHViT
from shvit.runtime.card import Card, Metric
from shvit.runtime.classifier import Classifier

RANKING_IMAGES = 64
"""Calibration images that layers are compared on."""

LAYERS_CAN_BE_KEPT = ("onnx", "openvino", "web")


class MeasuredExport(NamedTuple):
    """What was written, and its accuracy on the validation images, in [0, 1]."""

    report: ExportReport
    top1: float
    float32_top1: float
    images: int
    """How many those are."""
    kept_float: tuple[str, ...]
    """Layers that stayed in float32, since with them in 8 bits it would lose too much."""


def export_int8(
    model: SHViT,
    path: str | Path,
    card: Card,
    train: ImageDataset,
    val: ImageDataset,
    max_loss: float,
    format: Format = "onnx",
    batch_size: int | None = None,
    verify_on: np.ndarray | None = None,
    on_search: Callable[[str], None] = lambda message: None,
    dynamic_size: bool = False,
) -> MeasuredExport:
    """Writes an 8-bit model file whose card says how often it is right.

    If it loses too much with everything in 8 bits, in ONNX and OpenVINO the layers that cost most stay in float32: one,
    two, four and so on, up to half of them.

    Args:
        card: what the file says of itself; its metrics, which are of other weights, are replaced.
        train: images that the ranges are taken from.
        val: images that it is measured on; their classes are found among the card's.
        max_loss: points of top-1 that it may lose to float32, of 100.
        format: one that has int8 and an engine: onnx, openvino, litert or web.
        batch_size: as for ``export_model``.
        verify_on: as its ``images``.
        on_search: told in a sentence how the search for such layers goes.
        dynamic_size: as for ``export_model``; it is calibrated and measured at the card's size.

    Raises:
        ExportError: it loses more all the same, or as for ``export_model``. No file is left.
        DataError: the classes do not match, the images to calibrate on do not do, or no image can be read.
    """
    path = Path(path)
    inside = FORMATS[format].inside
    calibration = calibration_images(train, card)
    labels = dataset_labels(val, match_classes(val, card.classes, path.name)[0])
    images = LabelledImages(val, labels, evenly_spaced(list(labels), None))

    def measure(file: Path) -> Predictions:
        return evaluate(Classifier(file), images, BATCH, workers=1).predictions

    with tempfile.TemporaryDirectory() as folder:
        float32 = Path(folder) / "float32.onnx"
        export_onnx(model, float32, card, "fp32")
        whole = measure(float32)
        graph = onnx.load(float32)
    found = whole

    def assess(file: Path) -> tuple[Metric, ...]:
        nonlocal found
        found = measure(file / inside)
        if whole.top1 - found.top1 > max_loss / 100:
            raise _TooMuchLostError
        measured_on = f"{short_path(val.name)} ({len(images):,} images)"
        command = f"shvit eval --model {Path(path.name) / inside} --data DATA"
        return tuple(
            Metric(name, round(value, 4), measured_on, command)
            for name, value in (("top1", found.top1), ("top5", found.top5))
        )

    kept: list[str] = []
    ranked: list[str] = []
    while True:
        try:
            report = export_model(
                model, path, card, format, "int8", batch_size, verify_on, calibration, assess, kept, dynamic_size
            )
            return MeasuredExport(report, found.top1, whole.top1, len(images), tuple(kept))
        except _TooMuchLostError:
            pass
        on_search(
            f"int8 loses {(whole.top1 - found.top1) * 100:.2f} points with {', '.join(kept) or 'nothing'} in float32"
        )
        if not ranked and format in LAYERS_CAN_BE_KEPT:
            on_search("comparing layers")
            ranked = rank_layers(graph, calibration[:RANKING_IMAGES])
        if 2 * len(kept) >= len(ranked):
            tried = f", with {len(kept)} of {len(ranked)} layers in float32" if ranked else ""
            raise ExportError(
                f"{path}: int8 is right for {found.top1:.2%} of {len(images):,} images, float32 for {whole.top1:.2%}"
                f"{tried}; at most {max_loss:g} points may be lost (--max-loss); fine-tune it for 8 bits with: "
                "shvit train DATA --pretrained CHECKPOINT --quantization-aware true"
            )
        kept = ranked[: max(1, 2 * len(kept))]


class _TooMuchLostError(ShvitError):
    """An 8-bit file is less accurate than it may be."""
