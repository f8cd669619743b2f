"""The unknown score: how far a picture is from those of a model's classes, by its logits and pooled features.

With ``x`` the features, ``e`` the log-sum-exp of the logits and ``p`` minus the logarithm of the largest probability:

    near = near_weights · (x, e, p) + near_bias
    far  = far_weights  · (x, e, p) + far_bias
    score = max(near, far)

``far`` is a logistic regression of known pictures against made ones (``made_pictures.py``). ``near`` is ``p``; with
unknown pictures, a regression against these is added to it. Both are in standard deviations of known pictures.
docs/studies/unknown.md compares it with the published methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shvit.calibration.outputs import Outputs
from shvit.evaluation.labels import evenly_spaced
from shvit.modelfile.program import FEATURES, LOGITS, Program, Step

FEWEST_KNOWN = 50
"""Labelled images; of fewer, the limit is that of a few pictures."""

FEWEST_UNKNOWN = 20
"""Unknown pictures from which on they are learned from, and it is told how many are noticed."""

METHOD = "the larger of two: how unsure the labels are, and how much it is like made pictures (blobs, noise, strokes)"
METHOD_WITH_UNKNOWN = METHOD.replace(
    "how unsure the labels are", "how unsure the labels are and like given unknown ones"
)

FAR_PENALTY, NEAR_PENALTY = 0.01, 0.1
"""Half of this, times the squared weights of standardised inputs, is added to the mean loss."""

FOLDS = 5

FAR_SLOPE, FAR_OFFSET = 2.0, 2.0
"""The far term takes over where it is more than so many deviations above the known pictures' mean."""

NEWTON_STEPS, CONVERGED = 12, 1e-6

MOST_KNOWN = 3000
"""Known pictures that the regressions are of, evenly spaced; more take minutes and change little."""


@dataclass(frozen=True)
class UnknownScore:
    """A fitted score.

    Args:
        weights: ``float64 (channels + 2, 2)``: of near and far.
        bias: ``float64 (2,)``.
        limit: that so many known pictures as were to be kept stay below.
    """

    weights: np.ndarray
    bias: np.ndarray
    limit: float

    def of(self, outputs: Outputs) -> np.ndarray:
        """``float64 (N,)``."""
        return (_inputs(outputs) @ self.weights + self.bias).max(axis=1)

    def program(self) -> Program:
        """What computes it inside of a file, in a few kilobytes."""
        features, total, least = self.weights[:-2], self.weights[-2], self.weights[-1]
        constants = {"weights": features, "of_total": total, "of_least": least, "bias": self.bias}
        return Program(
            (
                Step("largest", "max", (LOGITS,)),
                Step("below", "subtract", (LOGITS, "largest")),
                Step("powers", "exp", ("below",)),
                Step("sum", "sum", ("powers",)),
                Step("least", "log", ("sum",)),
                Step("total", "add", ("least", "largest")),
                Step("by_features", "matmul", (FEATURES, "weights")),
                Step("by_total", "multiply", ("total", "of_total")),
                Step("by_least", "multiply", ("least", "of_least")),
                Step("by_logits", "add", ("by_total", "by_least")),
                Step("weighed", "add", ("by_features", "by_logits")),
                Step("near_and_far", "add", ("weighed", "bias")),
                Step("score", "max", ("near_and_far",)),
            ),
            {name: each.astype(np.float32) for name, each in constants.items()},
        )


