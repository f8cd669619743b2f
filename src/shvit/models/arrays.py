"""Tensors and arrays of the same memory, of types that only one of the two knows as well."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from shvit.network.dtypes import TYPES, torch_name

_PLAIN = {1: "uint8", 2: "int16"}
"""Types of as many bytes, which both know."""


def to_tensor(array: np.ndarray) -> Tensor:
    """The same values, in the same memory, where they can be written."""
    name = array.dtype.name
    if array.dtype.kind in "biufc" and hasattr(np, name):
        return torch.from_numpy(array)
    return torch.from_numpy(array.view(_PLAIN[array.dtype.itemsize])).view(getattr(torch, name))


def to_array(tensor: Tensor) -> np.ndarray:
    """The same values, in the same memory if they are on the CPU.

    Raises:
        KeyError: NumPy has no such type.
    """
    plain = tensor.detach().cpu()
    dtype = _BY_NAME[str(tensor.dtype)]
    if hasattr(np, dtype.name):
        return plain.numpy()
    return plain.view(getattr(torch, _PLAIN[dtype.itemsize])).numpy().view(dtype)


_BY_NAME = {torch_name(dtype): dtype for dtype in TYPES.values()}
