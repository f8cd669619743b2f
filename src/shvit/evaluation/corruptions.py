"""Images made worse on purpose: the corruptions of ImageNet-C, drawn on the fly.

Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations, 2019. The
parameters are those of their code for ImageNet-C (224 pixels) and, for images with a short side below 128 pixels, of
Tiny-ImageNet-C (64 pixels). docs/evaluation.md says what differs.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from shvit.data.protocol import ImageDataset
from shvit.errors import MissingDependencyError
from shvit.images.preprocess import decode
from shvit.install import install_command

try:
    from scipy import ndimage
    from scipy.signal import fftconvolve
except ModuleNotFoundError as error:
    raise MissingDependencyError(
        f"--corruptions: images are corrupted with {error.name}, which is not installed; install it with: "
        f"{install_command('eval')}"
    ) from None

SHORT_SIDE = 256
"""Larger images are first reduced to this short side, in pixels, as ImageNet-C's were: noise is of its pixels."""
SMALL = 128
"""Images with a shorter side than this, in pixels, take Tiny-ImageNet-C's parameters."""

# Each takes pixels, float64 (H, W, 3) in [0, 1], its parameters at one severity, and a source of randomness; it returns
# pixels of the same shape, which may leave [0, 1].
Corruption = Callable[[np.ndarray, Any, np.random.Generator], np.ndarray]


def gaussian_noise(pixels: np.ndarray, deviation: float, random: np.random.Generator) -> np.ndarray:
    return pixels + random.normal(scale=deviation, size=pixels.shape)


def shot_noise(pixels: np.ndarray, photons: float, random: np.random.Generator) -> np.ndarray:
    return random.poisson(pixels * photons) / photons


