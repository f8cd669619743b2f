"""How well scores rank what has a label before what has not; what ``multi_label`` networks are measured by."""

from __future__ import annotations

import numpy as np


def average_precisions(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Average precision of each class: the mean of the precisions at which its images are found, best score first.

    Images of equal scores are found together, so that their order does not matter. Nothing is interpolated.

    Args:
        scores: ``(N, C)``, higher for what is more certain.
        targets: ``bool (N, C)``.

    Returns:
        ``float64 (C,)`` in [0, 1]; NaN for a class without images.
    """
    found = np.full(targets.shape[1], np.nan)
    for place in np.flatnonzero(targets.any(axis=0)).tolist():
        order = np.argsort(-scores[:, place], kind="stable")
        ranked, right = scores[order, place], targets[order, place]
        last_of_equals = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
        hits = np.cumsum(right)[last_of_equals]
        precision = hits / (last_of_equals + 1)
        found[place] = float((np.diff(hits, prepend=0) * precision).sum() / hits[-1])
    return found


def mean_average_precision(scores: np.ndarray, targets: np.ndarray) -> float:
    """Mean of ``average_precisions`` over the classes that have images (mAP), in [0, 1]; 0 where none has."""
    found = average_precisions(scores, targets)
    return float(np.nanmean(found)) if (~np.isnan(found)).any() else 0.0


def f1_scores(answers: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Harmonic mean of precision and recall of each class, ``float64 (C,)`` in [0, 1].

    NaN for a class that no image has and that was answered for none.

    Args:
        answers: ``bool (N, C)``, the labels given.
        targets: ``bool (N, C)``, those that are right.
    """
    both = (answers & targets).sum(axis=0)
    all_of_them = answers.sum(axis=0) + targets.sum(axis=0)
    with np.errstate(invalid="ignore"):
        return 2 * both / all_of_them
