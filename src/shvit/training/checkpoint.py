"""A run's checkpoints: everything that going on needs, and nothing that runs code when it is read.

A checkpoint has no random state: every draw of a run is a function of the seed and the place in the run.
"""

from __future__ import annotations

import io
import re
import warnings
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from shvit.atomic import atomic_path
from shvit.errors import CheckpointError
from shvit.network.integrity import check_archive
from shvit.runs.progress import Progress
from shvit.training.recipe import Recipe
from shvit.training.run import Run

FOLDER = "checkpoints"
DAMAGED = ".damaged"
"""Put behind the name of a checkpoint that could not be used."""

_NAME = re.compile(r"step-(\d{8,})\.pt")
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_SMALL_FLOATS = tuple(
    getattr(torch, f"float8_{kind}") for kind in ("e4m3fn", "e4m3fnuz", "e5m2", "e5m2fnuz", "e8m0fnu")
)
_PARTS = {"model", "ema", "optimizer", "precision", "progress", "recipe"}


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of the run in ``folder``, oldest first."""
    found = [path for path in (folder / FOLDER).glob("step-*.pt") if _NAME.fullmatch(path.name)]
    return sorted(found, key=_step)


def _step(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def save(run: Run) -> None:
    """Writes a checkpoint: aside, flushed to the disk, then renamed; drops those past ``keep_checkpoints``.

    Raises:
        CheckpointError: it cannot be written, as on a full disk; earlier ones are whole.
    """
    state = {
        "model": run.network.state_dict(),
        "ema": run.ema.module.state_dict() if run.ema is not None else None,
        "optimizer": run.optimizer.state_dict(),
        "precision": run.fabric.strategy.precision.state_dict(),
        "progress": asdict(run.progress),
        "recipe": asdict(run.recipe),
    }
    path = run.folder / FOLDER / f"step-{run.global_step:08d}.pt"
    # Through memory, because then the operating system's reason reaches the user.
    content = io.BytesIO()
    torch.save(state, content)
    try:
        path.parent.mkdir(exist_ok=True)
        with atomic_path(path) as aside:
            aside.write_bytes(content.getbuffer())
    except OSError as error:
        earlier = [each for each in checkpoints(run.folder) if each != path]
        kept = f"{earlier[-1]} is whole" if earlier else "there is no earlier one"
        raise CheckpointError(
            f"{path}: cannot be written: {error.strerror or error}; {kept}; mend that and go on with --resume auto"
        ) from None
    # A later step is not of this course of the run: it says nothing about which of these are the newest.
    passed = [each for each in checkpoints(run.folder) if _step(each) <= run.global_step]
    for old in passed[: -run.execution.keep_checkpoints]:
        with suppress(OSError):  # a folder of that name, or one's that may not be deleted
            old.unlink()


def _read(path: Path) -> dict[str, Any]:
    """A checkpoint's parts, on the CPU, after all of the file was compared with its checksums.

    Raises:
        ValueError: it is damaged, of another kind, or of a run that had diverged; the message says which.
    """
    try:
        if not path.is_file():
            raise ValueError("not a file")
        content = io.BytesIO(path.read_bytes())
        check_archive(content)
        content.seek(0)
        state = torch.load(content, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # of many kinds: what torch and zipfile make of a damaged file
        text = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise ValueError(
            text if text.startswith(("damaged", "refused", "not a file")) else f"damaged: {text}"
        ) from None
    if not isinstance(state, dict) or not state.keys() >= _PARTS:
        raise ValueError("not a checkpoint of a training run")
    for part in ("model", "ema"):
        tensors = state[part] or {}
        if not isinstance(tensors, dict) or not all(isinstance(each, torch.Tensor) for each in tensors.values()):
            raise ValueError("not a checkpoint of a training run")
        if not all(map(_is_finite, tensors.values())):
            raise ValueError("its weights are not finite")
    return state


def _is_finite(tensor: torch.Tensor) -> bool:
    """Whether a tensor of floating-point numbers has no infinity and no NaN; PyTorch asks no 8-bit ones."""
    if tensor.dtype in _SMALL_FLOATS:
        tensor = tensor.float()
    return tensor.dtype not in _FLOATS or bool(tensor.isfinite().all())


def last_good(folder: Path) -> Path | None:
    """The newest checkpoint of the run in ``folder`` that it can go on from; ``None`` when there is none."""
    for path in reversed(checkpoints(folder)):
        with suppress(ValueError):
            _read(path)
            return path
    return None


def resume(run: Run) -> bool:
    """Takes up the run in ``run.folder`` at its newest whole checkpoint; ``False`` when there is none at all.

    Newer ones that are damaged are warned of and renamed, so that they neither count nor are lost. All processes take
    up the one that the first process finds.

    Raises:
        CheckpointError: no checkpoint is whole, or it belongs to another recipe or network.
    """
    state: dict[str, Any] | None = None
    found: Path | None = None
    unusable: dict[Path, str] = {}
    if run.fabric.is_global_zero:
        state, found, unusable = _newest_whole(run.folder)
    found, unusable = run.fabric.broadcast((found, unusable))
    if found is None and unusable:
        each = "; ".join(f"{path.name} ({reason})" for path, reason in unusable.items())
        raise CheckpointError(
            f"{run.folder / FOLDER}: no checkpoint can be used: {each}; put a copy of one back, or start again in "
            "another folder"
        )
    if found is None:
        return False
    if state is None:
        try:
            state = _read(found)
        except ValueError as error:
            raise CheckpointError(f"{found}: the first process can read it, this one cannot: {error}") from None
    saved, own = state["recipe"], asdict(run.recipe)
    # A field that an older version did not know has the value that it has by default.
    saved = {**asdict(Recipe()), **saved} if isinstance(saved, dict) else {}
    if changed := sorted(key for key in own.keys() | saved.keys() if saved.get(key) != own.get(key)):
        raise CheckpointError(
            f"{found}: the run had another recipe; changed: {', '.join(changed)}; "
            "give the recipe it began with (recipe.yaml beside it), or another --output"
        )
    try:
        run.network.load_state_dict(state["model"])
        if run.ema is not None:
            run.ema.module.load_state_dict(state["ema"])
        run.optimizer.load_state_dict(state["optimizer"])
        run.fabric.strategy.precision.load_state_dict(state["precision"])
        run.progress = Progress(**_renamed(state["progress"]))
    except (KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        reason = str(error).splitlines()[0][:200]
        raise CheckpointError(f"{found}: is not of this network and dataset: {reason}") from None
    if run.fabric.is_global_zero:
        for path, reason in unusable.items():
            with suppress(OSError):
                path.rename(path.with_name(path.name + DAMAGED))
            warnings.warn(
                f"{path}: {reason}; it is left out (now {path.name}{DAMAGED}), the run goes on from {found.name}",
                stacklevel=2,
            )
    return True


def _renamed(progress: dict[str, Any]) -> dict[str, Any]:
    """As this version calls its fields; the best one's score was its top-1 before there were several labels."""
    return {{"best_top1": "best_score"}.get(name, name): value for name, value in progress.items()}


def _newest_whole(folder: Path) -> tuple[dict[str, Any] | None, Path | None, dict[Path, str]]:
    """Its parts and its path, and why each newer one cannot be used, newest first."""
    unusable: dict[Path, str] = {}
    for path in reversed(checkpoints(folder)):
        try:
            return _read(path), path, unusable
        except ValueError as error:
            unusable[path] = str(error)
    return None, None, unusable
