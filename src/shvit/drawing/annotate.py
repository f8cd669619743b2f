"""Predictions drawn onto pictures."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from shvit.tasks.results import Prediction

_BAR = (76, 175, 80, 190)
_PANEL = (0, 0, 0, 150)


def annotate(
    image: Image.Image, predictions: Sequence[Prediction], heading: str | None = None, caption: str | None = None
) -> Image.Image:
    """A copy of the image with its labels in the upper left corner, each with its score as a bar.

    Args:
        image: RGB, of any size; a very small one is enlarged so that the labels can be read.
        heading: a line above the labels, such as that the picture shows nothing known.
        caption: a line in the lower left corner, such as what is in the picture.
    """
    smallest = min(image.size)
    if smallest < 160:
        scale = min(160 / smallest, 1024 / max(image.size))
        if scale > 1:
            image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.NEAREST)
    size = max(11, min(image.size) // 28)
    font = ImageFont.load_default(size)
    rows = [(f"{each.score:6.1%}  {each.short_label}", each.score) for each in predictions]
    if heading is not None:
        rows.insert(0, (heading, 0.0))
    row, pad = round(size * 1.5), size // 2
    width = round(max((font.getlength(line) for line, _ in rows), default=0)) + 2 * pad
    overlay = Image.new("RGBA", image.size, (0, 0, 0, 0))
    draw = ImageDraw.Draw(overlay)
    draw.rectangle((0, 0, width, row * len(rows) + pad), fill=_PANEL)
    for place, (line, score) in enumerate(rows):
        top = pad // 2 + place * row
        draw.rectangle((0, top, round(width * score), top + row - 2), fill=_BAR)
        draw.text((pad, top + (row - size) // 3), line, font=font, fill=(255, 255, 255, 255))
    if caption is not None:
        top = image.height - row - pad // 2
        draw.rectangle((0, top, round(font.getlength(caption)) + 2 * pad, image.height), fill=_PANEL)
        draw.text((pad, top + pad // 2), caption, font=font, fill=(255, 255, 255, 255))
    return Image.alpha_composite(image.convert("RGBA"), overlay).convert("RGB")
