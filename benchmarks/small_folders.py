"""How good the defaults of fine-tuning are on small folders, beside other settings.

Five small tasks of different kinds: blood cells cut out of microscope pictures (BCCD), objects cut out of photographs
(COCO), groups of Tiny-ImageNet's classes (validation pictures: their classes are known to the shipped weights, the
groups are not), generated drawings and generated textures. Each is fine-tuned from the shipped weights by what
`shvit train` does by default, and by the same recipe with one thing changed: rate, epochs, rates of early layers,
augmentation, what the head begins from. What counts is the accuracy of best.safetensors on unseen pictures, and whether
its scores mean something (expected calibration error). Small images, so that it ends on a CPU.

Each run is a line of --log; runs that are there already are not repeated.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import multiprocessing
import shlex
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from functools import cache, partial, reduce
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter

from common import RESULTS, record
from shvit.card import ClassInfo
from shvit.data import open_dataset
from shvit.data.loader import evaluation_loader, normalize
from shvit.data.protocol import ImageDataset
from shvit.data.splits import Subset, split_dataset
from shvit.evaluation.metrics import Predictions, calibration, rank
from shvit.models import load_model
from shvit.training import Execution, fit, setup
from shvit.training.defaults import default_recipe
from shvit.training.recipe import Recipe
from shvit.training.run import preprocessing_of

WEIGHTS = Path(__file__).parent.parent / "weights" / "shvit_s1_tiny_imagenet.safetensors"
UNSEEN = 40
"""Pictures of each class, at most, that a run is measured on."""
SIDE = 80
"""Longest side of the pictures, in pixels."""

OBJECTS = ("person", "furniture", "kitchen", "food", "vehicle", "animal")
"""COCO's kinds of objects of which there are enough."""
GROUPS = {
    "sea": (0, 13, 14, 17, 18, 19, 46, 196),
    "amphibians and reptiles": (1, 2, 3, 4, 5),
    "insects and spiders": (7, 8, 9, 36, 37, 38, 39, 41, 42, 43, 44, 45),
    "birds": (11, 20, 21, 22),
    "dogs": (24, 25, 26, 27, 28, 29),
    "cats": (30, 31, 32, 33, 34),
    "hoofed animals": (48, 49, 50, 51, 52, 53),
    "vehicles": (70, 81, 94, 103, 107, 116, 121, 133, 145, 153, 164, 166),
    "clothes": (62, 74, 77, 85, 105, 112, 120, 134, 144, 149, 158),
    "food": (178, 179, 180, 181, 182, 183, 184, 186, 187, 188, 190, 191),
}
"""Tiny-ImageNet's labels of each group."""


class Pictures:
    """Encoded pictures in memory, as the lab's datasets."""

    def __init__(self, name: str, classes: tuple[str, ...], pictures: list[tuple[int, Image.Image]]) -> None:
        self.name = name
        self.classes = tuple(ClassInfo(number, each) for number, each in enumerate(classes))
        self.labels = np.array([label for label, _ in pictures], np.int64)
        self._encoded = [_encode(picture) for _, picture in pictures]

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> bytes:
        return self._encoded[index]

    def source(self, index: int) -> str:
        return f"{self.name}/{index}"


def _encode(picture: Image.Image) -> bytes:
    picture = picture.convert("RGB")
    picture.thumbnail((SIDE, SIDE))
    encoded = io.BytesIO()
    picture.save(encoded, "JPEG", quality=92)
    return encoded.getvalue()


def cells(data: Path) -> Pictures:
    """Each cell with a little around it; red cells, which are many, of every twelfth place only."""
    classes, pictures = ("RBC", "WBC", "Platelets"), []
    for file in sorted((data / "bccd" / "Annotations").glob("*.xml")):
        picture = Image.open(data / "bccd" / "JPEGImages" / f"{file.stem}.jpg")
        for place, each in enumerate(ElementTree.parse(file).getroot().iter("object")):
            name = each.findtext("name", "")
            left, top, right, bottom = (int(each.findtext(f"bndbox/{side}", "0")) for side in _SIDES)
            if min(right - left, bottom - top) >= 12 and (name != "RBC" or place % 12 == 0):
                pictures.append((classes.index(name), _cut(picture, (left, top, right - left, bottom - top))))
    return Pictures("cells", classes, pictures)


