"""The paper's claim at a size that a CPU can train: SHViT beside MobileViTv2 and MobileNetV3, one recipe, equal epochs.

Every network is trained from nothing on some classes of Tiny-ImageNet with each seed, on one thread of its own, by
``shvit.training`` (timm's networks too); then all are exported to ONNX and timed beside each other. The ablations are
S1 with a stem of stride 8 (four times the tokens) and with four heads on the same channels. What is finished is kept
in ``--output``, so that a stopped study goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import nn

from common import RESULTS, record
from latency import latencies
from shvit.atomic import atomic_path
from shvit.data import Augmentation, ImageDataset, open_dataset
from shvit.data.splits import Subset
from shvit.models import SHViT, SHViTConfig, create_model

STUDIES = RESULTS.parent.parent / "docs" / "studies"
NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "SHViT-S1": lambda classes: create_model("shvit_s1", num_classes=classes),
    "SHViT-S2": lambda classes: create_model("shvit_s2", num_classes=classes),
    "MobileNetV3-Large": lambda classes: timm.create_model("mobilenetv3_large_100", num_classes=classes),
    "MobileViTv2 x0.5": lambda classes: timm.create_model("mobilevitv2_050", num_classes=classes),
    "S1, stem stride 8": lambda classes: SHViT(SHViTConfig(num_classes=classes, stem_stride=8)),
    "S1, four heads": lambda classes: SHViT(SHViTConfig(num_classes=classes, num_heads=4)),
}


class SomeClasses(Subset):
    """The images of every n-th class, numbered anew."""

    def __init__(self, images: ImageDataset, count: int) -> None:
        chosen = np.linspace(0, len(images.classes), count, endpoint=False).astype(int)
        super().__init__(images, np.flatnonzero(np.isin(images.labels, chosen)), f"{count} classes")
        self.classes = tuple(images.classes[each] for each in chosen)
        self.labels = np.searchsorted(chosen, self.labels)


def train(name: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    from shvit.training import Execution, Optimizer, Recipe, fit, setup

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    recipe = Recipe(
        image_size=args.image_size,
        epochs=args.epochs,
        batch_size=64,
        seed=seed,
        optimizer=Optimizer(lr=1e-3, lr_batch_size=0, weight_decay=0.05, warmup_epochs=1.0),
        augmentation=Augmentation(crop_scale=(0.35, 1.0)),
        ema_decay=0.0,
    )
    train_images, val = (SomeClasses(open_dataset(args.data, split), args.classes) for split in ("train", "val"))
    network = NETWORKS[name](args.classes)
    run = setup(recipe, train_images, val, Path(args.output) / "current" / name, Execution("cpu", workers=0), network)
    accuracies: list[float] = []
    started = time.process_time()  # the processor's time: the other training, or a busy machine, does not count
    fit(run, lambda _, figures: accuracies.extend(v for k, v in figures.items() if k == "val_top1"))
    return {"top1": accuracies[-1], "curve": accuracies, "training_seconds": time.process_time() - started}


def train_all(args: argparse.Namespace) -> dict[str, dict[int, dict[str, Any]]]:
    """Two at a time, each on a core."""

    def one(job: tuple[str, int]) -> dict[str, Any]:
        name, seed = job
        file = Path(args.output) / f"{name}-{args.classes}-{args.image_size}-{args.epochs}-{seed}.json"
        if not file.exists():
            options = ["--data", args.data, "--output", args.output, "--one", name, "--seeds", str(seed)]
            options += [
                f"--{key}={getattr(args, key.replace('-', '_'))}" for key in ("classes", "epochs", "image-size")
            ]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            done = subprocess.run(
                [sys.executable, __file__, *options], stdout=subprocess.PIPE, check=True, env=environment
            )
            with atomic_path(file) as aside:
                aside.write_bytes(done.stdout.splitlines()[-1])
        result = json.loads(file.read_text())
        sys.stderr.write(f"{name}, seed {seed}: {result['top1']:.1%}, {result['training_seconds']:.0f} s\n")
        return result

    jobs = [(name, seed) for seed in args.seeds for name in NETWORKS]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = dict(zip(jobs, pool.map(one, jobs), strict=True))
    return {name: {seed: results[name, seed] for seed in args.seeds} for name in NETWORKS}


def draw(rows: dict[str, dict[str, Any]], file: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for name, row in rows.items():
        low, high = min(row["top1"]), max(row["top1"])
        middle = statistics.mean(row["top1"])
        axes.errorbar(
            row["latency_ms"], 100 * middle, 100 * np.array([[middle - low], [high - middle]]), fmt="o", capsize=3
        )
        axes.annotate(name, (row["latency_ms"], 100 * middle), xytext=(6, 6), textcoords="offset points", fontsize=9)
    axes.set(xscale="log", xlabel="milliseconds for one 224 px image, one thread", ylabel="top-1, %")
    axes.margins(x=0.4, y=0.15)
    axes.grid(alpha=0.3, which="both")
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(file) as aside:
        figure.savefig(aside, dpi=130, format="png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="Tiny-ImageNet, as for shvit train")
    parser.add_argument("--classes", type=int, default=20, help="default: 20, of 200")
    parser.add_argument("--epochs", type=int, default=8, help="default: 8")
    parser.add_argument("--image-size", type=int, default=96, help="side of the training images (default: 96)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="default: 0 1")
    parser.add_argument("--output", default="runs/study", help="where finished runs are kept (default: runs/study)")
    parser.add_argument("--one", choices=tuple(NETWORKS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    folder = Path(args.output)
    folder.mkdir(parents=True, exist_ok=True)
    if args.one:
        sys.stdout.write(json.dumps(train(args.one, args.seeds[0], args)) + "\n")
        return
    trained = train_all(args)
    times = latencies({name: build(1000) for name, build in NETWORKS.items()}, 224, folder, 60)
    rows: dict[str, dict[str, Any]] = {}
    for name, build in NETWORKS.items():
        runs = trained[name].values()
        rows[name] = {
            "parameters": sum(parameter.numel() for parameter in build(args.classes).parameters()),
            "top1": [run["top1"] for run in runs],
            "training_seconds": statistics.mean(run["training_seconds"] for run in runs),
            "latency_ms": statistics.median(times[name]),
            "latency_ratio": statistics.median(
                theirs / ours for theirs, ours in zip(times[name], times["SHViT-S1"], strict=True)
            ),
            "curves": [run["curve"] for run in runs],
        }
    settings = {key: getattr(args, key) for key in ("classes", "epochs", "image_size", "seeds")}
    draw(rows, STUDIES / "tiny_imagenet.png")
    record("study", "python benchmarks/study.py --data DATA", {"settings": settings, "networks": rows})


if __name__ == "__main__":
    main()
