"""Mixed precision where it pays."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from shvit.models.shvit import SingleHeadAttention


class _Float32Conv2d(nn.Conv2d):
    """A convolution that autocast leaves alone."""

    def forward(self, input: Tensor) -> Tensor:
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.float())


def keep_depthwise_in_float32(model: nn.Module) -> None:
    """Takes depthwise convolutions out of mixed precision, in place.

    On CPUs their bfloat16 backward pass is several times slower than the float32 one, and was more than half
    of SHViT's training step (see docs/training.md for the measurement); they are 2 % of the arithmetic.
    """
    for module in model.modules():
        if type(module) is nn.Conv2d and module.groups == module.in_channels > 1:
            module.__class__ = _Float32Conv2d


class _Float32Attention(SingleHeadAttention):
    """Attention weights that autocast leaves alone."""

    def attend(self, q: Tensor, k: Tensor) -> Tensor:
        with torch.autocast(q.device.type, enabled=False):
            return super().attend(q.float(), k.float()).to(q.dtype)


def keep_attention_in_float32(model: nn.Module) -> None:
    """Computes attention weights in float32 under mixed precision, in place.

    Queries and keys are normalised by batch statistics whose scale is learnt, so that nothing bounds their product:
    past 65,504 it is infinite in float16, and the softmax of a row with it is not a number. The two products are
    1 % of the time.
    """
    for module in model.modules():
        if type(module) is SingleHeadAttention:
            module.__class__ = _Float32Attention
