"""JPEG files to labels on one thread: shvit's runtime against timm + Pillow + PyTorch, with the same weights.

Two sets: Tiny-ImageNet's validation images (64×64) through the shipped model (int8) at 128, where top-1 of both is
compared; and photographs of 500×375 through S1 at 224 with 1000 classes and random weights, in float and in int8, where
decoding weighs in and labels mean nothing. Slices of the files alternate between the two programs.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from common import record, summary
from shvit import Classifier
from shvit.bench.pipeline import (
    BATCH,
    Classify,
    shvit_pipeline,
    timm_network,
    timm_pipeline,
    write_photographs,
)
from shvit.data import ImageDataset, open_dataset
from shvit.export import export_onnx
from shvit.models import SHViT, create_model
from shvit.models.checkpoints import load_model
from shvit.runtime.card import Card, ClassInfo, Preprocessing
from shvit.runtime.preprocess import decode, preprocess

ROOT = Path(__file__).parent.parent


def same_in_timm(model: SHViT) -> nn.Module:
    """timm's network with this one's weights."""
    network = timm_network("shvit_s1", model.num_classes)
    network.load_state_dict(dict(zip(network.state_dict(), model.state_dict().values(), strict=True)))
    return network


def compare(
    ours: Classify, theirs: Classify, paths: list[Path], slices: int
) -> tuple[dict[str, object], list[int | None], list[int | None]]:
    ours(paths[:BATCH]), theirs(paths[:BATCH])  # warm up
    speeds: dict[str, list[float]] = {"shvit": [], "timm": []}
    labels: dict[str, list[int | None]] = {"shvit": [], "timm": []}
    for part in np.array_split(np.array(paths, dtype=object), slices):
        for name, classify in (("shvit", ours), ("timm", theirs)):
            started = time.perf_counter()
            labels[name] += classify(list(part))
            speeds[name].append(len(part) / (time.perf_counter() - started))
    ratios = [a / b for a, b in zip(speeds["shvit"], speeds["timm"], strict=True)]
    figures = {
        "images": len(paths),
        "shvit_images_per_second": summary(speeds["shvit"]),
        "timm_images_per_second": summary(speeds["timm"]),
        "ratio": summary(ratios),
        "same_label": float(np.mean(np.array(labels["shvit"]) == np.array(labels["timm"]))),
    }
    return figures, labels["shvit"], labels["timm"]


def write_files(dataset: ImageDataset, folder: Path, count: int) -> tuple[list[Path], np.ndarray]:
    chosen = np.linspace(0, len(dataset) - 1, count).astype(int)
    paths = [folder / f"{index}.jpg" for index in chosen]
    for path, index in zip(paths, chosen, strict=True):
        path.write_bytes(dataset.read(int(index)))
    return paths, dataset.labels[chosen]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="Tiny-ImageNet, as for shvit train")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--photographs", type=int, default=480)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shipped = load_model(ROOT / "weights/shvit_s1_tiny_imagenet.safetensors")[0]
        paths, labels = write_files(open_dataset(args.data, "val"), folder, args.images)
        tiny, ours, theirs = compare(
            shvit_pipeline(Classifier(threads=1)),
            timm_pipeline(same_in_timm(shipped), (128, 128)),
            paths,
            10,
        )
        tiny["shvit_top1"] = float(np.mean(np.array(ours) == labels))
        tiny["timm_top1"] = float(np.mean(np.array(theirs) == labels))

        torch.manual_seed(0)
        s1 = create_model("shvit_s1").eval()
        card = Card("s1", "shvit_s1", tuple(ClassInfo(i, str(i)) for i in range(1000)), Preprocessing((224, 224)))
        export_onnx(s1, folder / "s1.onnx", card)
        files = write_photographs(folder, args.photographs, sorted((ROOT / "samples").glob("*.jpg")))
        calibration = np.stack([preprocess(decode(file), card.preprocessing) for file in files[:64]])
        export_onnx(s1, folder / "s1_int8.onnx", card, "int8", calibration=calibration)
        photographs = {
            name: compare(
                shvit_pipeline(Classifier(folder / f"{name}.onnx", threads=1)),
                timm_pipeline(same_in_timm(s1), (224, 224)),
                files,
                6,
            )[0]
            for name in ("s1", "s1_int8")
        }
    record(
        "throughput",
        "python benchmarks/throughput.py --data DATA",
        {"threads": 1, "batch_size": BATCH, "tiny_imagenet_128": tiny, "photographs_500x375_224": photographs},
    )


if __name__ == "__main__":
    main()
