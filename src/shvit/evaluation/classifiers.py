"""What is evaluated: a model file in its engine, or a checkpoint in PyTorch, behind one small interface."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from shvit.card import Card
from shvit.data.loader import normalize
from shvit.errors import ArgumentError, CheckpointError
from shvit.modelfile.card import card_for
from shvit.models.checkpoints import load_model
from shvit.models.reparam import folded_network, inference_form
from shvit.network.weight_files import CHECKPOINT_SUFFIXES
from shvit.predicting.classifier import Classifier


class ImageClassifier(Protocol):
    """Prepared images to probabilities."""

    card: Card

    @property
    def engine(self) -> str:
        """What runs it."""

    def predict_batch(self, batch: np.ndarray) -> np.ndarray:
        """``uint8 (N, H, W, 3)`` to ``float32 (N, classes)``, each row summing to 1."""


class CheckpointClassifier:
    """A checkpoint's network, folded as export folds it, in PyTorch on the CPU.

    Args:
        image_size: another side of the input, in pixels.
        threads: threads of one inference, for the whole process; PyTorch's default when not given.

    Raises:
        CheckpointError: the file cannot be used, or its network is no classifier of RGB images.
    """

    engine = "pytorch"

    def __init__(self, path: str | Path, image_size: int | None = None, threads: int | None = None) -> None:
        model, checkpoint = load_model(path)
        if model.num_classes == 0:
            raise CheckpointError(f"{path}: has no classification head; train one first with: shvit train")
        if model.config.in_chans != 3:
            raise CheckpointError(f"{path}: takes {model.config.in_chans} channels; only RGB images can be evaluated")
        if threads is not None:
            torch.set_num_threads(threads)
        self.card = card_for(folded_network(model), checkpoint, Path(path).stem, image_size)
        self._network = inference_form(model)

    @torch.inference_mode()
    def predict_batch(self, batch: np.ndarray) -> np.ndarray:
        return self._network(normalize(torch.from_numpy(batch))).softmax(dim=1).numpy()


def open_classifier(
    model: str | Path, engine: str = "auto", threads: int | None = None, image_size: int | None = None
) -> ImageClassifier:
    """Opens a shipped model's name, a model file or a checkpoint.

    Args:
        engine: for a model file.
        image_size: for a checkpoint, or a model file that takes any size: another side of the input, in pixels.

    Raises:
        ModelFileError, CheckpointError: it cannot be used; the message says why.
        ValueError: an option was given that is not for this kind of file.
    """
    if Path(model).suffix in CHECKPOINT_SUFFIXES:
        if engine != "auto":
            raise ArgumentError(f"--engine {engine}: {model} is a checkpoint, which PyTorch runs; export it first")
        return CheckpointClassifier(model, image_size, threads)
    return Classifier(model, engine, threads, image_size=image_size)


def measure_latency(
    classifier: ImageClassifier, image: np.ndarray, warm_up: int = 10, runs: int = 100, seconds: float = 10
) -> np.ndarray:
    """Times single images, one after the other, decoding and resizing not included.

    Args:
        image: ``uint8 (H, W, 3)``, prepared.
        warm_up: runs before, which do not count.
        runs: runs that count.
        seconds: when those have taken this long, no more are begun; of the warm-up, after a fifth of it.

    Returns:
        Milliseconds of each run, ``float64 (N,)``, N at least 1.
    """
    batch = np.stack([image])

    def times(runs: int, seconds: float) -> list[float]:
        taken: list[float] = []
        while len(taken) < runs and sum(taken) < seconds:
            started = time.perf_counter()
            classifier.predict_batch(batch)
            taken.append(time.perf_counter() - started)
        return taken

    times(warm_up, seconds / 5)
    return np.array(times(runs, seconds)) * 1000
