"""What is evaluated: a model file in its engine, or a checkpoint in PyTorch, behind one small interface."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Protocol

import numpy as np

from shvit.card import Card
from shvit.errors import ArgumentError, MissingDependencyError
from shvit.install import install_command
from shvit.network.sides import ImageSize
from shvit.network.weight_files import CHECKPOINT_SUFFIXES
from shvit.predicting.classifier import Classifier


class ImageClassifier(Protocol):
    """Prepared images to scores."""

    card: Card

    @property
    def engine(self) -> str:
        """What runs it."""

    def predict_batch(self, batch: np.ndarray) -> np.ndarray:
        """``uint8 (N, H, W, 3)`` to ``float32 (N, classes)`` in [0, 1]; of one label each row sums to 1."""


def open_classifier(
    model: str | Path, engine: str = "auto", threads: int | None = None, image_size: ImageSize | None = None
) -> ImageClassifier:
    """Opens a model by its name, a model file or a checkpoint.

    Args:
        engine: for a model file.
        image_size: for a checkpoint, or a model file that takes any size: another size of the input.

    Raises:
        ModelFileError, CheckpointError: it cannot be used; the message says why.
        MissingDependencyError: it is a checkpoint, and PyTorch is not installed.
        ValueError: an option was given that is not for this kind of file.
    """
    if Path(model).suffix in CHECKPOINT_SUFFIXES:
        if engine != "auto":
            raise ArgumentError(f"--engine {engine}: {model} is a checkpoint, which PyTorch runs; export it first")
        try:
            from shvit.evaluation.checkpoint_classifier import CheckpointClassifier
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                f"{model}: is a checkpoint, which PyTorch runs, and {error.name} is not installed; export it and give "
                f"the model file, or install the lab with: {install_command('torch')}"
            ) from None
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
