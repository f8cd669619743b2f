"""A linear head on pooled features: multinomial logistic regression, its strength chosen by cross-validation."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
from threadpoolctl import threadpool_limits

from shvit.errors import ArgumentError, MissingDependencyError
from shvit.install import install_command
from shvit.modelfile.head import LinearHead
from shvit.tasks import TASKS

FOLDS = 5

FEWEST_PICTURES = 2
"""Of a class: of one alone, no head can be judged on a picture that it was not fitted on."""

PENALTIES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003)
"""Half of one of these, times the squared weights of standardised features, is added to the mean loss. Strongest first:
each fit begins where the one before it ended."""

UNBALANCED = 1.5
"""From so many times as many pictures of the largest class as of the smallest, classes weigh the same."""

MOST_FOR_CHOICE = 4000
"""Pictures that the penalty is chosen on; more change little and take minutes."""

MOST_STEPS, CONVERGED = 200, 1e-3


@dataclass(frozen=True, eq=False)
class FittedHead:
    """A head, and what to expect of it."""

    head: LinearHead
    """Fitted on all pictures."""
    penalty: float
    """Of ``PENALTIES``, the one that was chosen."""
    held_out: np.ndarray
    """``float32 (N, classes)``: logits of each picture's first view, by a head that was not fitted on it, nor on any
    picture of its group."""
    balanced: bool
    """Whether classes weigh the same, however many pictures they have."""


def fit_linear_head(
    features: np.ndarray,
    targets: np.ndarray,
    classes: int,
    groups: np.ndarray | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> FittedHead:
    """Fits a head.

    Args:
        features: ``float32 (N, views, channels)``, pooled, of N pictures in one or more views each: the first is what
            the network sees when it is used, the others (mirrored, cropped) are only learned from.
        targets: ``int64 (N,)``, the class of each.
        classes: how many there are, at least two, each with ``FEWEST_PICTURES`` groups or more.
        groups: ``int64 (N,)``: pictures of one group, such as copies, are never on both sides of a fold.
        advance: told of each so many more of ``steps()`` that are done.

    Raises:
        ArgumentError: there are too few classes, or pictures of one.
        MissingDependencyError: scikit-learn is not installed.
    """
    check_installed()
    groups = np.arange(len(targets)) if groups is None else groups
    _check_counts(targets, groups, classes)
    counts = np.bincount(targets, minlength=classes)
    balanced = bool(counts.max() >= UNBALANCED * counts.min())
    folds = _folds(targets, groups)
    chosen_on = evenly_of_classes(targets, MOST_FOR_CHOICE)
    # One thread: the linear algebra's others wait by spinning, and beside a busy process take many times as long.
    with threadpool_limits(1, "blas"):
        penalty = _best_penalty(features[chosen_on], targets[chosen_on], folds[chosen_on], classes, balanced, advance)
        held_out = np.zeros((len(targets), classes), np.float32)
        for fold in range(folds.max() + 1):
            here = folds == fold
            [head] = _path(features[~here], targets[~here], classes, (penalty,), balanced)
            held_out[here] = head.logits(features[here, 0])
            advance(1)
        [head] = _path(features, targets, classes, (penalty,), balanced)
        advance(1)
    return FittedHead(head, penalty, held_out, balanced)


def check_installed() -> None:
    """Raises: MissingDependencyError: scikit-learn, which fits heads, is not installed."""
    if find_spec("sklearn") is None:
        raise MissingDependencyError(
            f"teaching needs scikit-learn, which is not installed; install it with: {install_command('teach')}"
        )


def steps() -> int:
    """How many ``advance`` is told of in all, at most."""
    return FOLDS * (len(PENALTIES) + 1) + 1


def _check_counts(targets: np.ndarray, groups: np.ndarray, classes: int) -> None:
    if classes < 2:
        raise ArgumentError(f"classes: expected at least 2 to tell apart, got {classes}")
    for each in range(classes):
        found = len(np.unique(groups[targets == each]))
        if found < FEWEST_PICTURES:
            raise ArgumentError(f"class {each}: expected at least {FEWEST_PICTURES} different pictures, got {found}")


def _folds(targets: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """``int64 (N,)``: which fold each picture is held out in; classes are spread evenly, groups stay together."""
    fewest = min(len(np.unique(groups[targets == each])) for each in np.unique(targets))
    count = min(FOLDS, fewest)
    order = np.random.default_rng(0).permutation(len(targets))
    fold_of: dict[int, int] = {}
    taken = np.zeros(targets.max() + 1, np.int64)
    folds = np.empty(len(targets), np.int64)
    for place in order.tolist():
        group, target = int(groups[place]), int(targets[place])
        if group not in fold_of:
            fold_of[group] = int(taken[target] % count)
            taken[target] += 1
        folds[place] = fold_of[group]
    return folds


def evenly_of_classes(targets: np.ndarray, most: int) -> np.ndarray:
    """Places of about so many pictures, the same share of each class, and at least ``FOLDS`` of each."""
    if len(targets) <= most:
        return np.arange(len(targets))
    share = most / len(targets)
    order = np.random.default_rng(1).permutation(len(targets))
    by_class = order[np.argsort(targets[order], kind="stable")]
    _, first, counts = np.unique(targets[by_class], return_index=True, return_counts=True)
    kept = [
        by_class[start : start + min(count, max(FOLDS, round(count * share)))]
        for start, count in zip(first.tolist(), counts.tolist(), strict=True)
    ]
    return np.sort(np.concatenate(kept))


def _best_penalty(
    features: np.ndarray,
    targets: np.ndarray,
    folds: np.ndarray,
    classes: int,
    balanced: bool,
    advance: Callable[[int], None],
) -> float:
    """The penalty whose heads find the right classes of held-out pictures the likeliest."""
    losses = np.zeros(len(PENALTIES))
    for fold in np.unique(folds).tolist():
        here = folds == fold
        for place, head in enumerate(_path(features[~here], targets[~here], classes, PENALTIES, balanced)):
            logits = head.logits(features[here, 0]).astype(np.float64)
            losses[place] += TASKS["classification"].losses(logits, targets[here]).sum()
            advance(1)
    return PENALTIES[int(losses.argmin())]


def _path(
    features: np.ndarray, targets: np.ndarray, classes: int, penalties: Sequence[float], balanced: bool
) -> Iterator[LinearHead]:
    """Heads of falling penalties; a class without a picture here gets logits far below the others'."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    count, views, channels = features.shape
    rows = features.reshape(count * views, channels)
    mean, spread = rows.mean(axis=0), rows.std(axis=0) + 1e-6
    rows = (rows - mean) / spread
    labels = np.repeat(targets, views)
    weights = np.full(len(labels), 1 / views, np.float32)
    regression = LogisticRegression(
        max_iter=MOST_STEPS, tol=CONVERGED, warm_start=True, class_weight="balanced" if balanced else None
    )
    for penalty in penalties:
        regression.C = 1 / (penalty * count)
        with warnings.catch_warnings():  # as good as the path needs it: it is judged by what it is held out for
            warnings.simplefilter("ignore", ConvergenceWarning)
            regression.fit(rows, labels, weights)
        yield _unstandardised(regression.coef_, regression.intercept_, regression.classes_, classes, mean, spread)


def _unstandardised(
    slopes: np.ndarray, offsets: np.ndarray, present: np.ndarray, classes: int, mean: np.ndarray, spread: np.ndarray
) -> LinearHead:
    if len(present) == 2:  # one row says how much the second class is likelier
        slopes, offsets = np.concatenate([-slopes, slopes]) / 2, np.concatenate([-offsets, offsets]) / 2
    weight = slopes.astype(np.float64) / spread
    bias = offsets - weight @ mean
    whole = LinearHead(np.zeros((classes, len(mean)), np.float32), np.full(classes, -1e4, np.float32))
    whole.weight[present], whole.bias[present] = weight, bias
    return whole
