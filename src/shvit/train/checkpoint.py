"""A run's checkpoints: everything that going on needs, and nothing that runs code when it is read.

A checkpoint has no random state: every draw of a run is a function of the seed and the place in the run.
"""

from __future__ import annotations

import io
from dataclasses import asdict
from pathlib import Path

import torch

from shvit.atomic import atomic_path
from shvit.errors import CheckpointError
from shvit.train.run import Run

FOLDER = "checkpoints"


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of the run in ``folder``, oldest first."""
    return sorted((folder / FOLDER).glob("step-*.pt"))


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
    earlier = [each for each in checkpoints(run.folder) if each != path]
    # Through memory, because then the operating system's reason reaches the user.
    content = io.BytesIO()
    torch.save(state, content)
    try:
        path.parent.mkdir(exist_ok=True)
        with atomic_path(path) as aside:
            aside.write_bytes(content.getbuffer())
    except OSError as error:
        kept = f"{earlier[-1]} is whole" if earlier else "there is no earlier one"
        raise CheckpointError(
            f"{path}: cannot be written: {error.strerror or error}; {kept}; mend that and go on with --resume auto"
        ) from None
    for old in earlier[: len(earlier) + 1 - run.execution.keep_checkpoints]:
        old.unlink()


def resume(run: Run) -> bool:
    """Takes up the run in ``run.folder`` at its newest checkpoint; ``False`` when there is none.

    Raises:
        CheckpointError: the checkpoint cannot be read, or belongs to another recipe or network.
    """
    found = checkpoints(run.folder)
    if not found:
        return False
    path = found[-1]
    before = f"go on from {found[-2].name} by deleting it" if len(found) > 1 else "start again in another folder"
    try:
        state = torch.load(path, map_location=run.fabric.device, weights_only=True)
        saved, own = state["recipe"], asdict(run.recipe)
    except Exception as error:  # of many kinds: what torch and zipfile make of a damaged file
        raise CheckpointError(f"{path}: cannot be read ({str(error).splitlines()[0][:120]}); {before}") from None
    if changed := sorted(key for key in own.keys() | saved.keys() if saved.get(key) != own.get(key)):
        raise CheckpointError(
            f"{path}: the run had another recipe; changed: {', '.join(changed)}; "
            "give the recipe it began with (recipe.yaml beside it), or another --output"
        )
    try:
        run.network.load_state_dict(state["model"])
        if run.ema is not None:
            run.ema.module.load_state_dict(state["ema"])
        run.optimizer.load_state_dict(state["optimizer"])
        run.fabric.strategy.precision.load_state_dict(state["precision"])
        run.progress = type(run.progress)(**state["progress"])
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0][:200]
        raise CheckpointError(f"{path}: is not of this network and dataset: {reason}") from None
    return True
