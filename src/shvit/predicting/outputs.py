"""From what a graph returned to probabilities, or an error: a model file may come from anywhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from shvit.card import Card
from shvit.errors import ModelOutputError

ROUNDING = 0.01
"""How far beyond 0 and 1 a probability may lie, as one computed in 8 bits does."""


def probabilities(output: object, images: int, card: Card, path: Path) -> np.ndarray:
    """A graph's output as probabilities.

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
        return softmax(scores)
    if scores.min() < -ROUNDING or scores.max() > 1 + ROUNDING:
        raise ModelOutputError(
            f"{path}: the graph returned {scores.min():.4g} to {scores.max():.4g} where the card says probabilities; "
            "expected 0 to 1"
        )
    return scores.clip(0, 1)


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


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities over the last axis."""
    with np.errstate(over="ignore"):  # the difference of two may be more than a float holds
        exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)
