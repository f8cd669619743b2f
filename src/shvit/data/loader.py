"""From a dataset to batches: decoding and augmentation in worker processes."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from shvit.data.datasets import ImageDataset
from shvit.data.sampler import EpochSampler
from shvit.data.transforms import TrainTransform
from shvit.runtime.card import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from shvit.runtime.preprocess import decode, preprocess


class Batch(NamedTuple):
    """Images as they left the transform, and what is known of them."""

    images: Tensor
    """``uint8 (B, H, W, 3)``."""
    labels: Tensor
    """``int64 (B,)``."""
    indices: Tensor
    """``int64 (B,)``: which images of the dataset these are."""


class _TrainingImages(Dataset):
    def __init__(self, images: ImageDataset, transform: TrainTransform, views: int | None) -> None:
        self.images, self.transform, self.views = images, transform, views

    def __getitem__(self, key: tuple[int, int]) -> tuple[np.ndarray, int, int]:
        epoch, index = key
        image = decode(self.images.read(index))
        view = epoch if self.views is None else epoch % self.views
        # The draws are seeded for each image; what the process drew before must not leak out or in.
        with torch.random.fork_rng(devices=[]):
            pixels = self.transform(image, index, view, epoch)
        return pixels, int(self.images.labels[index]), index


class _EvaluationImages(Dataset):
    def __init__(self, images: ImageDataset, preprocessing: Preprocessing) -> None:
        self.images, self.preprocessing = images, preprocessing

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int, int]:
        image = decode(self.images.read(index))
        return preprocess(image, self.preprocessing), int(self.images.labels[index]), index


def _collate(samples: list[tuple[np.ndarray, int, int]]) -> Batch:
    pixels, labels, indices = zip(*samples, strict=True)
    return Batch(torch.from_numpy(np.stack(pixels)), torch.tensor(labels), torch.tensor(indices))


def training_loader(
    images: ImageDataset,
    transform: TrainTransform,
    sampler: EpochSampler,
    workers: int,
    views: int | None = None,
) -> DataLoader[Batch]:
    """Augmented batches of one epoch.

    Args:
        views: how many crops a teacher was run on: epoch e then takes view e mod ``views``. ``None`` draws
            new crops in every epoch.
    """
    return DataLoader(
        _TrainingImages(images, transform, views),
        batch_sampler=sampler,
        collate_fn=_collate,
        **_workers(workers),
    )


def evaluation_loader(
    images: ImageDataset, preprocessing: Preprocessing, batch_size: int, workers: int
) -> DataLoader[Batch]:
    """Every image once, in order, through the preprocessing that the runtime uses."""
    return DataLoader(
        _EvaluationImages(images, preprocessing),
        batch_size=batch_size,
        collate_fn=_collate,
        **_workers(workers),
    )


def _workers(workers: int) -> dict[str, Any]:
    # Without a generator of its own, a loader draws from the process's, and so changes what follows.
    common = {"num_workers": workers, "generator": torch.Generator()}
    return common if workers == 0 else {**common, "prefetch_factor": 4, "worker_init_fn": _yield_to_training}


def _yield_to_training(worker: int) -> None:
    """A worker that takes a core from the training step stalls all of its threads: let it have what is left."""
    os.nice(9)


def normalize(images: Tensor) -> Tensor:
    """``uint8 (B, H, W, 3)`` to ImageNet-normalised ``float32 (B, 3, H, W)`` in channels-last memory."""
    mean = torch.tensor(IMAGENET_MEAN, device=images.device) * 255
    std = torch.tensor(IMAGENET_STD, device=images.device) * 255
    return ((images - mean) / std).permute(0, 3, 1, 2)
