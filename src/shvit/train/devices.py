"""Which devices this machine has."""

from __future__ import annotations

import torch


def check_device(name: str) -> None:
    """Refuses a device that is not here.

    Args:
        name: PyTorch's name of a kind of device, or ``auto``.

    Raises:
        ValueError: this machine has none, or this PyTorch cannot use it.
    """
    if name not in ("auto", "cpu") and not getattr(torch, name).is_available():
        raise ValueError(f"device {name}: this machine has none, or this PyTorch cannot use it")