_SIDES = ("xmin", "ymin", "xmax", "ymax")


def _cut(picture: Image.Image, box: tuple[float, float, float, float]) -> Image.Image:
    """A square around a box (left, top, width, height), a fifth larger than it."""
    left, top, width, height = box
    half = max(width, height) * 0.6
    x, y = left + width / 2, top + height / 2
    corners = (max(x - half, 0), max(y - half, 0), min(x + half, picture.width), min(y + half, picture.height))
    return picture.crop(tuple(round(each) for each in corners))


def objects(data: Path) -> Pictures:
    pictures = []
    for split in ("train2017", "val2017"):
        content = json.loads((data / "coco-tiny" / "annotations" / f"instances_{split}.json").read_text())
        kinds = {each["id"]: each["supercategory"] for each in content["categories"]}
        files = {each["id"]: each["file_name"] for each in content["images"]}
        for each in content["annotations"]:
            kind = kinds[each["category_id"]]
            if kind in OBJECTS and not each.get("iscrowd") and min(each["bbox"][2:]) >= 32:
                with Image.open(data / "coco-tiny" / split / files[each["image_id"]]) as picture:
                    pictures.append((OBJECTS.index(kind), _cut(picture, each["bbox"])))
    return Pictures("objects", OBJECTS, pictures)


def groups(data: Path) -> Pictures:
    images = open_dataset(data / "tiny-imagenet", "val")
    group_of = {label: group for group, labels in enumerate(GROUPS.values()) for label in labels}
    found = [(group_of[int(label)], index) for index, label in enumerate(images.labels) if int(label) in group_of]
    return Pictures(
        "groups", tuple(GROUPS), [(group, Image.open(io.BytesIO(images.read(index)))) for group, index in found]
    )


def drawings(count: int = 160) -> Pictures:
    """Outlines of ten shapes in a shaky hand, any colours, over a few stray lines."""
    rng = np.random.default_rng(0)
    pictures = [(label, _drawing(shape, rng)) for label, shape in enumerate(SHAPES) for _ in range(count)]
    return Pictures("drawings", SHAPES, pictures)


SHAPES = ("circle", "ellipse", "triangle", "square", "pentagon", "star", "cross", "spiral", "zigzag", "heart")


def _outline(shape: str) -> np.ndarray:
    """``(N, 2)``, within -1 to 1."""
    turn = np.linspace(0, 2 * math.pi, 60)
    corners = {"triangle": 3, "square": 4, "pentagon": 5}
    if shape in corners:
        angles = np.linspace(0, 2 * math.pi, corners[shape] + 1)
        return np.stack([np.sin(angles), np.cos(angles)], 1)
    if shape == "star":
        angles, radius = np.linspace(0, 2 * math.pi, 11), np.where(np.arange(11) % 2, 0.45, 1)
        return np.stack([radius * np.sin(angles), radius * np.cos(angles)], 1)
    if shape == "cross":
        x = [-0.3, 0.3, 0.3, 1, 1, 0.3, 0.3, -0.3, -0.3, -1, -1, -0.3, -0.3]
        y = [-1, -1, -0.3, -0.3, 0.3, 0.3, 1, 1, 0.3, 0.3, -0.3, -0.3, -1]
        return np.stack([x, y], 1)
    if shape == "spiral":
        angles = np.linspace(0, 5 * math.pi, 80)
        return np.stack([np.sin(angles), np.cos(angles)], 1) * (angles / angles[-1])[:, None]
    if shape == "zigzag":
        return np.stack([np.linspace(-1, 1, 7), np.where(np.arange(7) % 2, 0.5, -0.5)], 1)
    if shape == "heart":
        y = 13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn) - np.cos(4 * turn)
        return np.stack([np.sin(turn) ** 3, -y / 16], 1)
    return np.stack([np.sin(turn), np.cos(turn) * (0.5 if shape == "ellipse" else 1)], 1)


