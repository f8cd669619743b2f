"""Which images make up which batch, from a seed, and which of them are this process's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler


@dataclass(frozen=True, slots=True)
class SampleKey:
    """What a sample's draws depend on beside the seed."""

    epoch: int
    index: int
    """The image's place in the dataset."""
    copy: int = 0
    """Which of the image's copies in this epoch, with repeated augmentation."""


class EpochSampler(Sampler[list[SampleKey]]):
    """Batches of one epoch, in an order that depends on the seed and the epoch alone.

    Args:
        count: images in the dataset.
        batch_size: samples in one step, over all processes.
        epoch: counted from 0.
        start: batches of the epoch to leave out, as a resumed run does.
        drop_last: leave out the last, incomplete batch.
        repeats: copies of each image in a batch, augmented differently (repeated augmentation, Berman et al.,
            2019). An epoch has as many samples as without and so shows only one of ``repeats`` images, as in DeiT
            and timm; theirs is a multiple of 256 samples, this one of whole batches.
        rank: of this process, from 0. It gets every ``world_size``-th sample of each batch, so that all processes
            together see what one alone would, and an image's copies go to different ones.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        seed: int,
        epoch: int,
        start: int = 0,
        drop_last: bool = True,
        repeats: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.epoch, self.start, self.repeats = epoch, start, repeats
        self.rank, self.world_size = rank, world_size
        self.batches = count // batch_size if drop_last else -(-count // batch_size)

    def __len__(self) -> int:
        return max(self.batches - self.start, 0)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.count)
        for step in range(self.start, self.batches):
            places = range(step * self.batch_size, min((step + 1) * self.batch_size, self.count))
            yield [
                SampleKey(self.epoch, int(order[place // self.repeats]), place % self.repeats)
                for place in places[self.rank :: self.world_size]
            ]


class ShardSampler(Sampler[list[SampleKey]]):
    """Every image exactly once over all processes, in order; none is repeated to make the processes' shares equal.

    Args:
        count: images in the dataset.
        batch_size: images in one batch of this process.
        rank: of this process, from 0; it gets every ``world_size``-th image.
    """

    def __init__(self, count: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.indices, self.batch_size = range(rank, count, world_size), batch_size

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for start in range(0, len(self.indices), self.batch_size):
            yield [SampleKey(0, index) for index in self.indices[start : start + self.batch_size]]
