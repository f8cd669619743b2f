"""Mixed precision where it pays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from shvit.models.shvit import SingleHeadAttention

FAST_SIDE = 3
"""Rows and columns from which the backward pass of a depthwise convolution is fast on CPUs."""


class _DepthwiseConvolution(torch.autograd.Function):
    """Computes in float32 and keeps, for the backward pass, what came in.

    Without it autograd would keep the float32 copy, twice the memory, and the residual stream would be float32.
    """

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.stride, ctx.padding = stride, padding
        with torch.autocast(input.device.type, enabled=False):
            return F.conv2d(input.float(), weight, None, stride, padding, groups=len(weight)).to(input.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        input, weight = ctx.saved_tensors
        height, width = input.shape[-2:]
        # Where a kernel of 3 makes fewer than 3 rows or columns, oneDNN takes ten times as long: zeros fill them up.
        more = [max(FAST_SIDE - side, 0) for side in gradient.shape[-2:]]
        gradient = F.pad(gradient.float(), (0, more[1], 0, more[0]))
        filled = F.pad(input.float(), (0, more[1] * ctx.stride[1], 0, more[0] * ctx.stride[0]))
        in_gradient, weight_gradient, _ = torch.ops.aten.convolution_backward(
            gradient, filled, weight, None, ctx.stride, ctx.padding, (1, 1), False, (0, 0), len(weight),
            (True, True, False),
        )  # fmt: skip
        return in_gradient[..., :height, :width].to(input.dtype), weight_gradient, None, None


class _Float32DepthwiseConv2d(nn.Conv2d):
    """A convolution that autocast leaves alone."""

    def forward(self, input: Tensor) -> Tensor:
        return _DepthwiseConvolution.apply(input, self.weight, self.stride, self.padding)


def keep_depthwise_in_float32(model: nn.Module) -> None:
    """Takes depthwise convolutions out of mixed precision, in place.

    On CPUs their bfloat16 backward pass is several times slower than the float32 one, and was more than half
    of SHViT's training step (see docs/training.md for the measurement); they are 2 % of the arithmetic.
    """
    for module in model.modules():
        if type(module) is nn.Conv2d and module.groups == module.in_channels > 1:
            module.__class__ = _Float32DepthwiseConv2d


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
