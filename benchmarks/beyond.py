"""Beyond the paper: options of the network, trained alike, beside the paper's network of the same 8-bit latency.

A small SHViT (stem of stride 8, so that 64 px give as many tokens as 128 px do in the published variants) learns 100
of Tiny-ImageNet's classes from nothing, 200 pictures each, without a teacher; every network by the same recipe and with
the same seeds. The paper's network, and a wider one, give accuracy over latency; each option is compared with what that
line has at the option's own latency. Latency is of SHViT-S1 with the same option at 128 px, its int8 file, batch 1, one
thread, in both engines.

Each training is a line of --log; those that are there already, by the same recipe, are not repeated. Time with --time
when nothing else runs.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from common import RESULTS, record
from half_of_tiny_imagenet import SomeClasses
from shvit.atomic import atomic_path
from shvit.bench.networks import ModelFile, calibration_crops, random_network
from shvit.bench.speed import Conditions, time_files
from shvit.card import Card, ClassInfo, Preprocessing
from shvit.data import ImageDataset, open_dataset
from shvit.data.splits import Subset
from shvit.data.transforms import Augmentation
from shvit.modelfile.onnx import set_card
from shvit.modelfile.quantize import quantize_graph
from shvit.models import VARIANTS, SHViT, SHViTConfig, reparameterize
from shvit.models.reparam import folded_network
from shvit.network.graph import deployment_graph
from shvit.training import Execution, evaluate, fit, setup
from shvit.training.recipe import Optimizer, Recipe

STUDIES = RESULTS.parent.parent / "docs" / "studies"
ENGINES = ("onnxruntime", "openvino")
SEEDS = (0, 1, 2)
SIZE = 64
TIMED = (128, 128)
CLASSES, PER_CLASS = 100, 200
SMALL = SHViTConfig(
    widths=(48, 88, 128), depths=(2, 4, 5), partial_dims=(12, 20, 28), stem_stride=8, num_classes=CLASSES
)
S1 = replace(VARIANTS["shvit_s1"], num_classes=CLASSES)


def scaled(config: SHViTConfig, factor: float) -> SHViTConfig:
    """The same network with all widths so many times as large, in multiples of 8."""
    widths = tuple(round(width * factor / 8) * 8 for width in config.widths)
    partial = tuple(round(dim * factor / 4) * 4 for dim in config.partial_dims)
    return replace(config, widths=widths, partial_dims=partial)


Change = Callable[[SHViTConfig], SHViTConfig]

LINE: dict[str, Change] = {"the paper's": lambda base: base, "the paper's, wider": lambda base: scaled(base, 1.25)}
OPTIONS: dict[str, Change] = {
    "gate on the head": lambda base: replace(base, attention_gate=True),
    "last two stages' logits": lambda base: replace(base, head_stages=2),
    "two more branches": lambda base: replace(base, branch_kernels=(3, 1)),
    "attention in every other block": lambda base: replace(base, attention_step=2),
    "attention in the last stage only": lambda base: replace(base, attention=(False, False, True)),
    "two blocks from the last stage to the first": lambda base: replace(base, depths=(4, 4, 3)),
    "squared ReLU": lambda base: replace(base, activation="squared_relu"),
    "hard swish": lambda base: replace(base, activation="hard_swish"),
}
NETWORKS = LINE | OPTIONS


def recipe(seed: int, epochs: int) -> Recipe:
    """One for all: none of the networks has settings of its own."""
    return Recipe(
        image_size=SIZE,
        epochs=epochs,
        batch_size=128,
        seed=seed,
        optimizer=Optimizer(name="muon", lr=4e-3, lr_batch_size=0, weight_decay=0.05, warmup_epochs=1),
        augmentation=Augmentation(crop_scale=(0.35, 1.0)),
        mixup=0.2,
        ema_decay=0.998,
        precision="bf16-mixed",
    )


def datasets(data: Path) -> tuple[ImageDataset, ImageDataset]:
    """Every other class: so many of its training pictures, and all of its validation pictures."""
    labels = list(range(0, 2 * CLASSES, 2))
    train, val = (SomeClasses(open_dataset(data, name), labels) for name in ("train", "val"))
    chosen = [np.flatnonzero(train.labels == label)[:PER_CLASS] for label in range(CLASSES)]
    return Subset(train, np.sort(np.concatenate(chosen))), val


def train(name: str, seed: int, epochs: int, data: Path) -> dict[str, Any]:
    seen, unseen = datasets(data)
    plan = recipe(seed, epochs)
    torch.manual_seed(seed)
    network = SHViT(NETWORKS[name](SMALL))
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        run = setup(plan, seen, unseen, Path(folder), Execution(device="cpu", workers=0), network)
        fit(run)
    last = evaluate(run.evaluated, unseen, run.preprocessing, 128, 0)  # the last epoch, not the luckiest
    return {
        "network": name,
        "seed": seed,
        **_said_of(plan),
        "top1": last.score,
        "loss": last.loss,
        "processor_seconds": time.process_time() - started,
    }


def _said_of(plan: Recipe) -> dict[str, Any]:
    """What a run's line says of its recipe: only runs of the same one are compared."""
    return {"epochs": plan.epochs, "optimizer": plan.optimizer.name, "lr": plan.optimizer.lr}


