"""The temperature and the thresholds, against other ways to find them and on simulated data."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from shvit.calibration.fitting import CalibrationOptions, Fitting
from shvit.calibration.outputs import Outputs
from shvit.calibration.temperature import cross_validated_scores, fit_temperature
from shvit.evaluation.metrics import calibration_of
from shvit.evaluation.selective import risk_coverage
from shvit.evaluation.thresholds import least_score
from shvit.tasks import TASKS

from ..conftest import colour_card

ONE, SEVERAL = TASKS["classification"], TASKS["multi_label"]


def simulated(count: int, temperature: float, seed: int = 0, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are too large by this factor, and the classes drawn from what they say without it."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (count, classes))
    targets = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    return (logits * temperature).astype(np.float32), targets


@pytest.mark.parametrize("temperature", [0.2, 1.0, 7.0])
def test_the_temperature_is_the_most_likely(temperature):
    logits, targets = simulated(4000, temperature)

    def loss(value: float) -> float:
        return -log_softmax(logits / value, axis=1)[np.arange(len(targets)), targets].mean()

    found = fit_temperature(ONE, logits, targets)
    expected = minimize_scalar(loss, bounds=(0.01, 100), method="bounded", options={"xatol": 1e-6}).x
    assert found == pytest.approx(expected, rel=2e-3)
    assert found == pytest.approx(temperature, rel=0.1)


def test_the_temperature_of_several_labels():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (3000, 4))
    holds = rng.random(logits.shape) < 1 / (1 + np.exp(-logits))
    assert fit_temperature(SEVERAL, (3 * logits).astype(np.float32), holds) == pytest.approx(3, rel=0.1)


def test_scores_are_of_temperatures_that_were_fitted_on_other_images():
    logits, targets = simulated(300, 5.0)
    found = cross_validated_scores(ONE, logits, targets)
    # By whichever temperature each image was scored: all five differ a little from that of all.
    gap = logits.max(axis=1) - np.sort(logits, axis=1)[:, 1]
    ranked = np.sort(found, axis=1)
    used = gap / np.log(ranked[:, -1] / ranked[:, -2])
    assert len(np.unique(used.round(2))) == 5
    # Another label of one image changes the scores of the others only.
    changed = targets.copy()
    changed[7] = logits[7].argmin()
    moved = np.abs(cross_validated_scores(ONE, logits, changed) - found).max(axis=1) > 1e-6
    assert not moved[7]
    assert 0.7 < moved.mean() < 0.9


def fitting(logits: np.ndarray, targets: np.ndarray, **options) -> Fitting:
    return Fitting(colour_card(), Outputs(logits, None), targets, [], None, CalibrationOptions(**options))


def test_what_was_too_sure_is_calibrated():
    logits, targets = simulated(200, 6.0)
    decision = fitting(logits, targets).decision("simulated")
    assert decision.calibration_error_before > 0.15
    assert decision.calibration_error < 0.08
    # On fresh images of the same kind, by 20 resamplings.
    errors = []
    for seed in range(1, 21):
        fresh, truth = simulated(4000, 6.0, seed)
        again = fitting(*simulated(200, 6.0, seed + 100)).decision("simulated").temperature
        scores = ONE.scores(fresh / np.float32(again))
        errors.append(calibration_of(scores.max(axis=1), scores.argmax(axis=1) == truth).error)
    assert np.mean(errors) < 0.03
    assert max(errors) < 0.07


def test_what_is_calibrated_is_left_alone():
    found = fitting(*simulated(60, 1.0, seed=4))
    decision = found.decision("simulated")
    if decision.temperature == 1:
        assert any(each.startswith("scores stay as they are") for each in found.notes)
        assert decision.calibration_error == decision.calibration_error_before
    else:
        assert decision.calibration_error < decision.calibration_error_before


@pytest.mark.parametrize("right", [True, False])
def test_images_that_are_all_right_or_all_wrong_have_no_temperature(right):
    logits, _ = simulated(80, 1.0)
    found = fitting(logits, logits.argmax(axis=1) if right else logits.argmin(axis=1))
    decision = found.decision("simulated")
    assert decision.temperature == 1
    assert decision.calibration_error == decision.calibration_error_before
    (note,) = [each for each in found.notes if "temperature" in each]
    assert note == (
        "scores stay as they are: no temperature is the likeliest, as where all of 80 answers are right or all wrong; "
        "give more images"
    )


def test_few_images_have_no_temperature():
    found = fitting(*simulated(49, 6.0))
    decision = found.decision("simulated")
    assert (decision.temperature, decision.calibration_error, decision.calibration_error_before) == (1, None, None)
    assert found.notes[0] == (
        "no temperature, and not how much it can answer: 49 images are too few to tell how sure it should be; give at "
        "least 50"
    )
    assert fitting(*simulated(50, 6.0)).decision("simulated").temperature > 2


@pytest.mark.parametrize(("count", "target"), [(200, 0.8), (1000, 0.9), (1000, 0.95)])
def test_a_promise_is_kept(count, target):
    """Answers from the threshold on are right as often as was asked, on images without end: those have this share."""
    kept, given = 0, 0
    rng = np.random.default_rng(0)
    endless = np.sort(rng.beta(4, 1, 100_000))
    for _ in range(200):
        scores = rng.beta(4, 1, count)
        found = least_score(risk_coverage(scores, rng.random(count) < scores), target)
        if found is not None:
            given += 1
            score, promise = found
            kept += promise.low <= endless[endless >= score].mean() and endless[endless >= score].mean() >= target
            assert promise.target_precision == target <= promise.low <= promise.precision <= promise.high
    assert given >= 100
    assert kept / given >= 0.9


def test_a_score_that_says_nothing_is_seldom_promised_anything():
    rng = np.random.default_rng(0)
    found = [least_score(risk_coverage(rng.random(300), rng.random(300) < 0.77), 0.8) for _ in range(300)]
    assert sum(each is not None for each in found) / 300 < 0.1


def test_the_threshold_lies_between_two_scores():
    scores = np.repeat([0.9, 0.6, 0.3], 100)
    right = np.repeat([True, True, False], 100)
    score, promise = least_score(risk_coverage(scores, right), 0.95)
    assert score == pytest.approx(0.45)
    assert (promise.precision, promise.coverage) == (1, pytest.approx(2 / 3))
    score, promise = least_score(risk_coverage(scores[:200], right[:200]), 0.95)
    assert score == pytest.approx(0.3)
    assert promise.coverage == 1
    assert least_score(risk_coverage(scores[:5], right[:5]), 0.95) is None
    assert least_score(risk_coverage(scores, ~right), 0.95) is None


def test_thresholds_by_class_and_one_for_the_others():
    """Red is right from 0.5 on, green never, blue has two images."""
    rng = np.random.default_rng(0)
    best = np.repeat([0, 1, 2], [400, 400, 2])
    logits = rng.normal(0, 0.1, (802, 3)).astype(np.float32)
    logits[np.arange(802), best] += rng.uniform(0.5, 5, 802).astype(np.float32)
    best = logits.argmax(axis=1)
    targets = np.where((best == 0) & (logits.max(axis=1) > 2), 0, (best + 1) % 3)
    found = fitting(logits, targets, target_precision=0.9, per_class=True)
    decision = found.decision("simulated")
    assert [(each.class_id, each.label) for each in decision.thresholds] == [(0, "red")]
    assert decision.min_score == 1  # of the others, no score is enough
    assert decision.promise.precision > 0.9
    assert decision.promise.coverage == pytest.approx((targets == 0).mean(), abs=0.08)
    assert any(each.startswith("1 of 3 classes have a threshold of their own") for each in found.notes)


def test_without_a_score_that_is_enough_there_is_no_threshold():
    logits, _ = simulated(100, 1.0)
    found = fitting(logits, (logits.argmax(axis=1) + 1) % 3, target_precision=0.9)
    decision = found.decision("simulated")
    assert (decision.min_score, decision.thresholds, decision.promise) == (None, (), None)
    assert any(
        each.startswith("no threshold: on these 100 images no score is surely right 90%") for each in found.notes
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"target_precision": 2}, "--target-precision: expected more than 0 and less than 1, got 2"),
        ({"target_precision": float("nan")}, "--target-precision: expected more than 0 and less than 1, got nan"),
        ({"keep": 1.0}, "--keep: expected more than 0 and less than 1, got 1"),
        ({"per_class": True}, "--per-class: thresholds are for a target; give --target-precision too, such as 0.95"),
    ],
)
def test_what_cannot_be_asked_for(options, expected):
    with pytest.raises(ValueError, match=expected):
        CalibrationOptions(**options)
