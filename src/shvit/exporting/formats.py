"""The one way into every format."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal

import numpy as np

from shvit.card import Card
from shvit.errors import ExportError
from shvit.exporting.verify import Assess, Convert, ExportReport, Precision, Source, write_verified
from shvit.models import SHViT
from shvit.web.site import MODEL, check_replaceable

Format = Literal["onnx", "openvino", "coreml", "litert", "executorch", "torch", "aotinductor", "tensorrt", "web"]


@dataclass(frozen=True)
class FormatInfo:
    """What a format can be."""

    title: str
    suffix: str
    """Empty for a folder, which may have any name."""
    module: str
    """Of ``shvit.exporting``; its ``convert`` writes a file."""
    precisions: tuple[Precision, ...]
    """Supported; the first is the default."""
    fixed_batch: bool = False
    """A file takes a number of images that is decided at export."""
    inside: str = ""
    """Where the model file is in a folder, for a format that is one."""
    dynamic_size: bool = False
    """A file may take images of any height and width."""


FORMATS: dict[str, FormatInfo] = {
    "onnx": FormatInfo("ONNX", ".onnx", "onnx", ("fp16", "fp32", "int8"), dynamic_size=True),
    "openvino": FormatInfo("OpenVINO IR", ".xml", "openvino", ("fp16", "fp32", "int8"), dynamic_size=True),
    "coreml": FormatInfo("Core ML", ".mlpackage", "coreml", ("fp16", "fp32")),
    "litert": FormatInfo("LiteRT", ".tflite", "litert", ("fp32", "fp16", "int8"), fixed_batch=True),
    "executorch": FormatInfo("ExecuTorch", ".pte", "executorch", ("fp32",), fixed_batch=True),
    "torch": FormatInfo("torch.export", ".pt2", "torch_export", ("fp32",)),
    "aotinductor": FormatInfo("AOTInductor", ".pt2", "aotinductor", ("fp32",)),
    "tensorrt": FormatInfo("TensorRT", ".engine", "tensorrt", ("fp16", "fp32"), fixed_batch=True),
    "web": FormatInfo("web", "", "web", ("fp16", "fp32", "int8"), inside=MODEL),
}


def export_model(
    model: SHViT,
    path: str | Path,
    card: Card,
    format: Format = "onnx",
    precision: Precision | None = None,
    batch_size: int | None = None,
    images: np.ndarray | None = None,
    calibration: np.ndarray | None = None,
    assess: Assess | None = None,
    keep_float: Collection[str] = (),
    dynamic_size: bool = False,
) -> ExportReport:
    """Writes a network in a format, runs the file on real images beside it, and only then gives it its name.

    Args:
        model: a network in training form or folded; it is not changed.
        path: where to write, with the format's suffix; an existing file is replaced.
        card: what the file says of itself; its class count must be the network's.
        precision: one of ``FORMATS[format].precisions``; its first when not given.
        batch_size: images that the file takes at once, for a format that fixes them (1 when not given).
        images: to verify on, preprocessed, ``uint8 (N, H, W, 3)``; crops of the package's photographs when not given.
        calibration: for int8: images like those to be classified, preprocessed, ``uint8 (N, H, W, 3)``.
        assess: takes the file's measure before it is named; the figures replace the card's metrics.
        keep_float: for int8, in ONNX and OpenVINO: modules to leave in float32, by name ("stages.1.blocks.0").
        dynamic_size: the file takes images of any height and width, in ONNX and OpenVINO; the card's size is the
            default. It is verified at two other sizes as well.

    Raises:
        ExportError: the combination is not supported; the card does not fit the network; the file cannot be written, or
            differs from the network by more than its precision explains. No file is left.
        MissingDependencyError: the converter is not installed; the message says which command installs it.
    """
    path = Path(path)
    chosen = check_combination(format, precision, path, batch_size, dynamic_size)
    source = Source(model, path, card, chosen, batch_size or 1, calibration, keep_float, dynamic_size)
    convert: Convert = import_module(f"shvit.exporting.{FORMATS[format].module}").convert
    return write_verified(source, path, format, convert, images, assess)


def check_combination(
    format: str,
    precision: Precision | None,
    path: Path,
    batch_size: int | None = None,
    dynamic_size: bool = False,
) -> Precision:
    """The precision to export with.

    Raises:
        ExportError: there is no such format, or it does not go with the rest.
    """
    if format not in FORMATS:
        raise ExportError(f"format {format}: expected one of {', '.join(FORMATS)}")
    info = FORMATS[format]
    precision = precision or info.precisions[0]
    if precision not in info.precisions:
        supported = ", ".join(sorted(info.precisions))
        raise ExportError(f"{path}: {info.title} is exported as {supported}, not as {precision}")
    if not info.suffix:
        check_replaceable(path)
    elif path.suffix != info.suffix:
        raise ExportError(f"{path}: {info.title} files are named {info.suffix}, such as {path.stem}{info.suffix}")
    if batch_size is not None and not info.fixed_batch:
        taken = "one image" if format == "coreml" else "batches of any size"
        raise ExportError(f"{path}: batch_size {batch_size}: {info.title} files take {taken}; leave it out")
    if dynamic_size and not info.dynamic_size:
        able = " or ".join(each.title for each in FORMATS.values() if each.dynamic_size)
        raise ExportError(f"{path}: a {info.title} file takes one image size; for any size export to {able}")
    return precision
