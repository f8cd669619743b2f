"""Datasets, augmentation and loading: from files to batches of ``uint8`` images.

What needs PyTorch is imported when it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from shvit.data.datasets import open_dataset
from shvit.data.protocol import ImageDataset

if TYPE_CHECKING:
    from shvit.data.loader import Batch, BrokenImages, evaluation_loader, training_loader
    from shvit.data.transforms import Augmentation

__all__ = [
    "Augmentation",
    "Batch",
    "BrokenImages",
    "ImageDataset",
    "evaluation_loader",
    "open_dataset",
    "training_loader",
]

_LAB = {
    "Augmentation": "transforms",
    **dict.fromkeys(("Batch", "BrokenImages", "evaluation_loader", "training_loader"), "loader"),
}


def __getattr__(name: str) -> Any:
    if name not in _LAB:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAB[name]}"), name)
