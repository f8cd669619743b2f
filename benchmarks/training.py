"""Training SHViT-S1 at 128 px: ``shvit train``'s loop against timm's, same folder, same settings, images per second.

timm's side does what its ``train.py`` does, with timm's own parts: its loader, model, loss, optimizer, clipping, moving
average and schedule, the loss read once a step. Each runs in a process of its own, alternating; the first steps are not
counted. Memory is the peak of the proportional set size (PSS) of the process and its loader workers, sampled.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from common import record, summary, write_class_folders
from processes import PeakMemory
from shvit.data import Augmentation, open_dataset

SIZE, CLASSES, WARM_UP = 128, 200, 4
CROP_SCALE = (0.35, 1.0)
LR, WEIGHT_DECAY, CLIP, EMA, SMOOTHING = 2e-3, 0.025, 5.0, 0.999, 0.1


class EnoughError(Exception):
    """The steps to be timed are done."""


def shvit_steps(folder: Path, precision: str, batch: int, workers: int, steps: int) -> list[float]:
    from shvit.training import Execution, Optimizer, Recipe, fit, setup

    recipe = Recipe(
        image_size=SIZE,
        epochs=5,
        batch_size=batch,
        optimizer=Optimizer(lr=LR, lr_batch_size=0, weight_decay=WEIGHT_DECAY, clip_grad=CLIP),
        augmentation=Augmentation(crop_scale=CROP_SCALE),
        label_smoothing=SMOOTHING,
        ema_decay=EMA,
        ema_warmup=False,
        precision=precision,  # type: ignore[arg-type]
    )
    images = open_dataset(folder, "train")
    run = setup(recipe, images, images, folder.parent / "run", Execution(device="cpu", workers=workers))
    seconds: list[float] = []

    def on_step(progress: Any, figures: dict[str, float]) -> None:
        seconds.append(batch / figures["images_per_second"])
        if len(seconds) == WARM_UP + steps:
            raise EnoughError

    with contextlib.suppress(EnoughError):
        fit(run, on_step)
    return seconds[WARM_UP:]


def timm_steps(folder: Path, precision: str, batch: int, workers: int, steps: int) -> list[float]:
    import timm
    from timm.data import create_dataset, create_loader
    from timm.loss import LabelSmoothingCrossEntropy
    from timm.optim import create_optimizer_v2
    from timm.scheduler import CosineLRScheduler
    from timm.utils import AverageMeter, ModelEmaV3, dispatch_clip_grad

    model = timm.create_model("shvit_s1", num_classes=CLASSES).to(memory_format=torch.channels_last)
    loader = create_loader(
        create_dataset("", root=str(folder / "train")),
        input_size=(3, SIZE, SIZE),
        batch_size=batch,
        is_training=True,
        scale=CROP_SCALE,
        interpolation="bicubic",
        color_jitter=None,
        num_workers=workers,
        use_prefetcher=False,
    )
    optimizer = create_optimizer_v2(model, opt="adamw", lr=LR, weight_decay=WEIGHT_DECAY)
    schedule = CosineLRScheduler(optimizer, t_initial=5 * len(loader), t_in_epochs=False)
    average, loss_of, meter = ModelEmaV3(model, decay=EMA), LabelSmoothingCrossEntropy(SMOOTHING), AverageMeter()
    amp = torch.autocast("cpu", torch.bfloat16) if precision == "bf16-mixed" else contextlib.nullcontext()
    seconds: list[float] = []
    model.train()
    while True:
        started = time.perf_counter()
        for images, labels in loader:
            with amp:
                loss = loss_of(model(images.contiguous(memory_format=torch.channels_last)), labels)
            loss.backward()
            dispatch_clip_grad(model.parameters(), CLIP)
            optimizer.step()
            optimizer.zero_grad()
            average.update(model, step=len(seconds))
            schedule.step_update(len(seconds))
            meter.update(loss.item(), len(images))
            now = time.perf_counter()
            seconds.append(now - started)
            started = now
            if len(seconds) == WARM_UP + steps:
                return seconds[WARM_UP:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="Tiny-ImageNet, as for shvit train")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=16, help="timed steps in each round (default: 16)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1, help="loader processes (default: 1)")
    parser.add_argument("--one", choices=("shvit", "timm"), help=argparse.SUPPRESS)
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        steps = {"shvit": shvit_steps, "timm": timm_steps}[args.one]
        with PeakMemory(os.getpid()) as memory:
            seconds = steps(Path(args.data), args.precision, args.batch_size, args.workers, args.steps)
        speed = args.batch_size / statistics.median(seconds)
        sys.stdout.write(json.dumps({"speed": speed, "memory": memory.bytes}) + "\n")
        return
    result: dict[str, Any] = {key: getattr(args, key) for key in ("batch_size", "steps", "rounds", "workers")}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "data"
        write_class_folders(open_dataset(args.data, "train"), folder / "train", 20_000)
        (folder / "val").symlink_to(folder / "train")
        for precision in ("32-true", "bf16-mixed"):
            found: dict[str, list[dict[str, float]]] = {"shvit": [], "timm": []}
            for _ in range(args.rounds):
                for side, values in found.items():
                    options = ["--one", side, "--precision", precision, "--data", str(folder)]
                    options += [
                        f"--{key.replace('_', '-')}={result[key]}" for key in ("batch_size", "steps", "workers")
                    ]
                    done = subprocess.run(
                        [sys.executable, __file__, *options], capture_output=True, text=True, check=True
                    )
                    values.append(json.loads(done.stdout.splitlines()[-1]))
            pairs = list(zip(found["shvit"], found["timm"], strict=True))
            result[precision] = {
                **{
                    f"{side}_images_per_second": summary([each["speed"] for each in values])
                    for side, values in found.items()
                },
                **{f"{side}_peak_mb": max(each["memory"] for each in values) / 1e6 for side, values in found.items()},
                "ratio": summary([ours["speed"] / theirs["speed"] for ours, theirs in pairs]),
            }
    record("training", "python benchmarks/training.py --data DATA", result)


if __name__ == "__main__":
    main()
