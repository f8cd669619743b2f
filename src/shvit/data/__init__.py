"""Datasets, augmentation and loading: from files to batches of ``uint8`` images."""

from shvit.data.datasets import open_dataset
from shvit.data.loader import Batch, BrokenImages, evaluation_loader, training_loader
from shvit.data.protocol import ImageDataset
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