def _drawing(shape: str, rng: np.random.Generator) -> Image.Image:
    colours = rng.integers(0, 256, (2, 3))
    while np.abs(colours[0] - colours[1]).sum() < 150:
        colours = rng.integers(0, 256, (2, 3))
    paper, ink = (tuple(int(level) for level in colour) for colour in colours)
    picture = Image.new("RGB", (96, 96), paper)
    pen = ImageDraw.Draw(picture)
    for _ in range(rng.integers(0, 4)):
        pen.line([tuple(point) for point in rng.uniform(0, 96, (2, 2)).tolist()], ink, int(rng.integers(1, 3)))
    points, angle = _outline(shape), rng.uniform(-0.6, 0.6)
    points = points @ np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    points = points * rng.uniform(18, 36, 1) * rng.uniform(0.85, 1.15, 2) + rng.uniform(40, 56, 2)
    points += rng.normal(0, 1.2, points.shape)
    pen.line([tuple(point) for point in points.tolist()], ink, int(rng.integers(1, 5)), joint="curve")
    return picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 1))))


TEXTURES = ("noise", "clouds", "cells", "stripes", "rings", "weave", "bricks", "dots")


def textures(count: int = 160) -> Pictures:
    """Eight families of patterns, each of any scale, direction, colours and some grain."""
    rng = np.random.default_rng(1)
    pictures = [(label, _texture(kind, rng)) for label, kind in enumerate(TEXTURES) for _ in range(count)]
    return Pictures("textures", TEXTURES, pictures)


def _smooth(rng: np.random.Generator, side: int) -> np.ndarray:
    """``(96, 96)`` noise without details smaller than 96 / side pixels, within 0 to 1."""
    coarse = Image.fromarray(rng.integers(0, 256, (side, side), dtype=np.uint8))
    return np.asarray(coarse.resize((96, 96), Image.Resampling.BICUBIC), float) / 255


def _texture(kind: str, rng: np.random.Generator) -> Image.Image:
    y, x = np.mgrid[:96, :96] + rng.uniform(0, 96, (2, 1, 1))
    angle, period = rng.uniform(0, math.pi), rng.uniform(8, 24)
    bend = (_smooth(rng, 5) - 0.5) * period
    u, v = x * math.cos(angle) + y * math.sin(angle) + bend, y * math.cos(angle) - x * math.sin(angle)
    if kind == "noise":
        level = _smooth(rng, int(rng.integers(12, 40)))
    elif kind == "clouds":
        level = sum(_smooth(rng, 3 << octave) / 2**octave for octave in range(4)) / 1.9
    elif kind == "cells":
        centres = rng.uniform(0, 96, (2, int(rng.integers(12, 50)), 1, 1))
        rows, columns = np.mgrid[:96, :96]
        near = np.sort(np.hypot(rows - centres[0], columns - centres[1]), axis=0)
        level = (near[1] - near[0]) / 12
    elif kind == "stripes":
        level = np.sin(2 * math.pi * u / period) / 2 + 0.5
    elif kind == "rings":
        level = np.sin(2 * math.pi * (np.hypot(x - x.mean(), y - y.mean()) + 2 * bend) / period) / 2 + 0.5
    elif kind == "weave":
        over = (np.floor(u / period) + np.floor(v / period)) % 2
        level = np.where(over, np.sin(2 * math.pi * u / period), np.sin(2 * math.pi * v / period)) / 2 + 0.5
    elif kind == "bricks":
        row = np.floor(v / period)
        column = u + (row % 2) * period
        level = ((v % period > 2) & (column % (2 * period) > 2)).astype(float)
    else:
        level = (np.hypot(u % period - period / 2, v % period - period / 2) < period * rng.uniform(0.2, 0.4)) * 1.0
    level = np.clip(level, 0, 1)[..., None]
    dark, light = rng.uniform(0, 255, (2, 3))
    pixels = dark + (light - dark) * level + rng.normal(0, rng.uniform(0, 25), (96, 96, 1))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


TASKS: dict[str, Callable[[Path], Pictures]] = {
    "cells": cells,
    "objects": objects,
    "groups": groups,
    "drawings": lambda _: drawings(),
    "textures": lambda _: textures(),
}


@cache
def task(name: str, data: Path) -> Pictures:
    return TASKS[name](data)


Change = Callable[[Recipe], Recipe]


def rate(factor: float) -> Change:
    return lambda recipe: replace(recipe, optimizer=replace(recipe.optimizer, lr=recipe.optimizer.lr * factor))


def epochs(factor: float) -> Change:
    return lambda recipe: replace(recipe, epochs=round(recipe.epochs * factor))


def layer_decay(decay: float) -> Change:
    return lambda recipe: replace(recipe, optimizer=replace(recipe.optimizer, layer_decay=decay))


