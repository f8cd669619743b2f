"""When it is worth to train: a linear head on features as they are (`shvit teach`) beside fine-tuning (`shvit train`).

The network is of half_of_tiny_imagenet.py, and knows 100 of Tiny-ImageNet's classes. From the other 100, ten classes
are drawn, and of each so many pictures; all ways start from the same weights, and are measured on the 50 validation
pictures of each class. Small pictures, so that it ends on a CPU.

Ways:
  teach  shvit.heads.linear on the features of each picture and its mirror image
  plain  scikit-learn's regression on the pictures' features, its strength by its own cross-validation
  random fine-tuning from a random head: shvit train --pretrained FILE --head-start random --lr 1e-3
  head   fine-tuning from a fitted head: shvit train --pretrained FILE --head-start linear --lr 3e-4
  faster the same with --lr 1e-3

Each run is a line of --log; runs that are there already are not repeated.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from common import RESULTS, record
from half_of_tiny_imagenet import NEW, SomeClasses
from shvit.atomic import atomic_path
from shvit.card import Preprocessing
from shvit.data import ImageDataset, open_dataset
from shvit.data.loader import evaluation_loader, normalize
from shvit.data.splits import Subset, split_dataset
from shvit.heads.linear import fit_linear_head
from shvit.models import SHViT, load_model
from shvit.network.training_metadata import stored_preprocessing
from shvit.training import Execution, evaluate, fit, setup
from shvit.training.defaults import default_recipe

STUDIES = RESULTS.parent.parent / "docs" / "studies"
CLASSES = 10
HELD_OUT = 0.1
"""Of the pictures, what `shvit train` chooses its best epoch by. Teaching takes all."""


class Trial(NamedTuple):
    way: str
    per_class: int
    resampling: int
    """Decides which classes, and which pictures of them: those of fewer are among those of more."""


@cache
def split_of(data: Path, name: str) -> ImageDataset:
    return open_dataset(data, name)


def sample(data: Path, per_class: int, resampling: int) -> tuple[ImageDataset, ImageDataset]:
    """Pictures to learn from, and the validation pictures of the same classes."""
    random = np.random.default_rng(resampling)
    labels = sorted(random.choice(NEW, CLASSES, replace=False).tolist())
    train, unseen = (SomeClasses(split_of(data, name), labels) for name in ("train", "val"))
    chosen = [random.permutation(np.flatnonzero(train.labels == label))[:per_class] for label in range(CLASSES)]
    return Subset(train, np.sort(np.concatenate(chosen))), unseen


@torch.inference_mode()
def features(network: SHViT, images: ImageDataset, preprocessing: Preprocessing, views: int) -> np.ndarray:
    """``float32 (N, views, channels)``: of the pictures, and where there are two views of their mirror images."""
    rows = []
    for batch in evaluation_loader(images, preprocessing, 64, 0):
        pixels = normalize(batch.images)
        seen = (pixels, pixels.flip(3))[:views]
        pooled = [network(each, pre_logits=True) for each in seen]
        rows.append(torch.stack([each for each in pooled if isinstance(each, Tensor)], 1).numpy())
    return np.concatenate(rows)


class Setting(NamedTuple):
    data: Path
    backbone: Path


def teach(trial: Trial, setting: Setting) -> tuple[float, dict[str, Any]]:
    network, preprocessing = backbone(setting.backbone)
    seen, unseen = sample(setting.data, trial.per_class, trial.resampling)
    fitted = fit_linear_head(features(network, seen, preprocessing, 2), seen.labels, CLASSES)
    expected = float((fitted.held_out.argmax(1) == seen.labels).mean())
    logits = fitted.head.logits(features(network, unseen, preprocessing, 1)[:, 0])
    return float((logits.argmax(1) == unseen.labels).mean()), {"expected": expected, "penalty": fitted.penalty}


def plain(trial: Trial, setting: Setting) -> tuple[float, dict[str, Any]]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    network, preprocessing = backbone(setting.backbone)
    seen, unseen = sample(setting.data, trial.per_class, trial.resampling)
    regression = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    strengths = {"logisticregression__C": np.logspace(-5, 1, 13)}
    search = GridSearchCV(regression, strengths, cv=5, scoring="neg_log_loss")
    search.fit(features(network, seen, preprocessing, 1)[:, 0], seen.labels)
    found = search.predict(features(network, unseen, preprocessing, 1)[:, 0])
    return float((found == unseen.labels).mean()), {"strength": search.best_params_["logisticregression__C"]}


def fine_tuned(
    trial: Trial, setting: Setting, head_start: Literal["random", "linear"], lr: float
) -> tuple[float, dict[str, Any]]:
    """What `shvit train` does by default for so many pictures, but for these two."""
    seen, unseen = sample(setting.data, trial.per_class, trial.resampling)
    train, val = split_dataset(seen, HELD_OUT, trial.resampling)
    recipe = default_recipe("shvit_s1", len(train), str(setting.backbone))
    optimizer = replace(recipe.optimizer, lr=lr, lr_batch_size=0)
    recipe = replace(recipe, head_start=head_start, optimizer=optimizer, seed=trial.resampling)
    with tempfile.TemporaryDirectory() as folder:
        run = setup(recipe, train, val, Path(folder), Execution(device="cpu", workers=0))
        progress = fit(run)
        network, _ = load_model(Path(folder) / "best.safetensors")
        last, _ = load_model(Path(folder) / "last.safetensors")
    top1 = [evaluate(each, unseen, run.preprocessing, 64, 0).score for each in (network, last)]
    more = {"last": top1[1], "epochs": recipe.epochs, "best_epoch": progress.best_epoch}
    return top1[0], {**more, "batch_size": recipe.batch_size}


WAYS: dict[str, Callable[[Trial, Setting], tuple[float, dict[str, Any]]]] = {
    "teach": teach,
    "plain": plain,
    "head": partial(fine_tuned, head_start="linear", lr=3e-4),
    "faster": partial(fine_tuned, head_start="linear", lr=1e-3),
    "random": partial(fine_tuned, head_start="random", lr=1e-3),
}


@cache
def backbone(file: Path) -> tuple[SHViT, Preprocessing]:
    network, checkpoint = load_model(file)
    preprocessing = stored_preprocessing(checkpoint)
    assert preprocessing is not None
    return network, preprocessing


def run(trial: Trial, setting: Setting) -> dict[str, Any]:
    started, busy = time.perf_counter(), time.process_time()
    top1, more = WAYS[trial.way](trial, setting)
    seconds, processor = time.perf_counter() - started, time.process_time() - busy
    more = {key: round(value, 4) if isinstance(value, float) else value for key, value in more.items()}
    times = {"processor_seconds": round(processor, 1), "seconds": round(seconds, 1)}
    return {**trial._asdict(), "top1": round(top1, 4), **more, **times}


def summarize(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """By way and pictures a class: mean, smallest and largest accuracy, and processor time; pairs of ways; all runs."""
    rows = []
    for way in WAYS:
        for count in sorted({each["per_class"] for each in runs}):
            same = [each for each in runs if (each["way"], each["per_class"]) == (way, count)]
            if same:
                top1 = [each["top1"] for each in same]
                rows.append(
                    {
                        "way": way,
                        "per_class": count,
                        "resamplings": len(same),
                        "top1": round(float(np.mean(top1)), 4),
                        "low": min(top1),
                        "high": max(top1),
                        "processor_seconds": round(float(np.median([each["processor_seconds"] for each in same])), 1),
                    }
                )
    by_trial = {(each["way"], each["per_class"], each["resampling"]): each["top1"] for each in runs}
    differences = []
    for first, second in (
        ("teach", "plain"),
        ("head", "teach"),
        ("faster", "teach"),
        ("random", "teach"),
        ("head", "random"),
        ("faster", "head"),
    ):
        for count in sorted({each["per_class"] for each in runs}):
            found = [
                by_trial[first, count, place] - by_trial[second, count, place]
                for way, size, place in by_trial
                if (way, size) == (first, count) and (second, count, place) in by_trial
            ]
            if found:
                low, mean, high = min(found), float(np.mean(found)), max(found)
                differences.append(
                    {
                        "of": f"{first} - {second}",
                        "per_class": count,
                        "resamplings": len(found),
                        **{key: round(value, 4) for key, value in (("mean", mean), ("low", low), ("high", high))},
                    }
                )
    return {"ways": rows, "differences": differences, "runs": runs}


STYLES = {
    "random": ("train, head at random", "tab:green"),
    "head": ("train, from a fitted head", "tab:orange"),
    "faster": ("the same, rate 0.001", "tab:purple"),
    "teach": ("teach: a head on the features", "black"),
}


def draw(result: dict[str, Any], file: Path) -> None:
    """How far ahead of teaching each way is, with the spread over the resamplings, and processor time."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    figure, (ahead, cost) = pyplot.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for place, (way, (title, colour)) in enumerate(STYLES.items()):
        rows = [row for row in result["ways"] if row["way"] == way]
        cost.plot([row["per_class"] for row in rows], [row["processor_seconds"] for row in rows], "o-", color=colour)
        pairs = [row for row in result["differences"] if row["of"] == f"{way} - teach"]
        if not pairs:
            ahead.axhline(0, color=colour, label=title)
            continue
        low, mean, high = (100 * np.array([row[key] for row in pairs]) for key in ("low", "mean", "high"))
        beside = np.array([row["per_class"] for row in pairs]) * 1.04 ** (
            place - 1
        )  # so that bars do not cover one another
        bars = [mean - low, high - mean]
        ahead.errorbar(beside, mean, bars, marker="o", capsize=3, color=colour, label=title)
    ahead.set(ylabel="points ahead of teach, same pictures", xscale="log")
    cost.set(ylabel="processor time, s", xscale="log", yscale="log")
    for panel in (ahead, cost):
        panel.set_xlabel("pictures of a class")
        panel.set_xticks(sorted({row["per_class"] for row in result["ways"]}))
        panel.xaxis.set_major_formatter(ScalarFormatter())
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.grid(alpha=0.3)
    cost.yaxis.set_major_formatter(ScalarFormatter())
    ahead.legend()
    with atomic_path(file) as aside:
        figure.savefig(aside, dpi=130, format="png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="Tiny-ImageNet, as for shvit train")
    parser.add_argument("--backbone", type=Path, required=True, help="best.safetensors of half_of_tiny_imagenet.py")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--per-class", type=int, nargs="+", default=[10, 20, 50, 200])
    parser.add_argument("--resamplings", type=int, default=5)
    parser.add_argument("--log", type=Path, default=Path("teach_or_train.jsonl"))
    parser.add_argument("--record", action="store_true", help="write results/ and the picture from the log's runs")
    args = parser.parse_args()
    torch.set_num_threads(1)
    done = [json.loads(line) for line in args.log.read_text().splitlines()] if args.log.exists() else []
    known = {Trial(each["way"], each["per_class"], each["resampling"]) for each in done}
    trials = [Trial(w, n, r) for r in range(args.resamplings) for n in args.per_class for w in args.ways]
    setting = Setting(args.data, args.backbone)
    with args.log.open("a") as log:
        for trial in trials:
            if trial not in known:
                done.append(run(trial, setting))
                print(json.dumps(done[-1]), file=log, flush=True)
                print(json.dumps(done[-1]), flush=True)
    if args.record:
        result = summarize(done)
        draw(result, STUDIES / "small_folders.png")
        record("teach_or_train", "python benchmarks/teach_or_train.py --data DATA --backbone FILE --record", result)


if __name__ == "__main__":
    main()
