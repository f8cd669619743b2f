"""Post-training quantisation of a model file's graph: 8 bits wherever both engines have fast kernels for them."""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from shvit.modelfile.verify import quiet
from shvit.network.forward import normalized
from shvit.network.graph import FEATURES

BATCH = 16

OPERATORS = ("Conv", "Relu", "Add", "Mul", "Sigmoid", "GlobalAveragePool", "Concat", "Slice", "Reshape", "Transpose")
"""What is computed in 8 bits. Those that only move or clip values are there so that nothing between two convolutions
goes through float32. The rest, matrix products, softmax, normalisation and the head, is a few per cent of the work."""


class _Images(CalibrationDataReader):
    def __init__(self, images: np.ndarray, input: str) -> None:
        self._batches = iter(np.array_split(images, -(-len(images) // BATCH)))
        self._input = input

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        if batch is None:
            return None
        return {self._input: normalized(batch) if self._input == "pixel_values" else batch}


def quantize_graph(
    proto: onnx.ModelProto, calibration: np.ndarray, keep_float: Collection[str] = ()
) -> onnx.ModelProto:
    """The same graph with its operators between quantisations and dequantisations (QDQ), for any engine.

    Activations are unsigned with a range for each tensor, the moving average over batches of the smallest and largest
    value; weights are signed, of 7 bits, with a scale for each output channel. That is what ONNX Runtime and OpenVINO
    both have fast kernels for; with 8 bits, sums of two products overflow on x86 processors without VNNI instructions.
    The images' own bytes are the first convolution's input, where the graph takes them.

    Args:
        calibration: images like those to be classified, ``uint8 (N, H, W, 3)``; some hundred are enough.
        keep_float: nodes to leave in float32: those with one of these names, or a name below one of them
            ("stages.1.blocks.0").
    """
    prefixes = tuple(f"{name}." for name in keep_float)
    kept = [node.name for node in proto.graph.node if f"{node.name}.".startswith(prefixes)] if prefixes else []
    kept.append(FEATURES)  # several stages', each with a range of its own
    source_proto = proto if any(name.startswith("stem") for name in kept) else _integer_input(proto)
    with tempfile.TemporaryDirectory() as name:
        source, prepared, quantized = (Path(name) / f"{each}.onnx" for each in ("source", "prepared", "quantized"))
        onnx.save(source_proto, source)
        with quiet():  # it warns that its own preparation, which comes next, was left out
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            quantize_static(
                str(prepared),
                str(quantized),
                _Images(calibration, proto.graph.input[0].name),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(OPERATORS),
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                reduce_range=True,
                nodes_to_exclude=kept,
                extra_options={"CalibMovingAverage": True},
            )
        result = onnx.load(quantized)
    result.producer_name = proto.producer_name
    return result


def _integer_input(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which the first convolution takes the images' bytes as they are, with a zero point.

    The mean colour has a value for each channel, a zero point is one for all: what lies between goes into the bias, and
    the border that the convolution adds is grey, at most 12 levels from ImageNet's mean colour. Where no mean is
    subtracted the zero point is 0 and the border exact. A graph that does not begin with a transpose, a cast, a
    subtraction or none, and a convolution with a bias is returned as it is.
    """
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    graph = result.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    found: dict[str, onnx.NodeProto] = {}
    output = graph.input[0].name
    for kind in ("Transpose", "Cast", "Sub", "Conv"):
        # Tracing leaves nodes that ask for the images' shape beside those that take their values.
        readers = [node for node in graph.node if output in node.input and node.op_type != "Shape"]
        if kind == "Sub" and [node.op_type for node in readers] == ["Conv"]:
            continue
        if len(readers) != 1 or readers[0].op_type != kind or readers[0].input[0] != output:
            return proto
        found[kind] = readers[0]
        output = readers[0].output[0]
    cast, conv, subtract = found["Cast"], found["Conv"], found.get("Sub")
    weight, bias = (constants.get(name) for name in [*conv.input[1:], ""][:2])
    mean = None if subtract is None else constants.get(subtract.input[1])
    if weight is None or bias is None or (subtract is not None and mean is None):
        return proto
    colour = np.zeros((1, 1, 1, 1)) if mean is None else numpy_helper.to_array(mean).reshape(1, -1, 1, 1)
    zero_point = np.array(np.rint(colour.mean()), np.uint8)
    shift = (numpy_helper.to_array(weight) * (zero_point - colour)).sum((1, 2, 3))
    bias.CopyFrom(numpy_helper.from_array((numpy_helper.to_array(bias) + shift).astype(np.float32), bias.name))
    centred = cast if subtract is None else subtract
    scale, zero = f"{centred.name}.scale", f"{centred.name}.zero_point"
    graph.initializer.extend(
        [numpy_helper.from_array(np.array(1, np.float32), scale), numpy_helper.from_array(zero_point, zero)]
    )
    place = list(graph.node).index(cast)
    graph.node.remove(cast)
    if subtract is not None:
        graph.node.remove(subtract)
        graph.initializer.remove(mean)
    graph.node.insert(
        place,
        helper.make_node("DequantizeLinear", [cast.input[0], scale, zero], [centred.output[0]], name=centred.name),
    )
    return result


def rank_layers(proto: onnx.ModelProto, calibration: np.ndarray) -> list[str]:
    """The parts of a network that can be kept in float32, the one that helps most first.

    Those are the stem, each downsampling and each block. What helps most is what brings the logits of the calibration
    images nearest to float32's when it alone is kept.
    """
    exact = _logits(proto, calibration)
    errors = {
        name: float(np.square(_logits(quantize_graph(proto, calibration, [name]), calibration) - exact).mean())
        for name in _layers(proto)
    }
    return sorted(errors, key=errors.__getitem__)


def _layers(proto: onnx.ModelProto) -> list[str]:
    names: dict[str, None] = {}
    for node in proto.graph.node:
        if node.op_type == "Conv":
            parts = node.name.split(".")
            names[parts[0] if parts[0] != "stages" else ".".join(parts[: 4 if parts[2] == "blocks" else 3])] = None
    return list(names)


def _logits(proto: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    batches = np.array_split(images, -(-len(images) // BATCH))
    return np.concatenate([session.run(None, {"images": batch})[0] for batch in batches])
