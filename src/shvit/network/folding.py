"""Folding for deployment: the same function with fewer layers, from arrays to arrays."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import DTypeLike

from shvit.network.variants import SHViTConfig

NORM_EPSILON = 1e-5
"""What normalisations add to a variance."""

_HEADS = ("head", "head_dist")


def fold(
    config: SHViTConfig, tensors: Mapping[str, np.ndarray], dtype: DTypeLike = np.float32
) -> dict[str, np.ndarray]:
    """Folds everything that can be folded without changing what a network computes in evaluation.

    - batch normalisation into the convolution or the linear layer beside it;
    - a residual depthwise convolution's branches, and its identity, into its kernel;
    - the attention's scale into its queries, and GroupNorm's affine part into the qkv convolution;
    - two distillation heads into one, their mean.

    Args:
        config: of the network in training form.
        tensors: its tensors under our names; stages may be missing from the end, and the heads.
        dtype: of what is returned; all is computed in float64.

    Returns:
        The tensors of the inference form, as ``tensor_shapes(config, folded=True)`` names them.
    """
    folded: dict[str, np.ndarray] = {}
    for name in tensors:
        if ".branches." in name:
            continue  # part of the convolution that they stand beside
        if name.endswith(".conv.weight"):
            parts = _convolution(config, tensors, name.removesuffix(".conv.weight"))
        elif ".squeeze_excite." in name:  # without a normalisation
            parts = {name: tensors[name]}
        else:
            continue
        folded |= {each: values.astype(dtype) for each, values in parts.items()}
    return folded | {each: values.astype(dtype) for each, values in _head(tensors).items()}


def _convolution(config: SHViTConfig, tensors: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """One without its normalisation, and what its place in the network adds."""
    scale, shift = _affine(tensors, f"{name}.norm")
    weight = _exact(tensors, f"{name}.conv.weight") * scale[:, None, None, None]
    if name.endswith((".local.dw", ".local_in.dw", ".local_out.dw")):
        name = name.removesuffix(".dw")
        for place, side in enumerate(config.branch_kernels):
            branch = f"{name}.branches.{place}"
            scale, more = _affine(tensors, f"{branch}.norm")
            border = 1 - side // 2  # of zeros, around a kernel of side 1
            inner = slice(border, 3 - border)
            weight[:, :, inner, inner] += _exact(tensors, f"{branch}.conv.weight") * scale[:, None, None, None]
            shift = shift + more
        weight[:, :, 1, 1] += 1
    elif name.endswith(".attention.qkv"):
        norm = name.removesuffix("qkv") + "norm"
        shift = shift + weight[:, :, 0, 0] @ _exact(tensors, f"{norm}.bias")
        weight *= _exact(tensors, f"{norm}.weight")[:, None, None]
        queries = config.qk_dim * config.num_heads
        weight[:queries] *= config.qk_dim**-0.5
        shift[:queries] *= config.qk_dim**-0.5
    return {f"{name}.weight": weight, f"{name}.bias": shift}


def _affine(tensors: Mapping[str, np.ndarray], norm: str) -> tuple[np.ndarray, np.ndarray]:
    """A batch normalisation in evaluation as ``scale * x + shift``, each ``(C,)``."""
    scale = _exact(tensors, f"{norm}.weight") / np.sqrt(_exact(tensors, f"{norm}.running_var") + NORM_EPSILON)
    return scale, _exact(tensors, f"{norm}.bias") - _exact(tensors, f"{norm}.running_mean") * scale


def _head(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One linear layer; nothing of a network that gives features."""
    weights, biases = [], []
    for head in _HEADS:
        if f"{head}.linear.weight" not in tensors:
            continue
        scale, shift = _affine(tensors, f"{head}.norm")
        weight = _exact(tensors, f"{head}.linear.weight")
        weights.append(weight * scale)
        biases.append(_exact(tensors, f"{head}.linear.bias") + weight @ shift)
    if not weights:
        return {}
    return {"head.weight": np.mean(weights, axis=0), "head.bias": np.mean(biases, axis=0)}


def _exact(tensors: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    return tensors[name].astype(np.float64)
