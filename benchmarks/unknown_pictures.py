"""Pictures of known and unknown things, as the study of unknown scores takes them: each brought to 64 x 64 pixels.

All sets have the size of Tiny-ImageNet's pictures, so that no score can tell them apart by their sharpness.
"""

from __future__ import annotations

import io
import json
import math
import string
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIDE = 64

COCO_KINDS = (
    "person", "giraffe", "zebra", "horse", "skateboard", "skis", "surfboard", "kite", "frisbee", "tennis racket",
    "baseball bat", "baseball glove", "toilet", "fire hydrant", "broccoli", "scissors", "toothbrush", "microwave",
    "cell phone",
)  # fmt: skip
"""COCO's kinds of things that are none of Tiny-ImageNet's classes."""


def _small(picture: Image.Image) -> Image.Image:
    return picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC, reducing_gap=3)


def as_jpeg(picture: Image.Image) -> Image.Image:
    """Read back from JPEG of the quality that Tiny-ImageNet's pictures have."""
    encoded = io.BytesIO()
    picture.save(encoded, "JPEG", quality=75)
    return Image.open(encoded)


def _square(picture: Image.Image) -> Image.Image:
    """The largest square in the middle."""
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.crop((left, top, left + side, top + side))


def _box(picture: Image.Image, box: tuple[float, float, float, float]) -> Image.Image:
    """A square around a box (left, top, width, height), moved into the picture where it stands out."""
    left, top, width, height = box
    side = min(max(width, height), *picture.size)
    left = min(max(left + width / 2 - side / 2, 0), picture.width - side)
    top = min(max(top + height / 2 - side / 2, 0), picture.height - side)
    return picture.crop(tuple(round(each) for each in (left, top, left + side, top + side)))


COCO_KNOWN = (
    "banana", "pizza", "orange", "teddy bear", "umbrella", "keyboard", "backpack", "refrigerator", "parking meter",
    "elephant", "bear",
)  # fmt: skip
"""Those that are classes of Tiny-ImageNet too."""


def coco(data: Path, wanted: tuple[str, ...] = COCO_KINDS) -> list[Image.Image]:
    """COCO's boxes of at least 48 pixels, of kinds that are unknown, cut square."""
    pictures = []
    for split in ("train2017", "val2017"):
        content = json.loads((data / "coco-tiny" / "annotations" / f"instances_{split}.json").read_text())
        kinds = {each["id"]: each["name"] for each in content["categories"]}
        files = {each["id"]: each["file_name"] for each in content["images"]}
        for each in content["annotations"]:
            if kinds[each["category_id"]] in wanted and not each["iscrowd"] and min(each["bbox"][2:]) >= 48:
                with Image.open(data / "coco-tiny" / split / files[each["image_id"]]) as picture:
                    pictures.append(_small(_box(picture, each["bbox"])))
    return pictures


def photographs(data: Path) -> list[Image.Image]:
    """One photograph of each of 240 classes of ImageNet that Tiny-ImageNet does not have; their middles."""
    files = sorted((data / "photographs").glob("*.jpg"))
    return [_small(_square(Image.open(file).convert("RGB"))) for file in files]


def photographs_full(data: Path) -> list[Image.Image]:
    """The same, as they are: what someone would classify, and sharper than what the model was trained on."""
    return [Image.open(file).convert("RGB") for file in sorted((data / "photographs").glob("*.jpg"))]


def cells(data: Path) -> list[Image.Image]:
    """Microscope photographs' cells: real pictures of another world; at most two of each photograph."""
    pictures = []
    for file in sorted((data / "bccd" / "Annotations").glob("*.xml"))[:150]:
        picture = Image.open(data / "bccd" / "JPEGImages" / f"{file.stem}.jpg")
        for each in list(ElementTree.parse(file).getroot().iter("object"))[:2]:
            left, top, right, bottom = (
                int(each.findtext(f"bndbox/{side}", "0")) for side in ("xmin", "ymin", "xmax", "ymax")
            )
            if min(right - left, bottom - top) >= 32:
                pictures.append(_small(_box(picture, (left, top, right - left, bottom - top))))
    return pictures