def augmented(mixup: float, cutmix: float, **changes: Any) -> Change:
    return lambda recipe: replace(
        recipe, mixup=mixup, cutmix=cutmix, augmentation=replace(recipe.augmentation, **changes)
    )


def fitted(recipe: Recipe) -> Recipe:
    return replace(recipe, head_start="linear")


def together(*changes: Change) -> Change:
    return lambda recipe: reduce(lambda changed, change: change(changed), changes, recipe)


GENTLE = layer_decay(0.4)
STRONG = augmented(0.2, 1.0, crop_scale=(0.2, 1.0), color_jitter=0.4)

SETTINGS: dict[str, Change] = {
    "default": lambda recipe: recipe,
    "rate / 3": rate(1 / 3),
    "rate x 3": rate(3),
    "epochs / 2": epochs(1 / 2),
    "epochs x 2": epochs(2),
    "one rate for all layers": layer_decay(1.0),
    "early layers slower": layer_decay(0.7),
    "early layers hardly moved": GENTLE,
    "light augmentation": augmented(0, 0, crop_scale=(0.6, 1.0), color_jitter=0.0),
    "strong augmentation": STRONG,
    "head fitted first": fitted,
    "head fitted first, rate x 0.3": together(fitted, rate(0.3)),
    "head fitted first, rate x 3": together(fitted, rate(3)),
    "fitted head alone": together(fitted, epochs(0)),
    "early layers hardly moved, strong augmentation": together(GENTLE, STRONG),
    "early layers hardly moved, strong augmentation, head fitted first": together(fitted, GENTLE, STRONG),
}
"""What is changed of the default recipe."""


class Trial(NamedTuple):
    """One fine-tuning."""

    task: str
    per_class: int
    """Pictures of each class, of which `shvit train` holds a tenth out."""
    seed: int
    setting: str
    """One of SETTINGS."""


CONDITIONS = ("image_size", "precision", "from_nothing")
"""Of all trials of a study."""


def parts(pictures: Pictures, per_class: int, seed: int) -> tuple[Subset, Subset]:
    """Pictures to fine-tune on, and unseen ones, which are the same whatever per_class is."""
    rng = np.random.default_rng(seed)
    seen, unseen = [], []
    for label in range(len(pictures.classes)):
        order = rng.permutation(np.flatnonzero(pictures.labels == label))
        unseen.append(order[:UNSEEN])
        seen.append(order[UNSEEN : UNSEEN + per_class])
    return Subset(pictures, np.concatenate(seen)), Subset(pictures, np.concatenate(unseen))


@torch.inference_mode()
def predictions(weights: Path, images: ImageDataset, image_size: int) -> Predictions:
    model, _ = load_model(weights)
    model.eval()
    recipe = replace(default_recipe("shvit_s1", len(images), None), image_size=image_size)
    probabilities, labels = [], []
    for batch in evaluation_loader(images, preprocessing_of(recipe), 64, 0):
        probabilities.append(model(normalize(batch.images)).softmax(1).double().numpy())
        labels += [[int(label)] for label in batch.labels]
    return rank(np.concatenate(probabilities), labels, np.arange(len(labels)))


