"""The deployment graph of a folded network, written operator by operator.

An exporter that traces the PyTorch code leaves what the code did: a split where a slice is cheaper, shapes computed at
every run, transposes around each attention. Written by hand the graph has only what engines run fastest; what was
tried is in docs/decisions/0008-deployment-graph.md.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from shvit.card import IMAGENET_MEAN, IMAGENET_STD
from shvit.models import SHViT
from shvit.models.shvit import Block, Downsample, FeedForward, PatchMerging, SingleHeadAttention

OPSET = 20
IR_VERSION = 10
"""The file format's version: what ONNX Runtime reads since 1.18."""


def deployment_graph(network: SHViT, image_size: tuple[int, int], dynamic_size: bool = False) -> onnx.ModelProto:
    """A graph from ``images``, ``uint8 (N, H, W, 3)`` in RGB, to ``logits``, ``float32 (N, classes)``.

    Nodes carry the names of the network's modules.

    Args:
        network: folded, with three input channels and a head.
        image_size: height and width.
        dynamic_size: the graph takes any height and width; shapes are then computed at every run.
    """
    graph = _Graph(network, image_size, dynamic_size)
    sides = ["height", "width"] if dynamic_size else image_size
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", *sides, 3])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", network.num_classes])
    return helper.make_model(
        helper.make_graph(graph.nodes, "shvit", [images], [logits], list(graph.constants.values())),
        producer_name="shvit",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )


class _Graph:
    """Nodes and constants, collected as the network is walked from the image to the logits."""

    def __init__(self, network: SHViT, image_size: tuple[int, int], dynamic_size: bool) -> None:
        self._dynamic = dynamic_size
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, TensorProto] = {}
        self._size = image_size
        """Height and width of the feature map that was written last."""
        x = self._stem(network)
        for index, stage in enumerate(network.stages):
            assert isinstance(stage.blocks, nn.Sequential)
            name = f"stages.{index}"
            if isinstance(stage.downsample, Downsample):
                x = self._downsample(x, stage.downsample, f"{name}.downsample")
            for number, block in enumerate(stage.blocks):
                assert isinstance(block, Block)
                x = self._block(x, block, f"{name}.blocks.{number}")
        assert isinstance(network.head, nn.Linear)
        x = self._add("Flatten", "head.flatten", self._add("GlobalAveragePool", "head.pool", x), axis=1)
        weight, bias = (
            self._constant(f"head.{key}", getattr(network.head, key).detach().numpy()) for key in ("weight", "bias")
        )
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

    def _conv(self, name: str, x: str, layer: nn.Module, weight: Tensor | None = None) -> str:
        assert isinstance(layer, nn.Conv2d) and layer.bias is not None
        kernel = (layer.weight if weight is None else weight).detach().numpy()
        stride = layer.stride[0]
        self._size = (-(-self._size[0] // stride), -(-self._size[1] // stride))
        return self._add(
            "Conv",
            name,
            x,
            self._constant(f"{name}.weight", kernel),
            self._constant(f"{name}.bias", layer.bias.detach().numpy()),
            kernel_shape=layer.kernel_size,
            strides=layer.stride,
            pads=[*layer.padding, *layer.padding],
            group=layer.groups,
        )

    def _stem(self, network: SHViT) -> str:
        """Dividing by the standard deviation is folded into the first convolution. The mean stays a subtraction:
        the convolution pads with zeros, which must keep meaning the mean colour. It comes after the transpose, where
        each channel is a plane; along three interleaved channels it takes ten times as long."""
        mean, std = (torch.tensor(value).mul(255).view(1, 3, 1, 1) for value in (IMAGENET_MEAN, IMAGENET_STD))
        x = self._add("Transpose", "stem.planes", "images", perm=[0, 3, 1, 2])
        x = self._add("Cast", "stem.float", x, to=TensorProto.FLOAT)
        x = self._add("Sub", "stem.centred", x, self._constant("stem.mean", mean.numpy()))
        for place, layer in enumerate(network.stem):
            name = f"stem.{place}"
            if isinstance(layer, nn.ReLU):
                x = self._add("Relu", name, x)
            else:
                assert isinstance(layer, nn.Conv2d)
                x = self._conv(name, x, layer, layer.weight / std if place == 0 else None)
        return x

    def _downsample(self, x: str, layer: Downsample, name: str) -> str:
        x = self._conv(f"{name}.local_in", x, layer.local_in)
        x = self._feed_forward(x, layer.ffn_in, f"{name}.ffn_in")
        x = self._merge(x, layer.merge, f"{name}.merge")
        x = self._conv(f"{name}.local_out", x, layer.local_out)
        return self._feed_forward(x, layer.ffn_out, f"{name}.ffn_out")

    def _merge(self, x: str, layer: PatchMerging, name: str) -> str:
        x = self._relu(self._conv(f"{name}.expand", x, layer.expand))
        x = self._relu(self._conv(f"{name}.dw", x, layer.dw))
        size = self._size
        gate, squeeze = self._add("GlobalAveragePool", f"{name}.squeeze_excite.pool", x), layer.squeeze_excite
        gate = self._relu(self._conv(f"{name}.squeeze_excite.reduce", gate, squeeze.reduce))
        gate = self._conv(f"{name}.squeeze_excite.expand", gate, squeeze.expand)
        gate = self._add("Sigmoid", f"{name}.squeeze_excite.gate", gate)
        self._size = size
        return self._conv(f"{name}.project", self._add("Mul", f"{name}.squeeze_excite", x, gate), layer.project)

    def _block(self, x: str, block: Block, name: str) -> str:
        x = self._conv(f"{name}.local", x, block.local)
        if hasattr(block, "attention"):
            x = self._attention(x, block.attention, f"{name}.attention")
        return self._feed_forward(x, block.ffn, f"{name}.ffn")

    def _feed_forward(self, x: str, layer: FeedForward, name: str) -> str:
        y = self._relu(self._conv(f"{name}.expand", x, layer.expand))
        return self._add("Add", name, x, self._conv(f"{name}.project", y, layer.project))

    def _attention(self, x: str, layer: SingleHeadAttention, name: str) -> str:
        height, width = self._size
        tokens, heads = -1 if self._dynamic else height * width, layer.num_heads
        partial, untouched = layer.split_dims
        attended = self._slice(f"{name}.attended", x, 0, partial, axis=1)
        rest = self._slice(f"{name}.untouched", x, partial, partial + untouched, axis=1)
        # Normalised over one group, all channels and tokens of an image: its affine part is in qkv.
        flat = self._add("Reshape", f"{name}.norm.flat", attended, self._shape(0, 1, -1))
        one, zero = (self._constant(f"norm.{value:g}", np.array([value], np.float32)) for value in (1, 0))
        flat = self._add("InstanceNormalization", f"{name}.norm.normalised", flat, one, zero, epsilon=layer.norm.eps)
        if self._dynamic:
            shape = self._add("Shape", f"{name}.attended.shape", attended)
        else:
            shape = self._shape(0, partial, height, width)
        normalised = self._add("Reshape", f"{name}.norm", flat, shape)

        # Tokens as rows, the layout in which engines keep 8-bit feature maps: their transposes cancel with these.
        qkv = self._conv(f"{name}.qkv", normalised, layer.qkv)
        qkv = self._add("Transpose", f"{name}.rows", qkv, perm=[0, 2, 3, 1])
        qkv = self._add("Reshape", f"{name}.tokens", qkv, self._shape(0, tokens, sum(layer.qkv_dims)))
        ends = np.cumsum([0, *layer.qkv_dims]).tolist()
        q, k, v = (
            self._slice(f"{name}.{part}", qkv, start, end, axis=2)
            for part, start, end in zip("qkv", ends, ends[1:], strict=False)
        )
        if heads > 1:
            q, k, v = (
                self._heads(each, tokens, heads, dim) for each, dim in zip((q, k, v), layer.qkv_dims, strict=True)
            )
        k = self._add("Transpose", f"{name}.k.columns", k, perm=[0, 2, 1] if heads == 1 else [0, 1, 3, 2])
        weights = self._add("Softmax", f"{name}.weights", self._add("MatMul", f"{name}.scores", q, k), axis=-1)
        y = self._add("MatMul", f"{name}.mixed", weights, v)
        if heads > 1:
            y = self._add("Transpose", f"{name}.heads.rows", y, perm=[0, 2, 1, 3])
        if self._dynamic:
            y = self._add("Reshape", f"{name}.rows.together", y, self._shape(0, -1, partial)) if heads > 1 else y
            y = self._add("Transpose", f"{name}.columns", y, perm=[0, 2, 1])
            y = self._add("Reshape", f"{name}.planes", y, shape)
        else:
            y = self._add("Reshape", f"{name}.map", y, self._shape(0, height, width, partial))
            y = self._add("Transpose", f"{name}.planes", y, perm=[0, 3, 1, 2])
        y = self._relu(self._add("Concat", f"{name}.joined", y, rest, axis=1))
        return self._add("Add", name, x, self._conv(f"{name}.project", y, layer.project))

    def _heads(self, x: str, tokens: int, heads: int, dim: int) -> str:
        """``(N, tokens, dim)`` to ``(N, heads, tokens, dim / heads)``."""
        x = self._add("Reshape", f"{x}.heads", x, self._shape(0, tokens, heads, dim // heads))
        return self._add("Transpose", f"{x}.first", x, perm=[0, 2, 1, 3])

    def _slice(self, name: str, x: str, start: int, end: int, axis: int) -> str:
        return self._add("Slice", name, x, *map(self._shape, (start, end, axis)))

    def _relu(self, x: str) -> str:
        return self._add("Relu", f"{x}.relu", x)
