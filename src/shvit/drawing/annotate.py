"""Predictions drawn onto pictures."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from shvit.predicting.results import Prediction

_BAR = (76, 175, 80, 190)
_PANEL = (0, 0, 0, 150)


def annotate(image: Image.Image, predictions: Sequence[Prediction]) -> Image.Image:
    """A copy of the image with its labels in the upper left corner, each with its score as a bar.

    Args:
        image: RGB, of any size; a very small one is enlarged so that the labels can be read.
    """
    smallest = min(image.size)
    if smallest < 160:
        scale = min(160 / smallest, 1024 / max(image.size))
        if scale > 1:
            image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.NEAREST)
    size = max(11, min(image.size) // 28)
    font = ImageFont.load_default(size)
    lines = [f"{each.score:6.1%}  {each.short_label}" for each in predictions]
    row, pad = round(size * 1.5), size // 2
    width = round(max((font.getlength(line) for line in lines), default=0)) + 2 * pad
    overlay = Image.new("RGBA", image.size, (0, 0, 0, 0))
    draw = ImageDraw.Draw(overlay)
    draw.rectangle((0, 0, width, row * len(lines) + pad), fill=_PANEL)
    for place, (line, each) in enumerate(zip(lines, predictions, strict=True)):
        top = pad // 2 + place * row
        draw.rectangle((0, top, round(width * each.score), top + row - 2), fill=_BAR)
        draw.text((pad, top + (row - size) // 3), line, font=font, fill=(255, 255, 255, 255))
    return Image.alpha_composite(image.convert("RGBA"), overlay).convert("RGB")