def run(trial: Trial, data: Path, image_size: int, precision: Any, from_nothing: bool) -> dict[str, Any]:
    torch.set_num_threads(1)
    seen, unseen = parts(task(trial.task, data), trial.per_class, trial.seed)
    train, val = split_dataset(seen, 0.1, trial.seed)
    recipe = default_recipe("shvit_s1", len(train), None if from_nothing else str(WEIGHTS))
    recipe = SETTINGS[trial.setting](replace(recipe, image_size=image_size, precision=precision, seed=trial.seed))
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        progress = fit(setup(recipe, train, val, Path(folder), Execution(device="cpu", workers=0)))
        seconds = time.process_time() - started
        result = predictions(Path(folder) / "best.safetensors", unseen, image_size)
        last = predictions(Path(folder) / "last.safetensors", unseen, image_size)
    return {
        **trial._asdict(),
        "lr": recipe.optimizer.lr,
        "epochs": recipe.epochs,
        "batch_size": recipe.batch_size,
        "steps": recipe.epochs * (len(train) // recipe.batch_size),
        "image_size": image_size,
        "precision": precision,
        "from_nothing": from_nothing,
        "top1": round(result.top1, 4),
        "best_epoch": progress.best_epoch,
        "last": round(last.top1, 4),
        "ece": round(calibration(result).error, 4),
        "confidence": round(float(result.confidence.mean()), 4),
        "loss": round(result.loss, 4),
        "unseen": len(result),
        "processor_seconds": round(seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with bccd/, coco-tiny/ and tiny-imagenet/")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--per-class", type=int, nargs="+", default=[10, 50])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS), metavar="SETTING")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--precision", default="bf16-mixed")
    parser.add_argument("--from-nothing", action="store_true", help="random weights instead of the shipped ones")
    parser.add_argument("--processes", type=int, default=1, help="runs at a time, each on one thread")
    parser.add_argument("--log", type=Path, default=RESULTS / "small_folders_runs.jsonl")
    parser.add_argument("--record", action="store_true", help="write the log's runs to results/ when all are there")
    args = parser.parse_args()
    if args.from_nothing and any("fitted" in each for each in args.settings):
        parser.error("--from-nothing: no head is fitted to fresh features; name other --settings, such as default")
    logged = [json.loads(line) for line in args.log.read_text().splitlines()] if args.log.exists() else []
    trials = [Trial(t, n, s, r) for s in args.seeds for n in args.per_class for t in args.tasks for r in args.settings]
    conditions = {name: getattr(args, name) for name in CONDITIONS}
    wanted = {_key({**each._asdict(), **conditions}): each for each in trials}
    done = [each for each in logged if _key(each) in wanted]
    known = {_key(each) for each in done}
    trials = [trial for key, trial in wanted.items() if key not in known]
    one = partial(run, data=args.data, **conditions)
    with ProcessPoolExecutor(args.processes, multiprocessing.get_context("spawn")) as pool, args.log.open("a") as log:
        for each in as_completed([pool.submit(one, trial) for trial in trials]):
            done.append(each.result())
            print(json.dumps(done[-1]), file=log, flush=True)
            print(json.dumps(done[-1]), flush=True)
    if args.record:
        record(
            "small_folders",
            shlex.join(["python", "benchmarks/small_folders.py", *_shown(sys.argv[1:])]),
            summarize(done),
        )


def summarize(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """By pictures and setting, how far it is ahead of the default on the same pictures, task by task; and all runs."""
    by_trial = {Trial(*(each[name] for name in Trial._fields)): each for each in runs}
    rows = []
    for per_class in sorted({each.per_class for each in by_trial}):
        for setting in SETTINGS:
            pairs = [
                (each.task, run["top1"] - by_trial[each._replace(setting="default")]["top1"], run)
                for each, run in by_trial.items()
                if (each.per_class, each.setting) == (per_class, setting)
                and each._replace(setting="default") in by_trial
            ]
            if not pairs:
                continue
            tasks = {
                name: {
                    "runs": sum(task == name for task, _, _ in pairs),
                    "ahead": _mean(gain for task, gain, _ in pairs if task == name),
                    **{key: _mean(run[key] for task, _, run in pairs if task == name) for key in _MEASURED},
                }
                for name in dict.fromkeys(task for task, _, _ in pairs)
            }
            gains = [gain for _, gain, _ in pairs]
            rows.append(
                {
                    "per_class": per_class,
                    "setting": setting,
                    "runs": len(pairs),
                    "ahead": _mean(gains),
                    "standard_error": round(float(np.std(gains, ddof=1) / len(gains) ** 0.5), 4)
                    if len(gains) > 1
                    else None,
                    **{key: _mean(each[key] for each in tasks.values()) for key in _MEASURED},
                    "tasks": tasks,
                }
            )
    return {"settings": rows, "runs": runs}


_MEASURED = ("top1", "ece", "processor_seconds")


def _mean(values: Iterable[float]) -> float:
    return round(float(np.mean(list(values))), 4)


def _shown(arguments: list[str]) -> list[str]:
    """A command's arguments without this machine's paths."""
    paths = {"--data": "DATA", "--log": "LOG"}
    return [paths.get(before, each) for before, each in zip(["", *arguments], arguments, strict=False)]


def _key(trial: dict[str, Any]) -> str:
    return json.dumps([trial[name] for name in (*Trial._fields, *CONDITIONS)], sort_keys=True)


if __name__ == "__main__":
    main()
