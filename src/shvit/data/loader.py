"""From a dataset to batches: decoding and augmentation in worker processes."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from shvit.card import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from shvit.data.broken import BrokenImage, read_images
from shvit.data.protocol import ImageDataset
from shvit.data.sampler import EpochSampler, SampleKey, ShardSampler
from shvit.data.transforms import ERASURE, TrainTransform, sample_seed
from shvit.data.workers import worker_died, yield_to_the_network
from shvit.errors import ArgumentError, DataError
from shvit.images.decoding import preparation


class Batch(NamedTuple):
    """Images as they left the transform, and what is known of them.

    Broken images are left out: B is smaller then, and 0 where all of them are.
    """

    images: Tensor
    """``uint8 (B, H, W, 3)``."""
    labels: Tensor
    """``int64 (B,)``."""
    indices: Tensor
    """``int64 (B,)``: which images of the dataset these are."""
    seeds: Tensor
    """``int64 (B,)``: each image's own, for what is drawn after loading (``erase``); zeros where nothing is."""
    broken: tuple[BrokenImage, ...] = ()
    """Those left out."""


class BrokenImages:
    """Collects the broken images of a run and refuses to go on when they are too many.

    Args:
        limit_share: share of the dataset that may be broken, in [0, 1].
        total: images in the dataset.
        name: of the dataset, for the message.
    """

    def __init__(self, limit_share: float, total: int, name: str) -> None:
        self.limit_share, self.total, self.name = limit_share, total, name
        self.found: dict[int, BrokenImage] = {}
        """By their place in the dataset."""

    def add(self, batch: Batch) -> None:
        """Raises: DataError: more than the limit are broken; the message names the first and the remedy."""
        self.found.update((each.index, each) for each in batch.broken)
        if len(self.found) > self.limit_share * self.total:
            first = [f"{each.source} ({each.reason})" for each in list(self.found.values())[:3]]
            more = [f"{len(self.found) - 3} more"] if len(self.found) > 3 else []
            raise DataError(
                f"{self.name}: {len(self.found)} of {self.total:,} images are broken, more than the accepted share of "
                f"{self.limit_share:g}: {', '.join(first + more)}; shvit data check {self.name} lists all of them"
            )


class _Batches(Dataset[Batch]):
    """A dataset of which each item is a whole batch, so that one broken image costs no more than itself."""

    def __init__(self, images: ImageDataset, size: tuple[int, int]) -> None:
        self.images, self.size = images, size

    def __getitem__(self, keys: list[SampleKey]) -> Batch:
        pixels, places, broken = read_images(
            self.images, [key.index for key in keys], self.size, lambda place, data: self.pixels(data, keys[place])
        )
        kept = [keys[place] for place in places]
        indices = np.array([key.index for key in kept], np.int64)
        return Batch(
            torch.from_numpy(pixels),
            torch.from_numpy(self.images.labels[indices]),
            torch.from_numpy(indices),
            torch.tensor([self.seed(key) for key in kept], dtype=torch.int64),
            broken,
        )

    @abstractmethod
    def pixels(self, data: bytes, key: SampleKey) -> np.ndarray:
        """An encoded image's ``uint8 (H, W, 3)``."""

    @abstractmethod
    def seed(self, key: SampleKey) -> int: ...


class _TrainingBatches(_Batches):
    def __init__(self, images: ImageDataset, transform: TrainTransform, views: int | None) -> None:
        super().__init__(images, transform.size)
        self.transform, self.views = transform, views

    def pixels(self, data: bytes, key: SampleKey) -> np.ndarray:
        view = key.epoch if self.views is None else key.epoch % self.views
        return self.transform(data, key.index, view, key.epoch, key.copy)

    def seed(self, key: SampleKey) -> int:
        if not self.transform.augmentation.erase_probability:
            return 0
        return sample_seed(self.transform.seed, ERASURE, key.epoch, key.index, key.copy)