def runs_in(log: Path, epochs: int) -> list[dict[str, Any]]:
    """Those of the recipe that is trained now."""
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return [each for each in lines if _said_of(recipe(0, epochs)).items() <= each.items()]


def train_all(names: list[str], seeds: list[int], epochs: int, data: Path, log: Path) -> None:
    done = {(each["network"], each["seed"]) for each in runs_in(log, epochs)}
    for seed in seeds:
        for name in names:
            if (name, seed) not in done:
                run = train(name, seed, epochs, data)
                with log.open("a") as file:
                    file.write(json.dumps(run) + "\n")
                print(json.dumps(run), flush=True)


def write_file(name: str, folder: Path) -> ModelFile:
    """SHViT-S1 so changed, in 8 bits, with random weights: speed does not depend on them."""
    torch.manual_seed(0)
    network = random_network(name, SHViT(NETWORKS[name](S1)), TIMED)
    proto = deployment_graph(folded_network(reparameterize(network.module)), TIMED)
    proto = quantize_graph(proto, calibration_crops(TIMED, 64))
    classes = tuple(ClassInfo(place, str(place)) for place in range(CLASSES))
    set_card(proto, Card("beyond", "shvit", classes, Preprocessing(TIMED)))
    path = folder / f"{list(NETWORKS).index(name)}.onnx"
    onnx.save(proto, path)
    return ModelFile(name, "int8", path, "random")


def latencies(seconds: float, rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds of one picture by network and engine, the median over the rounds, in which all take turns."""
    with tempfile.TemporaryDirectory() as folder:
        files = [write_file(name, Path(folder)) for name in NETWORKS]
        timed = time_files(files, Conditions(ENGINES, [1], [1], seconds, rounds))
    result: dict[str, dict[str, float]] = {name: {} for name in NETWORKS}
    for each in timed:
        configuration = each.measurement.configuration
        result[configuration.model][configuration.engine] = float(np.median(each.measurement.round_medians))
    return result


def summarize(runs: list[dict[str, Any]], milliseconds: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """Of each network accuracy, relative latency, and points ahead of the paper's network of the same latency.

    The paper's network of any latency is on the line through its two widths, seed by seed.
    """
    top1 = {(each["network"], each["seed"]): each["top1"] for each in runs}
    first, second = LINE
    rows = []
    for name in NETWORKS:
        seeds = [seed for seed in SEEDS if all((each, seed) in top1 for each in (name, first, second))]
        if not seeds:
            continue
        own = np.array([top1[name, seed] for seed in seeds])
        row: dict[str, Any] = {"network": name, "seeds": len(seeds), "top1": _spread(own)}
        for engine in ENGINES:
            slower, wider = (milliseconds[each][engine] / milliseconds[first][engine] for each in (name, second))
            along = (slower - 1) / (wider - 1)
            line = np.array([(1 - along) * top1[first, seed] + along * top1[second, seed] for seed in seeds])
            row[engine] = {"relative_latency": round(slower, 4), "ahead": _spread(own - line)}
        rows.append(row)
    return rows


def _spread(values: np.ndarray) -> dict[str, float]:
    found = {"low": values.min(), "mean": values.mean(), "high": values.max()}
    return {key: round(float(value), 4) for key, value in found.items()}


def draw(rows: list[dict[str, Any]], file: Path) -> None:
    """How far ahead each option is at equal latency, with the spread over the seeds."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    options = [row for row in rows if row["network"] in OPTIONS][::-1]
    figure, panel = pyplot.subplots(figsize=(8, 0.6 * len(options) + 1), layout="constrained")
    for shift, engine, colour in ((0.12, "onnxruntime", "tab:blue"), (-0.12, "openvino", "tab:orange")):
        low, mean, high = (100 * np.array([row[engine]["ahead"][key] for row in options]) for key in _KEYS)
        places = np.arange(len(options)) + shift
        panel.errorbar(mean, places, xerr=[mean - low, high - mean], fmt="o", capsize=3, color=colour, label=engine)
    panel.axvline(0, color="black", linewidth=0.8)
    panel.set_yticks(range(len(options)), [row["network"] for row in options])
    panel.set_xlabel(
        "points ahead of the paper's network of the same latency (mean, smallest and largest of the seeds)"
    )
    panel.grid(alpha=0.3)
    panel.legend()
    with atomic_path(file) as aside:
        figure.savefig(aside, dpi=130, format="png")


_KEYS = ("low", "mean", "high")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="Tiny-ImageNet: trains what the log lacks")
    parser.add_argument("--log", type=Path, default=RESULTS / "beyond_runs.jsonl")
    parser.add_argument("--networks", nargs="*", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--seeds", nargs="*", type=int, default=list(SEEDS))
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--time", action="store_true", help="time all networks, and write results/ and the picture")
    parser.add_argument("--seconds", type=float, default=4, help="for each network and engine (default: 4)")
    parser.add_argument("--rounds", type=int, default=8)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.data:
        train_all(args.networks, args.seeds, args.epochs, args.data, args.log)
    if args.time:
        runs, milliseconds = runs_in(args.log, args.epochs), latencies(args.seconds, args.rounds)
        rows = summarize(runs, milliseconds)
        draw(rows, STUDIES / "beyond.png")
        result = {"networks": rows, "milliseconds": milliseconds, "runs": runs}
        record("beyond", "python benchmarks/beyond.py --data DATA --time", result)


if __name__ == "__main__":
    main()
