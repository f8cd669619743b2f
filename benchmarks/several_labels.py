"""Several labels on a picture: SHViT-S1 beside timm's MobileNetV3-Large, which is about as fast, by one recipe.

The task: two to four objects of 20 of Tiny-ImageNet's classes on one canvas of 128 px, each of another class, in
quarters of their own, of other sizes and on a coloured ground. Training canvases are made of training images,
validation canvases of validation images, each once, as Parquet with a list of labels. Both networks are trained from
nothing, on a thread of their own, by ``shvit.training``; then S1 once more from the shipped weights, which know the
classes one at a time. What counts is mAP on the validation canvases after the last epoch. Both are exported to ONNX and
timed in turn.

A stopped study goes on with --resume: each run from its newest checkpoint.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import timm
import torch
from PIL import Image
from torch import nn

from common import record
from latency import latencies
from shvit.atomic import atomic_path
from shvit.data import Augmentation, ImageDataset, open_dataset
from shvit.images.preprocess import decode
from shvit.models import SHViT, create_model

WEIGHTS = Path(__file__).parent.parent / "weights" / "shvit_s1_tiny_imagenet.safetensors"
PEER = "mobilenetv3_large_100"
RUNS = {"SHViT-S1": None, f"timm {PEER}": None, "SHViT-S1, from the shipped weights": str(WEIGHTS)}
"""What is trained, and what it starts from."""

CANVAS, QUARTER = 128, 64
"""Sides in pixels."""


def build(name: str, classes: int) -> nn.Module:
    return (
        timm.create_model(PEER, num_classes=classes) if PEER in name else create_model("shvit_s1", num_classes=classes)
    )


def canvas(tiles: list[Image.Image], rng: np.random.Generator) -> bytes:
    """At most four pictures on one, each somewhere in a quarter of its own, as JPEG."""
    ground = Image.new("RGB", (CANVAS, CANVAS), tuple(rng.integers(0, 256, 3).tolist()))
    for quarter, tile in zip(rng.permutation(4), tiles, strict=False):
        side = int(rng.integers(44, QUARTER + 1))
        left, top = rng.integers(0, QUARTER - side + 1, 2).tolist()
        row, column = divmod(int(quarter), 2)
        ground.paste(
            tile.resize((side, side), Image.Resampling.BICUBIC), (QUARTER * column + left, QUARTER * row + top)
        )
    buffer = io.BytesIO()
    ground.save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def write_canvases(images: ImageDataset, classes: np.ndarray, count: int, seed: int, file: Path) -> None:
    """Parquet with ``image`` and ``labels``, by name."""
    rng = np.random.default_rng(seed)
    of_class = {each: np.flatnonzero(images.labels == each) for each in classes.tolist()}
    pictures, labels = [], []
    for _ in range(count):
        chosen = rng.choice(classes, int(rng.integers(2, 5)), replace=False).tolist()
        tiles = [decode(images.read(int(rng.choice(of_class[each])))) for each in chosen]
        pictures.append({"bytes": canvas(tiles, rng), "path": None})
        labels.append([images.classes[each].label for each in chosen])
    with atomic_path(file) as aside:
        pq.write_table(pa.table({"image": pictures, "labels": labels}), aside)


def make_data(args: argparse.Namespace) -> Path:
    folder = Path(args.output) / f"canvases-{args.classes}-{args.canvases}"
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (split, count) in enumerate((("train", args.canvases), ("val", args.canvases // 4))):
        file = folder / f"{split}.parquet"
        if not file.exists():
            images = open_dataset(args.data, split)
            classes = np.linspace(0, len(images.classes), args.classes, endpoint=False).astype(int)
            write_canvases(images, classes, count, seed, file)
    return folder


def train(name: str, data: Path, args: argparse.Namespace) -> dict[str, Any]:
    from shvit.training import Execution, Optimizer, Recipe, fit, resume, setup
    from shvit.training.objectives import begin_with_frequencies

    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    recipe = Recipe(
        image_size=CANVAS,
        crop_ratio=1.0,
        epochs=args.epochs,
        batch_size=64,
        seed=args.seed,
        optimizer=Optimizer(lr=1e-3, lr_batch_size=0, weight_decay=0.05, warmup_epochs=0.5),
        augmentation=Augmentation(crop_scale=(0.9, 1.0)),
        label_smoothing=0.0,
        ema_decay=0.0,
    )
    train_images, val = open_dataset(data, "train"), open_dataset(data, "val")
    network = None
    if RUNS[name] is None:
        network = build(name, len(train_images.classes))
        head = network.head.linear if isinstance(network, SHViT) else network.get_classifier()
        begin_with_frequencies(head, train_images.labels)
    else:
        recipe = replace(recipe, pretrained=RUNS[name], epochs=max(1, args.epochs // 2))
    folder = Path(args.output) / f"{name}-{args.seed}"
    execution = Execution("cpu", workers=0, checkpoint_every_steps=20)
    run = setup(recipe, train_images, val, folder, execution, network)
    if args.resume:
        resume(run)
    curve: list[float] = []
    started = time.process_time()  # the processor's time: the other training, or a busy machine, does not count
    figures = folder / "curve.json"
    if args.resume and figures.exists():
        curve = json.loads(figures.read_text())[: run.progress.epoch]

    def keep(_: Any, found: dict[str, float]) -> None:
        if "val_map" in found:
            curve.append(found["val_map"])
            figures.write_text(json.dumps(curve))
            sys.stderr.write(f"{name}: epoch {len(curve)}, mAP {curve[-1]:.1%}\n")

    fit(run, keep)
    return {
        "map": curve[-1],
        "curve": curve,
        "epochs": recipe.epochs,
        "last_session_seconds": time.process_time() - started,
    }


def train_all(data: Path, args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Two at a time, each on a core."""

    def one(name: str) -> dict[str, Any]:
        file = Path(args.output) / f"{name}-{args.classes}-{args.canvases}-{args.epochs}-{args.seed}.json"
        if not file.exists():
            options = [
                f"--{key}={getattr(args, key)}" for key in ("data", "output", "classes", "canvases", "epochs", "seed")
            ]
            command = [sys.executable, __file__, *options, "--one", name, *(["--resume"] if args.resume else [])]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment)
            with atomic_path(file) as aside:
                aside.write_bytes(done.stdout.splitlines()[-1])
        return json.loads(file.read_text())

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(RUNS, pool.map(one, RUNS), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="Tiny-ImageNet, as for shvit train")
    parser.add_argument("--classes", type=int, default=20, help="default: 20, of 200")
    parser.add_argument("--canvases", type=int, default=6000, help="to train on; a quarter as many to validate")
    parser.add_argument("--epochs", type=int, default=12, help="default: 12; from the shipped weights half as many")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--output", default="runs/several_labels", help="where runs are (default: runs/several_labels)")
    parser.add_argument("--resume", action="store_true", help="go on with what was stopped")
    parser.add_argument("--one", choices=tuple(RUNS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    folder = Path(args.output)
    folder.mkdir(parents=True, exist_ok=True)
    data = make_data(args)
    if args.one:
        sys.stdout.write(json.dumps(train(args.one, data, args)) + "\n")
        return
    trained = train_all(data, args)
    ours, theirs = list(RUNS)[:2]
    times = latencies({name: build(name, args.classes) for name in (ours, theirs)}, CANVAS, folder)
    ratios = [b / a for a, b in zip(times[ours], times[theirs], strict=True)]
    result = {
        "settings": {key: getattr(args, key) for key in ("classes", "canvases", "epochs", "seed")},
        "networks": trained,
        "latency_ms": {name: statistics.median(each) for name, each in times.items()},
        "latency_ratio": statistics.median(ratios),
        "points_above_the_peer": 100 * (trained[ours]["map"] - trained[theirs]["map"]),
    }
    record("several_labels", "python benchmarks/several_labels.py --data DATA", result)


if __name__ == "__main__":
    main()
