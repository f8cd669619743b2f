"""Maps over pictures: attention and class activation as colours on the image that they are of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFont

from shvit.card import short_labels
from shvit.errors import ArgumentError
from shvit.images.preprocess import Region
from shvit.predicting.explain import Explanation

COLOURS = (
    "150a3b 2c0653 450264 62006e 7f0072 9c006e b80065 d40959 e73047 f45035 fc702d ff8f34 fdad51 f9c87b f5e1a8 faf8d1"
)
"""From little to much: steps of equal distance in the OKLab colour space, each lighter than the one before, so that
equal differences look equal and the order is seen without telling hues apart."""

ALPHA = 0.6
"""How much of the picture the colours take, where nothing else is asked for."""

OUTSIDE = 0.35
"""Brightness of what the network does not see."""

MAX_SIDE = 1024
"""Pixels of the longer side of what a page shows, at most; larger pictures are shrunk to it."""

TILE = 320
"""Longest side of a sheet's pictures, in pixels."""

TEXT = 13
"""Height of a sheet's letters, in pixels."""

NARROWEST = 260
"""Pixels across that a scale's words need."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_INK, _PAPER = (32, 33, 36), (255, 255, 255)


def colour_table() -> np.ndarray:
    """``uint8 (256, 3)``, RGB: ``COLOURS`` and what lies between."""
    anchors = np.array([list(bytes.fromhex(each)) for each in COLOURS.split()])
    places = np.linspace(0, len(anchors) - 1, 256)
    channels = [np.interp(places, np.arange(len(anchors)), channel) for channel in anchors.T]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def overlay(
    image: Image.Image,
    values: np.ndarray,
    region: Region | None = None,
    limits: tuple[float, float] | None = None,
    alpha: float = ALPHA,
) -> Image.Image:
    """A copy of an image with a map laid over it; what the map does not cover is darkened.

    Args:
        image: RGB, of any size.
        values: ``(rows, columns)``, each the value of an equal part of ``region``; between their centres values are
            interpolated (bicubic, and never beyond the map's own).
        region: the part of the image that the map covers; all of it when not given. It may reach beyond the image, as
            with padding: what lies there is not drawn.
        limits: values that get the first and the last colour; the map's smallest and largest when not given.
        alpha: in [0, 1]; 0 leaves the picture as it is.

    Raises:
        ValueError: the map is not of two dimensions, or ``alpha`` is out of its range.
    """
    if values.ndim != 2 or not values.size:
        raise ArgumentError(f"values: expected a map (rows, columns), got the shape {values.shape}")
    if not 0 <= alpha <= 1:
        raise ArgumentError(f"alpha: expected 0 to 1, got {alpha}")
    low, high = (float(values.min()), float(values.max())) if limits is None else limits
    scaled = np.clip((values - low) / (high - low if high > low else 1), 0, 1).astype(np.float32)
    whole = _whole_pixels(region or Region(0, 0, *image.size), image.size)
    box = _inside(whole, image.size)
    size = (box[2] - box[0], box[3] - box[1])
    across, down = values.shape[1] / (whole[2] - whole[0]), values.shape[0] / (whole[3] - whole[1])
    cells = (
        (box[0] - whole[0]) * across,
        (box[1] - whole[1]) * down,
        min((box[2] - whole[0]) * across, values.shape[1]),
        min((box[3] - whole[1]) * down, values.shape[0]),
    )
    # Bilinear would show the few cells' middles as edges.
    fine = np.asarray(Image.fromarray(scaled).resize(size, Image.Resampling.BICUBIC, cells))
    fine = fine.clip(scaled.min(), scaled.max())
    colours = Image.fromarray(colour_table()[np.rint(fine * 255).astype(np.uint8)])
    seen = image.crop(box)
    # Under colours the picture is in grey: its own would be taken for the map's.
    grey = Image.blend(seen, seen.convert("L").convert("RGB"), alpha)
    drawn = ImageEnhance.Brightness(image).enhance(OUTSIDE)
    drawn.paste(Image.blend(grey, colours, alpha), box[:2])
    return drawn


def fit(image: Image.Image, region: Region, side: int) -> tuple[Image.Image, Region]:
    """An image, and the same part of it, resized so that the longer side has ``side`` pixels."""
    scale = side / max(image.size)
    width, height = (max(1, round(each * scale)) for each in image.size)
    across, down = width / image.width, height / image.height
    left, top, right, bottom = region
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return resized, Region(left * across, top * down, right * across, bottom * down)


def _whole_pixels(region: Region, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The pixels nearest to a region, at least one; those of padding lie outside of the image."""
    width, height = size
    left, top = min(round(region.left), width - 1), min(round(region.top), height - 1)
    return left, top, max(round(region.right), left + 1), max(round(region.bottom), top + 1)


def _inside(box: tuple[int, int, int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """What of a box is in the image."""
    return max(box[0], 0), max(box[1], 0), min(box[2], size[0]), min(box[3], size[1])


@dataclass(frozen=True)
class Map:
    """A map to be shown, and what to say of it."""

    values: np.ndarray
    """``(rows, columns)``."""
    title: str
    detail: str
    limits: tuple[float, float]
    """Values of the first and the last colour."""
    unit: str
    token: tuple[int, int] | None = None
    """The token that asks, where the map is of one token's attention."""


def attention_map(
    explanation: Explanation, stage: int, block: int | None = None, point: tuple[float, float] | None = None
) -> Map:
    """Attention as a multiple of what each token would get if all got the same, from 0 to at least 2.

    So a map without preferences is of one middling colour, rather than its noise in all colours.

    Args:
        block: the stage's last one when not given.
        point: of the image, in pixels: the attention of the token there; the mean over tokens when not given.

    Raises:
        ValueError: there is no such block, or the network does not see that point.
    """
    token = None if point is None else explanation.token_at(stage, *point)
    values = explanation.attention_map(stage, block, token)
    values = values * values.size
    block = max(each for at, each in explanation.attention if at == stage) if block is None else block
    grid = "{} by {}".format(*values.shape)
    detail = f"mean of {grid} tokens" if token is None else f"of token {token[0]},{token[1]} of {grid}"
    limits = (0.0, max(2.0, float(values.max())))
    return Map(values, f"attention, stage {stage} block {block}", detail, limits, "times an even share", token)


def class_activation_map(explanation: Explanation, class_id: int | None = None) -> Map:
    """What speaks for a class, in units of its logit, from the map's smallest value to its largest.

    Args:
        class_id: the first prediction's when not given.

    Raises:
        ValueError: there is no such class.
    """
    values = explanation.class_activation(class_id)
    class_id = explanation.predictions[0].class_id if class_id is None else class_id
    label = short_labels(explanation.classes)[class_id]
    detail = "{} by {} tokens".format(*values.shape)
    return Map(values, f"class activation, {label}", detail, (float(values.min()), float(values.max())), "logit")


def draw_map(image: Image.Image, region: Region, shown: Map, alpha: float = ALPHA) -> Image.Image:
    """A map over its image, and a frame around the token that asks."""
    drawn = overlay(image, shown.values, region, shown.limits, alpha)
    if shown.token is not None:
        (row, column), (rows, columns) = shown.token, shown.values.shape
        left, top, right, bottom = region
        width, height = (right - left) / columns, (bottom - top) / rows
        corner = left + column * width, top + row * height
        cell = (*corner, corner[0] + width - 1, corner[1] + height - 1)
        line = max(1, round(min(image.size) / 160))
        draw = ImageDraw.Draw(drawn)
        draw.rectangle(_whole_pixels(Region(*cell), image.size), outline=(0, 0, 0), width=2 * line)
        draw.rectangle(_whole_pixels(Region(*cell), image.size), outline=(255, 255, 255), width=line)
    return drawn


def draw_with_scale(explanation: Explanation, shown: Map, alpha: float = ALPHA) -> Image.Image:
    """A map over the whole picture, which keeps its size, and below it what the colours mean."""
    picture = draw_map(explanation.image, explanation.region, shown, alpha)
    width = max(picture.width, NARROWEST)
    size = max(TEXT, width // 50)
    title, margin = ImageFont.load_default(size + 1), size // 2
    sheet = Image.new("RGB", (width, picture.height + 6 * size + margin), _PAPER)
    sheet.paste(picture, ((width - picture.width) // 2, 0))
    across, top = width - 2 * margin, picture.height + margin
    ImageDraw.Draw(sheet).text((margin, top), _shortened(shown.title, title, across), font=title, fill=_INK)
    _draw_scale(sheet, (margin, top + round(1.5 * size), across), shown, ImageFont.load_default(size), size)
    return sheet


def draw_sheet(explanation: Explanation, maps: Sequence[Map], alpha: float = ALPHA) -> Image.Image:
    """The image with its labels, and beside it each map over the same image, with a scale below."""
    image, region = fit(explanation.image, explanation.region, TILE)
    font, bold = ImageFont.load_default(TEXT), ImageFont.load_default(TEXT + 1)
    margin, head, foot = 12, 24, 20 * max(3, len(explanation.predictions)) + 4
    width = max(TILE * 3 // 4, image.width)
    sheet = Image.new(
        "RGB", (margin + (width + margin) * (len(maps) + 1), 2 * margin + head + image.height + foot), _PAPER
    )
    draw = ImageDraw.Draw(sheet)
    plain = ImageEnhance.Brightness(image).enhance(OUTSIDE)
    box = _inside(_whole_pixels(region, image.size), image.size)
    plain.paste(image.crop(box), box[:2])
    pictures = [
        ("what the network sees", plain),
        *((each.title, draw_map(image, region, each, alpha)) for each in maps),
    ]
    below = margin + head + image.height + 8
    for place, (title, picture) in enumerate(pictures):
        left = margin + place * (width + margin)
        draw.text((left, margin), _shortened(title, bold, width), font=bold, fill=_INK)
        sheet.paste(picture, (left + (width - picture.width) // 2, margin + head))
        if place:
            _draw_scale(sheet, (left, below, width), maps[place - 1], font, TEXT)
    for row, each in enumerate(explanation.predictions):
        draw.text((margin + 42, below + 20 * row), f"{each.score:.1%}", font=font, fill=_INK, anchor="ra")
        label = _shortened(each.short_label, font, width - 52)
        draw.text((margin + 52, below + 20 * row), label, font=font, fill=_INK)
    return sheet


def _draw_scale(sheet: Image.Image, place: tuple[int, int, int], shown: Map, font: Font, size: int) -> None:
    """The colours from the left to the right, what the ends stand for, and of what the map is.

    Args:
        place: left, top and width.
        size: height of the letters.
    """
    left, top, width = place
    bar = Image.fromarray(colour_table()[None]).resize((width, round(0.8 * size)), Image.Resampling.BILINEAR)
    sheet.paste(bar, (left, top))
    draw = ImageDraw.Draw(sheet)
    low, high = (f"{value:.1f}" for value in shown.limits)
    below, line = top + round(1.1 * size), round(1.5 * size)
    draw.text((left, below), low, font=font, fill=_INK)
    draw.text((left + width, below), f"{high} {shown.unit}", font=font, fill=_INK, anchor="ra")
    draw.text((left, below + line), shown.detail, font=font, fill=_INK)


def _shortened(text: str, font: Font, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text}..."
