"""A training process for tests that need real ones: started alone, killed, or several together.

``python driver.py DATA FOLDER OPTIONS``, with OPTIONS as JSON: the recipe's fields, and ``kill_at``: at this optimizer
step (of the whole run, in the process of rank ``kill_rank``) the process kills itself as ``kill -9`` does. Every
step's loss and every validation go to ``FOLDER/losses.jsonl``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch

from shvit.data import Augmentation, open_dataset
from shvit.models import SHViT, SHViTConfig
from shvit.training import Execution, Optimizer, Recipe, fit, resume, setup


def small_shvit() -> SHViT:
    """All of SHViT's parts, few of each; the same weights every time."""
    torch.manual_seed(0)
    return SHViT(
        SHViTConfig(widths=(16, 24, 32), depths=(1, 1, 1), partial_dims=(4, 8, 8), num_classes=3, drop_path=0.1)
    )


def main() -> None:
    data, folder, options = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    torch.set_num_threads(1)
    kill_at, kill_rank = options.pop("kill_at", None), options.pop("kill_rank", 0)
    execution = Execution(device="cpu", workers=0, **options.pop("execution", {}))
    optimizer = Optimizer(**options.pop("optimizer", {}))
    augmentation = Augmentation(**options.pop("augmentation", {}))
    recipe = Recipe(optimizer=optimizer, augmentation=augmentation, **options)
    run = setup(recipe, open_dataset(data, "train"), open_dataset(data, "val"), folder, execution, small_shvit())
    resumed = resume(run)
    if run.fabric.is_global_zero:
        with (folder / "losses.jsonl").open("a") as file:
            file.write(json.dumps({"started": run.global_step, "resumed": resumed}) + "\n")

    def on_step(progress, figures) -> None:
        with (folder / "losses.jsonl").open("a") as file:
            file.write(json.dumps({"step": run.global_step, **figures}) + "\n")

    if kill_at is not None and run.fabric.global_rank == kill_rank:
        before = run.schedule.step_update

        def step_update(step: int) -> None:
            if step == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            before(step)

        run.schedule.step_update = step_update
    fit(run, on_step)


if __name__ == "__main__":
    main()
