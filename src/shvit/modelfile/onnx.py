"""The model file: an ONNX graph that takes ``uint8`` images, with its card in the metadata."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from shvit.card import METADATA_KEY, Card
from shvit.engines import load_engine
from shvit.modelfile.source import Source
from shvit.modelfile.verify import Written, with_version
from shvit.network.graph import Input, deployment_graph


def convert(source: Source, path: Path) -> Written:
    """Writes a model file; the card is in the graph's metadata."""
    proto = to_proto(source)

    def seal(card: Card) -> None:
        set_card(proto, card)
        path.write_bytes(proto.SerializeToString())

    return Written(seal, lambda: load_engine("onnxruntime", path, threads=1).infer, with_version("onnxruntime"))


def to_proto(source: Source, input: Input = "images") -> onnx.ModelProto:
    """The graph at the source's precision, without a card.

    Args:
        input: what it takes; a model file takes ``images``.
    """
    proto = deployment_graph(source.network, source.card.preprocessing.image_size, source.dynamic_size, input)
    if source.precision == "int8":
        from shvit.modelfile.quantize import quantize_graph  # here, because it takes a second to import

        assert source.calibration is not None
        proto = quantize_graph(proto, source.calibration, source.keep_float)
    if source.precision != "fp32":
        _store_weights_as_float16(proto)
    return proto


def set_card(proto: onnx.ModelProto, card: Card) -> None:
    """Writes the card into a graph's metadata, in place of the one that it has."""
    helper.set_model_props(proto, {METADATA_KEY: card.to_json()})


def _store_weights_as_float16(proto: onnx.ModelProto) -> None:
    """Kernels and matrices become float16 constants with a cast, which engines fold when they load the file."""
    graph = proto.graph
    weights = {node.input[1] for node in graph.node if node.op_type in ("Conv", "Gemm")}
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or tensor.name not in weights:
            continue
        values = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):  # the file is compared with its network
            stored = numpy_helper.from_array(values.astype(np.float16), f"{tensor.name}.float16")
        casts.append(helper.make_node("Cast", [stored.name], [tensor.name], to=TensorProto.FLOAT))
        tensor.CopyFrom(stored)
    nodes = casts + list(graph.node)
    del graph.node[:]
    graph.node.extend(nodes)
