"""A linear head on features, beside scikit-learn used plainly."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from shvit.errors import ArgumentError
from shvit.heads.linear import PENALTIES, _folds, evenly_of_classes, fit_linear_head, steps


def blobs(classes, each, channels=20, views=1, spread=1.5, seed=0):
    """Pictures around a centre a class, in views that differ little."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, channels))
    targets = np.repeat(np.arange(classes), each)
    pictures = centres[targets] + spread * random.normal(size=(len(targets), channels))
    features = pictures[:, None] + 0.1 * random.normal(size=(len(targets), views, channels))
    return (features * 5 + 3).astype(np.float32), targets


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_a_head_says_what_scikit_learn_says_of_standardised_features(classes):
    features, targets = blobs(classes, 30)
    fitted = fit_linear_head(features, targets, classes)
    scaled = StandardScaler().fit_transform(features[:, 0])
    plain = LogisticRegression(C=1 / (fitted.penalty * len(targets)), max_iter=5000, tol=1e-6).fit(scaled, targets)
    logits = fitted.head.logits(features[:, 0]).astype(np.float64)
    scores = np.exp(logits - logits.max(axis=1, keepdims=True))
    scores /= scores.sum(axis=1, keepdims=True)
    assert np.abs(scores - plain.predict_proba(scaled)).max() < 0.02
    assert fitted.head.weight.dtype == fitted.head.bias.dtype == fitted.held_out.dtype == np.float32


def test_held_out_accuracy_is_that_of_other_pictures():
    features, targets = blobs(10, 30)
    others, right = blobs(10, 300, seed=1)
    fitted = fit_linear_head(features, targets, 10)
    held_out = (fitted.held_out.argmax(axis=1) == targets).mean()
    unseen = (fitted.head.logits(others[:, 0]).argmax(axis=1) == right).mean()
    seen = (fitted.head.logits(features[:, 0]).argmax(axis=1) == targets).mean()
    assert abs(held_out - unseen) < 0.06
    assert seen > held_out + 0.02


def test_noise_is_not_learned():
    features, targets = blobs(2, 100, spread=100)
    fitted = fit_linear_head(features, targets, 2)
    assert fitted.penalty == max(PENALTIES)
    assert abs((fitted.held_out.argmax(axis=1) == targets).mean() - 0.5) < 0.15


def test_the_larger_class_does_not_swallow_the_smaller():
    features, targets = blobs(2, 200, channels=4, spread=2.0)
    kept = np.flatnonzero((targets == 0) | (np.arange(400) % 10 == 0))
    fitted = fit_linear_head(features[kept], targets[kept], 2)
    others, right = blobs(2, 500, channels=4, spread=2.0, seed=1)
    found = fitted.head.logits(others[:, 0]).argmax(axis=1)
    assert fitted.balanced
    assert abs((found[right == 0] == 0).mean() - (found[right == 1] == 1).mean()) < 0.15


@pytest.mark.parametrize("copies", [1, 3])
def test_copies_are_never_on_both_sides(copies):
    targets = np.repeat(np.arange(3), 12 * copies)
    groups = np.arange(len(targets)) // copies
    folds = _folds(targets, groups)
    assert set(folds.tolist()) == set(range(5))
    assert all(len(set(folds[groups == group].tolist())) == 1 for group in np.unique(groups))
    counts = [np.bincount(folds[targets == each], minlength=5) for each in range(3)]
    assert all(each.max() - each.min() <= copies for each in counts)


def test_copies_alone_teach_nothing():
    """Without groups, noise that is there twice is known by heart and looks learned."""
    random = np.random.default_rng(0)
    features = np.repeat(random.normal(size=(60, 1, 400)), 2, axis=0).astype(np.float32)
    targets = np.repeat(np.arange(60) % 2, 2)
    apart = fit_linear_head(features, targets, 2, groups=np.arange(120) // 2)
    mixed = fit_linear_head(features, targets, 2)
    assert (mixed.held_out.argmax(axis=1) == targets).mean() > 0.9
    assert (apart.held_out.argmax(axis=1) == targets).mean() < 0.7


def test_two_pictures_a_class_are_enough():
    features, targets = blobs(3, 2, views=3)
    fitted = fit_linear_head(features, targets, 3)
    assert np.isfinite(fitted.held_out).all()


def test_too_few_are_refused():
    features, targets = blobs(3, 5)
    with pytest.raises(ArgumentError, match="at least 2 to tell apart, got 1"):
        fit_linear_head(features[:5], targets[:5], 1)
    with pytest.raises(ArgumentError, match="class 2: expected at least 2 different pictures, got 1"):
        fit_linear_head(features[:11], targets[:11], 3)
    with pytest.raises(ArgumentError, match="class 0: expected at least 2 different pictures, got 1"):
        fit_linear_head(features, targets, 3, groups=np.where(targets == 0, 0, np.arange(15)))


def test_progress_is_told_to_its_end():
    features, targets = blobs(3, 20)
    told = []
    fit_linear_head(features, targets, 3, advance=told.append)
    assert sum(told) == steps()


def test_the_choice_is_made_on_some_of_each_class():
    targets = np.repeat([0, 1, 2], [900, 90, 6])
    chosen = evenly_of_classes(targets, 100)
    assert np.bincount(targets[chosen]).tolist() == [90, 9, 5]
