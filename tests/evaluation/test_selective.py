"""Figures of answering only where the score is high, against plain statements of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from shvit.evaluation.selective import auroc, risk_coverage, taken_for_known

answers = st.lists(st.tuples(st.sampled_from(np.linspace(0, 1, 9).tolist()), st.booleans()), min_size=1, max_size=40)


@given(answers)
def test_risk_and_coverage_by_counting(answers):
    scores, right = (np.array(each) for each in zip(*answers, strict=True))
    curve = risk_coverage(scores, right)
    assert curve.scores.tolist() == sorted(set(scores.tolist()), reverse=True)
    for score, count, hits in zip(curve.scores, curve.answers, curve.right, strict=True):
        assert count == (scores >= score).sum()  # equal scores are answers together
        assert hits == right[scores >= score].sum()
    assert (np.diff(curve.answers) > 0).all()
    assert (np.diff(curve.right) >= 0).all()
    assert (curve.answers[-1], curve.coverage[-1]) == (curve.total, 1)
    # The area is the mean, over all images, of the risk where that image is the last that is answered.
    risk = [1 - right[scores >= each].mean() for each in scores]
    assert curve.area == pytest.approx(np.mean(risk))
    for wanted in (0.0, 0.5, 0.95, 1.0):
        best = max(((scores >= each).mean() for each in scores if right[scores >= each].mean() >= wanted), default=0.0)
        assert curve.coverage_at(wanted) == pytest.approx(best)


def test_always_and_never_right():
    scores = np.array([0.2, 0.9, 0.5])
    always, never = risk_coverage(scores, np.ones(3, bool)), risk_coverage(scores, np.zeros(3, bool))
    assert (always.area, always.coverage_at(0.99)) == (0, 1)
    assert (never.area, never.coverage_at(0.01)) == (1, 0)


few = st.lists(st.sampled_from([-2.0, -1.0, 0.0, 0.5, 3.0]), min_size=1, max_size=20)


@given(few, few)
def test_the_area_below_the_receivers_curve_is_scikit_learns(known, unknown):
    known, unknown = np.array(known), np.array(unknown)
    truth = np.repeat([0, 1], [len(known), len(unknown)])
    assert auroc(known, unknown) == pytest.approx(roc_auc_score(truth, np.concatenate([known, unknown])))


def test_the_share_taken_for_known():
    known = np.arange(100.0)
    assert taken_for_known(known, np.array([0.0, 94.5, 95.5, 200.0])) == 0.5
    assert taken_for_known(known, np.array([500.0])) == 0
    assert taken_for_known(known, np.array([-1.0])) == 1
