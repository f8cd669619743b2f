"""Augmentation that can be repeated: every image's randomness comes from a seed of its own.

Geometry (crop and mirror) is drawn for a *view*, appearance for an *epoch*. So a teacher can see just the
crops that its student will see, epochs later and at another resolution, and a resumed run draws what the
uninterrupted one would have.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from shvit.card import IMAGENET_MEAN, Preprocessing
from shvit.errors import ArgumentError
from shvit.images.crop import Box, TrainingImage
from shvit.images.preprocess import padded, resized_size
from shvit.network.sides import sides

GEOMETRY, APPEARANCE, STEP, ERASURE = 0, 1, 2, 3

INTERPOLATIONS = ("bicubic", "bilinear", "random")
ERASE_MODES = ("pixel", "rand", "const")


@dataclass(frozen=True)
class Augmentation:
    """Training augmentation of one image.

    The paper's recipe is ``crop_scale`` 0.08 to 1, ``rand_augment`` "rand-m9-mstd0.5-inc1" and ``erase_probability``
    0.25. It also names a colour jitter of 0.4, but timm, which executes it, leaves that out beside RandAugment; with
    ``three_augment`` it counts.
    """

    crop_scale: tuple[float, float] = (0.35, 1.0)
    """Smallest and largest share of the image's area that a random crop keeps, in (0, 1]."""
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    """Smallest and largest width of a random crop divided by its height, before it is resized; as a multiple of what
    the input has, or, with the resize modes squash and pad, the image."""
    interpolation: Literal["bicubic", "bilinear", "random"] = "bicubic"
    """How crops are resized; random takes one of the two for each image."""
    mirror: bool = True
    """Mirror left and right, half of the time."""
    color_jitter: float = 0.0
    """Largest relative change of brightness, contrast and saturation, in [0, 1]."""
    rand_augment: str | None = None
    """RandAugment (Cubuk et al., 2020) as timm writes it: magnitude 9 with deviation 0.5 is rand-m9-mstd0.5-inc1."""
    three_augment: bool = False
    """One of greyscale, solarisation and Gaussian blur for each image (DeiT III, Touvron et al., 2022)."""
    erase_probability: float = 0.0
    """Share of the images of which a rectangle is erased (Zhong et al., 2020), in [0, 1]."""
    erase_mode: Literal["pixel", "rand", "const"] = "pixel"
    """What is put there: noise in each pixel, one random colour, or the mean colour."""

    def __post_init__(self) -> None:
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise ArgumentError(f"crop_scale: expected 0 < smallest <= largest <= 1, got {self.crop_scale}")
        low, high = self.crop_aspect
        if not 0 < low <= high < math.inf:
            raise ArgumentError(f"crop_aspect: expected 0 < smallest <= largest, got {self.crop_aspect}")
        for name, choices in (("interpolation", INTERPOLATIONS), ("erase_mode", ERASE_MODES)):
            if getattr(self, name) not in choices:
                raise ArgumentError(f"{name}: expected one of {', '.join(choices)}, got {getattr(self, name)!r}")
        for name in ("color_jitter", "erase_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ArgumentError(f"{name}: expected 0 to 1, got {getattr(self, name)}")
        if self.rand_augment is not None and not _RAND_AUGMENT.fullmatch(self.rand_augment):
            raise ArgumentError(
                f"rand_augment: expected timm's form, such as rand-m9-mstd0.5-inc1, got {self.rand_augment!r}"
            )
        if self.rand_augment is not None and self.three_augment:
            raise ArgumentError("three_augment: takes the place of rand_augment; give one of the two")


_RAND_AUGMENT = re.compile(r"rand(-(m\d+|n\d+|p(0?\.\d+|0|1)|mstd\d+(\.\d+)?|mmax\d+|inc[01]|t(weights|3aw?)))*")
"""The sections that timm knows; of some others it takes no notice."""


def sample_seed(seed: int, stream: int, epoch: int, index: int, copy: int = 0) -> int:
    """A seed for one image's draws (or one step's), independent of every other's.

    Args:
        stream: what is drawn: ``GEOMETRY``, ``APPEARANCE``, ``STEP`` or ``ERASURE``.
        copy: which of an image's several copies in the epoch, with repeated augmentation.
    """
    words = [seed, epoch, index, stream, copy] if copy else [seed, epoch, index, stream]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))


