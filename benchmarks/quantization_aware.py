"""What int8 loses, and what fine-tuning for it wins back: the shipped network, and one that is hard to quantise.

The second computes the same in float32, but in each of the stem's feature maps one channel is many times as large, as
outliers of badly conditioned trainings are: one scale for all channels then leaves the others few levels. Each is
exported to int8 as it is, after fine-tuning in float32, and after as many steps of quantisation-aware fine-tuning. All
layers are in 8 bits; ranges are from training images.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common import record
from shvit.data import open_dataset
from shvit.data.protocol import ImageDataset
from shvit.data.splits import Subset
from shvit.evaluation.int8 import AccuracyJudge, export_int8
from shvit.modelfile.card import card_for
from shvit.modelfile.report import Int8Accuracy
from shvit.models import SHViT, load_model, save_checkpoint
from shvit.models.reparam import folded_network
from shvit.models.shvit import ConvNorm
from shvit.training import Execution, fit, setup
from shvit.training.defaults import default_recipe

WEIGHTS = Path(__file__).parent.parent / "weights" / "shvit_s1_tiny_imagenet.safetensors"


@torch.no_grad()
def with_outliers(model: SHViT, factor: float) -> None:
    """The same function in float32; the most active channel of each of the stem's rectified maps is larger."""
    layers = [layer for layer in model.stem if isinstance(layer, ConvNorm)]
    for layer, reader in pairwise(layers):
        channel = int((layer.norm.weight.abs() + layer.norm.bias).argmax())
        layer.norm.weight[channel] *= factor
        layer.norm.bias[channel] *= factor
        reader.conv.weight[:, channel] /= factor


def top1(checkpoint: Path, train: ImageDataset, val: ImageDataset) -> dict[str, float]:
    model, stored = load_model(checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        card = card_for(folded_network(model), stored, "network")
        judge = AccuracyJudge(card, train, val, 100, "network.onnx")
        accuracy = export_int8(model, Path(folder) / "network.onnx", card, judge).int8
    assert isinstance(accuracy, Int8Accuracy)
    return {"float32": round(accuracy.float32_top1, 4), "int8": round(accuracy.top1, 4)}


def study(factor: float, args: argparse.Namespace, train: ImageDataset, val: ImageDataset) -> dict[str, Any]:
    results: dict[str, Any] = {"outlier_factor": factor}
    model, stored = load_model(WEIGHTS)
    with_outliers(model, factor)
    preprocessing = {**stored.metadata["preprocessing"], "image_size": [args.image_size] * 2}
    metadata = {"classes": stored.metadata["classes"], "preprocessing": preprocessing}
    with tempfile.TemporaryDirectory() as name:
        start = Path(name) / "start.safetensors"
        save_checkpoint(model, start, metadata=metadata)
        results["as it is"] = top1(start, train, val)
        print(factor, results, flush=True)
        recipe = replace(default_recipe("shvit_s1", len(train), str(start), True), epochs=args.epochs)
        for label, aware in (("fine-tuned in float32", False), ("fine-tuned for int8", True)):
            folder = Path(name) / label.replace(" ", "_")
            execution = Execution(device="cpu", workers=args.workers)
            plan = replace(recipe, quantization_aware=aware, freeze_norm=not aware)
            fit(setup(plan, train, val, folder, execution))
            results[label] = top1(folder / "last.safetensors", train, val)
            print(factor, label, results[label], flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="Tiny-ImageNet")
    parser.add_argument("--images", type=int, default=20_000, help="to fine-tune on (default: 20000)")
    parser.add_argument("--val-images", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--factors", type=float, nargs="+", default=[1, 30])
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    train, val = open_dataset(args.data, "train"), open_dataset(args.data, "val")
    order = np.random.default_rng(0)
    train = Subset(train, order.permutation(len(train))[: args.images])
    val = Subset(val, np.sort(order.permutation(len(val))[: args.val_images]))
    results = [study(factor, args, train, val) for factor in args.factors]
    conditions = {key: value for key, value in vars(args).items() if key not in ("data", "workers", "factors")}
    record("quantization_aware", "python benchmarks/quantization_aware.py --data DATA", {**conditions, "top1": results})


if __name__ == "__main__":
    main()
