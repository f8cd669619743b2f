"""Pictures of measurements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from shvit.evaluation.plots import LIGHT, render

if TYPE_CHECKING:
    from shvit.bench.compare import Contender
    from shvit.bench.cost import Cost
    from shvit.bench.peaks import Peaks
    from shvit.bench.studies import StudyRow


def accuracy_chart(contenders: Sequence[Contender], title: str) -> bytes:
    """Published top-1 against the latency measured, one point for each network in its fastest way; PNG."""

    def draw() -> Figure:
        figure = Figure(figsize=(7.5, 5), layout="constrained")
        panel = figure.subplots()
        for ours, colour, label in ((True, "tab:red", "SHViT"), (False, "tab:blue", "others, from timm")):
            points = sorted(
                (each.milliseconds_per_image, each.top1, each.name)
                for each in contenders
                if each.ours == ours and each.top1 is not None
            )
            if not points:
                continue
            style = "o-" if ours else "o"
            panel.plot([each[0] for each in points], [each[1] for each in points], style, color=colour, label=label)
            for latency, top1, name in points:
                panel.annotate(name, (latency, top1), xytext=(5, 5), textcoords="offset points", fontsize=8)
        panel.set_xscale("log")
        panel.xaxis.set_major_formatter(lambda value, _place: f"{value:g}")
        panel.xaxis.set_minor_formatter(lambda value, _place: f"{value:g}")
        panel.tick_params(axis="x", which="minor", labelsize=8)
        panel.margins(x=0.25, y=0.1)
        panel.set(xlabel="milliseconds an image (log scale)", ylabel="ImageNet-1k top-1, published, %", title=title)
        panel.grid(alpha=0.3, which="both")
        if panel.get_legend_handles_labels()[0]:
            panel.legend(loc="lower right")
        return figure

    return render(draw, LIGHT)


def roofline_chart(cost: Cost, peaks: Peaks, title: str) -> bytes:
    """Layers under the machine's roof, and what moves the bytes; PNG."""

    def draw() -> Figure:
        figure = Figure(figsize=(11, 4.6), layout="constrained")
        roof, kinds = figure.subplots(1, 2, width_ratios=(3, 2))
        steps = [10 ** (exponent / 20) for exponent in range(-20, 61)]
        for peak, precision, colour in (
            (peaks.fp32_gflops, "fp32", "tab:blue"),
            (peaks.int8_gops, "int8", "tab:orange"),
        ):
            bound = [min(peak, each * peaks.copy_gb_per_second) for each in steps]
            roof.plot(steps, bound, color=colour, label=f"{precision}: {peak:,.0f} G operations/s")
        by_kind = cost.by_kind()
        for kind, part in by_kind.items():
            layers = [each for each in part.layers if each.macs]
            if layers:
                intensities = [2 * each.macs / each.bytes("fp32") for each in layers]
                heights = [min(peaks.fp32_gflops, each * peaks.copy_gb_per_second) for each in intensities]
                sizes = [4 + 2000 * each.seconds(peaks, "fp32") / cost.seconds(peaks, "fp32") for each in layers]
                roof.scatter(intensities, heights, s=sizes, alpha=0.5, label=kind)
        roof.set(
            xscale="log", yscale="log", xlabel="operations a byte", ylabel="attainable, G operations/s", title=title
        )
        roof.legend(loc="lower right", fontsize=8)
        roof.grid(alpha=0.3)
        names = list(by_kind)
        kinds.barh(names, [by_kind[name].bytes("fp32") / 1e6 for name in names], color="tab:gray")
        kinds.invert_yaxis()
        kinds.set(xlabel="MB read and written in float32", title=f"memory access: {cost.bytes('fp32') / 1e6:.0f} MB")
        return figure

    return render(draw, LIGHT)


def studies_chart(rows: Sequence[StudyRow]) -> bytes:
    """Throughput and bytes moved of each choice, a panel for each study; PNG."""

    def draw() -> Figure:
        studies = list(dict.fromkeys(row.study for row in rows))
        figure = Figure(figsize=(9, 1.2 + 0.42 * len(rows) + 0.6 * len(studies)), layout="constrained")
        panels = figure.subplots(
            len(studies), 2, squeeze=False, height_ratios=[sum(row.study == study for row in rows) for study in studies]
        )
        for (speeds, sizes), study in zip(panels, studies, strict=True):
            chosen = [row for row in rows if row.study == study]
            names = [row.name for row in chosen]
            speeds.barh(names, [row.images_per_second or 0 for row in chosen], color="tab:red")
            sizes.barh(names, [row.cost.bytes("fp32") / 1e6 for row in chosen], color="tab:gray")
            sizes.set_yticklabels([])
            speeds.set(title=f"{study}: images/s")
            sizes.set(title="MB read and written, float32")
            for panel in (speeds, sizes):
                panel.invert_yaxis()
        return figure

    return render(draw, LIGHT)
