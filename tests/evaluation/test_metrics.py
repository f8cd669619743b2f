from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from shvit.evaluation.metrics import (
    Predictions,
    calibration,
    class_counts,
    concatenate,
    confident_mistakes,
    confused_pairs,
    confusion_matrix,
    rank,
)

CLASSES = 8


def random_predictions(
    seed: int, count: int = 200, classes: int = CLASSES
) -> tuple[np.ndarray, np.ndarray, Predictions]:
    random = np.random.default_rng(seed)
    logits = random.normal(scale=2, size=(count, classes)).astype(np.float32)
    labels = random.integers(0, classes, count)
    logits[np.arange(count), labels] += 1.5
    probabilities = torch.from_numpy(logits).softmax(1).numpy()
    return probabilities, labels, rank(probabilities, labels[:, None].tolist(), np.arange(count))


@pytest.mark.parametrize("seed", range(3))
def test_accuracy_and_loss_agree_with_scikit_learn_and_pytorch(seed):
    probabilities, labels, predictions = random_predictions(seed)
    every = np.arange(CLASSES)
    assert predictions.top1 == pytest.approx(sklearn_metrics.accuracy_score(labels, probabilities.argmax(1)))
    top5 = sklearn_metrics.top_k_accuracy_score(labels, probabilities, k=5, labels=every)
    assert predictions.top5 == pytest.approx(top5)
    loss = F.nll_loss(torch.from_numpy(probabilities).log(), torch.from_numpy(labels))
    assert predictions.loss == pytest.approx(float(loss), rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_class_figures_agree_with_scikit_learn(seed):
    probabilities, labels, predictions = random_predictions(seed)
    taken = probabilities.argmax(1)
    precision, recall, _, support = sklearn_metrics.precision_recall_fscore_support(labels, taken)
    counts = class_counts(predictions, CLASSES)
    assert counts.accuracy == pytest.approx(recall)
    assert counts.precision == pytest.approx(precision)
    assert counts.images.tolist() == support.tolist()
    present, matrix = confusion_matrix(predictions)
    assert present.tolist() == list(range(CLASSES))
    assert np.array_equal(matrix, sklearn_metrics.confusion_matrix(labels, taken))


def test_calibration_error_of_a_hand_computed_case():
    # Two bins: confidences 0.3 (wrong), 0.4 (right) and 0.9 (right), 0.7 (right).
    confidence, correct = np.array([0.3, 0.4, 0.9, 0.7]), np.array([0, 1, 1, 1])
    labels = 1 - correct
    made = Predictions(np.arange(4), labels, np.zeros((4, 1), int), confidence[:, None], np.zeros(4))
    found = calibration(made, bins=2)
    assert found.counts.tolist() == [2, 2]
    assert found.accuracy.tolist() == [0.5, 1]
    assert found.error == pytest.approx(0.5 * abs(0.5 - 0.35) + 0.5 * abs(1 - 0.8))


def test_a_confidence_on_a_bins_edge_belongs_to_the_bin_below():
    made = Predictions(
        np.arange(3), np.zeros(3, int), np.zeros((3, 1), int), np.array([[0.5], [1.0], [0.51]]), np.zeros(3)
    )
    assert calibration(made, bins=2).counts.tolist() == [1, 2]


def test_a_classifier_that_draws_from_its_own_probabilities_is_calibrated():
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.ones(4), 20_000)
    labels = (probabilities.cumsum(1) > random.random((20_000, 1))).argmax(1)
    assert calibration(rank(probabilities, labels[:, None].tolist(), np.arange(20_000))).error < 0.01


@given(seed=st.integers(0, 2**32), count=st.integers(1, 40), classes=st.integers(1, 12), cut=st.integers(0, 40))
def test_figures_hang_together(seed, count, classes, cut):
    probabilities, labels, whole = random_predictions(seed, count, classes)
    assert whole.top1 <= whole.top5 <= 1
    assert 0 <= calibration(whole).error <= 1
    present, matrix = confusion_matrix(whole)
    assert matrix.sum() == count
    assert np.trace(matrix) == whole.correct.sum()
    assert set(labels) <= set(present.tolist())
    pairs = confused_pairs(whole, count)
    assert sum(times for _, _, times in pairs) == (~whole.correct).sum()
    assert all(matrix[np.searchsorted(present, a), np.searchsorted(present, b)] == n for a, b, n in pairs)
    scores = whole.confidence[confident_mistakes(whole, count)]
    assert len(scores) == (~whole.correct).sum()
    assert (np.diff(scores) <= 0).all()
    # Batch by batch is the same as all at once.
    parts = [part for part in (slice(None, cut), slice(cut, None)) if len(labels[part])]
    batches = [rank(probabilities[part], labels[part, None].tolist(), np.arange(count)[part]) for part in parts]
    assert np.array_equal(concatenate(batches).ranked, whole.ranked)


@given(seed=st.integers(0, 2**32))
def test_with_several_right_classes_an_image_counts_as_reals_rule_says(seed):
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet(np.ones(CLASSES), 30)
    accepted = [random.choice(CLASSES, random.integers(1, 4), replace=False).tolist() for _ in range(30)]
    predictions = rank(probabilities, accepted, np.arange(30))
    best = np.argsort(-probabilities, axis=1)
    assert predictions.correct.tolist() == [row[0] in right for row, right in zip(best, accepted, strict=True)]
    assert predictions.in_top5.tolist() == [
        bool(set(row[:5]) & set(right)) for row, right in zip(best.tolist(), accepted, strict=True)
    ]


def test_a_probability_of_zero_gives_a_finite_loss():
    assert rank(np.array([[1.0, 0.0]]), [[1]], np.array([0])).loss == pytest.approx(69.08, abs=0.01)
