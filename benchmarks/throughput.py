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
from shvit.runtime.preprocess import Decoding, decode, preprocess

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


def shvit_pipeline(file: Path, decoding: Decoding) -> Callable[[list[Path]], list[int]]:
    classifier = Classifier(file, engine="onnxruntime", threads=1, batch_size=BATCH, decoding=decoding)

    def classify(paths: list[Path]) -> list[int]:
        return [each.predictions[0].class_id for each in classifier.stream(paths, top_k=1)]

    return classify


def compare(
    file: Path, theirs: Callable[[list[Path]], list[int]], paths: list[Path], slices: int, truth: np.ndarray | None
) -> dict[str, object]:
    programs = {"shvit": shvit_pipeline(file, "exact"), "shvit_fast": shvit_pipeline(file, "fast"), "timm": theirs}
    speeds: dict[str, list[float]] = {name: [] for name in programs}
    labels: dict[str, list[int]] = {name: [] for name in programs}
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
        tiny = compare(
            ROOT / "src/shvit/assets/shvit_s1_tiny_imagenet.onnx", timm_pipeline(shipped, 128), paths, 10, labels
        )

        torch.manual_seed(0)
        s1 = create_model("shvit_s1").eval()
        card = Card("s1", "shvit_s1", tuple(ClassInfo(i, str(i)) for i in range(1000)), Preprocessing((224, 224)))
        export_onnx(s1, folder / "s1.onnx", card)
        files = write_photographs(folder, args.photographs)
        calibration = np.stack([preprocess(decode(file), card.preprocessing) for file in files[:64]])
        export_onnx(s1, folder / "s1_int8.onnx", card, "int8", calibration=calibration)
        photographs = {
            name: compare(folder / f"{name}.onnx", timm_pipeline(s1, 224), files, 6, None) for name in ("s1", "s1_int8")
        }
    record(
        "throughput",
        "python benchmarks/throughput.py --data DATA",
        {"threads": 1, "batch_size": BATCH, "tiny_imagenet_128": tiny, "photographs_500x375_224": photographs},
    )


if __name__ == "__main__":
    main()
