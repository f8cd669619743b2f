"""Reading images of which some may be broken: those are left out and named, the others go on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from shvit.data.protocol import ImageDataset
from shvit.errors import DataError, ImageError
from shvit.images.preprocess import describe


@dataclass(frozen=True, slots=True)
class BrokenImage:
    """An image that could not be read or decoded."""

    index: int
    """Its place in the dataset."""
    source: str
    """Its name."""
    reason: str


def none_readable(images: ImageDataset, broken: Sequence[BrokenImage]) -> DataError:
    """That all of a dataset's images, at least one, are broken."""
    first = broken[0]
    return DataError(f"{images.name}: none of the {len(images)} images can be read: {first.source}: {first.reason}")


class ReadImages(NamedTuple):
    """What came of some images of a dataset."""

    pixels: np.ndarray
    """``uint8 (B, H, W, 3)`` of those that could be read, in order."""
    kept: list[int]
    """Their places among the images asked for."""
    broken: tuple[BrokenImage, ...]
    """The others."""


def read_images(
    images: ImageDataset, indices: Sequence[int], size: tuple[int, int], prepare: Callable[[int, bytes], np.ndarray]
) -> ReadImages:
    """Reads and prepares images of a dataset.

    Args:
        indices: which, by their place in the dataset.
        size: (H, W), of a prepared image.
        prepare: from an image's place among ``indices`` and its encoded bytes to ``uint8 (H, W, 3)``.
    """
    pixels = np.empty((len(indices), *size, 3), np.uint8)
    kept: list[int] = []
    broken = []
    for place, index in enumerate(indices):
        data = b""
        try:
            data = images.read(index)
            pixels[len(kept)] = prepare(place, data)
            kept.append(place)
        except (ImageError, DataError, OSError) as error:
            reason = getattr(error, "strerror", None) or str(error).removeprefix(f"{describe(data)}: ")
            broken.append(BrokenImage(index, images.source(index), reason))
    return ReadImages(pixels[: len(kept)], kept, tuple(broken))
