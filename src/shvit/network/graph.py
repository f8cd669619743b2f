"""The deployment graph of a folded network, written operator by operator.

An exporter that traces the PyTorch code leaves what the code did: a split where a slice is cheaper, shapes computed at
every run, transposes around each attention. Written by hand the graph has only what engines run fastest; what was
tried is in docs/decisions/0008-deployment-graph.md.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from shvit.card import IMAGENET_MEAN, IMAGENET_STD
from shvit.network.folding import NORM_EPSILON
from shvit.network.network import FoldedNetwork, Size

OPSET = 20
IR_VERSION = 10
"""The file format's version: what ONNX Runtime reads since 1.18."""


FEATURES = "head.features"
"""The node that joins the pooled features of several stages, where the head reads them."""

Input = Literal["images", "pixel_values"]
"""What a graph takes: ``uint8 (N, H, W, 3)``, or normalised outside of it, ``float32 (N, 3, H, W)``, as transformers.js
gives them."""


def deployment_graph(
    network: FoldedNetwork, image_size: Size, dynamic_size: bool = False, input: Input = "images"
) -> onnx.ModelProto:
    """A graph from RGB images to ``logits``, ``float32 (N, classes)``.

    Nodes carry the names of the network's layers.

    Args:
        network: with three input channels and a head.
        image_size: height and width.
        dynamic_size: the graph takes any height and width; shapes are then computed at every run.
        input: what it takes, by that name.
    """
    graph = _Graph(network, image_size, dynamic_size, input)
    sides = ["height", "width"] if dynamic_size else image_size
    if input == "images":
        images = helper.make_tensor_value_info(input, TensorProto.UINT8, ["batch", *sides, 3])
    else:
        images = helper.make_tensor_value_info(input, TensorProto.FLOAT, ["batch", 3, *sides])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", network.config.num_classes])
    return helper.make_model(
        helper.make_graph(graph.nodes, "shvit", [images], [logits], list(graph.constants.values())),
        producer_name="shvit",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )


