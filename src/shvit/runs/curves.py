"""Training curves as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from shvit.atomic import write_encoded
from shvit.display import as_text
from shvit.errors import DataError
from shvit.runs.best import FIGURES
from shvit.runs.run_folder import RunRecord

LINE_STYLES = ("-", "--", ":", "-.")


@rc_context({"text.parse_math": False})  # a folder's name is no formula, whatever dollars it has
def plot_run(record: RunRecord, path: Path) -> None:
    """One run: the losses, the learning rate and the validation accuracy against epochs, as a PNG."""
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    name = as_text(Path(record.name).name)
    figure.suptitle(f"{name}: {record.recipe.get('model')} at {record.recipe.get('image_size')} px")
    panels = figure.subplots(2, 2, sharex=True)
    for panel, title, names in (
        (panels[0, 0], "training loss", {"loss": "loss"}),
        (panels[0, 1], "validation accuracy, %", _accuracies(record)),
        (panels[1, 0], "learning rate", {"lr": "rate"}),
        (panels[1, 1], "validation loss", {"val_loss": "loss"}),
    ):
        for name, label in names.items():
            _draw(panel, record, name, label)
        _label(panel, title)
    for panel in panels[1]:
        panel.set_xlabel("epochs")
    panels[0, 1].legend()
    _save(figure, path)


@rc_context({"text.parse_math": False})
def plot_comparison(records: Sequence[RunRecord], path: Path) -> None:
    """Validation top-1 (or mAP) of several runs against epochs, as a PNG.

    Raises:
        DataError: no run has validated yet.
    """
    validated = [record for record in records if record.best_score() is not None]
    if not validated:
        raise DataError("no run has validated yet: there is no curve to draw")
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    panel = figure.subplots()
    for number, record in enumerate(validated):
        style = LINE_STYLES[number // 10 % len(LINE_STYLES)]
        _draw(panel, record, f"val_{record.judged_by}", f"{record.name} (best {record.best_score():.1%})", style)
    called = dict.fromkeys(FIGURES[record.judged_by] for record in validated)
    _label(panel, f"validation {' and '.join(called)}, %")
    panel.set_xlabel("epochs")
    figure.legend(loc="outside lower center", ncols=2)
    _save(figure, path)


def _accuracies(record: RunRecord) -> dict[str, str]:
    """The shares that a run has, and what they are called."""
    known = {"val_top1": "top-1", "val_top5": "top-5", "val_map": "mAP", "val_f1": "F1 at 0.5"}
    found = {name: label for name, label in known.items() if record.figures(name)[1]}
    return found or {"val_top1": "top-1"}


def _draw(panel: Axes, record: RunRecord, name: str, label: str, style: str = "-") -> None:
    epochs, values = record.figures(name)
    if name.startswith("val_") and name != "val_loss":
        values = [value * 100 for value in values]
    # A validation is one point an epoch: mark it, or a run of one epoch shows nothing.
    panel.plot(epochs, values, style, marker="o" if name.startswith("val_") else None, markersize=3, label=label)
    if epochs:
        panel.set_xlim(left=0)


def _label(panel: Axes, title: str) -> None:
    panel.set_title(title, fontsize="medium")
    panel.grid(alpha=0.3)


def _save(figure: Figure, path: Path) -> None:
    write_encoded(lambda file: figure.savefig(file, format="png", dpi=120), path)
