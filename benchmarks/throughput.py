"""JPEG files to labels on one thread: shvit's runtime against timm + Pillow + PyTorch, with the same weights.

Two sets: Tiny-ImageNet's validation images (64×64) through the shipped model (int8) at 128, where top-1 of both is
compared; and photographs of 500×375 through S1 at 224 with 1000 classes and random weights, in float and in int8, where
decoding weighs in and labels mean nothing. Slices of the files alternate between the two programs.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from timm.data import create_transform

from common import record, summary
from shvit import Classifier
from shvit.data import ImageDataset, open_dataset
from shvit.export import export_onnx
from shvit.models import SHViT, create_model
from shvit.models.checkpoints import load_model
from shvit.runtime.card import Card, ClassInfo, Preprocessing
from shvit.runtime.preprocess import decode, preprocess

ROOT = Path(__file__).parent.parent
BATCH = 16


def timm_pipeline(model: SHViT, size: int) -> Callable[[list[Path]], list[int]]:
    """What most people write: open, transform, batch, forward."""
    network = timm.create_model("shvit_s1", num_classes=model.num_classes).eval()
    network.load_state_dict(dict(zip(network.state_dict(), model.state_dict().values(), strict=True)))
    transform = create_transform(input_size=(3, size, size), interpolation="bicubic", crop_pct=0.875)

    @torch.inference_mode()
    def classify(paths: list[Path]) -> list[int]:
        labels: list[int] = []
        for start in range(0, len(paths), BATCH):
            images = [transform(Image.open(path).convert("RGB")) for path in paths[start : start + BATCH]]
            labels += network(torch.stack(images)).softmax(-1).argmax(-1).tolist()
        return labels

    return classify


def shvit_pipeline(file: Path) -> Callable[[list[Path]], list[int]]:
    classifier = Classifier(file, threads=1)

    def classify(paths: list[Path]) -> list[int]:
        return [each.predictions[0].class_id for each in classifier.stream(paths, top_k=1, batch_size=BATCH)]

    return classify


def compare(
    ours: Callable[[list[Path]], list[int]], theirs: Callable[[list[Path]], list[int]], paths: list[Path], slices: int
) -> tuple[dict[str, object], list[int], list[int]]:
    ours(paths[:BATCH]), theirs(paths[:BATCH])  # warm up
    speeds: dict[str, list[float]] = {"shvit": [], "timm": []}
    labels: dict[str, list[int]] = {"shvit": [], "timm": []}
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


def write_photographs(folder: Path, count: int) -> list[Path]:
    """Photographs of a common size, about 100 kB each, cut from the samples."""
    samples = [Image.open(path).convert("RGB") for path in sorted((ROOT / "samples").glob("*.jpg"))]
    rng = np.random.default_rng(0)
    paths = []
    for number in range(count):
        image = samples[number % len(samples)]
        left, top = (rng.uniform(0, 0.2) * side for side in image.size)
        cut = image.resize((500, 375), Image.Resampling.BICUBIC, box=(left, top, *image.size))
        paths.append(folder / f"photo{number}.jpg")
        cut.save(paths[-1], quality=95)
    return paths


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
            shvit_pipeline(ROOT / "src/shvit/assets/shvit_s1_tiny_imagenet.onnx"),
            timm_pipeline(shipped, 128),
            paths,
            10,
        )
        tiny["shvit_top1"] = float(np.mean(np.array(ours) == labels))
        tiny["timm_top1"] = float(np.mean(np.array(theirs) == labels))

        torch.manual_seed(0)
        s1 = create_model("shvit_s1").eval()
        card = Card("s1", "shvit_s1", tuple(ClassInfo(i, str(i)) for i in range(1000)), Preprocessing((224, 224)))
        export_onnx(s1, folder / "s1.onnx", card)
        files = write_photographs(folder, args.photographs)
        calibration = np.stack([preprocess(decode(file), card.preprocessing) for file in files[:64]])
        export_onnx(s1, folder / "s1_int8.onnx", card, "int8", calibration=calibration)
        photographs = {
            name: compare(shvit_pipeline(folder / f"{name}.onnx"), timm_pipeline(s1, 224), files, 6)[0]
            for name in ("s1", "s1_int8")
        }
    record(
        "throughput",
        "python benchmarks/throughput.py --data DATA",
        {"threads": 1, "batch_size": BATCH, "tiny_imagenet_128": tiny, "photographs_500x375_224": photographs},
    )


if __name__ == "__main__":
    main()