def fit_unknown(known: Outputs, made: Sequence[Outputs], unknown: Outputs | None, keep: float) -> UnknownScore:
    """Fits the score.

    Args:
        known: of pictures of the classes that the network was not trained on.
        made: of made pictures, by kind.
        unknown: of real pictures of none of the classes, if there are enough.
        keep: share of the known pictures that is to stay below the limit.
    """
    rows = _inputs(known.of(evenly_spaced(range(len(known)), MOST_KNOWN)))
    far, far_known = _standardised(rows, [_inputs(each) for each in made], FAR_PENALTY)
    doubt = rows[:, -1]
    spread = doubt.std() + 1e-6
    near = np.zeros(rows.shape[1] + 1)
    near[-2:] = 1 / spread, -doubt.mean() / spread
    near_known = (doubt - doubt.mean()) / spread
    if unknown is not None:
        learned, held_out = _standardised(rows, [_inputs(unknown)], NEAR_PENALTY)
        near_known = near_known + held_out
        spread = near_known.std() + 1e-6
        near, near_known = (near + learned) / spread, near_known / spread
    far, far_known = FAR_SLOPE * far, FAR_SLOPE * far_known - FAR_OFFSET
    far[-1] -= FAR_OFFSET
    heads = np.column_stack([near, far])
    limit = np.quantile(np.maximum(near_known, far_known), keep)
    return UnknownScore(heads[:-1], heads[-1], float(limit))


def held_out_scores(
    known: Outputs, made: Sequence[Outputs], unknown: Outputs, keep: float
) -> tuple[np.ndarray, np.ndarray]:
    """What the score gives known and unknown pictures that it was not fitted on, in two halves.

    Returns:
        Scores of the known ones ``(N,)`` and of the unknown ones ``(M,)``, each less its half's limit.
    """
    of_known, of_unknown = np.empty(len(known)), np.empty(len(unknown))
    for half in (0, 1):
        here, there = (np.arange(len(each)) % 2 == half for each in (known, unknown))
        learned = unknown.of(~there) if (~there).sum() >= FEWEST_UNKNOWN else None
        fitted = fit_unknown(known.of(~here), made, learned, keep)
        of_known[here] = fitted.of(known.of(here)) - fitted.limit
        of_unknown[there] = fitted.of(unknown.of(there)) - fitted.limit
    return of_known, of_unknown


def _inputs(outputs: Outputs) -> np.ndarray:
    """``float64 (N, channels + 2)``: features, log-sum-exp, and minus the logarithm of the largest probability."""
    assert outputs.features is not None
    logits = outputs.logits.astype(np.float64)
    largest = logits.max(axis=1)
    total = largest + np.log(np.exp(logits - largest[:, None]).sum(axis=1))
    return np.column_stack([outputs.features.astype(np.float64), total, total - largest])


def _standardised(known: np.ndarray, others: list[np.ndarray], penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """Weights of a regression with the bias at their end, and what it gives known pictures that are held out, all so
    that these have mean 0 and deviation 1."""
    held_out, fold = np.empty(len(known)), np.arange(len(known)) % FOLDS
    for each in range(FOLDS):
        part = _regression(known[fold != each], others, penalty)
        held_out[fold == each] = known[fold == each] @ part[:-1] + part[-1]
    whole = _regression(known, others, penalty)
    mean, spread = held_out.mean(), held_out.std() + 1e-6
    whole[-1] -= mean
    return whole / spread, (held_out - mean) / spread


def _regression(known: np.ndarray, others: list[np.ndarray], penalty: float) -> np.ndarray:
    """Logistic regression by Newton's method; known pictures weigh as much as all others, and each kind the same."""
    mean, spread = known.mean(axis=0), known.std(axis=0) + 1e-6
    rows = (np.concatenate([known, *others]) - mean) / spread
    rows = np.column_stack([rows, np.ones(len(rows))])
    target = np.arange(len(rows)) >= len(known)
    share = np.concatenate([np.full(len(each), 0.5 / len(each)) for each in (known, *others)])
    share[target] /= len(others)
    weights, ridge = np.zeros(rows.shape[1]), np.full(rows.shape[1], penalty)
    ridge[-1] = 0
    for _ in range(NEWTON_STEPS):
        chance = 0.5 * (1 + np.tanh(rows @ weights / 2))
        slope = rows.T @ (share * (chance - target)) + ridge * weights
        bend = (rows * (share * chance * (1 - chance))[:, None]).T @ rows + np.diag(ridge + 1e-9)
        step = np.linalg.solve(bend, slope)
        weights -= step
        if np.abs(step).max() < CONVERGED:
            break
    whole = weights[:-1] / spread
    return np.append(whole, weights[-1] - whole @ mean)
