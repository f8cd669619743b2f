"""Folding for deployment: the same function with fewer layers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from shvit.errors import ArgumentError
from shvit.models.shvit import ConvNorm, DepthwiseConv, Head, SHViT, SingleHeadAttention


@torch.no_grad()
def reparameterize(model: SHViT) -> SHViT:
    """Folds everything that can be folded without changing what ``model`` computes in evaluation.

    - batch normalisation into the convolution or the linear layer beside it;
    - a residual depthwise convolution's identity into the centre of its kernel;
    - the attention's scale into its queries, and GroupNorm's affine part into the qkv convolution;
    - two distillation heads into one, their mean.

    Args:
        model: a network in training form; it is not changed.

    Returns:
        A plain inference model in evaluation mode. It equals ``model.eval()`` up to rounding (about 1e-15
        relative in float64, 1e-6 in float32); its parameters take no gradient.

    Raises:
        ValueError: the model has been folded already.
    """
    if model.folded:
        raise ArgumentError("reparameterize: this model is folded already")
    folded = copy.deepcopy(model).eval().requires_grad_(False)
    # Attention first: it folds into a convolution that must still be reachable under its name.
    _replace(folded, SingleHeadAttention, _fold_attention)
    _replace(folded, DepthwiseConv, _fold_depthwise)
    _replace(folded, ConvNorm, _fold_conv_norm)
    if isinstance(folded.head, Head):
        folded.head = _fold_heads(folded.head, folded.head_dist)
        folded.head_dist = None
        folded.config = replace(folded.config, distillation=False)
    folded.folded = True
    return folded


def inference_form(model: SHViT) -> SHViT:
    """A folded copy in evaluation mode, of a network in either form."""
    return copy.deepcopy(model).eval() if model.folded else reparameterize(model)


def _replace(root: nn.Module, kind: type[nn.Module], fold: Callable[[Any], nn.Module]) -> None:
    for name, child in root.named_children():
        if isinstance(child, kind):
            setattr(root, name, fold(child))
        else:
            _replace(child, kind, fold)


def _affine(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """A normalisation in evaluation as ``scale * x + shift``, each ``(C,)``."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return scale, norm.bias - norm.running_mean * scale


def _fold_conv_norm(layer: ConvNorm) -> nn.Conv2d:
    scale, shift = _affine(layer.norm)
    conv = layer.conv
    folded = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        groups=conv.groups,
        device=conv.weight.device,
        dtype=conv.weight.dtype,
    )
    folded.weight.copy_(conv.weight * scale[:, None, None, None])
    _set_bias(folded, shift)
    return folded.requires_grad_(False).eval()


def _set_bias(layer: nn.Conv2d, bias: Tensor) -> None:
    assert layer.bias is not None
    layer.bias.copy_(bias)


def _fold_depthwise(layer: DepthwiseConv) -> nn.Conv2d:
    conv = _fold_conv_norm(layer.dw)
    conv.weight[:, :, 1, 1] += 1
    return conv


def _fold_attention(layer: SingleHeadAttention) -> SingleHeadAttention:
    qkv = _fold_conv_norm(layer.qkv)
    norm = layer.norm
    assert qkv.bias is not None
    weight = qkv.weight.clone()  # (q + k + v, partial, 1, 1)
    _set_bias(qkv, qkv.bias + weight.flatten(1) @ norm.bias)
    qkv.weight.copy_(weight * norm.weight[None, :, None, None])
    queries = layer.qkv_dims[0]
    qkv.weight[:queries] *= layer.scale
    qkv.bias[:queries] *= layer.scale
    layer.qkv = qkv  # type: ignore[assignment]
    layer.norm = nn.GroupNorm(1, norm.num_channels, norm.eps, affine=False)
    layer.scale = 1.0
    layer.project = _fold_conv_norm(layer.project)  # type: ignore[assignment]
    return layer


def _fold_heads(head: Head, head_dist: nn.Module | None) -> nn.Linear:
    heads = [head] if head_dist is None else [head, head_dist]
    weight = torch.zeros_like(head.linear.weight)
    bias = torch.zeros_like(head.linear.bias)
    for each in heads:
        assert isinstance(each, Head)
        scale, shift = _affine(each.norm)
        weight += each.linear.weight * scale / len(heads)
        bias += (each.linear.bias + each.linear.weight @ shift) / len(heads)
    folded = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device, dtype=weight.dtype)
    folded.weight.copy_(weight)
    folded.bias.copy_(bias)
    return folded.requires_grad_(False).eval()
