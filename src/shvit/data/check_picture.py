"""The picture of a dataset: class balance, image sizes, some of the images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from shvit.atomic import write_encoded
from shvit.data.check import DataReport
from shvit.data.protocol import ImageDataset
from shvit.data.targets import class_counts, of_class
from shvit.display import as_text
from shvit.errors import MissingDependencyError
from shvit.images.preprocess import decode
from shvit.install import install_command

try:
    from matplotlib import rc_context
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter
except ModuleNotFoundError:
    raise MissingDependencyError(
        f"--output: the picture needs matplotlib, which is not installed; install it with: {install_command('eval')}"
    ) from None

COLOURS = {"train": "#3b6ea5", "val": "#e08a3c"}
NAMED_BARS = 30
"""With more classes than this, the classes have no names on the axis and stand in the order of their size."""
SHEET = (3, 10)
"""Rows and columns of the contact sheet."""
THUMBNAIL = 192
"""Longest side of an image on the contact sheet, in pixels."""


@rc_context({"text.parse_math": False})  # a class's name is no formula
def draw_report(report: DataReport, splits: Mapping[str, ImageDataset], title: str, path: Path) -> None:
    """Writes the picture as PNG, 1600 by 1200 pixels."""
    figure = Figure(figsize=(16, 12), dpi=100, layout="constrained", facecolor="white")
    images = sum(len(summary.widths) for summary in report.splits.values())
    figure.suptitle(
        f"{as_text(title)}: {images:,} images of {len(report.classes):,} classes", fontsize=18, weight="bold"
    )
    rows = figure.add_gridspec(2, 1, height_ratios=(5, 6))
    charts = figure.add_subfigure(rows[0])
    _draw_balance(charts.add_subplot(1, 2, 1), report)
    _draw_sizes(charts.add_subplot(1, 2, 2), report)
    _draw_sheet(figure.add_subfigure(rows[1]), report, splits)
    write_encoded(lambda file: figure.savefig(file, format="png"), path)


def _draw_balance(axes: Axes, report: DataReport) -> None:
    order = np.argsort(-next(iter(report.splits.values())).class_counts, kind="stable")
    places = np.arange(len(order))
    bottom = np.zeros(len(order))
    for split, summary in report.splits.items():
        counts = summary.class_counts[order]
        axes.bar(places, counts, 0.8 if len(order) <= NAMED_BARS else 1, bottom, color=COLOURS[split], label=split)
        bottom += counts
    if len(order) <= NAMED_BARS:
        names = [_shorten(report.short_labels[index], 18) for index in order]
        axes.set_xticks(places, names, rotation=45 if len(order) <= 12 else 90, ha="right", rotation_mode="anchor")
    else:
        axes.set_xlabel("classes, most frequent first")
    axes.set(title="Class balance", ylabel="images")
    axes.margins(x=0.01, y=0.15)
    axes.legend()


def _draw_sizes(axes: Axes, report: DataReport) -> None:
    """A dot for each size there is, as large as it is frequent."""
    axes.set(title="Image sizes", xlabel="width, pixels", ylabel="height, pixels")
    sizes = np.concatenate([np.stack([summary.widths, summary.heights], axis=1) for summary in report.splits.values()])
    distinct, counts = np.unique(sizes[sizes[:, 0] > 0], axis=0, return_counts=True)
    if len(distinct) == 0:
        return
    axes.scatter(
        distinct[:, 0],
        distinct[:, 1],
        s=np.maximum(6, 900 * counts / counts.sum()),
        color=COLOURS["train"],
        alpha=0.5,
        lw=0,
    )
    low, high = int(distinct.min()), int(distinct.max())
    if high > 4 * low:
        axes.set(xscale="log", yscale="log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(ScalarFormatter())
            axis.set_minor_formatter(NullFormatter())
    else:
        axes.set(xlim=(0, 1.2 * high), ylim=(0, 1.2 * high))
    axes.axline((low, low), (high + 1, high + 1), color="0.7", lw=1, zorder=0, label="square")
    axes.legend(loc="lower right")
    if len(distinct) == 1:
        width, height = distinct[0]
        axes.set_title(f"Image sizes: all {width} × {height}")


def _draw_sheet(figure: SubFigure, report: DataReport, splits: Mapping[str, ImageDataset]) -> None:
    """Of few classes a column each, with several images; of many, one image each."""
    split, images = next(iter(splits.items()))
    whole = report.splits[split].widths > 0
    classes = np.flatnonzero(class_counts(images.labels[whole], len(report.classes)))
    rows, columns = SHEET
    each = rows if len(classes) <= columns else 1
    shown = classes[np.linspace(0, len(classes) - 1, num=min(len(classes), rows * columns)).astype(int)]
    count = (
        "each class" if len(shown) == len(report.classes) else f"{len(shown)} of the {len(report.classes):,} classes"
    )
    figure.suptitle(f"Images of {count} ({split})", fontsize=14)
    grid = figure.subplots(rows, columns if each == 1 else max(len(classes), columns // 2), squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for place, label in enumerate(shown):
        for row, index in enumerate(np.flatnonzero(of_class(images.labels, label) & whole)[:each]):
            axes = grid[row, place] if each > 1 else grid.flat[place]
            thumbnail = decode(images.read(int(index)))
            thumbnail.thumbnail((THUMBNAIL, THUMBNAIL))
            axes.imshow(thumbnail)
            if row == 0:
                axes.set_title(_shorten(report.short_labels[label], 16), fontsize=11)


def _shorten(text: str, length: int) -> str:
    text = text.replace("$", r"\$")  # dollars would be read as a formula
    return text if len(text) <= length else f"{text[: length - 1]}…"
