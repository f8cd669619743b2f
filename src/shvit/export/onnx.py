"""The model file: an ONNX graph that takes ``uint8`` images, with its card in the metadata."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from shvit.atomic import atomic_path
from shvit.errors import ExportError
from shvit.models import SHViT, reparameterize
from shvit.runtime.card import IMAGENET_MEAN, IMAGENET_STD, METADATA_KEY, Card
from shvit.runtime.engines import load_engine
from shvit.runtime.models import verification_images
from shvit.runtime.preprocess import decode, preprocess

OPSET = 20
TOLERANCE = {"float32": 1e-4, "float16": 1e-2, "int8": 0.3}
"""Largest accepted difference of a logit, relative to the largest logit, for weights stored so. What int8 costs is
better measured on labelled images; here it is only told from a graph that is wrong."""
Storage = Literal["float32", "float16", "int8"]


@dataclass(frozen=True)
class ExportReport:
    """How the written file compares with the network it was made from."""

    path: Path
    size_bytes: int
    images: int
    """Real images that both were run on."""
    max_difference: float
    """Largest difference of a logit, relative to the largest logit."""
    top1_agreement: float
    """Share of the images with the same first label, in [0, 1]."""


class Deployed(nn.Module):
    """A network folded for inference, behind the input that a model file takes.

    Dividing by the standard deviation is folded into the first convolution. The mean stays a subtraction: the
    convolution pads with zeros, which must keep meaning the mean colour.

    Args:
        folded: takes normalised images ``(N, C, H, W)``; its first convolution is changed.
        mean, std: of the normalisation, for pixels in [0, 1].
    """

    def __init__(
        self, folded: nn.Module, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
    ) -> None:
        super().__init__()
        self.network = folded
        self.centred = any(mean)
        self.register_buffer("mean", torch.tensor(mean) * 255)
        first = next(module for module in folded.modules() if isinstance(module, nn.Conv2d))
        with torch.no_grad():
            first.weight.div_((torch.tensor(std) * 255).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """``uint8 (N, H, W, 3)`` to logits ``float32 (N, classes)``."""
        assert isinstance(self.mean, Tensor)
        pixels = images.float()
        return self.network((pixels - self.mean if self.centred else pixels).permute(0, 3, 1, 2))


def export_onnx(
    model: SHViT,
    path: str | Path,
    card: Card,
    weights: Storage = "float16",
    images: list[Path] | None = None,
    calibration: np.ndarray | None = None,
) -> ExportReport:
    """Writes a model file, runs it on real images beside the network, and only then gives it its name.

    Args:
        model: a network in training form or folded; it is not changed.
        path: where to write; an existing file is replaced in one step.
        card: what the file says of itself; its class count must be the network's.
        weights: how weights are stored. ``float16`` halves the file; engines compute in float32 all the same.
            ``int8`` has convolutions computed in 8 bits.
        images: photographs to verify on; the package's own when not given.
        calibration: for ``int8``: images like those to be classified, preprocessed, ``uint8 (N, H, W, 3)``.

    Raises:
        ExportError: the card does not fit the network, or the file's outputs differ from the network's by
            more than ``TOLERANCE``. No file is left.
    """
    path = Path(path)
    if model.config.in_chans != 3:
        raise ExportError(f"{path}: a model file takes RGB images, the network has in_chans={model.config.in_chans}")
    if len(card.classes) != model.num_classes:
        raise ExportError(f"{path}: the card names {len(card.classes)} classes, the network has {model.num_classes}")
    if card.output != "logits":
        raise ExportError(f"{path}: export writes logits, the card says {card.output}")
    folded = copy.deepcopy(model).eval() if model.folded else reparameterize(model)
    folded = folded.float().cpu()
    reference = copy.deepcopy(folded)
    proto = to_onnx(Deployed(folded), card.preprocessing.image_size)
    if weights == "int8":
        from shvit.export.quantize import quantize_convolutions  # here, because it takes a second to import

        if calibration is None:
            raise ExportError(f"{path}: int8 needs calibration images")
        proto = quantize_convolutions(proto, calibration)
    if weights != "float32":
        _store_weights_as_float16(proto)
    set_card(proto, card)

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as aside:
            aside.write_bytes(proto.SerializeToString())
            report = _verify(reference, aside, card, weights, images or verification_images())
    except OSError as error:
        raise ExportError(f"{path}: cannot be written: {error.strerror or error}") from None
    return ExportReport(path, path.stat().st_size, *report)


def set_card(proto: onnx.ModelProto, card: Card) -> None:
    """Writes the card into a graph's metadata, in place of the one that it has."""
    helper.set_model_props(proto, {METADATA_KEY: card.to_json()})


def to_onnx(deployed: nn.Module, image_size: tuple[int, int]) -> onnx.ModelProto:
    """A graph of what takes ``uint8 (N, H, W, 3)``, any N, with batch normalisations folded into convolutions."""
    example = torch.zeros(2, *image_size, 3, dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own deprecated internals
        program = torch.onnx.export(
            deployed.eval(),
            (example,),
            dynamo=True,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            opset_version=OPSET,
            optimize=True,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    proto.producer_name = "shvit"
    proto.doc_string = ""
    for node in proto.graph.node:
        # Stack traces of the machine that exported; they help nobody who runs the file.
        del node.metadata_props[:]
        node.doc_string = ""
    del proto.graph.metadata_props[:]
    for value in [*proto.graph.value_info, *proto.graph.input, *proto.graph.output, *proto.graph.initializer]:
        del value.metadata_props[:]
    return proto


def _store_weights_as_float16(proto: onnx.ModelProto) -> None:
    """Kernels and matrices become float16 constants with a cast, which engines fold when they load the file."""
    graph = proto.graph
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) < 2:
            continue
        values = numpy_helper.to_array(tensor)
        stored = numpy_helper.from_array(values.astype(np.float16), f"{tensor.name}.float16")
        casts.append(helper.make_node("Cast", [stored.name], [tensor.name], to=TensorProto.FLOAT))
        tensor.CopyFrom(stored)
    nodes = casts + list(graph.node)
    del graph.node[:]
    graph.node.extend(nodes)


@torch.inference_mode()
def _verify(reference: SHViT, file: Path, card: Card, weights: Storage, images: list[Path]) -> tuple[int, float, float]:
    batch = np.stack([preprocess(decode(image), card.preprocessing) for image in images])
    mean, std = (torch.tensor(value) * 255 for value in (IMAGENET_MEAN, IMAGENET_STD))
    expected = reference(((torch.from_numpy(batch) - mean) / std).permute(0, 3, 1, 2)).numpy()
    engine = load_engine("onnxruntime", file, threads=1)
    written = np.concatenate([engine.infer(batch[:1]), engine.infer(batch[1:])])  # a batch of any size
    difference = float(np.abs(written - expected).max() / np.abs(expected).max())
    agreement = float((written.argmax(1) == expected.argmax(1)).mean())
    if not difference <= TOLERANCE[weights]:
        raise ExportError(
            f"the exported graph differs from the network by {difference:.2g} of the largest logit on "
            f"{len(images)} images; at most {TOLERANCE[weights]:.0e} is accepted with {weights} weights"
        )
    return len(images), difference, agreement
