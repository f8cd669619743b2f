"""Fine-tuning for 8 bits: the folded network computes with the rounding that an int8 export will do.

What is rounded, where and how is what ``modelfile/quantize.py`` leaves in the graph; the rounding and its gradients
(straight through, zero outside the range) are PyTorch's. See docs/decisions/0011-quantization-aware.md.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from shvit.card import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from shvit.data.loader import evaluation_loader, normalize
from shvit.data.protocol import ImageDataset
from shvit.data.splits import Subset
from shvit.errors import ArgumentError
from shvit.models import SHViT, reparameterize
from shvit.models.reparam import inference_form
from shvit.models.shvit import FeedForward, SingleHeadAttention, SqueezeExcite

WEIGHT_BITS = 7
"""With 8, sums of two products overflow on x86 processors without VNNI instructions."""

GREY = 114
"""The image level that stands for zero, and so is the first convolution's border: the mean colour's, rounded."""

CALIBRATION_IMAGES = 512
GROUP = 16
"""Images whose smallest and largest value enter a range's average at once, as in the exporter's calibration."""
MOMENTUM = 0.01
"""How far such a group moves a range in training."""


class Range(nn.Module):
    """Rounds a feature map to 256 levels between the smallest and the largest value that it usually has.

    In training the two follow what passes; in evaluation they stay.
    """

    low: Tensor
    high: Tensor

    def __init__(self, rectified: bool = False) -> None:
        super().__init__()
        self.rectified = rectified
        """A ReLU comes next: levels begin at 0."""
        self.rounds = True
        self.momentum = MOMENTUM
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self._follow(x.detach())
        return torch.fake_quantize_per_tensor_affine(x, *self.scale_and_zero(), 0, 255) if self.rounds else x

    def scale_and_zero(self) -> tuple[Tensor, Tensor]:
        """The step from level to level, and which level is 0."""
        low, high = self.low.clamp(max=0), self.high.clamp(min=0)  # zero is always a level
        if self.rectified:
            low = torch.zeros_like(low)
        scale = ((high - low) / 255).clamp(min=torch.finfo(torch.float32).tiny)
        return scale, (-low / scale).round().int()

    def _follow(self, x: Tensor) -> None:
        others = tuple(range(1, x.ndim))
        low = torch.stack([each.min() for each in x.amin(others).split(GROUP)]).mean()
        high = torch.stack([each.max() for each in x.amax(others).split(GROUP)]).mean()
        weight = 1 - (1 - self.momentum) ** -(-len(x) // GROUP)
        self.low.lerp_(low, weight)
        self.high.lerp_(high, weight)


def round_weights(weight: Tensor, bits: int = WEIGHT_BITS) -> Tensor:
    """Kernels ``(out, in, h, w)`` rounded to signed levels, with a scale for each output channel."""
    largest = 1 << (bits - 1)
    scale = (weight.detach().abs().amax((1, 2, 3)) / largest).clamp(min=torch.finfo(torch.float32).tiny)
    zeros = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zeros, 0, -largest, largest)


class _RoundedConv2d(nn.Conv2d):
    output_range: Range
    weight_bits: int

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.rounded(self.weight), self.bias)

    def rounded(self, weight: Tensor) -> Tensor:
        return round_weights(weight, self.weight_bits) if self.output_range.rounds else weight


class _RoundedStemConv2d(_RoundedConv2d):
    """The first convolution. In the graph it takes the images' bytes: the standard deviation is in its kernel, the
    mean colour in its bias, and its border is grey."""

    def forward(self, input: Tensor) -> Tensor:
        assert self.bias is not None
        mean, std = (input.new_tensor(each).view(1, 3, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_STD))
        grey = (GREY / 255 - mean) / std
        bias = self.bias + (self.weight * grey).sum((1, 2, 3))
        return self._conv_forward(input - grey, self.rounded(self.weight / std) * std, bias)


class _RoundedSqueezeExcite(SqueezeExcite):
    means_range: Range
    gate_range: Range

    def gate(self, means: Tensor) -> Tensor:
        return self.gate_range.forward(super().gate(self.means_range.forward(means)))


class _RoundedAttention(SingleHeadAttention):
    mixed_range: Range

    def mix(self, x: Tensor) -> Tensor:
        return self.mixed_range.forward(super().mix(x))


def _round_output(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    assert isinstance(module.output_range, Range)
    return module.output_range.forward(output)


def _round_input(module: nn.Module, inputs: tuple[Tensor]) -> Tensor:
    assert isinstance(module.input_range, Range)
    return module.input_range.forward(inputs[0])


RECTIFIED = ("expand", "dw", "reduce")
"""Convolutions of a feed-forward network, patch merging and squeeze-excite that a ReLU follows."""


def simulate_int8(model: SHViT, weight_bits: int = WEIGHT_BITS) -> SHViT:
    """A folded, trainable copy of a network that computes as an int8 export of it will.

    All but attention's products, the normalisation before it and the head is rounded; call ``calibrate`` next.

    Args:
        model: for RGB images, in training form or folded; it is not changed.
        weight_bits: fewer than an export has show more of what rounding does.
    """
    config = model.config
    if config.attention_gate or config.activation != "relu" or config.head_stages > 1:
        raise ArgumentError(
            "quantization_aware: the simulation knows the paper's design; expected a network without attention_gate, "
            "another activation than relu, or head_stages above 1"
        )
    network = inference_form(model).requires_grad_(True)
    last = list(network.stem)[-1]
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.Conv2d):
            module.__class__ = _RoundedStemConv2d if name == "stem.0" else _RoundedConv2d
            assert isinstance(module, _RoundedConv2d)
            module.weight_bits = weight_bits
            in_stem = name.startswith("stem.") and module is not last
            # In squeeze-excite and in a feed-forward network "expand" is another thing.
            rectified = in_stem or (name.endswith(RECTIFIED) and not name.endswith("squeeze_excite.expand"))
            _at_output(module, rectified)
        elif isinstance(module, FeedForward | nn.GroupNorm):
            _at_output(module)
        elif isinstance(module, SqueezeExcite):
            module.__class__ = _RoundedSqueezeExcite
            module.means_range, module.gate_range = Range(), Range()
            _at_output(module)
        elif isinstance(module, SingleHeadAttention):
            module.__class__ = _RoundedAttention
            module.mixed_range = Range()
            _at_output(module)
            module.project.input_range = Range(rectified=True)
            module.project.register_forward_pre_hook(_round_input)
    network.dropout.input_range = Range()
    network.dropout.register_forward_pre_hook(_round_input)
    return network


def _at_output(module: nn.Module, rectified: bool = False) -> None:
    module.output_range = Range(rectified)
    module.register_forward_hook(_round_output)


@torch.no_grad()
def calibrate(network: SHViT, images: ImageDataset, preprocessing: Preprocessing) -> None:
    """Sets the ranges as an export does, to the mean over groups of images of what the unrounded network has."""
    chosen = Subset(images, np.arange(0, len(images), -(-len(images) // CALIBRATION_IMAGES)))
    batches = (batch.images for batch in evaluation_loader(chosen, preprocessing, GROUP, workers=0))
    set_ranges(network, (each for each in batches if len(each)))


@torch.no_grad()
def set_ranges(network: SHViT, batches: Iterable[Tensor]) -> None:
    """``calibrate`` on batches of images, ``uint8 (GROUP, H, W, 3)``."""
    ranges = [module for module in network.modules() if isinstance(module, Range)]
    network.train()
    for number, images in enumerate(batches, 1):
        for each in ranges:
            each.rounds, each.momentum = False, 1 / number
        network(normalize(images))
    for each in ranges:
        each.rounds, each.momentum = True, MOMENTUM


def without_ranges(network: SHViT) -> SHViT:
    """The folded network of a simulation, for a checkpoint; it shares the tensors."""
    with torch.device("meta"):
        plain = reparameterize(SHViT(network.config))
    own = network.state_dict()
    plain.load_state_dict({name: own[name] for name in plain.state_dict()}, assign=True)
    return plain