def _array(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _colour(rng: np.random.Generator) -> tuple[int, ...]:
    return tuple(int(each) for each in rng.integers(0, 256, 3))


def blob(rng: np.random.Generator) -> Image.Image:
    """8 x 8 random colours, enlarged smoothly."""
    return _small(_array(rng.integers(0, 256, (8, 8, 3))))


def noise(rng: np.random.Generator) -> Image.Image:
    """Independent pixels, of grey or of colours, uniform or normal, in grains of 1 or 2 pixels."""
    grain = int(rng.integers(1, 3))
    shape = (SIDE // grain, SIDE // grain, int(rng.choice((1, 3))))
    pixels = rng.uniform(0, 255, shape) if rng.random() < 0.5 else rng.normal(128, rng.uniform(20, 80), shape)
    return _array(np.broadcast_to(pixels, (*shape[:2], 3)).repeat(grain, 0).repeat(grain, 1))


def flat(rng: np.random.Generator) -> Image.Image:
    """Black, as of a covered lens, or one colour; with a sensor's noise or without."""
    level = rng.uniform(0, 20) * np.ones(3) if rng.random() < 0.5 else rng.uniform(0, 255, 3)
    return _array(level + rng.normal(0, rng.choice((0, 1, 4)), (SIDE, SIDE, 3)))


def document(rng: np.random.Generator) -> Image.Image:
    """Lines of printed words on paper, a little turned, large or small."""
    paper, ink = int(rng.integers(215, 256)), int(rng.integers(0, 70))
    page = Image.new("RGB", (256, 256), (paper,) * 3)
    pen, size = ImageDraw.Draw(page), int(rng.integers(9, 40))
    font, y = ImageFont.load_default(size), int(rng.integers(0, 30))
    while y < 256:
        if rng.random() < 0.9:
            words = ("".join(rng.choice(list(string.ascii_letters), rng.integers(2, 10))) for _ in range(12))
            pen.text((int(rng.integers(5, 20)), y), " ".join(words), (ink,) * 3, font)
        y += int(size * 1.4)
    return _small(page.rotate(float(rng.uniform(-6, 6)), Image.Resampling.BICUBIC, fillcolor=(paper,) * 3))


def drawing(rng: np.random.Generator) -> Image.Image:
    """A few lines, outlines and filled shapes on paper of one colour."""
    page = Image.new("RGB", (256, 256), (255,) * 3 if rng.random() < 0.5 else _colour(rng))
    pen = ImageDraw.Draw(page)
    for _ in range(rng.integers(2, 9)):
        corners = rng.uniform(0, 256, (2, 2))
        box, width = [*corners.min(0), *(corners.max(0) + 4)], int(rng.integers(2, 10))
        fill = _colour(rng) if rng.random() < 0.4 else None
        kind = rng.integers(0, 4)
        if kind == 0:
            pen.line([*corners.ravel()], _colour(rng), width)
        elif kind == 1:
            pen.ellipse(box, fill, _colour(rng), width)
        elif kind == 2:
            pen.rectangle(box, fill, _colour(rng), width)
        else:
            pen.polygon([*rng.uniform(0, 256, 6)], fill, _colour(rng), width)
    return _small(page)


def pattern(rng: np.random.Generator) -> Image.Image:
    """Stripes, checks or rings of two colours."""
    y, x = np.mgrid[:SIDE, :SIDE] + rng.uniform(0, SIDE, (2, 1, 1))
    angle, period = rng.uniform(0, math.pi), rng.uniform(5, 30)
    u, v = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    u, v = 2 * math.pi * u / period, 2 * math.pi * v / period
    waves = (np.sin(u), np.sign(np.sin(u) * np.sin(v)), np.sin(2 * math.pi * np.hypot(x - 60, y - 60) / period))
    dark, light = rng.uniform(0, 255, (2, 3))
    return _array(dark + (light - dark) * (waves[rng.integers(0, 3)][..., None] / 2 + 0.5))


MADE: dict[str, Callable[[np.random.Generator], Image.Image]] = {
    "blobs": blob,
    "noise": noise,
    "flat": flat,
    "documents": document,
    "drawings": drawing,
    "patterns": pattern,
}
"""Far pictures by kind, and what makes one."""


def clouds(rng: np.random.Generator, steepness: tuple[float, float] = (1.0, 3.0)) -> Image.Image:
    """Noise whose amplitude falls with a power of the frequency, of grey or of colours."""
    across, down = np.fft.rfftfreq(SIDE), np.fft.fftfreq(SIDE)
    frequency = np.maximum(np.hypot(down[:, None], across), 1 / SIDE)[..., None]
    spectrum = np.fft.rfft2(rng.normal(size=(SIDE, SIDE, int(rng.choice((1, 3))))), axes=(0, 1))
    waves = np.fft.irfft2(spectrum / frequency ** rng.uniform(*steepness), (SIDE, SIDE), (0, 1))
    waves = (waves - waves.mean()) / waves.std()
    return _array(np.broadcast_to(rng.uniform(40, 215, 3) + rng.uniform(15, 90) * waves, (SIDE, SIDE, 3)))


def grain(rng: np.random.Generator) -> Image.Image:
    """Noise with nearly as much of high frequencies as of low ones."""
    return clouds(rng, (0.0, 0.8))


def gradient(rng: np.random.Generator) -> Image.Image:
    """One colour that turns into another or hardly does, straight or from a point, darker or lighter."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE - rng.uniform(-0.5, 1.5, (2, 1, 1))
    angle = rng.uniform(0, 2 * math.pi)
    way = np.hypot(x, y) if rng.random() < 0.5 else x * math.cos(angle) + y * math.sin(angle)
    change = rng.normal(0, rng.choice((2, 20, 120)), 3)
    return _array(rng.uniform(0, 255, 3) + way[..., None] * change + rng.normal(0, rng.choice((0, 2)), (SIDE, SIDE, 1)))


def strokes(rng: np.random.Generator) -> Image.Image:
    """Bent strokes, dark on white or of any colours: small ones in rows, or some of any length anywhere."""
    rows, white = rng.random() < 0.5, rng.random() < 0.5
    page = Image.new("RGB", (192, 192), (int(rng.integers(215, 256)),) * 3 if white else _colour(rng))
    pen, size = ImageDraw.Draw(page), rng.uniform(6, 40 if rows else 160)
    width = int(rng.integers(1, 3 + size // 10))
    for place in range(1 + int(rng.uniform(0.3, 1) * (192 / size) ** 2)):
        if place == 0 or not rows:
            colour = (int(rng.integers(0, 70)),) * 3 if white and rows else _colour(rng)
        across, down = divmod(place, max(int(192 / size), 1))
        middle = size * np.array([across, down * 1.2]) if rows else rng.uniform(0, 192, 2)
        points = middle + rng.uniform(0, size, (int(rng.integers(2, 5)), 2))
        pen.line([tuple(each) for each in points.tolist()], colour, width, joint="curve")
    return _small(page)


def mosaic(rng: np.random.Generator) -> Image.Image:
    """Rectangles of one colour each, over one another."""
    pixels = np.empty((SIDE, SIDE, 3))
    pixels[:] = rng.uniform(0, 255, 3)
    for _ in range(rng.integers(1, 30)):
        top, left = rng.integers(-10, SIDE, 2)
        height, width = rng.integers(4, SIDE, 2)
        pixels[max(top, 0) : top + height, max(left, 0) : left + width] = rng.uniform(0, 255, 3)
    return _array(pixels)


def waves(rng: np.random.Generator) -> Image.Image:
    """A few gratings of any direction and colour, added."""
    y, x = np.mgrid[:SIDE, :SIDE]
    pixels = np.full((SIDE, SIDE, 3), 128.0)
    for _ in range(rng.integers(1, 5)):
        angle, period = rng.uniform(0, math.pi), rng.uniform(3, 40)
        way = 2 * math.pi * (x * math.cos(angle) + y * math.sin(angle)) / period + rng.uniform(0, 6)
        pixels += np.sin(way)[..., None] * rng.normal(0, 50, 3)
    return _array(pixels)


FITTED: dict[str, Callable[[np.random.Generator], Image.Image]] = {
    "clouds": clouds,
    "grain": grain,
    "gradients": gradient,
    "strokes": strokes,
    "mosaics": mosaic,
    "waves": waves,
}
"""Far pictures that a score may be fitted on, and that none is measured on."""
