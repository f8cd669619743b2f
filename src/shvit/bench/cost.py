"""What a network costs before any machine runs it: parameters, arithmetic, and bytes moved, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from shvit.exporting.options import Precision

if TYPE_CHECKING:
    from shvit.bench.peaks import Peaks

Kind = Literal[
    "convolution", "depthwise", "matrix product", "normalisation", "softmax", "pooling", "elementwise", "copy"
]

_KINDS: dict[str, Kind] = {
    "addmm": "matrix product",
    "mm": "matrix product",
    "bmm": "matrix product",
    "native_group_norm": "normalisation",
    "native_layer_norm": "normalisation",
    "_native_batch_norm_legit_no_training": "normalisation",
    "native_batch_norm": "normalisation",
    "_softmax": "softmax",
    "mean": "pooling",
    "cat": "copy",
    "clone": "copy",
    "copy_": "copy",
    "constant_pad_nd": "copy",
}
"""Of the operations that PyTorch runs; those not named work on each element by itself."""


@dataclass(frozen=True)
class Layer:
    """One operation on one image. Sizes are counts of elements."""

    name: str
    """The module that it belongs to."""
    operation: str
    """As PyTorch calls it."""
    kind: Kind
    output_shape: tuple[int, ...]
    macs: int
    """Multiply-accumulates."""
    weights: int
    """Parameters read, biases among them."""
    inputs: int
    outputs: int

    def bytes(self, precision: Precision) -> int:
        """Memory read and written: weights, input, output.

        ``int8`` is what our quantisation makes: convolutions on one byte an element, all else in float32.
        """
        convolution = self.kind in ("convolution", "depthwise")
        width = {"fp32": 4, "fp16": 2, "int8": 1 if convolution else 4}[precision]
        return width * (self.weights + self.inputs + self.outputs)

    def seconds(self, peaks: Peaks, precision: Precision) -> float:
        """The least that it can take: its arithmetic at the machine's peak, or its bytes, whichever takes longer."""
        quick = precision == "int8" and self.kind in ("convolution", "depthwise")
        peak = peaks.int8_gops if quick else peaks.fp32_gflops
        return max(2 * self.macs / peak, self.bytes(precision) / peaks.copy_gb_per_second) / 1e9


@dataclass(frozen=True)
class Cost:
    """A network's cost for one image."""

    layers: tuple[Layer, ...]
    parameters: int

    @property
    def macs(self) -> int:
        """As ``shvit.network.network.FoldedNetwork.macs`` counts."""
        return sum(layer.macs for layer in self.layers)

    @property
    def activations(self) -> int:
        """Elements that convolutions and matrix products give, as timm and fvcore count."""
        kinds = ("convolution", "depthwise", "matrix product")
        return sum(layer.outputs for layer in self.layers if layer.kind in kinds)

    def bytes(self, precision: Precision) -> int:
        return sum(layer.bytes(precision) for layer in self.layers)

    def intensity(self, precision: Precision) -> float:
        """Operations, two for each MAC, for each byte moved."""
        return 2 * self.macs / self.bytes(precision)

    def seconds(self, peaks: Peaks, precision: Precision) -> float:
        """The roofline's bound for one image on its own: the sum of the layers'."""
        return sum(layer.seconds(peaks, precision) for layer in self.layers)

    def by_kind(self) -> dict[Kind, Cost]:
        """The layers of each kind, the most bytes first."""
        kinds = {layer.kind for layer in self.layers}
        parts = {kind: Cost(tuple(each for each in self.layers if each.kind == kind), 0) for kind in kinds}
        return dict(sorted(parts.items(), key=lambda part: -part[1].bytes("fp32")))

    def to_dict(self, peaks: Peaks | None = None) -> dict[str, Any]:
        precisions: tuple[Precision, ...] = ("fp32", "fp16", "int8")
        contents: dict[str, Any] = {
            "parameters": self.parameters,
            "macs": self.macs,
            "activations": self.activations,
            "memory_access_bytes": {each: self.bytes(each) for each in precisions},
            "intensity_ops_per_byte": {each: self.intensity(each) for each in precisions},
        }
        if peaks is not None:
            contents["bound_images_per_second"] = {each: 1 / self.seconds(peaks, each) for each in ("fp32", "int8")}
        contents["layers"] = [
            {
                "name": layer.name,
                "operation": layer.operation,
                "kind": layer.kind,
                "output_shape": layer.output_shape,
                "macs": layer.macs,
                "weights": layer.weights,
                "inputs": layer.inputs,
                "outputs": layer.outputs,
                "bytes": {each: layer.bytes(each) for each in precisions},
            }
            for layer in self.layers
        ]
        return contents


