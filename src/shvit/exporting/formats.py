"""The one way into every format."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from shvit.card import Card
from shvit.errors import MissingDependencyError
from shvit.exporting.options import FORMATS, FileOptions, check_combination
from shvit.install import install_command
from shvit.modelfile.report import ExportReport
from shvit.modelfile.source import Infer, Precision, Source
from shvit.modelfile.verify import Assess, Convert, photograph_crops, write_verified
from shvit.network.network import FoldedNetwork

if TYPE_CHECKING:
    from shvit.models import SHViT


def export_model(
    model: SHViT | FoldedNetwork,
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
        model: a network in training form or folded, or its arrays; it is not changed. Formats that are converted from
            PyTorch take arrays too, where it is installed.
        path: where to write, with the format's suffix; an existing file is replaced.
        card: what the file says of itself; its class count must be the network's.
        options: what kind of file; ONNX in fp16 when not given.
        images: to verify on, preprocessed, ``uint8 (N, H, W, 3)``; crops of the package's photographs when not given.
        calibration: for int8: images like those to be classified, preprocessed, ``uint8 (N, H, W, 3)``. In format hub
            there is a file in 8 bits beside the others where they are given.
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
    network, reference = _arrays_of(model)
    source = Source(network, path, card, precision, batch_size, calibration, keep_float, dynamic_size, reference)
    try:
        module = import_module(f"shvit.{FORMATS[options.format].module}")
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"--format {options.format} needs {error.name}, which is not installed; install the lab with: "
            f"{install_command('torch')}"
        ) from error
    convert: Convert
    if options.format == "hub":
        images = photograph_crops(card.preprocessing) if images is None else images
        convert = module.converter(images, options.repository)
    else:
        convert = module.convert
    return write_verified(source, path, options.format, convert, images, assess)


def export_onnx(
    model: SHViT | FoldedNetwork,
    path: str | Path,
    card: Card,
    precision: Precision = "fp16",
    images: np.ndarray | None = None,
    calibration: np.ndarray | None = None,
) -> ExportReport:
    """Writes a model file; ``export_model`` in ONNX.

    Args:
        precision: how weights are stored. ``fp16`` halves the file; engines compute in float32 all the same.
            ``int8`` has what lies between convolutions computed in 8 bits too.
    """
    return export_model(model, path, card, FileOptions(precision=precision), images=images, calibration=calibration)


def _arrays_of(model: SHViT | FoldedNetwork) -> tuple[FoldedNetwork, Infer | None]:
    """What is written, and what the file is compared with: a PyTorch network itself, else what NumPy computes."""
    if isinstance(model, FoldedNetwork):
        return model, None
    from shvit.exporting.trace import logits_function
    from shvit.models.arrays import to_array
    from shvit.models.reparam import folded_network

    network = folded_network(model)
    if not model.folded:
        network = replace(network, unfolded={name: to_array(each) for name, each in model.state_dict().items()})
    return network, logits_function(model)