class _EvaluationBatches(_Batches):
    def __init__(self, images: ImageDataset, preprocessing: Preprocessing) -> None:
        super().__init__(images, preprocessing.image_size)
        self.preprocessing, self.prepare = preprocessing, preparation("exact")

    def pixels(self, data: bytes, key: SampleKey) -> np.ndarray:
        return self.prepare(data, self.preprocessing)

    def seed(self, key: SampleKey) -> int:
        return 0


class BatchLoader(DataLoader[Batch]):
    """PyTorch's loader, for datasets whose items are batches."""

    def __init__(self, batches: _Batches, sampler: Sampler[list[SampleKey]], workers: int, pin_memory: bool) -> None:
        super().__init__(
            batches,
            sampler=sampler,
            batch_size=None,
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            worker_init_fn=_start_worker,
            pin_memory=pin_memory,
            # Without a generator of its own, a loader draws from the process's, and so changes what follows.
            generator=torch.Generator(),
        )

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        with dead_workers_named():
            try:
                yield from super().__iter__()
            except (EOFError, ConnectionError, FileNotFoundError) as error:
                # A batch that lay ready is fetched from its worker's socket, which is gone with the worker.
                if "in DataLoader worker process" in str(error):  # raised in a live worker, and passed on
                    raise
                raise _death("a DataLoader worker died with its batches") from error


def training_loader(
    images: ImageDataset,
    transform: TrainTransform,
    sampler: EpochSampler,
    workers: int,
    views: int | None = None,
    pin_memory: bool = False,
) -> BatchLoader:
    """Augmented batches of one epoch, or of this process's part of it.

    Args:
        views: how many crops a teacher was run on: epoch e then takes view e mod ``views``. ``None`` draws
            new crops in every epoch.
        pin_memory: copy batches where a GPU fetches them faster from.

    Raises:
        ValueError: a teacher's views and repeated augmentation; a view is one crop of each image.
        DataError: while iterating: a worker process died.
    """
    if views is not None and sampler.repeats > 1:
        raise ArgumentError(f"repeats: a teacher's logits belong to one crop of each image, got {sampler.repeats}")
    return BatchLoader(_TrainingBatches(images, transform, views), sampler, workers, pin_memory)


def evaluation_loader(
    images: ImageDataset,
    preprocessing: Preprocessing,
    batch_size: int,
    workers: int,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
) -> BatchLoader:
    """Every image once over all processes, in order, through the preprocessing that the runtime uses.

    ``shvit.data.prepared`` has it for one process and without PyTorch.

    Args:
        batch_size: images in one batch of this process.

    Raises:
        DataError: while iterating: a worker process died.
    """
    sampler = ShardSampler(len(images), batch_size, rank, world_size)
    return BatchLoader(_EvaluationBatches(images, preprocessing), sampler, workers, pin_memory)


@contextmanager
def dead_workers_named() -> Iterator[None]:
    """Turns PyTorch's error about a worker process that died into one that says what to do.

    PyTorch raises it wherever the main process happens to be, so a training loop belongs inside as well.

    Raises:
        DataError: naming the process.
    """
    try:
        yield
    except RuntimeError as error:
        death = re.search(r"DataLoader worker \(pid.*", str(error))
        if death is None:
            raise
        raise _death(death[0].rstrip(". ")) from error


def _death(what: str) -> DataError:
    return worker_died(what, "use fewer workers or a smaller batch", "memory, or of shared memory (/dev/shm)")


def _start_worker(worker: int) -> None:
    yield_to_the_network()


def normalize(images: Tensor) -> Tensor:
    """``uint8 (B, H, W, 3)`` to ImageNet-normalised ``float32 (B, 3, H, W)`` in channels-last memory."""
    height, width = images.shape[1:3]
    # Whole rows at a time: a last dimension of 3 would be computed three numbers at a time.
    mean, std = (
        (255 * torch.tensor(values, device=images.device)).repeat(width) for values in (IMAGENET_MEAN, IMAGENET_STD)
    )
    rows = images.reshape(len(images), height, width * 3).float()
    return rows.sub_(mean).div_(std).view(images.shape).permute(0, 3, 1, 2)
