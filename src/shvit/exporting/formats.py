"""The one way into every format."""

from __future__ import annotations

from collections.abc import Collection
from importlib import import_module
from pathlib import Path

import numpy as np

from shvit.card import Card
from shvit.exporting.options import FORMATS, FileOptions, check_combination
from shvit.exporting.report import ExportReport
from shvit.exporting.verify import Assess, Convert, Source, write_verified
from shvit.models import SHViT


def export_model(
    model: SHViT,
    path: str | Path,
    card: Card,
    options: FileOptions | None = None,
    *,
    images: np.ndarray | None = None,
    calibration: np.ndarray | None = None,
    keep_float: Collection[str] = (),
    assess: Assess | None = None,
) -> ExportReport:
    """Writes a network in a format, runs the file on real images beside it, and only then gives it its name.

    ``shvit.export`` does it from a checkpoint's file.

    Args:
        model: a network in training form or folded; it is not changed.
        path: where to write, with the format's suffix; an existing file is replaced.
        card: what the file says of itself; its class count must be the network's.
        options: what kind of file; ONNX in fp16 when not given.
        images: to verify on, preprocessed, ``uint8 (N, H, W, 3)``; crops of the package's photographs when not given.
        calibration: for int8: images like those to be classified, preprocessed, ``uint8 (N, H, W, 3)``.
        keep_float: for int8, in ONNX and OpenVINO: modules to leave in float32, by name ("stages.1.blocks.0").
        assess: takes the file's measure before it is named; the figures replace the card's metrics.

    Raises:
        ExportError: the combination is not supported; the card does not fit the network; the file cannot be written, or
            differs from the network by more than its precision explains. No file is left.
        MissingDependencyError: the converter is not installed; the message says which command installs it.
    """
    path, options = Path(path), options or FileOptions()
    precision = check_combination(options, path)
    batch_size, dynamic_size = options.batch_size or 1, options.dynamic_size
    source = Source(model, path, card, precision, batch_size, calibration, keep_float, dynamic_size)
    convert: Convert = import_module(f"shvit.exporting.{FORMATS[options.format].module}").convert
    return write_verified(source, path, options.format, convert, images, assess)
