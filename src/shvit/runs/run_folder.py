"""A run folder, read back: its recipe, its sessions, its figures, and a line that sums them up."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isfinite, nan
from pathlib import Path
from statistics import median
from typing import Any

from shvit.errors import DataError
from shvit.runs.best import FIGURES, is_better
from shvit.runs.metrics import FILE as METRICS
from shvit.runs.metrics import Row, read_metrics

RECIPE = "recipe.yaml"
ENVIRONMENT = "environment.json"
CURVES = "curves.png"


@dataclass(frozen=True)
class RunRecord:
    """What one run folder holds."""

    name: str
    """The folder's path, as it was given."""
    recipe: Mapping[str, Any]
    sessions: tuple[dict[str, Any], ...]
    """One each time the run was started or resumed, oldest first."""
    rows: tuple[Row, ...]
    """``metrics.csv``."""

    def epochs(self, row: Row) -> float:
        """How many epochs were trained when a row was written, parts of one included."""
        steps = self.sessions[-1].get("steps_per_epoch")
        return row["step"] / steps if steps else row["epoch"]

    def figures(self, name: str) -> tuple[list[float], list[float]]:
        """Epochs, and the finite values that a figure had there."""
        rows = [row for row in self.rows if isfinite(row.get(name, nan))]
        return [self.epochs(row) for row in rows], [row[name] for row in rows]

    @property
    def judged_by(self) -> str:
        """Which of ``FIGURES`` its epochs are judged by; top-1 before a validation."""
        return next((name for name in FIGURES if any(f"val_{name}" in row for row in self.rows)), "top1")

    def best_score(self) -> float | None:
        """That of the epoch that ``best.safetensors`` is of, in [0, 1]; ``None`` before a validation."""
        images, figure = self.sessions[-1].get("validation_images"), f"val_{self.judged_by}"
        if not isinstance(images, int):  # of a run from before the validation loss had a say
            return max(self.figures(figure)[1], default=None)
        best: Row | None = None
        for row in self.rows:
            score, loss = row.get(figure, nan), row.get("val_loss", nan)
            if not (isfinite(score) and isfinite(loss)):
                continue
            if best is None or is_better(score, loss, best[figure], best["val_loss"], images):
                best = row
        return None if best is None else best[figure]


@dataclass(frozen=True)
class RunSummary:
    """A run in one line; ``None`` where it is not known (yet)."""

    name: str
    state: str
    """``finished``, ``stopped``, ``failed: REASON``, ``running or killed``, or ``damaged: REASON``."""
    model: str | None = None
    image_size: int | str | None = None
    """In pixels: a side, or height and width such as 160x320."""
    epochs_done: float | None = None
    epochs: int | None = None
    best_top1: float | None = None
    """Share in [0, 1], on the validation set, of the epoch that was kept as the best."""
    best_map: float | None = None
    """The same of several labels: mean average precision."""
    last_loss: float | None = None
    seconds: float | None = None
    """Time trained and validated, over all sessions."""
    images_per_second: float | None = None
    """Median over the logged steps."""
    teacher: str | None = None
    seed: int | None = None


def find_runs(folder: Path) -> list[Path]:
    """The folder itself when it is a run's, else the run folders right inside it, by name.

    Raises:
        DataError: there is no such folder, or no run in it.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: {'not a folder' if folder.exists() else 'no such folder'}; give a run folder")
    if _is_run(folder):
        return [folder]
    found = sorted(each for each in folder.iterdir() if each.is_dir() and _is_run(each))
    if not found:
        raise DataError(f"{folder}: no run folder, and none in it (looked for {RECIPE}, {ENVIRONMENT} or {METRICS})")
    return found


def _is_run(folder: Path) -> bool:
    try:
        return any((folder / name).exists() for name in (RECIPE, ENVIRONMENT, METRICS))
    except PermissionError:
        return True  # so that its row tells of it


def read_run(folder: Path) -> RunRecord:
    """Reads a run folder.

    Raises:
        DataError: a file is missing or damaged; the message names it.
    """
    import yaml

    try:
        recipe = yaml.safe_load((folder / RECIPE).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{folder / RECIPE}: cannot be read: {_reason(error)}") from None
    if not isinstance(recipe, dict):
        raise DataError(f"{folder / RECIPE}: expected a recipe's keys and values")
    sessions = read_sessions(folder)
    if not sessions:
        raise DataError(f"{folder / ENVIRONMENT}: no such file")
    _get(sessions[-1], "steps_per_epoch", int, ENVIRONMENT)
    return RunRecord(str(folder), recipe, sessions, tuple(read_metrics(folder / METRICS)))


def read_sessions(folder: Path) -> tuple[dict[str, Any], ...]:
    """The sessions that ``environment.json`` tells of; none when there is no such file.

    Raises:
        DataError: it is damaged.
    """
    file = folder / ENVIRONMENT
    try:
        sessions = json.loads(file.read_text(encoding="utf-8"))["sessions"]
        if not sessions or not all(isinstance(each, dict) for each in sessions):
            raise ValueError("expected a list of sessions")
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file}: cannot be read: {_reason(error)}") from None
    return tuple(sessions)


def _reason(error: Exception) -> str:
    """An operating system's, a YAML reader's or another error without what the message around it says."""
    text = getattr(error, "strerror", None) or getattr(error, "problem", None) or str(error) or type(error).__name__
    return " ".join(text.split())[:120]


def summarize(record: RunRecord) -> RunSummary:
    """The run in one line.

    Raises:
        DataError: a value of the recipe or of ``environment.json`` is of a wrong type.
    """
    recipe, rows = record.recipe, record.rows
    distillation = _get(recipe, "distillation", dict, RECIPE) or {}
    losses, rates = record.figures("loss")[1], record.figures("images_per_second")[1]
    return RunSummary(
        name=record.name,
        state=_get(record.sessions[-1], "outcome", str, ENVIRONMENT) or "running or killed",
        model=_get(recipe, "model", str, RECIPE),
        image_size=_get(recipe, "image_size", (int, str), RECIPE),
        epochs_done=record.epochs(rows[-1]) if rows else 0,
        epochs=_get(recipe, "epochs", int, RECIPE),
        **{f"best_{record.judged_by}": record.best_score()},
        last_loss=losses[-1] if losses else None,
        seconds=max(record.figures("seconds")[1], default=None),
        images_per_second=median(rates) if rates else None,
        teacher=_get(distillation, "teacher", str, RECIPE) or _get(distillation, "logits", str, RECIPE),
        seed=_get(recipe, "seed", int, RECIPE),
    )


def _get(values: Mapping[str, Any], key: str, kind: type | tuple[type, ...], file: str) -> Any:
    value = values.get(key)
    if value is not None and not isinstance(value, kind):
        kinds = " or ".join(each.__name__ for each in (kind if isinstance(kind, tuple) else (kind,)))
        raise DataError(f"{file}: {key}: expected {kinds}, got {str(value)[:40]!r}")
    return value


def differences(records: list[RunRecord]) -> dict[str, list[Any]]:
    """Recipe keys, dotted, whose values are not the same in all runs; ``None`` where a run has no such key."""
    recipes = [dict(flatten(record.recipe)) for record in records]
    keys = dict.fromkeys(key for recipe in recipes for key in recipe)
    values = {key: [recipe.get(key) for recipe in recipes] for key in keys}
    return {key: each for key, each in values.items() if any(value != each[0] for value in each)}


def flatten(recipe: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """A recipe's values, nested ones under their dotted key."""
    for key, value in recipe.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
