"""What a run leaves to look at: the recipe, where it ran, CSV and TensorBoard logs, curves, a progress bar."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sized
from dataclasses import asdict
from datetime import datetime
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import torch
import yaml
from lightning_fabric import Fabric
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text
from torch.utils.tensorboard import SummaryWriter

from shvit.atomic import atomic_path, write_json
from shvit.display import as_text, say, terminal
from shvit.errors import DataError, MissingDependencyError
from shvit.install import install_command
from shvit.machine import processor_name
from shvit.runs.best import FIGURES
from shvit.runs.curves import plot_run
from shvit.runs.metrics import FILE as METRICS
from shvit.runs.metrics import MetricsFile
from shvit.runs.progress import Progress as RunProgress
from shvit.runs.run_folder import CURVES, ENVIRONMENT, RECIPE, read_run, read_sessions

PACKAGES = ("shvit", "torch", "torchvision", "timm", "lightning-fabric", "numpy", "pillow")


class LoggedRun(Protocol):
    """What is logged of a run, such as ``shvit.training.Run``."""

    folder: Path
    fabric: Fabric
    progress: RunProgress

    @property
    def recipe(self) -> Any:
        """A dataclass with ``epochs`` and ``seed`` among its fields."""

    @property
    def val(self) -> Sized: ...

    @property
    def steps_per_epoch(self) -> int: ...


class RateColumn(ProgressColumn):
    """How many things are done in a second."""

    def __init__(self, unit: str) -> None:
        super().__init__(Column(no_wrap=True))
        self.unit = unit

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:,.3g} {self.unit}", style="progress.data.speed")


class RunLog:
    """Takes what ``fit`` reports to the run folder, and to the terminal.

    The folder gets ``recipe.yaml``, ``environment.json`` (one entry each time the run is started), ``metrics.csv``,
    TensorBoard's event files and, at the end, ``curves.png``. A resumed run goes on in all of them: what earlier
    sessions logged beyond the place where it goes on is dropped. In a run of several processes the first one logs.

    Args:
        run: set up, and resumed if it is to be.
        every: steps between two rows; by default 50, or as many as make four rows of a shorter epoch.
        wandb: log to Weights & Biases too; its own environment variables say where (``WANDB_MODE=offline`` keeps
            all on this machine).
        progress: a bar on stderr, or lines where that is no terminal.

    Raises:
        MissingDependencyError: ``wandb`` is asked for and not installed.
        DataError: a log of an earlier session is damaged.
    """

    def __init__(self, run: LoggedRun, every: int | None = None, wandb: bool = False, progress: bool = True) -> None:
        self.run, self.wandb, self.progress = run, wandb, progress
        self.every = every or max(1, min(50, run.steps_per_epoch // 4))
        if wandb:
            _import_wandb()

    def __enter__(self) -> RunLog:
        run, folder = self.run, self.run.folder
        if not run.fabric.is_global_zero:
            return self
        start = self._global_step(run.progress)
        self._started = time.monotonic()
        self._sessions = [*read_sessions(folder), describe_session(run)]
        self._metrics = MetricsFile(folder / METRICS, run.progress.epoch, start)
        self._seconds_before = max((row.get("seconds", 0.0) for row in self._metrics.kept), default=0.0)
        with atomic_path(folder / RECIPE) as aside:
            aside.write_text(yaml.safe_dump(_plain(asdict(run.recipe)), sort_keys=False), encoding="utf-8")
        self._tensorboard = _start_tensorboard(folder / "tensorboard", start + 1)
        self._wandb = self._start_wandb() if self.wandb else None
        self._write_sessions()

        self.console = terminal(stderr=True)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            RateColumn("it/s"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}", table_column=Column(no_wrap=True)),
            console=self.console,
            disable=not (self.progress and sys.stderr.isatty()),
            speed_estimate_period=120,
        )
        total = run.recipe.epochs * run.steps_per_epoch
        self._task = self.bar.add_task("training", total=total, completed=start, figures="")
        self._shown: dict[str, float] = {}
        self.bar.start()
        return self

    def __call__(self, progress: RunProgress, figures: Mapping[str, float]) -> None:
        """Takes the figures of a step or of a validation (keys ``val_...``); any name may come at any time."""
        step = self._global_step(progress)
        validated = any(name.startswith("val_") for name in figures)
        if not validated and self.bar.disable and step % self.every:
            return
        row = {**figures, "seconds": self._seconds_before + time.monotonic() - self._started}
        memory = memory_in_use(self.run.fabric.device)
        if memory is not None:
            row["memory_mib"] = round(memory / 2**20)
        self._shown |= {name: row[name] for name in SHOWN if name in row}
        shown = "  ".join(form.format(self._shown[name]) for name, form in SHOWN.items() if name in self._shown)
        # ``progress`` counts finished epochs: a step is of the next one, a validation of the last of them.
        epoch = f"epoch {progress.epoch if validated else progress.epoch + 1} of {self.run.recipe.epochs}"
        self.bar.update(self._task, completed=step, description=epoch, figures=shown)
        if not validated and step % self.every:
            return
        self._metrics.append({"epoch": progress.epoch, "step": step, **row})
        if self._tensorboard is not None:
            for name, value in row.items():
                self._tensorboard.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log({"epoch": progress.epoch, **row}, step=step)
        if self.progress and (validated or self.bar.disable):
            text = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
            self.console.print(f"{epoch}  step {step}  {text}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.run.fabric.is_global_zero:
            return
        self.bar.stop()
        try:
            self._finish(error)
        except (OSError, DataError):
            if error is None:
                raise  # else the run's own error says more, and may well be the same full disk

    def _finish(self, error: BaseException | None) -> None:
        if error is None:
            outcome = "finished"
        elif isinstance(error, KeyboardInterrupt):
            outcome = "stopped"
        else:
            outcome = f"failed: {type(error).__name__}: {' '.join(str(error).split())}"
        self._sessions[-1] |= {"ended": _now(), "outcome": outcome}
        self._write_sessions()
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish(exit_code=int(error is not None))
        plot_run(read_run(self.run.folder), self.run.folder / CURVES)

    def _global_step(self, progress: RunProgress) -> int:
        return progress.epoch * self.run.steps_per_epoch + progress.step

    def _write_sessions(self) -> None:
        write_json({"sessions": self._sessions}, self.run.folder / ENVIRONMENT)

    def _start_wandb(self) -> Any:
        earlier = [each["wandb"] for each in self._sessions if "wandb" in each]
        run = _import_wandb().init(
            project="shvit",
            name=self.run.folder.name,
            dir=self.run.folder,
            id=earlier[-1] if earlier else None,
            resume="allow",
            config=asdict(self.run.recipe),
        )
        self._sessions[-1]["wandb"] = run.id
        return run


SHOWN = {
    "loss": "loss {:.3f}",
    "lr": "lr {:.2g}",
    **{f"val_{name}": f"{called} {{:.1%}}" for name, called in FIGURES.items()},
    "memory_mib": "{:,.0f} MiB",
}
"""Figures beside the progress bar, and how they are written there."""


def describe_session(run: LoggedRun) -> dict[str, Any]:
    """Where, when and with what a run is started, for ``environment.json``."""
    return {
        "started": _now(),
        "ended": None,
        "outcome": None,
        "start": {"epoch": run.progress.epoch, "step": run.progress.step},
        "steps_per_epoch": run.steps_per_epoch,
        "validation_images": len(run.val),
        "command": sys.argv,
        "git": git_revision(Path.cwd()),
        "seed": run.recipe.seed,
        "device": _device_name(run.fabric.device),
        "machine": {"platform": platform.platform(), "processor": processor_name(), "cores": os.cpu_count()},
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def git_revision(folder: Path) -> dict[str, Any] | None:
    """The commit that ``folder`` is at, and whether tracked files differ from it; ``None`` out of a checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return {"revision": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None


def memory_in_use(device: torch.device) -> int | None:
    """Bytes: the most that tensors took on a CUDA device, else the most that this process took."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows does not count it
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _start_tensorboard(folder: Path, purge_step: int) -> SummaryWriter | None:
    if as_text(str(folder)) == str(folder):
        return SummaryWriter(folder, purge_step=purge_step)
    say(f"note: nothing is logged for TensorBoard, which opens names in UTF-8 alone: {folder}", sys.stderr)
    return None


def _import_wandb() -> Any:
    try:
        return import_module("wandb")
    except ImportError:
        raise MissingDependencyError(
            "logging to Weights & Biases needs wandb, which is not installed; install it with: "
            f"{install_command('wandb')}"
        ) from None


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _device_name(device: torch.device) -> str:
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def _plain(value: object) -> object:
    """Tuples as lists, for YAML."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return list(value) if isinstance(value, tuple) else value
