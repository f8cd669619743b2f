"""Networks for the studies of decisions, fine-tuned from the shipped weights on few pictures: files of `shvit export`.

A network that is in the folder already is taken from there, so that a study that was stopped goes on.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shvit import Classifier
from shvit.calibration.outputs import Network, Outputs
from shvit.card import Card
from shvit.data import open_dataset
from shvit.data.datasets import open_datasets
from shvit.data.protocol import ImageDataset
from shvit.exporting import FileOptions, export_model
from shvit.images.preprocess import ImageSource
from shvit.modelfile.card import card_for
from shvit.modelfile.finished import open_finished
from shvit.models.checkpoints import load_model
from shvit.models.reparam import folded_network
from shvit.training import Execution, fit, setup
from shvit.training.defaults import default_recipe
from small_folders import parts, task

WEIGHTS = Path(__file__).parent.parent / "weights" / "shvit_s1_tiny_imagenet.safetensors"

TEN = tuple(range(0, 200, 20))
"""Labels of Tiny-ImageNet that the network of ten classes knows."""
PER_CLASS = 50
"""Training photographs of each that it was fine-tuned on."""
SMALL = {"groups 200": 20, "groups 500": 50}
"""Small folders by name, of the ten groups of small_folders.py, and their pictures of each class."""


def card_of(path: Path) -> Card:
    return Classifier(path, threads=1).card


def network_of(path: Path) -> Network:
    """A model file with its logits and features, in one thread."""
    return Network(open_finished(path), path, 1)


def see(network: Network, pictures: Iterable[ImageSource]) -> Outputs:
    """What a network says of pictures, all of which can be read."""
    outputs, broken = network.run_pictures(pictures, lambda count: None)
    assert outputs is not None and not broken, broken
    return outputs


def write_folder(images: ImageDataset, indices: np.ndarray, folder: Path) -> Path:
    """Some of a dataset's images, in class folders."""
    for index in indices.tolist():
        path = folder / images.classes[images.labels[index]].label / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(images.read(index))
    return folder


def fine_tuned(photos: Path, path: Path, seed: int = 0, **changes: Any) -> None:
    """What `shvit train --pretrained` makes of a folder, a tenth of it held out, exported in float32.

    Args:
        path: the model file, beside which it is written how it was trained.
        changes: of the default recipe.
    """
    data = open_datasets(photos, seed)
    torch.set_num_threads(1)
    recipe = replace(default_recipe("shvit_s1", len(data.train), str(WEIGHTS)), seed=seed, **changes)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        fit(setup(recipe, data.train, data.val, Path(folder), Execution(device="cpu", workers=0)))
        seconds = round(time.perf_counter() - started)
        export_file(Path(folder) / "best.safetensors", path)
    pictures = len(data.train) + len(data.val)
    about = {"pictures": pictures, "image_size": recipe.image_size, "epochs": recipe.epochs, "seconds": seconds}
    path.with_suffix(".json").write_text(json.dumps(about))


def export_file(weights: Path, path: Path, options: FileOptions | None = None) -> None:
    """A checkpoint as a model file, ONNX in float32 if nothing else is said."""
    model, checkpoint = load_model(weights)
    card = card_for(folded_network(model), checkpoint, path.stem)
    export_model(model, path, card, options or FileOptions("onnx", "fp32"))


def ten_classes(data: Path, models: Path) -> tuple[Path, dict[str, Any]]:
    """A network of ten of Tiny-ImageNet's classes, and how it was trained.

    The weights that it begins with were trained on all 200 classes, so that its features are of all of them and only
    its head is of ten.
    """
    path = models / "ten_classes.onnx"
    if not path.with_suffix(".json").exists():
        train = open_dataset(data / "tiny-imagenet", "train")
        rng = np.random.default_rng(0)
        chosen = [rng.permutation(np.flatnonzero(train.labels == label))[:PER_CLASS] for label in TEN]
        with tempfile.TemporaryDirectory() as folder:
            fine_tuned(write_folder(train, np.concatenate(chosen), Path(folder)), path, image_size=128, epochs=6)
    return path, json.loads(path.with_suffix(".json").read_text())


def small_folder(name: str, data: Path, models: Path) -> tuple[Path, dict[str, Any]]:
    """A network of one of ``SMALL``, by `shvit train`'s defaults at 64 pixels, and how it was trained."""
    path = models / f"{name.replace(' ', '_')}.onnx"
    if not path.with_suffix(".json").exists():
        pictures = task("groups", data)
        seen, _ = parts(pictures, SMALL[name], 0)
        with tempfile.TemporaryDirectory() as folder:
            fine_tuned(write_folder(pictures, seen.indices, Path(folder)), path, image_size=64)
    return path, json.loads(path.with_suffix(".json").read_text())
