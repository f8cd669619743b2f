"""Every image of a dataset in order, as the runtime prepares it, in batches of NumPy arrays."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from functools import partial
from typing import NamedTuple

import numpy as np

from shvit.card import Preprocessing
from shvit.data.broken import BrokenImage, read_images
from shvit.data.protocol import ImageDataset
from shvit.data.workers import in_processes
from shvit.images.decoding import Decoding, preparation


class PreparedBatch(NamedTuple):
    """Images and what is known of them; broken ones are left out: B is smaller then, and 0 where all of them are."""

    images: np.ndarray
    """``uint8 (B, H, W, 3)``."""
    labels: np.ndarray
    """``int64 (B,)``."""
    indices: np.ndarray
    """``int64 (B,)``: which images of the dataset these are."""
    broken: tuple[BrokenImage, ...]
    """Those left out."""


def prepared_batches(
    images: ImageDataset, preprocessing: Preprocessing, batch_size: int, workers: int, decoding: Decoding = "exact"
) -> Generator[PreparedBatch, None, None]:
    """Every image once, in order.

    Args:
        workers: processes that decode; 0 decodes in this one. They end with the generator.

    Raises:
        DataError: a process that decodes died.
    """
    prepare = partial(_prepare, images, preprocessing, decoding)
    starts = range(0, len(images), batch_size)
    parts = (range(start, min(start + batch_size, len(images))) for start in starts)
    if not workers:
        yield from map(prepare, parts)
        return
    with closing(in_processes(prepare, parts, workers, images.name, "use fewer workers or a smaller batch")) as batches:
        yield from batches


def _prepare(images: ImageDataset, preprocessing: Preprocessing, decoding: Decoding, part: range) -> PreparedBatch:
    prepare = preparation(decoding)
    pixels, kept, broken = read_images(
        images, part, preprocessing.image_size, lambda place, data: prepare(data, preprocessing)
    )
    indices = np.array([part[place] for place in kept], np.int64)
    return PreparedBatch(pixels, images.labels[indices], indices, broken)
