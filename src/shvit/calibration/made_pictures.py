"""Pictures of nothing, made from random numbers: what no class should be surer of than of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, ImageDraw

SIDES = (64, 128, 224)
"""Pixels, one of which each picture has: networks see small ones enlarged, and so blurred."""

EACH = 240
"""Pictures of a kind."""


def made_pictures(kind: str, count: int = EACH) -> Iterator[Image.Image]:
    """Pictures of one of ``KINDS``; always the same."""
    rng = np.random.default_rng(list(kind.encode()))
    for _ in range(count):
        yield KINDS[kind](rng, int(rng.choice(SIDES)))


def clouds(rng: np.random.Generator, side: int, steepness: tuple[float, float] = (1.0, 3.0)) -> Image.Image:
    """Noise whose amplitude falls with a power of the frequency, of grey or of colours."""
    across, down = np.fft.rfftfreq(side), np.fft.fftfreq(side)
    frequency = np.maximum(np.hypot(down[:, None], across), 1 / side)[..., None]
    spectrum = np.fft.rfft2(rng.normal(size=(side, side, int(rng.choice((1, 3))))), axes=(0, 1))
    waves = np.fft.irfft2(spectrum / frequency ** rng.uniform(*steepness), (side, side), (0, 1))
    waves = (waves - waves.mean()) / waves.std()
    return _picture(np.broadcast_to(rng.uniform(40, 215, 3) + rng.uniform(15, 90) * waves, (side, side, 3)))


def grain(rng: np.random.Generator, side: int) -> Image.Image:
    """Noise with nearly as much of high frequencies as of low ones."""
    return clouds(rng, side, (0.0, 0.8))


def gradient(rng: np.random.Generator, side: int) -> Image.Image:
    """One colour that turns into another or hardly does, straight or from a point, as of a covered lens too."""
    y, x = np.mgrid[:side, :side] / side - rng.uniform(-0.5, 1.5, (2, 1, 1))
    angle = rng.uniform(0, 2 * math.pi)
    way = np.hypot(x, y) if rng.random() < 0.5 else x * math.cos(angle) + y * math.sin(angle)
    change = rng.normal(0, rng.choice((2, 20, 120)), 3)
    return _picture(
        rng.uniform(0, 255, 3) + way[..., None] * change + rng.normal(0, rng.choice((0, 2)), (side, side, 1))
    )


def strokes(rng: np.random.Generator, side: int) -> Image.Image:
    """Bent strokes, dark on white or of any colours: small ones in rows, or some of any length anywhere."""
    rows, white = rng.random() < 0.5, rng.random() < 0.5
    page = Image.new("RGB", (192, 192), (int(rng.integers(215, 256)),) * 3 if white else _colour(rng))
    pen, size = ImageDraw.Draw(page), float(rng.uniform(6, 40 if rows else 160))
    width = int(rng.integers(1, 3 + int(size / 10)))
    ink = (int(rng.integers(0, 70)),) * 3 if white and rows else _colour(rng)
    for place in range(1 + int(rng.uniform(0.3, 1) * (192 / size) ** 2)):
        colour = ink if rows else _colour(rng)
        across, down = divmod(place, max(int(192 / size), 1))
        middle = size * np.array([across, down * 1.2]) if rows else rng.uniform(0, 192, 2)
        points = middle + rng.uniform(0, size, (int(rng.integers(2, 5)), 2))
        pen.line([tuple(each) for each in points.tolist()], colour, width, joint="curve")
    return page.resize((side, side), Image.Resampling.BICUBIC, reducing_gap=3)


def mosaic(rng: np.random.Generator, side: int) -> Image.Image:
    """Rectangles of one colour each, over one another."""
    pixels = np.empty((side, side, 3))
    pixels[:] = rng.uniform(0, 255, 3)
    for _ in range(rng.integers(1, 30)):
        top, left = rng.integers(-(side // 6), side, 2)
        height, width = rng.integers(max(side // 16, 1), side, 2)
        pixels[max(top, 0) : top + height, max(left, 0) : left + width] = rng.uniform(0, 255, 3)
    return _picture(pixels)


def waves(rng: np.random.Generator, side: int) -> Image.Image:
    """A few gratings of any direction and colour, added."""
    y, x = np.mgrid[:side, :side]
    pixels = np.full((side, side, 3), 128.0)
    for _ in range(rng.integers(1, 5)):
        angle, period = rng.uniform(0, math.pi), rng.uniform(0.05, 0.6) * side
        way = 2 * math.pi * (x * math.cos(angle) + y * math.sin(angle)) / period + rng.uniform(0, 6)
        pixels += np.sin(way)[..., None] * rng.normal(0, 50, 3)
    return _picture(pixels)


KINDS: dict[str, Callable[[np.random.Generator, int], Image.Image]] = {
    "clouds": clouds,
    "grain": grain,
    "gradients": gradient,
    "strokes": strokes,
    "mosaics": mosaic,
    "waves": waves,
}


def _picture(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _colour(rng: np.random.Generator) -> tuple[int, ...]:
    return tuple(int(each) for each in rng.integers(0, 256, 3))
