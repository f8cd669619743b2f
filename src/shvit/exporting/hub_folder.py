"""A folder as repositories on the Hugging Face Hub are: timm, transformers, transformers.js and shvit load it."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime as ort
from safetensors.numpy import save

from shvit.atomic import json_bytes
from shvit.card import Card, Verification
from shvit.errors import ExportError
from shvit.exporting.hub_config import (
    check_expressible,
    preprocessor_config,
    processor_config,
    timm_config,
    timm_tensors,
)
from shvit.exporting.hub_readme import write_readme
from shvit.exporting.options import HUB_MODEL
from shvit.modelfile import onnx
from shvit.modelfile.source import Infer, Precision, Source
from shvit.modelfile.verify import TOLERANCE, Convert, Written, verify, with_version
from shvit.network.forward import normalized

ONNX_FILES: dict[str, Precision] = {
    "onnx/model.onnx": "fp32",
    "onnx/model_fp16.onnx": "fp16",
    "onnx/model_quantized.onnx": "int8",
}
"""By the names that transformers.js looks for."""


def converter(images: np.ndarray, repository: str | None = None) -> Convert:
    """What writes such a folder of a network.

    The 8-bit file for transformers.js is left out where the source has no calibration images.

    Args:
        images: that every graph is run on beside the network, ``uint8 (N, H, W, 3)``.
        repository: on the hub, for the examples in README.md.
    """
    return partial(_convert, images, repository)


def _convert(images: np.ndarray, repository: str | None, source: Source, path: Path) -> Written:
    tensors = source.network.unfolded
    if tensors is None:
        raise ExportError(
            f"{source.path}: a repository for the hub holds weights in training form, and this network is folded; give "
            "the checkpoint that it came from"
        )
    config = replace(source.network.config, distillation="head_dist.linear.weight" in tensors)
    quantized = source.calibration is not None
    try:
        check_expressible(config, source.card.preprocessing)
        renamed = timm_tensors(config, tensors)
    except ExportError as error:
        raise ExportError(f"{source.path}: {error}") from None
    (path / "onnx").mkdir(parents=True)
    (path / "model.safetensors").write_bytes(save(renamed, {"format": "pt"}))
    described = timm_config(config, source.card, quantized)
    _write_json(described, path / "config.json")
    _write_json(processor_config(described), path / "processor_config.json")
    _write_json(preprocessor_config(source.card.preprocessing), path / "preprocessor_config.json")
    checked: dict[str, Verification] = {}
    for name, precision in ONNX_FILES.items():
        if precision == "int8" and not quantized:
            continue
        of_file = replace(source, precision=precision)
        # In 8 bits as the model file is, what that costs is measured on it.
        tolerance = math.inf if precision == source.precision == "int8" else TOLERANCE[precision]
        try:
            checked[name] = verify(of_file, _write_graph(of_file, path / name), "onnx", images, tolerance)
        except ExportError as error:
            raise ExportError(f"{source.path / name}: {error}") from None
    written = onnx.convert(source, path / HUB_MODEL)

    def seal(card: Card) -> None:
        written.seal(card)
        known = checked if card.verification is None else {**checked, HUB_MODEL: card.verification}
        (path / "README.md").write_text(write_readme(card, known, repository), encoding="utf-8")

    return Written(seal, written.load, written.engine)


def _write_graph(source: Source, path: Path) -> Written:
    path.write_bytes(onnx.to_proto(source, "pixel_values").SerializeToString())
    return Written(lambda card: None, lambda: _load(path), with_version("onnxruntime"))


def _load(path: Path) -> Infer:
    """Takes the images as all that is verified does, and prepares them as transformers.js would."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def infer(images: np.ndarray) -> np.ndarray:
        (logits,) = session.run(["logits"], {"pixel_values": normalized(images)})
        return logits

    return infer


def _write_json(contents: object, path: Path) -> None:
    path.write_bytes(json_bytes(contents, indent=2) + b"\n")