class TrainTransform:
    """Image to ``uint8 (H, W, 3)``, at one size.

    A random crop is brought to size as evaluation brings the whole image to it: with ``crop`` it has about the shape of
    the result, with ``squash`` and ``pad`` about the image's own; with ``pad`` it fills the part of the result that the
    whole image would, and the rest has the colour of the padding.

    Args:
        size: side of the result, or height and width; or how images are evaluated, at that size.
        crops_only: leave the appearance as it is, as a teacher sees it.
    """

    def __init__(
        self,
        augmentation: Augmentation,
        size: int | tuple[int, int] | Preprocessing,
        seed: int,
        crops_only: bool = False,
    ) -> None:
        self.augmentation, self.seed, self.crops_only = augmentation, seed, crops_only
        self.evaluation = size if isinstance(size, Preprocessing) else Preprocessing(sides(size))
        self.size = self.evaluation.image_size
        self._policy = None if crops_only else _timm_policy(augmentation, self.size)

    def __call__(self, image: bytes | Image.Image, index: int, view: int, epoch: int, copy: int = 0) -> np.ndarray:
        """Geometry depends on (seed, view, index, copy) alone, appearance on (seed, epoch, index, copy).

        Args:
            image: encoded, which is faster since no more is decoded than is needed, or decoded.

        Raises:
            ImageError: the image cannot be decoded.
        """
        plan = self.augmentation
        # Made here and not kept: a generator does not reach a process that is started anew, as on macOS and Windows.
        draws = torch.Generator().manual_seed(sample_seed(self.seed, GEOMETRY, view, index, copy))
        source = TrainingImage(image)
        target, shape = self._target(source.size)
        low, high = plan.crop_aspect
        box = random_box(source.size, plan.crop_scale, (low * shape, high * shape), draws)
        mirrored = plan.mirror and _uniform(draws) < 0.5
        interpolation = plan.interpolation
        if interpolation == "random":
            interpolation = "bilinear" if _uniform(draws) < 0.5 else "bicubic"
        crop = source.crop(box, target)
        if self.crops_only:
            return self._padded(_resize(crop, target, interpolation, mirrored))

        rng = np.random.default_rng(sample_seed(self.seed, APPEARANCE, epoch, index, copy))
        # A second mirror, so that a precomputed view is not always seen the same way round.
        mirrored ^= plan.mirror and rng.random() < 0.5
        pixels = _resize(crop, target, interpolation, mirrored)
        if self._policy is None and not plan.color_jitter:
            return self._padded(pixels)
        drawn = result = Image.fromarray(pixels)
        if self._policy is not None:
            with _process_draws_from(rng):
                result = self._policy(result)
        if plan.color_jitter:
            result = jitter_color(result, plan.color_jitter, rng)
        # Padding comes last: evaluation never changes its colour.
        return self._padded(pixels if result is drawn else np.asarray(result))

    def _target(self, size: tuple[int, int]) -> tuple[tuple[int, int], float]:
        """To what height and width a crop of an image is resized, and the shape it has before, width by height."""
        height, width = size
        if self.evaluation.resize_mode == "crop":
            return self.size, self.size[1] / self.size[0]
        if self.evaluation.resize_mode == "squash":
            return self.size, width / height
        columns, rows = resized_size(width, height, self.evaluation)
        return (rows, columns), width / height

    def _padded(self, pixels: np.ndarray) -> np.ndarray:
        return padded(pixels, self.evaluation) if self.evaluation.resize_mode == "pad" else pixels


def random_box(
    size: tuple[int, int], scale: tuple[float, float], aspect: tuple[float, float], draws: torch.Generator
) -> Box:
    """The crop of torchvision's ``RandomResizedCrop``, drawn as it draws, but from a generator of its own.

    Args:
        size: the image's height and width.
        scale: smallest and largest share of its area.
        aspect: smallest and largest width divided by height.
    """
    height, width = size
    log_aspect = _log(aspect)
    for _ in range(10):
        area = height * width * _uniform(draws, *scale)
        ratio = torch.empty(1).uniform_(*log_aspect, generator=draws).exp().item()
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top = int(torch.randint(0, height - h + 1, (1,), generator=draws))
            left = int(torch.randint(0, width - w + 1, (1,), generator=draws))
            return Box(top, left, h, w)
    # No crop of that kind fits: the largest in the middle that comes nearest.
    w = min(width, max(1, round(height * aspect[1])))
    h = min(height, max(1, round(width / aspect[0])))
    return Box((height - h) // 2, (width - w) // 2, h, w)


@lru_cache
def _log(values: tuple[float, ...]) -> list[float]:
    """Rounded to float32, as torchvision does."""
    return torch.tensor(values).log().tolist()


def _uniform(draws: torch.Generator, low: float = 0.0, high: float = 1.0) -> float:
    return torch.empty(1).uniform_(low, high, generator=draws).item()


def _resize(pixels: np.ndarray, size: tuple[int, int], interpolation: str, mirrored: bool) -> np.ndarray:
    """Pillow's antialiased resize as PyTorch computes it on ``uint8``: within 2 levels of it, and far faster."""
    # Channels last is the layout that PyTorch has the fast kernels for.
    image = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)
    image = F.interpolate(image, size, mode=interpolation, antialias=True)
    if mirrored:
        image = image.flip(3)
    return image[0].permute(1, 2, 0).numpy()


