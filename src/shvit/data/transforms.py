"""Augmentation that can be repeated: every image's randomness comes from a seed of its own.

Geometry (crop and mirror) is drawn for a *view*, appearance for an *epoch*. So a teacher can see just the
crops that its student will see, epochs later and at another resolution, and a resumed run draws what the
uninterrupted one would have.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

GEOMETRY, APPEARANCE, STEP = 0, 1, 2


@dataclass(frozen=True)
class Augmentation:
    """Training augmentation of one image."""

    crop_scale: tuple[float, float] = (0.35, 1.0)
    """Smallest and largest share of the image's area that a random crop keeps, in (0, 1]."""
    mirror: bool = True
    """Mirror left and right, half of the time."""
    color_jitter: float = 0.0
    """Largest relative change of brightness, contrast and saturation, in [0, 1]."""
    rand_augment: bool = False
    """RandAugment, two operations of magnitude 9, as in the paper's recipe."""

    def __post_init__(self) -> None:
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise ValueError(f"crop_scale: expected 0 < smallest <= largest <= 1, got {self.crop_scale}")
        if not 0 <= self.color_jitter <= 1:
            raise ValueError(f"color_jitter: expected 0 to 1, got {self.color_jitter}")


def sample_seed(seed: int, stream: int, epoch: int, index: int) -> int:
    """A seed for one image's draws (or one step's), independent of every other's."""
    words = [seed, epoch, index] if stream == GEOMETRY else [seed, epoch, index, stream]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))


class TrainTransform:
    """Decoded image to ``uint8 (H, W, 3)``, at one size.

    Args:
        crops_only: leave the appearance as it is, as a teacher sees it.
    """

    def __init__(self, augmentation: Augmentation, size: int, seed: int, crops_only: bool = False) -> None:
        self.seed = seed
        self.geometry = v2.Compose(
            [
                v2.RandomResizedCrop(size, scale=augmentation.crop_scale, interpolation=v2.InterpolationMode.BICUBIC),
                v2.RandomHorizontalFlip(0.5 if augmentation.mirror else 0),
            ]
        )
        appearance: list[v2.Transform] = []
        if augmentation.mirror:
            # A second mirror, so that a precomputed view is not always seen the same way round.
            appearance.append(v2.RandomHorizontalFlip(0.5))
        if augmentation.rand_augment:
            appearance.append(v2.RandAugment(num_ops=2, magnitude=9))
        if augmentation.color_jitter:
            strength = augmentation.color_jitter
            appearance.append(v2.ColorJitter(strength, strength, strength))
        self.appearance = v2.Compose(appearance) if appearance and not crops_only else None

    def __call__(self, image: Image.Image, index: int, view: int, epoch: int) -> np.ndarray:
        torch.manual_seed(sample_seed(self.seed, GEOMETRY, view, index))
        image = self.geometry(image)
        if self.appearance is not None:
            torch.manual_seed(sample_seed(self.seed, APPEARANCE, epoch, index))
            image = self.appearance(image)
        return np.asarray(image)
