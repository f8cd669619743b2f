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