def jitter_color(image: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    """Changes brightness, contrast and saturation, in random order, each by a factor of ``1 ± strength`` at most."""
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    factors = rng.uniform(1 - strength, 1 + strength, len(enhancers))
    for which in rng.permutation(len(enhancers)):
        image = enhancers[which](image).enhance(factors[which])
    return image


def _timm_policy(augmentation: Augmentation, size: tuple[int, int]) -> Callable[[Image.Image], Image.Image] | None:
    """RandAugment or three-augment, with the settings that timm's ``create_transform`` gives them."""
    if augmentation.rand_augment is None and not augmentation.three_augment:
        return None
    from timm.data.auto_augment import auto_augment_transform, rand_augment_transform

    settings: dict[str, Any] = {
        "translate_const": int(min(size) * 0.45),
        "img_mean": tuple(min(255, round(255 * mean)) for mean in IMAGENET_MEAN),
    }
    if augmentation.interpolation != "random":
        settings["interpolation"] = Image.Resampling[augmentation.interpolation.upper()]
    if augmentation.rand_augment is None:
        return auto_augment_transform("3a", settings)
    policy = rand_augment_transform(augmentation.rand_augment, settings)
    for operation in policy.ops:
        if operation.name.startswith("Posterize"):
            operation.aug_fn = _posterize
    return policy


def _posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """timm's, which at full strength asks for 0 bits; Pillow refuses that since version 13."""
    return image if bits >= 8 else ImageOps.posterize(image, max(bits, 1))


@contextmanager
def _process_draws_from(rng: np.random.Generator) -> Iterator[None]:
    """Lets ``random`` and ``np.random``, which timm's policies draw from, follow ``rng``; then puts them back."""
    state, generator = random.getstate(), np.random.get_bit_generator()  # type: ignore[attr-defined]
    random.seed(int(rng.integers(2**63)))
    np.random.set_bit_generator(rng.bit_generator)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        random.setstate(state)
        np.random.set_bit_generator(generator)  # type: ignore[attr-defined]


def erase(images: Tensor, seeds: Tensor, probability: float, mode: str = "pixel") -> Tensor:
    """Random erasing (Zhong et al., 2020) with timm's distributions, on the images' device.

    A rectangle of 2 to 33 % of the area and an aspect of 0.3 to 3.3 is filled with noise.

    Args:
        images: ``(B, C, H, W)``, normalised; overwritten.
        seeds: ``(B,)``, ``Batch.seeds``: each image's draws depend on its own alone.
        probability: share of the images.
        mode: ``pixel``, standard normal noise in each pixel; ``rand``, one such colour; ``const``, zeros.
    """
    if not probability:
        return images
    height, width = images.shape[2:]
    draws, noise = torch.Generator(), torch.Generator(images.device)
    for image, seed in zip(images, seeds.tolist(), strict=True):
        draws.manual_seed(seed)
        if _uniform(draws) >= probability:
            continue
        for _ in range(10):
            area = height * width * _uniform(draws, 0.02, 1 / 3)
            ratio = math.exp(_uniform(draws, math.log(0.3), -math.log(0.3)))
            h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if h < height and w < width:
                top = int(torch.randint(0, height - h + 1, (1,), generator=draws))
                left = int(torch.randint(0, width - w + 1, (1,), generator=draws))
                part = image[:, top : top + h, left : left + w]
                if mode == "const":
                    part.zero_()
                else:
                    shape = part.shape if mode == "pixel" else (len(part), 1, 1)
                    noise.manual_seed(seed)
                    part.copy_(torch.empty(shape, dtype=part.dtype, device=part.device).normal_(generator=noise))
                break
    return images
