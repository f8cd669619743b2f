"""How far the shipped model's maps can be trusted, and what they cost.

- Localisation: photographs of the validation split, small, in each corner of a plain picture; how often the class
  activation is largest in that corner, of those that are classified rightly (one of four by chance).
- Cells: which part of the input a token depends on: 8×8 pixels after another are painted over, and how much the token's
  features change is recorded. Even cells of the input are what `shvit explain` draws.
- Rounding: how much of a token's attention goes elsewhere in the int8 file than in the same network in float32.
- Cost: seconds of `Explainer.explain` beside `Classifier.predict`, in turns, one thread, without drawing.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from common import record, summary
from shvit import Classifier, Explainer
from shvit.data.datasets import open_dataset
from shvit.engines.onnx_graph import read_nodes
from shvit.engines.onnxruntime import ONNXRuntimeEngine
from shvit.images.preprocess import decode
from shvit.modelfile.onnx import set_card, to_proto
from shvit.modelfile.source import Source
from shvit.models.checkpoints import load_model
from shvit.models.reparam import folded_network

WEIGHTS = Path(__file__).parent.parent / "weights/shvit_s1_tiny_imagenet.safetensors"
BACKGROUNDS = {"white": "white", "grey": (128, 128, 128), "black": "black"}
PATCH = 8
"""Side of what is painted over, in pixels of the input."""


def localisation(explainer: Explainer, photographs: list[tuple[bytes, int]]) -> dict[str, Any]:
    height, width = explainer.card.preprocessing.image_size
    result = {}
    for name, colour in BACKGROUNDS.items():
        hits = []
        for encoded, label in photographs:
            small = decode(encoded).resize((width * 9 // 16, height * 9 // 16), Image.Resampling.BICUBIC)
            for row, column in np.ndindex(2, 2):
                picture = Image.new("RGB", (round(width / 0.875), round(height / 0.875)), colour)
                left = (picture.width - width) // 2 + column * (width - small.width)
                picture.paste(small, (left, (picture.height - height) // 2 + row * (height - small.height)))
                explanation = explainer.explain(picture)
                if explanation.predictions[0].class_id == label:
                    values = explanation.class_activation()
                    hits.append(np.unravel_index(values.argmax(), values.shape) == (row, column))
        result[name] = {"classified_rightly": len(hits), "share_in_the_corner": float(np.mean(hits))}
    return result


def cells(classifier: Classifier, photographs: list[tuple[bytes, int]]) -> dict[str, Any]:
    """For each stage's last feature map, the share of all change that comes from a token's own cell."""
    outputs = {name for node in read_nodes(classifier.path.read_bytes()) for name in node.outputs}
    last = {}
    for stage in (2, 3):
        blocks = [name for name in outputs if name.startswith(f"stages.{stage - 1}.blocks.") and name.endswith(".ffn")]
        last[stage] = max(blocks)
    engine = ONNXRuntimeEngine(classifier.path, 1, tuple(last.values()))
    height, width = classifier.card.preprocessing.image_size
    rows, columns = height // PATCH, width // PATCH
    change: dict[int, Any] = dict.fromkeys(last, 0.0)
    for encoded, _ in photographs:
        pixels = classifier.preprocess(encoded)
        batch = np.repeat(pixels[None], rows * columns + 1, axis=0)
        for place, (row, column) in enumerate(np.ndindex(rows, columns)):
            batch[place, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH] = pixels.mean((0, 1))
        _, found = engine.infer_with_outputs(batch)
        for stage, name in last.items():
            features = found[name]
            difference = np.linalg.norm(features[:-1] - features[-1], axis=1)
            change[stage] = change[stage] + difference.reshape(rows, columns, *difference.shape[1:])
    result = {}
    for stage, values in change.items():
        down, across = values.shape[2:]
        own = []
        for row, column in np.ndindex(down, across):
            of_token = values[..., row, column]
            of_cell = of_token.reshape(down, rows // down, across, columns // across)[row, :, column]
            own.append(of_cell.sum() / of_token.sum())
        profile = (values.sum((1, 3)) / values.sum((0, 1, 3))).T  # of each row of tokens, over the input's rows
        result[f"stage_{stage}"] = {
            "share_of_change_from_its_own_cell": float(np.mean(own)),
            "share_if_all_places_were_alike": 1 / (down * across),
            "by_input_row_of_patches": profile.astype(float).round(3).tolist(),
        }
    return result


def rounding(explainer: Explainer, photographs: list[tuple[bytes, int]]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "float32.onnx"
        proto = to_proto(Source(folded_network(load_model(WEIGHTS)[0]), path, explainer.card, "fp32"))
        set_card(proto, explainer.card)
        path.write_bytes(proto.SerializeToString())
        exact = Explainer(path, threads=1)
        elsewhere: dict[tuple[int, int], list[float]] = {place: [] for place in explainer.blocks}
        for encoded, _ in photographs:
            ours, theirs = explainer.explain(encoded), exact.explain(encoded)
            for place, values in elsewhere.items():
                difference = np.abs(ours.attention[place] - theirs.attention[place])
                values.append(float(difference.sum((2, 3)).mean()) / 2)
    by_block = {f"stage {stage} block {block}": float(np.mean(values)) for (stage, block), values in elsewhere.items()}
    return {"share_of_attention_elsewhere": float(np.mean(list(by_block.values()))), **by_block}


def cost(explainer: Explainer, classifier: Classifier, encoded: bytes, rounds: int) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {"explain": [], "predict": []}
    for turn in range(rounds + 3):
        for name, call in (("explain", explainer.explain), ("predict", classifier.predict)):
            began = time.perf_counter()
            call(encoded)
            if turn >= 3:
                seconds[name].append(time.perf_counter() - began)
    ratios = [a / b for a, b in zip(seconds["explain"], seconds["predict"], strict=True)]
    return {**{name: summary(values) for name, values in seconds.items()}, "explain_over_predict": summary(ratios)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="Tiny-ImageNet")
    parser.add_argument("--images", type=int, default=500)
    args = parser.parse_args()
    dataset = open_dataset(args.data, "val")
    chosen = np.linspace(0, len(dataset) - 1, args.images).astype(int)
    photographs = [(dataset.read(int(index)), int(dataset.labels[index])) for index in chosen]
    explainer, classifier = Explainer(threads=1), Classifier(engine="onnxruntime", threads=1)
    record(
        "explain",
        f"python benchmarks/explain.py --data DATA --images {args.images}",
        {
            "model": classifier.card.name,
            "images": len(photographs),
            "localisation": localisation(explainer, photographs),
            "cells": cells(classifier, photographs[:: max(1, args.images // 20)]),
            "rounding": rounding(explainer, photographs),
            "cost": cost(explainer, classifier, photographs[0][0], 200),
        },
    )


if __name__ == "__main__":
    main()