def count_cost(network: nn.Module, image_size: tuple[int, int], in_chans: int = 3) -> Cost:
    """Runs a network once on an empty image and counts what each operation reads, computes and writes.

    A ReLU on what a convolution or a matrix product just gave counts as a part of it: engines compute it in passing.
    Views cost nothing. MACs are those of convolutions and matrix products, five for each element of a GroupNorm, one
    for each element that the network pools at its end, as fvcore counts.

    Args:
        network: as it is deployed, folded, evaluating.
        image_size: height and width.
    """
    recorder = _Recorder(network)
    image = torch.zeros(1, in_chans, *image_size)
    with torch.no_grad(), recorder.names(), recorder:
        network(image)
    return Cost(tuple(recorder.layers), sum(each.numel() for each in network.parameters()))


class _Recorder(TorchDispatchMode):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.layers: list[Layer] = []
        self.parameters = {each.untyped_storage().data_ptr() for each in network.state_dict().values()}
        self.path: list[str] = []
        self.last: int | None = None
        """Where the output of the last convolution or matrix product is, until something else is computed."""

    @contextmanager
    def names(self) -> Iterator[None]:
        """Keeps ``path`` at the module that is being run."""
        handles = []
        for name, module in self.network.named_modules():
            handles.append(module.register_forward_pre_hook(lambda _module, _inputs, name=name: self.path.append(name)))
            handles.append(module.register_forward_hook(lambda _module, _inputs, _output: self._leave()))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _leave(self) -> None:
        self.path.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        first = output[0] if isinstance(output, tuple | list) else output
        tensors = list(_tensors(args))
        if isinstance(first, Tensor) and tensors:
            self._record(func.overloadpacket.__name__, args, tensors, first, func._schema.is_mutable)
        return output

    def _record(self, operation: str, args: Any, tensors: list[Tensor], output: Tensor, in_place: bool) -> None:
        places = [each.untyped_storage().data_ptr() for each in tensors]
        if not in_place and output.untyped_storage().data_ptr() in places:
            return  # a view
        read = list(zip(tensors, places, strict=True))
        weights = sum(each.numel() for each, place in read if place in self.parameters)
        inputs = sum(each.numel() for each, place in read if place not in self.parameters)
        if operation in ("relu", "relu_") and places[0] == self.last:
            self.last = output.untyped_storage().data_ptr()
            return
        kind = _kind(operation, args)
        self.last = (
            output.untyped_storage().data_ptr() if kind in ("convolution", "depthwise", "matrix product") else None
        )
        macs = _macs(operation, args, output)
        name = self.path[-1] if self.path else ""
        if operation == "mean" and not name:  # the network's own pooling; gates pool without being counted
            macs = inputs
        self.layers.append(Layer(name, operation, kind, tuple(output.shape), macs, weights, inputs, output.numel()))


def _tensors(arguments: Sequence[Any]) -> Iterator[Tensor]:
    for each in arguments:
        if isinstance(each, Tensor):
            yield each
        elif isinstance(each, list | tuple):
            yield from _tensors(each)


def _kind(operation: str, args: Any) -> Kind:
    if operation == "convolution":
        weight, groups = args[1], args[8]
        return "depthwise" if groups > 1 and weight.shape[1] == 1 else "convolution"
    return _KINDS.get(operation, "elementwise")


def _macs(operation: str, args: Any, output: Tensor) -> int:
    if operation == "convolution":
        weight = args[1]
        return output.numel() * math.prod(weight.shape[1:])
    if operation in ("mm", "bmm"):
        return output.numel() * args[0].shape[-1]
    if operation == "addmm":
        return output.numel() * args[1].shape[-1]
    return 5 * output.numel() if operation == "native_group_norm" else 0
