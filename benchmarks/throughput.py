"""JPEG files to labels on one thread: shvit's runtime against timm + Pillow + PyTorch, with the same weights.

Two sets: Tiny-ImageNet's validation images (64×64) through the shipped model (int8) at 128, where top-1 of both is
compared; and photographs of 500×375 through S1 at 224 with 1000 classes and random weights, in float and in int8, where
decoding weighs in and labels mean nothing. shvit runs twice, with exact and with fast decoding. Slices of the files
alternate between the programs.
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
from shvit.card import Card, ClassInfo, Preprocessing
from shvit.data import ImageDataset, open_dataset
from shvit.exporting import export_onnx
from shvit.images.preprocess import decode, preprocess
from shvit.models import create_model
from shvit.models.checkpoints import load_model

ROOT = Path(__file__).parent.parent


def same_in_timm(model: nn.Module) -> nn.Module:
    """timm's network with this one's weights."""
    network = timm_network("shvit_s1", len(model.head.linear.bias))
    network.load_state_dict(dict(zip(network.state_dict(), model.state_dict().values(), strict=True)))
    return network


def compare(
    file: Path, network: nn.Module, size: int, paths: list[Path], slices: int, truth: np.ndarray | None
) -> dict[str, object]:
    programs: dict[str, Classify] = {
        name: shvit_pipeline(Classifier(file, engine="onnxruntime", threads=1, batch_size=BATCH, decoding=decoding))
        for name, decoding in (("shvit", "exact"), ("shvit_fast", "fast"))
    }
    programs["timm"] = timm_pipeline(same_in_timm(network), (size, size))
    speeds: dict[str, list[float]] = {name: [] for name in programs}
    labels: dict[str, list[int | None]] = {name: [] for name in programs}
    for classify in programs.values():
        classify(paths[:BATCH])  # warm up
    for part in np.array_split(np.array(paths, dtype=object), slices):
        for name, classify in programs.items():
            started = time.perf_counter()
            labels[name] += classify(list(part))
            speeds[name].append(len(part) / (time.perf_counter() - started))
    figures: dict[str, object] = {"images": len(paths)}
    for name in programs:
        figures[f"{name}_images_per_second"] = summary(speeds[name])
        if name != "timm":
            ratios = [ours / timm for ours, timm in zip(speeds[name], speeds["timm"], strict=True)]
            suffix = name.removeprefix("shvit")
            figures[f"ratio{suffix}"] = summary(ratios)
            figures[f"same_label{suffix}"] = float(np.mean(np.array(labels[name]) == np.array(labels["timm"])))
        if truth is not None:
            figures[f"{name}_top1"] = float(np.mean(np.array(labels[name]) == truth))
    return figures


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
        file = ROOT / "src/shvit/assets/shvit_s1_tiny_imagenet.onnx"
        tiny = compare(file, shipped, 128, paths, 10, labels)

        torch.manual_seed(0)
        s1 = create_model("shvit_s1").eval()
        card = Card("s1", "shvit_s1", tuple(ClassInfo(i, str(i)) for i in range(1000)), Preprocessing((224, 224)))
        export_onnx(s1, folder / "s1.onnx", card)
        files = write_photographs(folder, args.photographs, sorted((ROOT / "samples").glob("*.jpg")))
        calibration = np.stack([preprocess(decode(file), card.preprocessing) for file in files[:64]])
        export_onnx(s1, folder / "s1_int8.onnx", card, "int8", calibration=calibration)
        photographs = {name: compare(folder / f"{name}.onnx", s1, 224, files, 6, None) for name in ("s1", "s1_int8")}
    record(
        "throughput",
        "python benchmarks/throughput.py --data DATA",
        {"threads": 1, "batch_size": BATCH, "tiny_imagenet_128": tiny, "photographs_500x375_224": photographs},
    )


if __name__ == "__main__":
    main()
