"""What a run leaves to look at: the recipe, CSV and TensorBoard logs, a progress bar."""

from __future__ import annotations

import csv
import json
import platform
import sys
import time
from dataclasses import asdict
from types import TracebackType

import torch
import yaml
from lightning_fabric.loggers import TensorBoardLogger
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import shvit
from shvit.train.loop import Progress as RunProgress
from shvit.train.loop import Run


class RunLog:
    """Takes what ``fit`` reports to the run folder, and to the terminal.

    The folder gets ``recipe.yaml``, ``environment.json``, ``metrics.csv`` and TensorBoard's event files.
    """

    def __init__(self, run: Run, every: int = 50) -> None:
        self.run, self.every = run, every
        self.tensorboard = TensorBoardLogger(run.folder.parent, name=run.folder.name, version="tensorboard")
        self.console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self.console,
            disable=not sys.stderr.isatty(),
        )
        (run.folder / "recipe.yaml").write_text(yaml.safe_dump(_plain(asdict(run.recipe)), sort_keys=False))
        (run.folder / "environment.json").write_text(
            json.dumps(
                {
                    "command": sys.argv,
                    "shvit": shvit.__version__,
                    "torch": torch.__version__,
                    "python": platform.python_version(),
                    "machine": platform.platform(),
                    "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                },
                indent=2,
            )
            + "\n"
        )

    def __enter__(self) -> RunLog:
        total = self.run.recipe.epochs * self.run.steps_per_epoch
        self.task = self.bar.add_task("training", total=total, figures="")
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()
        self.tensorboard.finalize("success" if kind is None else "failed")

    def _append(self, row: dict[str, float]) -> None:
        """A line of ``metrics.csv``; a resumed run goes on below what is there."""
        path = self.run.folder / "metrics.csv"
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            if new:
                writer.writeheader()
            writer.writerow(row)

    def __call__(self, progress: RunProgress, figures: dict[str, float]) -> None:
        step = progress.epoch * self.run.steps_per_epoch + progress.step
        validated = "val_top1" in figures
        text = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        self.bar.update(self.task, completed=step, description=f"epoch {progress.epoch + 1}", figures=text)
        if not validated and step % self.every:
            return
        self.tensorboard.log_metrics({**figures, "epoch": progress.epoch}, step)
        self._append({"epoch": progress.epoch, "step": step, **figures})
        if validated or self.bar.disable:
            self.console.print(f"epoch {progress.epoch}  step {step}  {text}", highlight=False)


COLUMNS = ("epoch", "step", "loss", "lr", "images_per_second", "val_top1", "val_top5", "val_loss")


def _plain(value: object) -> object:
    """Tuples as lists, for YAML."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return list(value) if isinstance(value, tuple) else value
