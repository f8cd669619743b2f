"""Which images make up which batch, from a seed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


class EpochSampler:
    """Batches of ``(epoch, index)`` in an order that depends on the seed and the epoch alone.

    Args:
        epoch: counted from 0.
        start: batches of the epoch to leave out, as a resumed run does.
        drop_last: leave out the last, incomplete batch.
    """

    def __init__(
        self, count: int, batch_size: int, seed: int, epoch: int, start: int = 0, drop_last: bool = True
    ) -> None:
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.epoch, self.start = epoch, start
        self.batches = count // batch_size if drop_last else -(-count // batch_size)

    def __len__(self) -> int:
        return self.batches - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.count)
        for step in range(self.start, self.batches):
            chosen = order[step * self.batch_size : (step + 1) * self.batch_size]
            yield [(self.epoch, int(index)) for index in chosen]
