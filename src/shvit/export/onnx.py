"""The model file: an ONNX graph that takes ``uint8`` images, with its card in the metadata."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from shvit.export.verify import ExportReport, Precision, Source, Written, with_version, write_verified
from shvit.models import SHViT
from shvit.runtime.card import IMAGENET_MEAN, IMAGENET_STD, METADATA_KEY, Card
from shvit.runtime.engines import load_engine

OPSET = 20


class _Deployed(nn.Module):
    """A folded network behind the input that a model file takes.

    Dividing by the standard deviation is folded into the first convolution. The mean stays a subtraction: the
    convolution pads with zeros, which must keep meaning the mean colour.
    """

    def __init__(self, folded: SHViT) -> None:
        super().__init__()
        self.network = folded
        mean = torch.tensor(IMAGENET_MEAN[: folded.config.in_chans]) * 255
        std = torch.tensor(IMAGENET_STD[: folded.config.in_chans]) * 255
        self.register_buffer("mean", mean)
        first = folded.stem[0]
        assert isinstance(first, nn.Conv2d)
        with torch.no_grad():
            first.weight.div_(std.view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """``uint8 (N, H, W, 3)`` to logits ``float32 (N, classes)``."""
        assert isinstance(self.mean, Tensor)
        return self.network((images.float() - self.mean).permute(0, 3, 1, 2))


def export_onnx(
    model: SHViT,
    path: str | Path,
    card: Card,
    precision: Precision = "fp16",
    images: np.ndarray | None = None,
    calibration: np.ndarray | None = None,
) -> ExportReport:
    """Writes a model file; ``export_model`` with ``format="onnx"``.

    Args:
        precision: how weights are stored. ``fp16`` halves the file; engines compute in float32 all the same.
            ``int8`` has convolutions computed in 8 bits.
    """
    path = Path(path)
    source = Source(model, path, card, precision, calibration=calibration)
    return write_verified(source, path, "onnx", convert, images)


def convert(source: Source, path: Path) -> Written:
    """Writes a model file; the card is in the graph's metadata."""
    proto = to_proto(source)

    def seal(card: Card) -> None:
        set_card(proto, card)
        path.write_bytes(proto.SerializeToString())

    return Written(seal, lambda: load_engine("onnxruntime", path, threads=1).infer, with_version("onnxruntime"))


def to_proto(source: Source) -> onnx.ModelProto:
    """The graph at the source's precision, without a card."""
    proto = _to_onnx(deployed(source), source.card.preprocessing.image_size)
    if source.precision == "int8":
        from shvit.export.quantize import quantize_convolutions  # here, because it takes a second to import

        assert source.calibration is not None
        proto = quantize_convolutions(proto, source.calibration)
    if source.precision != "fp32":
        _store_weights_as_float16(proto)
    return proto


def deployed(source: Source) -> nn.Module:
    """A copy of the network behind the input that a file takes: ``uint8 (N, H, W, 3)`` to logits."""
    return _Deployed(copy.deepcopy(source.network)).eval()


def set_card(proto: onnx.ModelProto, card: Card) -> None:
    """Writes the card into a graph's metadata, in place of the one that it has."""
    helper.set_model_props(proto, {METADATA_KEY: card.to_json()})


def _to_onnx(deployed: nn.Module, image_size: tuple[int, int]) -> onnx.ModelProto:
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
