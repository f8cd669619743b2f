"""An unknown score from logits and pooled features, fitted with NumPy alone: what the study recommends.

With ``x`` the features, then log-sum-exp ``e`` of the logits, then ``p = e - max(logits)``, which is minus the
logarithm of the largest probability:

    near = near_weights · x + near_bias
    far = far_weights · x + far_bias
    score = max(near, far)

``far`` is a logistic regression of known pictures against made ones, each kind weighing the same, standardised by what
known pictures get that it was not fitted on (five folds). ``near`` is ``p``, standardised; with unknown pictures, the
same kind of regression against them is added and the sum standardised again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

FAR_PENALTY, NEAR_PENALTY = 0.01, 0.1
"""Half of this, times the squared weights of standardised inputs, is added to the mean loss."""
FOLDS = 5
FAR_SLOPE, FAR_OFFSET = 2.0, 1.5
"""The far term reaches the near one's scale where it stands so many deviations above the known pictures' mean."""


class Pictures(Protocol):
    """What a network gives for some pictures."""

    @property
    def features(self) -> np.ndarray: ...

    @property
    def logits(self) -> np.ndarray: ...


def inputs(features: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """``float64 (N, channels + 2)``: the features, log-sum-exp, minus the logarithm of the largest probability."""
    logits = np.asarray(logits, np.float64)
    largest = logits.max(1)
    total = largest + np.log(np.exp(logits - largest[:, None]).sum(1))
    return np.column_stack([np.asarray(features, np.float64), total, total - largest])


def score(features: np.ndarray, logits: np.ndarray, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """``(N,)``; above ``arrays["limit"]`` a picture is unknown."""
    near, far = (inputs(features, logits) @ arrays["weights"] + arrays["bias"]).T
    return np.maximum(near, far)


def fit(known: Pictures, far: Sequence[Pictures], unknown: Pictures | None = None) -> dict[str, np.ndarray]:
    """Fits the score.

    Args:
        known: pictures of the classes, which the network was better not trained on.
        far: made pictures, by kind.
        unknown: real pictures of none of the classes, if there are some.

    Returns:
        ``weights (channels + 2, 2)``, ``bias (2,)`` and ``limit``, which 95 % of the known pictures stay below.
    """
    rows = inputs(known.features, known.logits)
    far_rows = [inputs(each.features, each.logits) for each in far]
    far_head, far_known = _standardised(rows, far_rows, FAR_PENALTY)
    spread = rows[:, -1].std() + 1e-6
    near_weights = np.zeros(rows.shape[1])
    near_weights[-1] = 1 / spread
    near_bias, near_known = -rows[:, -1].mean() / spread, (rows[:, -1] - rows[:, -1].mean()) / spread
    if unknown is not None:
        head, held_out = _standardised(rows, [inputs(unknown.features, unknown.logits)], NEAR_PENALTY)
        near_known = near_known + held_out
        spread = near_known.std()
        near_weights, near_bias = (near_weights + head[:-1]) / spread, (near_bias + head[-1]) / spread
        near_known = near_known / spread
    weights = np.column_stack([near_weights, FAR_SLOPE * far_head[:-1]])
    bias = np.array([near_bias, FAR_SLOPE * far_head[-1] - FAR_OFFSET])
    of_known = np.maximum(near_known, FAR_SLOPE * far_known - FAR_OFFSET)
    return {"weights": weights, "bias": bias, "limit": np.quantile(of_known, 0.95)}


def _standardised(known: np.ndarray, unknown: list[np.ndarray], penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """Weights and bias of a regression, and what it gives known pictures that are held out: mean 0, deviation 1."""
    held_out, fold = np.empty(len(known)), np.arange(len(known)) % FOLDS
    for each in range(FOLDS):
        part = _regression(known[fold != each], unknown, penalty)
        held_out[fold == each] = known[fold == each] @ part[:-1] + part[-1]
    whole = _regression(known, unknown, penalty)
    mean, spread = held_out.mean(), held_out.std() + 1e-6
    whole[-1] -= mean
    return whole / spread, (held_out - mean) / spread


def _regression(known: np.ndarray, unknown: list[np.ndarray], penalty: float) -> np.ndarray:
    """Logistic regression by Newton's method; known pictures weigh as much as all others, and each kind the same."""
    mean, spread = known.mean(0), known.std(0) + 1e-6
    rows = (np.concatenate([known, *unknown]) - mean) / spread
    rows = np.column_stack([rows, np.ones(len(rows))])
    target = np.arange(len(rows)) >= len(known)
    share = np.concatenate([np.full(len(known), 0.5 / len(known)), *(_share(each, len(unknown)) for each in unknown)])
    weights, ridge = np.zeros(rows.shape[1]), np.full(rows.shape[1], penalty)
    ridge[-1] = 0
    for _ in range(12):
        chance = 0.5 * (1 + np.tanh(rows @ weights / 2))
        slope = rows.T @ (share * (chance - target)) + ridge * weights
        bend = (rows * (share * chance * (1 - chance))[:, None]).T @ rows + np.diag(ridge + 1e-9)
        weights -= np.linalg.solve(bend, slope)
    whole = weights[:-1] / spread
    return np.append(whole, weights[-1] - whole @ mean)


def _share(rows: np.ndarray, kinds: int) -> np.ndarray:
    return np.full(len(rows), 0.5 / len(rows) / kinds)
