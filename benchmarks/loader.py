"""JPEG files to normalised training batches: shvit's loader against timm's, on the same folders.

Two folders: Tiny-ImageNet (64×64, resized to 128) and photographs of 500×375 (resized to 224). Each with a random
resized crop and mirror alone, with colour jitter, and with RandAugment. Whole epochs of the two alternate, from the
loader's start to the last batch as ``float32 (B, 3, H, W)``: timm normalises each image in the worker, shvit each
batch in the main process. With one worker process and two the clock on the wall counts; both loaders start their
workers anew in each epoch, at the same priority. With none the CPU time counts, which other work on the machine
disturbs least.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
from timm.data import create_dataset, create_loader
from torch import Tensor

from common import record, summary, write_class_folders
from shvit.data import Augmentation, open_dataset, training_loader
from shvit.data.loader import normalize
from shvit.data.sampler import EpochSampler
from shvit.data.transforms import TrainTransform
from throughput import write_photographs

BATCH = 64
CROP = Augmentation(crop_scale=(0.08, 1.0))
# Without mstd: at full strength timm's posterize asks for 0 bits, which Pillow refuses since version 13.
AUGMENTATIONS = {
    "crop_and_mirror": CROP,
    "color_jitter": replace(CROP, color_jitter=0.4),
    "rand_augment": replace(CROP, rand_augment="rand-m8-inc1"),
}


def shvit_epochs(folder: Path, size: int, augmentation: Augmentation, workers: int) -> Callable[[], Iterable[Tensor]]:
    images = open_dataset(folder, "train")
    transform = TrainTransform(augmentation, size, seed=0)
    epochs = count()

    def epoch() -> Iterable[Tensor]:
        sampler = EpochSampler(len(images), BATCH, seed=0, epoch=next(epochs))
        return (normalize(batch.images) for batch in training_loader(images, transform, sampler, workers))

    return epoch


def timm_epochs(folder: Path, size: int, augmentation: Augmentation, workers: int) -> Callable[[], Iterable[Tensor]]:
    loader = create_loader(
        create_dataset("", root=str(folder / "train")),
        input_size=(3, size, size),
        batch_size=BATCH,
        is_training=True,
        scale=augmentation.crop_scale,
        interpolation=augmentation.interpolation,
        color_jitter=augmentation.color_jitter or None,
        auto_augment=augmentation.rand_augment,
        num_workers=workers,
        use_prefetcher=False,
        persistent_workers=False,
        worker_seeding=same_priority,
    )
    return lambda: (images for images, _ in loader)


def same_priority(worker: Any) -> int:
    """timm's hook for a worker's seed; the priority is what shvit's loader gives its workers."""
    os.nice(9)
    return worker.seed


def images_per_second(epoch: Iterable[Tensor], clock: Callable[[], float]) -> float:
    started = clock()
    images = sum(len(batch) for batch in epoch)
    return images / (clock() - started)


def compare(folder: Path, size: int, augmentation: Augmentation, workers: int, rounds: int) -> dict[str, object]:
    programs = {
        "shvit": shvit_epochs(folder, size, augmentation, workers),
        "timm": timm_epochs(folder, size, augmentation, workers),
    }
    clock = time.perf_counter if workers else time.process_time
    for epochs in programs.values():  # warm up
        images_per_second(epochs(), clock)
    speeds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, epochs in programs.items():
            speeds[name].append(images_per_second(epochs(), clock))
    return {
        **{f"{name}_images_per_second": summary(values) for name, values in speeds.items()},
        "ratio": summary([a / b for a, b in zip(speeds["shvit"], speeds["timm"], strict=True)]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="Tiny-ImageNet, as for shvit train")
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--photographs", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, object] = {"batch_size": BATCH, "rounds": args.rounds}
    with tempfile.TemporaryDirectory() as name:
        tiny, photographs = Path(name, "tiny"), Path(name, "photographs")
        write_class_folders(open_dataset(args.data, "train"), tiny / "train", args.images)
        (photographs / "train" / "all").mkdir(parents=True)
        write_photographs(photographs / "train" / "all", args.photographs)
        for folder, size in ((tiny, 128), (photographs, 224)):
            for label, augmentation in AUGMENTATIONS.items():
                for workers in (0, 1, 2):
                    figures = compare(folder, size, augmentation, workers, args.rounds)
                    results[f"{folder.name}_{size}_{label}_{workers}_workers"] = figures
                    print(folder.name, label, workers, figures["ratio"])
    sizes = f"--images {args.images} --photographs {args.photographs} --rounds {args.rounds}"
    record("loader", f"python benchmarks/loader.py --data DATA {sizes}", results)


if __name__ == "__main__":
    main()
