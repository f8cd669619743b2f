"""Pictures of an evaluation."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from shvit.evaluation.metrics import Calibration, wilson_interval
from shvit.evaluation.pages import contained
from shvit.evaluation.selective import RiskCoverage

TICK_LABELS = 25
"""Up to how many classes the confusion matrix has their names at its sides."""

LIGHT: dict[Any, Any] = {"font.size": 10, "text.parse_math": False}  # a label is no formula
_INK, _PAPER = "#e6e6e6", "#15181c"
DARK = LIGHT | {
    "figure.facecolor": _PAPER,
    "axes.facecolor": _PAPER,
    "savefig.facecolor": _PAPER,
    "image.cmap": "inferno",
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _INK),
}

TILE = 192
"""Side of a picture on a contact sheet, in pixels."""


def render(draw: Callable[[], Figure], theme: dict[Any, Any]) -> bytes:
    """A figure as PNG.

    Args:
        draw: makes the figure.
        theme: ``LIGHT`` or ``DARK``.
    """
    buffer = io.BytesIO()
    with matplotlib.rc_context({"image.cmap": "Blues", **theme}):
        draw().savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def confusion_figure(counts: np.ndarray, names: Sequence[str]) -> Figure:
    """The confusion matrix as shares of each row's images, weak ones raised so that they can be seen.

    Args:
        counts: ``(K, K)``, a row for each label, a column for each prediction.
        names: of the K classes; drawn when they are few enough to be read.
    """
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    figure = Figure(figsize=(6, 5.2), layout="constrained")
    panel = figure.subplots()
    drawn = panel.imshow(shares, norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    panel.set_xlabel("predicted")
    panel.set_ylabel("true")
    if len(names) <= TICK_LABELS:
        panel.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
        panel.set_yticks(range(len(names)), names)
    else:
        panel.set_xlabel(f"predicted, {len(names)} classes in the order of confusion.csv")
    bar = figure.colorbar(drawn, ax=panel, ticks=(0, 0.05, 0.2, 0.5, 1), shrink=0.8)
    bar.ax.set_yticklabels(("0 %", "5 %", "20 %", "50 %", "100 %"))
    bar.set_label("share of the true class's images")
    return figure


def reliability_figure(calibration: Calibration) -> Figure:
    """Accuracy against confidence, and how many images have which confidence."""
    bins = len(calibration.counts)
    centres = (np.arange(bins) + 0.5) / bins
    figure = Figure(figsize=(5.2, 5.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.bar(centres, np.nan_to_num(calibration.accuracy), width=0.9 / bins, color="tab:blue", label="measured")
    upper.plot((0, 1), (0, 1), "--", color="tab:orange", label="perfect")
    upper.plot(calibration.confidence, calibration.accuracy, ".", color="tab:orange")
    upper.set(ylabel="accuracy", ylim=(0, 1), xlim=(0, 1), title=f"expected calibration error {calibration.error:.1%}")
    upper.legend(loc="upper left")
    lower.bar(centres, calibration.counts, width=0.9 / bins, color="tab:gray")
    lower.set(xlabel="confidence", ylabel="images")
    return figure


def coverage_figure(curve: RiskCoverage) -> Figure:
    """How often answers are right over the share of the images that get one, with the 95 % interval."""
    places = np.unique(np.linspace(0, len(curve.scores) - 1, 300).astype(int)).tolist()
    intervals = np.array([wilson_interval(int(curve.right[each]), int(curve.answers[each])) for each in places])
    coverage = curve.coverage[places]
    figure = Figure(figsize=(5.2, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.fill_between(coverage, intervals[:, 0], intervals[:, 1], alpha=0.25, color="tab:blue", linewidth=0)
    axes.plot(coverage, curve.precision[places], color="tab:blue")
    axes.set(xlabel="share of the images answered", ylabel="share of the answers right", xlim=(0, 1), ylim=(0, 1.02))
    axes.set_title(f"area under the risk {curve.area:.3f}")
    return figure


def tile(image: Image.Image) -> Image.Image:
    """A picture scaled to fit a square of ``TILE`` pixels, small ones enlarged."""
    return contained(image, TILE)


def contact_sheet(tiles: Sequence[Image.Image], captions: Sequence[Sequence[str]], columns: int = 6) -> Image.Image:
    """Pictures in rows, each above its lines of text, of which what does not fit is cut."""
    font = ImageFont.load_default(13)
    gap, line = 12, 17
    width, height = TILE + gap, TILE + gap + line * max(map(len, captions))
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * width + gap, rows * height + gap), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (picture, lines) in enumerate(zip(tiles, captions, strict=True)):
        left, top = gap + place % columns * width, gap + place // columns * height
        sheet.paste(picture, (left + (TILE - picture.width) // 2, top + (TILE - picture.height) // 2))
        for number, text in enumerate(lines):
            fitting = next(text[:end] for end in range(len(text), -1, -1) if font.getlength(text[:end]) <= TILE)
            draw.text((left, top + TILE + number * line), fitting, font=font, fill="black")
    return sheet
