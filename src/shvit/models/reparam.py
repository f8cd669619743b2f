"""Folding for deployment: the same function with fewer layers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from shvit.errors import ArgumentError
from shvit.models.shvit import ConvNorm, DepthwiseConv, Head, SHViT, SingleHeadAttention
from shvit.network.folding import fold
from shvit.network.network import FoldedNetwork


@torch.no_grad()
def reparameterize(model: SHViT) -> SHViT:
    """Folds everything that can be folded without changing what ``model`` computes in evaluation.

    What is folded, and how, is in ``shvit.network.folding``.

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
    # Attention first: it holds convolutions that must still be reachable under their names.
    _replace(folded, SingleHeadAttention, _plain_attention)
    _replace(folded, DepthwiseConv, lambda layer: _plain_conv(layer.dw))
    _replace(folded, ConvNorm, _plain_conv)
    if isinstance(folded.head, Head):
        folded.head = _plain_linear(folded.head.linear)
        folded.head_dist = None
        folded.config = replace(folded.config, distillation=False)
    folded.config = replace(folded.config, branch_kernels=())
    folded.folded = True
    state = model.state_dict()
    if not any(tensor.is_meta for tensor in state.values()):  # an outline has no values to fold
        arrays = fold(model.config, {name: as_array(tensor) for name, tensor in state.items()}, np.float64)
        folded.load_state_dict({name: torch.from_numpy(values) for name, values in arrays.items()})
    return folded


def inference_form(model: SHViT) -> SHViT:
    """A folded copy in evaluation mode, of a network in either form."""
    return copy.deepcopy(model).eval() if model.folded else reparameterize(model)


def folded_network(model: SHViT) -> FoldedNetwork:
    """What model files are written from, of a network in either form."""
    arrays = {name: as_array(tensor) for name, tensor in model.state_dict().items()}
    return FoldedNetwork.of(model.config, arrays, model.folded)


def module_of(network: FoldedNetwork) -> SHViT:
    """A folded network of these arrays, in float32, in evaluation mode."""
    with torch.device("meta"):
        module = reparameterize(SHViT(network.config))
    tensors = {name: torch.tensor(values) for name, values in network.arrays.items()}  # copies: it may be changed
    module.load_state_dict(tensors, assign=True)
    return module.requires_grad_(False)


def as_array(tensor: Tensor) -> np.ndarray:
    """A copy in float64, which holds whatever the smaller types do."""
    return tensor.detach().double().cpu().numpy()


def _replace(root: nn.Module, kind: type[nn.Module], plain: Callable[[Any], nn.Module]) -> None:
    for name, child in root.named_children():
        if isinstance(child, kind):
            setattr(root, name, plain(child))
        else:
            _replace(child, kind, plain)


def _plain_conv(layer: ConvNorm) -> nn.Conv2d:
    conv = layer.conv
    plain = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        groups=conv.groups,
        device=conv.weight.device,
        dtype=conv.weight.dtype,
    )
    return plain.requires_grad_(False).eval()


def _plain_attention(layer: SingleHeadAttention) -> SingleHeadAttention:
    layer.qkv = _plain_conv(layer.qkv)  # type: ignore[assignment]
    layer.norm = nn.GroupNorm(1, layer.norm.num_channels, layer.norm.eps, affine=False)
    layer.scale = 1.0
    layer.project = _plain_conv(layer.project)  # type: ignore[assignment]
    return layer


def _plain_linear(layer: nn.Linear) -> nn.Linear:
    plain = nn.Linear(layer.in_features, layer.out_features, device=layer.weight.device, dtype=layer.weight.dtype)
    return plain.requires_grad_(False).eval()