class _Graph:
    """Nodes and constants, collected as the network is walked from the image to the logits."""

    def __init__(self, network: FoldedNetwork, image_size: Size, dynamic_size: bool, input: Input) -> None:
        self._config, self._arrays = network.config, network.arrays
        self._dynamic = dynamic_size
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, TensorProto] = {}
        self._size = image_size
        """Height and width of the feature map that was written last."""
        x = self._stem(input)
        maps = []
        for stage, depth in enumerate(self._config.depths):
            if stage > 0:
                x = self._downsample(x, f"stages.{stage}.downsample")
            for block in range(depth):
                x = self._block(x, f"stages.{stage}.blocks.{block}", stage, self._config.attends(stage, block))
            maps.append(x)
        x = self._pooled(maps[-self._config.head_stages :])
        weight, bias = (self._constant(f"head.{part}", self._arrays[f"head.{part}"]) for part in ("weight", "bias"))
        self._add("Gemm", "logits", x, weight, bias, transB=1)

    def _add(self, kind: str, name: str, *inputs: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def _constant(self, name: str, values: np.ndarray) -> str:
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(values), name)
        return name

    def _shape(self, *sides: int) -> str:
        return self._constant("shape." + "_".join(map(str, sides)), np.array(sides, np.int64))

    def _conv(self, name: str, x: str, stride: int = 1, divisor: np.ndarray | None = None) -> str:
        """Args: divisor: of the kernel, for each of its input channels."""
        kernel, bias = self._arrays[f"{name}.weight"], self._arrays[f"{name}.bias"]
        if divisor is not None:
            kernel = kernel / divisor
        side = kernel.shape[-1]
        depthwise = side > 1 and kernel.shape[1] == 1 and not name.startswith("stem.")
        self._size = (-(-self._size[0] // stride), -(-self._size[1] // stride))
        return self._add(
            "Conv",
            name,
            x,
            self._constant(f"{name}.weight", kernel),
            self._constant(f"{name}.bias", bias),
            kernel_shape=[side, side],
            strides=[stride, stride],
            pads=[side // 2] * 4,
            group=len(kernel) if depthwise else 1,
        )

    def _stem(self, input: Input) -> str:
        """Dividing by the standard deviation is folded into the first convolution. The mean stays a subtraction:
        the convolution pads with zeros, which must keep meaning the mean colour. It comes after the transpose, where
        each channel is a plane; along three interleaved channels it takes ten times as long."""
        if input == "images":
            mean, std = (
                np.array(value, np.float32).reshape(1, 3, 1, 1) * 255 for value in (IMAGENET_MEAN, IMAGENET_STD)
            )
            x = self._add("Transpose", "stem.planes", input, perm=[0, 3, 1, 2])
            x = self._add("Cast", "stem.float", x, to=TensorProto.FLOAT)
            x = self._add("Sub", "stem.centred", x, self._constant("stem.mean", mean))
            x = self._conv("stem.0", x, 2, std)
        else:
            x = self._conv("stem.0", input, 2)
        for step in range(1, self._config.stem_stride.bit_length() - 1):
            x = self._conv(f"stem.{2 * step}", self._add("Relu", f"stem.{2 * step - 1}", x), 2)
        return x

    def _downsample(self, x: str, name: str) -> str:
        x = self._conv(f"{name}.local_in", x)
        x = self._feed_forward(x, f"{name}.ffn_in")
        x = self._merge(x, f"{name}.merge")
        x = self._conv(f"{name}.local_out", x)
        return self._feed_forward(x, f"{name}.ffn_out")

    def _merge(self, x: str, name: str) -> str:
        x = self._relu(self._conv(f"{name}.expand", x))
        x = self._relu(self._conv(f"{name}.dw", x, 2))
        gate = self._add("GlobalAveragePool", f"{name}.squeeze_excite.pool", x)
        gate = self._relu(self._conv(f"{name}.squeeze_excite.reduce", gate))
        gate = self._conv(f"{name}.squeeze_excite.expand", gate)
        gate = self._add("Sigmoid", f"{name}.squeeze_excite.gate", gate)
        return self._conv(f"{name}.project", self._add("Mul", f"{name}.squeeze_excite", x, gate))

    def _pooled(self, maps: list[str]) -> str:
        """Pooled features ``(N, channels)``; the last map's come last, from nodes that always have the same names."""
        before = [
            self._add("Flatten", f"{name}.flatten", self._add("GlobalAveragePool", f"{name}.pool", each), axis=1)
            for name, each in zip((f"head.before.{place}" for place in range(len(maps))), maps[:-1], strict=False)
        ]
        x = self._add("Flatten", "head.flatten", self._add("GlobalAveragePool", "head.pool", maps[-1]), axis=1)
        return self._add("Concat", FEATURES, *before, x, axis=1) if before else x

    def _block(self, x: str, name: str, stage: int, attention: bool) -> str:
        x = self._conv(f"{name}.local", x)
        if attention:
            x = self._attention(x, f"{name}.attention", stage)
        return self._feed_forward(x, f"{name}.ffn")

    def _feed_forward(self, x: str, name: str) -> str:
        y = self._activated(self._conv(f"{name}.expand", x))
        return self._add("Add", name, x, self._conv(f"{name}.project", y))

    def _attention(self, x: str, name: str, stage: int) -> str:
        config, (height, width) = self._config, self._size
        heads, partial, whole = config.num_heads, config.partial_dims[stage], config.widths[stage]
        tokens = -1 if self._dynamic else height * width
        attended = self._slice(f"{name}.attended", x, 0, partial, axis=1)
        rest = self._slice(f"{name}.untouched", x, partial, whole, axis=1)
        # Normalised over one group, all channels and tokens of an image: its affine part is in qkv.
        flat = self._add("Reshape", f"{name}.norm.flat", attended, self._shape(0, 1, -1))
        one, zero = (self._constant(f"norm.{value:g}", np.array([value], np.float32)) for value in (1, 0))
        flat = self._add("InstanceNormalization", f"{name}.norm.normalised", flat, one, zero, epsilon=NORM_EPSILON)
        if self._dynamic:
            shape = self._add("Shape", f"{name}.attended.shape", attended)
        else:
            shape = self._shape(0, partial, height, width)
        normalised = self._add("Reshape", f"{name}.norm", flat, shape)

        # Tokens as rows, the layout in which engines keep 8-bit feature maps: their transposes cancel with these.
        qkv = self._conv(f"{name}.qkv", normalised)
        qkv = self._add("Transpose", f"{name}.rows", qkv, perm=[0, 2, 3, 1])
        dims = config.qkv_dims(stage)
        qkv = self._add("Reshape", f"{name}.tokens", qkv, self._shape(0, tokens, sum(dims)))
        ends = np.cumsum([0, *dims]).tolist()
        q, k, v, *gate = (
            self._slice(f"{name}.{part}", qkv, start, end, axis=2)
            for part, start, end in zip(("q", "k", "v", "gate"), ends, ends[1:], strict=False)
        )
        if heads > 1:
            q, k, v = (self._heads(each, tokens, heads, dim) for each, dim in zip((q, k, v), dims, strict=False))
        k = self._add("Transpose", f"{name}.k.columns", k, perm=[0, 2, 1] if heads == 1 else [0, 1, 3, 2])
        weights = self._add("Softmax", f"{name}.weights", self._add("MatMul", f"{name}.scores", q, k), axis=-1)
        y = self._add("MatMul", f"{name}.mixed", weights, v)
        if heads > 1:
            y = self._add("Transpose", f"{name}.heads.rows", y, perm=[0, 2, 1, 3])
        if heads > 1 and (self._dynamic or gate):
            y = self._add("Reshape", f"{name}.rows.together", y, self._shape(0, tokens, partial))
        if gate:
            y = self._add("Mul", f"{name}.gated", y, self._add("Sigmoid", f"{name}.gate.factors", gate[0]))
        if self._dynamic:
            y = self._add("Transpose", f"{name}.columns", y, perm=[0, 2, 1])
            y = self._add("Reshape", f"{name}.planes", y, shape)
        else:
            y = self._add("Reshape", f"{name}.map", y, self._shape(0, height, width, partial))
            y = self._add("Transpose", f"{name}.planes", y, perm=[0, 3, 1, 2])
        y = self._relu(self._add("Concat", f"{name}.joined", y, rest, axis=1))
        return self._add("Add", name, x, self._conv(f"{name}.project", y))

    def _heads(self, x: str, tokens: int, heads: int, dim: int) -> str:
        """``(N, tokens, dim)`` to ``(N, heads, tokens, dim / heads)``."""
        x = self._add("Reshape", f"{x}.heads", x, self._shape(0, tokens, heads, dim // heads))
        return self._add("Transpose", f"{x}.first", x, perm=[0, 2, 1, 3])

    def _slice(self, name: str, x: str, start: int, end: int, axis: int) -> str:
        return self._add("Slice", name, x, *map(self._shape, (start, end, axis)))

    def _activated(self, x: str) -> str:
        kind = self._config.activation
        if kind == "hard_swish":
            return self._add("HardSwish", f"{x}.hard_swish", x)
        x = self._relu(x)
        return self._add("Mul", f"{x}.squared", x, x) if kind == "squared_relu" else x

    def _relu(self, x: str) -> str:
        return self._add("Relu", f"{x}.relu", x)