def impulse_noise(pixels: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    struck = random.random(pixels.shape) < share
    return np.where(struck, random.random(pixels.shape) < 0.5, pixels)


def defocus_blur(pixels: np.ndarray, disk: tuple[float, float], random: np.random.Generator) -> np.ndarray:
    radius, softness = disk
    reach = max(8, math.ceil(radius))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    kernel = (x**2 + y**2 <= radius**2).astype(float)
    return _convolve(pixels, ndimage.gaussian_filter(kernel, softness, radius=1 if radius <= 8 else 2))


def motion_blur(pixels: np.ndarray, streak: tuple[int, float], random: np.random.Generator) -> np.ndarray:
    return _streak(pixels, *streak, angle=random.uniform(-45, 45))


def zoom_blur(pixels: np.ndarray, zooms: tuple[float, float], random: np.random.Generator) -> np.ndarray:
    largest, step = zooms
    image = _to_image(pixels)
    layers = [pixels, *(_zoom(image, factor) / 255 for factor in np.arange(1, largest, step))]
    return np.mean(layers, axis=0)


def snow(pixels: np.ndarray, flakes: tuple[float, ...], random: np.random.Generator) -> np.ndarray:
    mean, deviation, size, threshold, radius, sigma, keep = flakes
    noise = random.normal(mean, deviation, pixels.shape[:2])
    layer = _zoom(Image.fromarray(noise.astype(np.float32)), size)
    layer = np.where(layer < threshold, 0, layer).clip(0, 1)
    layer = _streak(layer[..., None], int(radius), sigma, angle=random.uniform(-135, -45))
    grey = pixels @ (0.299, 0.587, 0.114)
    whitened = np.maximum(pixels, grey[..., None] * 1.5 + 0.5)
    return keep * pixels + (1 - keep) * whitened + layer + layer[::-1, ::-1]


def frost(pixels: np.ndarray, weights: tuple[float, float], random: np.random.Generator) -> np.ndarray:
    """ImageNet-C overlays photographs of frosted panes; these crystals are drawn, as ridges of fractal noise."""
    keep, add = weights
    ridges = 1 - np.abs(2 * _plasma(pixels.shape[:2], 1.3, random) - 1)
    patches = _plasma(pixels.shape[:2], 1.7, random)
    crystals = (ridges**3 * 0.9 + patches**1.5 * 0.6)[..., None] * (0.84, 0.93, 1.0)
    return keep * pixels + add * crystals.clip(0, 1)


def fog(pixels: np.ndarray, cloud: tuple[float, float], random: np.random.Generator) -> np.ndarray:
    thickness, decay = cloud
    brightest = pixels.max()
    clouded = pixels + thickness * _plasma(pixels.shape[:2], decay, random)[..., None]
    return clouded * brightest / (brightest + thickness)


def brightness(pixels: np.ndarray, more: float, random: np.random.Generator) -> np.ndarray:
    value = pixels.max(axis=2, keepdims=True)
    brighter = (value + more).clip(0, 1)
    return np.where(value > 0, pixels * (brighter / np.where(value > 0, value, 1)), brighter)


def contrast(pixels: np.ndarray, factor: float, random: np.random.Generator) -> np.ndarray:
    mean = pixels.mean(axis=(0, 1))
    return (pixels - mean) * factor + mean


def elastic_transform(pixels: np.ndarray, warp: tuple[float, float, float], random: np.random.Generator) -> np.ndarray:
    """An affine map that moves three points at random, then a smooth random displacement."""
    height, width = pixels.shape[:2]
    # The parameters are shares of the short side: displacement, its smoothness, and how far the points move.
    strength, smoothness, reach = (share * min(height, width) for share in warp)
    centre, arm = np.array([height // 2, width // 2]), min(height, width) // 3
    points = centre + arm * np.array([[1, 1], [1, -1], [-1, -1]])
    moved = points + random.uniform(-reach, reach, points.shape)
    back = np.linalg.lstsq(np.c_[moved, np.ones(3)], points, rcond=None)[0]  # (3, 2)
    shifts = random.uniform(-1, 1, (2, height, width))
    shifts = strength * ndimage.gaussian_filter(shifts, smoothness, axes=(1, 2), truncate=3)
    where = np.mgrid[:height, :width] + shifts
    where = np.tensordot(back[:2].T, where, axes=1) + back[2][:, None, None]
    channels = [ndimage.map_coordinates(pixels[..., c], where, order=1, mode="mirror") for c in range(3)]
    return np.stack(channels, axis=-1)


def pixelate(pixels: np.ndarray, scale: float, random: np.random.Generator) -> np.ndarray:
    image = _to_image(pixels)
    small = image.resize([max(1, int(side * scale)) for side in image.size], Image.Resampling.BOX)
    return np.asarray(small.resize(image.size, Image.Resampling.BOX)) / 255


def jpeg_compression(pixels: np.ndarray, quality: int, random: np.random.Generator) -> np.ndarray:
    encoded = io.BytesIO()
    _to_image(pixels).save(encoded, "JPEG", quality=quality)
    return np.asarray(Image.open(encoded, formats=["JPEG"])) / 255


def _to_image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.rint(pixels.clip(0, 1) * 255).astype(np.uint8))


def _convolve(pixels: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Each channel with a kernel of odd sides, normalised to a sum of 1; the image is mirrored at its edges."""
    rows, columns = (side // 2 for side in kernel.shape)
    padded = np.pad(pixels, ((rows, rows), (columns, columns), (0, 0)), "reflect")
    return fftconvolve(padded, kernel[..., None] / kernel.sum(), mode="valid", axes=(0, 1))


def _streak(pixels: np.ndarray, radius: int, sigma: float, angle: float) -> np.ndarray:
    """Motion blur as ImageMagick's: half a Gaussian of ``2 * radius + 1`` pixels, in a direction in degrees."""
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    kernel = np.zeros((4 * radius + 3, 4 * radius + 3))
    y, x = (2 * radius + 1 + steps * turn for turn in (math.sin(math.radians(angle)), math.cos(math.radians(angle))))
    top, left = np.floor(y).astype(int), np.floor(x).astype(int)
    for row, share_y in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, share_x in ((left, 1 - (x - left)), (left + 1, x - left)):
            np.add.at(
                kernel, (row.clip(max=4 * radius + 2), column.clip(max=4 * radius + 2)), weights * share_y * share_x
            )
    return _convolve(pixels, kernel)


def _zoom(image: Image.Image, factor: float) -> np.ndarray:
    """The centre, enlarged to the whole image."""
    width, height = image.width / factor, image.height / factor
    left, top = (image.width - width) / 2, (image.height - height) / 2
    return np.asarray(image.resize(image.size, Image.Resampling.BILINEAR, (left, top, left + width, top + height)))


def _plasma(shape: tuple[int, int], decay: float, random: np.random.Generator) -> np.ndarray:
    """Fractal noise in [0, 1]: octaves of half the wavelength, each ``decay ** 2`` times weaker than the last."""
    side = max(2, 1 << (max(shape) - 1).bit_length())
    total = np.zeros((side, side))
    for octave in range(1, side.bit_length()):
        grid = Image.fromarray(random.uniform(-1, 1, (2**octave, 2**octave)).astype(np.float32))
        total += np.asarray(grid.resize((side, side), Image.Resampling.BICUBIC)) * decay ** (-2 * octave)
    total -= total.min()
    return (total / total.max())[: shape[0], : shape[1]]


# Parameters at severities 1 to 5: of ImageNet-C, and of Tiny-ImageNet-C.
CORRUPTIONS: dict[str, tuple[Corruption, tuple[Any, ...], tuple[Any, ...]]] = {
    "gaussian_noise": (gaussian_noise, (0.08, 0.12, 0.18, 0.26, 0.38), (0.04, 0.08, 0.12, 0.15, 0.18)),
    "shot_noise": (shot_noise, (60, 25, 12, 5, 3), (250, 100, 50, 30, 15)),
    "impulse_noise": (impulse_noise, (0.03, 0.06, 0.09, 0.17, 0.27), (0.01, 0.02, 0.05, 0.08, 0.14)),
    "defocus_blur": (
        defocus_blur,
        ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
        ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)),
    ),
    "motion_blur": (
        motion_blur,
        ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
        ((10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)),
    ),
    "zoom_blur": (
        zoom_blur,
        ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
        ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
    ),
    "snow": (
        snow,
        (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.8),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.8),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.7),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.65),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.6),
        ),
    ),
    "frost": (
        frost,
        ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
        ((1, 0.3), (0.9, 0.4), (0.8, 0.45), (0.75, 0.5), (0.7, 0.55)),
    ),
    "fog": (
        fog,
        ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
        ((0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)),
    ),
    "brightness": (brightness, (0.1, 0.2, 0.3, 0.4, 0.5), (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": (contrast, (0.4, 0.3, 0.2, 0.1, 0.05), (0.4, 0.3, 0.2, 0.1, 0.05)),
    "elastic_transform": (
        elastic_transform,
        ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)),
        ((0, 0, 0.08), (0.05, 0.3, 0.06), (0.1, 0.08, 0.06), (0.1, 0.03, 0.03), (0.16, 0.03, 0.02)),
    ),
    "pixelate": (pixelate, (0.6, 0.5, 0.4, 0.3, 0.25), (0.9, 0.8, 0.7, 0.6, 0.5)),
    "jpeg_compression": (jpeg_compression, (25, 18, 15, 10, 7), (65, 58, 50, 40, 25)),
}


