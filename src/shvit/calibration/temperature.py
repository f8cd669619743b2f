"""The temperature: by what logits are divided so that a score of 80 % is right in 80 % of the cases."""

from __future__ import annotations

import numpy as np

from shvit.card.decision import MAX_TEMPERATURE, MIN_TEMPERATURE
from shvit.tasks import Task

FEWEST_IMAGES = 50
"""Of fewer, the temperature is that of a few pictures."""

FOLDS = 5

_GOLDEN = (5**0.5 - 1) / 2


def fit_temperature(task: Task, logits: np.ndarray, targets: np.ndarray) -> float:
    """The temperature of the least negative log-likelihood.

    Guo et al., On Calibration of Modern Neural Networks, 2017.

    Args:
        logits: ``float32 (N, classes)``.
        targets: what is right, as ``task.losses`` takes it.

    Returns:
        In [``MIN_TEMPERATURE``, ``MAX_TEMPERATURE``].
    """

    def loss(log_temperature: float) -> float:
        return float(task.losses(logits / np.float32(np.exp(log_temperature)), targets).mean())

    # The loss falls and then rises again along the temperature's logarithm: golden-section search.
    low, high = np.log(MIN_TEMPERATURE), np.log(MAX_TEMPERATURE)
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = loss(left), loss(right)
    while high - low > 1e-4:
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = loss(right)
    return float(np.clip(np.exp((low + high) / 2), MIN_TEMPERATURE, MAX_TEMPERATURE))


def has_optimum(temperature: float) -> bool:
    """Whether a fitted temperature is inside of the range: at its ends, the loss would go on to fall beyond."""
    return 1.01 * MIN_TEMPERATURE < temperature < MAX_TEMPERATURE / 1.01


def cross_validated_scores(task: Task, logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Scores of each image with a temperature that was fitted on others, ``float32 (N, classes)``."""
    folds = np.random.default_rng(0).permutation(len(logits)) % FOLDS
    scores = np.empty_like(logits)
    for fold in range(FOLDS):
        apart = folds == fold
        temperature = fit_temperature(task, logits[~apart], targets[~apart])
        scores[apart] = task.scores(logits[apart] / np.float32(temperature))
    return scores
