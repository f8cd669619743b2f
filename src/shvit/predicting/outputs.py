"""From what a graph returned to scores, or an error: a model file may come from anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from shvit.card import Card
from shvit.engines.onnx_graph import UNKNOWN
from shvit.errors import ModelOutputError
from shvit.tasks import task_of

ROUNDING = 0.01
"""How far beyond 0 and 1 a probability may lie, as one computed in 8 bits does."""


def scores_of(output: object, images: int, card: Card, path: Path) -> np.ndarray:
    """A graph's output as scores, by the card's task and temperature.

    Args:
        output: what an engine returned for a batch.
        images: how many the batch had.
        card: says how many classes there are, and whether these are logits.
        path: the model file, for errors.

    Returns:
        ``float32 (images, classes)``, finite, in [0, 1].

    Raises:
        ModelOutputError: it has another type or shape, or holds what is no score.
    """
    scores = check_rows(output, images, path, "output")
    if scores.shape != (images, len(card.classes)):
        raise ModelOutputError(
            f"{path}: the graph returned output of shape {scores.shape}, expected ({images}, {len(card.classes)})"
        )
    if card.output == "logits":
        temperature = 1.0 if card.decision is None else card.decision.temperature
        return task_of(card).scores(scores if temperature == 1 else scores / np.float32(temperature))
    if scores.min() < -ROUNDING or scores.max() > 1 + ROUNDING:
        raise ModelOutputError(
            f"{path}: the graph returned {scores.min():.4g} to {scores.max():.4g} where the card says probabilities; "
            "expected 0 to 1"
        )
    return scores.clip(0, 1)


def unknown_scores(outputs: Mapping[str, object], images: int, path: Path) -> np.ndarray:
    """The unknown score of each image, ``float32 (images,)``.

    Args:
        outputs: what an engine returned, by name.

    Raises:
        ModelOutputError: there is none, or it has another type or shape.
    """
    scores = check_rows(outputs.get(UNKNOWN), images, path, UNKNOWN)
    if scores.shape != (images, 1):
        raise ModelOutputError(
            f"{path}: the graph returned {UNKNOWN} of shape {scores.shape}, expected ({images}, 1); calibrate the file "
            "anew with: shvit calibrate"
        )
    return scores[:, 0]


def check_rows(output: object, rows: int, path: Path, what: str) -> np.ndarray:
    """A tensor of so many rows of finite numbers, as ``float32``.

    Args:
        what: the tensor's name in errors.

    Raises:
        ModelOutputError: it is something else.
    """
    if not isinstance(output, np.ndarray) or output.dtype.kind != "f":
        found = output.dtype if isinstance(output, np.ndarray) else f"a {type(output).__name__}"
        raise ModelOutputError(f"{path}: the graph returned {what} of {found}, expected float32")
    if output.ndim < 2 or len(output) != rows:
        raise ModelOutputError(f"{path}: the graph returned {what} of shape {output.shape}, expected {rows} rows")
    with np.errstate(over="ignore"):
        values = output.astype(np.float32, copy=False)
    if not np.isfinite(values).all():
        raise ModelOutputError(f"{path}: the graph returned {what} with NaN or infinity")
    return values