def corrupt(image: Image.Image, name: str, severity: int, seed: int) -> Image.Image:
    """One corrupted image; the same arguments give the same pixels.

    Args:
        image: RGB; one whose short side is above ``SHORT_SIDE`` is reduced to that first.
        name: a key of ``CORRUPTIONS``.
        severity: 1 (mild) to 5.
        seed: of its randomness, 0 or more; the draws are shared by all severities.
    """
    shrink = SHORT_SIDE / min(image.size)
    if shrink < 1:
        image = image.resize([max(1, round(side * shrink)) for side in image.size], Image.Resampling.BICUBIC)
    function, large, small = CORRUPTIONS[name]
    level = (small if min(image.size) < SMALL else large)[severity - 1]
    random = np.random.default_rng([seed, list(CORRUPTIONS).index(name)])
    return _to_image(function(np.asarray(image) / 255, level, random))


class CorruptedImages:
    """A dataset whose images are corrupted as they are read, each seeded by its place."""

    def __init__(self, images: ImageDataset, corruption: str, severity: int) -> None:
        self._images, self._corruption, self._severity = images, corruption, severity
        self.name, self.classes, self.labels = images.name, images.classes, images.labels

    def __len__(self) -> int:
        return len(self._images)

    def read(self, index: int) -> bytes:
        """The corrupted image, as a BMP file.

        Raises:
            ImageError: the image cannot be decoded.
        """
        corrupted = corrupt(decode(self._images.read(index)), self._corruption, self._severity, index)
        encoded = io.BytesIO()
        corrupted.save(encoded, "BMP")
        return encoded.getvalue()

    def source(self, index: int) -> str:
        return self._images.source(index)
