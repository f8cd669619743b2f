"""The unknown score, on its own."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from shvit.calibration.made_pictures import KINDS, SIDES, made_pictures
from shvit.calibration.outputs import Outputs
from shvit.calibration.unknown import METHOD, METHOD_WITH_UNKNOWN, UnknownScore, fit_unknown, held_out_scores
from shvit.evaluation.selective import auroc

CHANNELS, CLASSES = 24, 10


def outputs(count: int, seed: int, away: float = 0.0, along: int = 0, sure: float = 6.0) -> Outputs:
    """Of a network whose features lie about its classes' directions, moved away along a direction of none of them."""
    rng = np.random.default_rng(seed)
    features = rng.normal(0, 1, (count, CHANNELS))
    features[np.arange(count), rng.integers(0, CLASSES, count)] += sure
    features[:, CLASSES + along] += away
    return Outputs(features[:, :CLASSES].astype(np.float32), features.astype(np.float32))


KNOWN, MADE = outputs(600, 0), [outputs(200, 1, away=5), outputs(200, 2, away=5, along=1)]


def test_what_is_like_made_pictures_and_what_is_unsure_is_unknown():
    score = fit_unknown(KNOWN, MADE, None, 0.95)
    fresh = score.of(outputs(500, 3))
    assert (fresh <= score.limit).mean() == pytest.approx(0.95, abs=0.03)
    for strange in (outputs(300, 4, away=5), outputs(300, 5, sure=0.0)):
        assert auroc(fresh, score.of(strange)) > 0.9
        assert (score.of(strange) > score.limit).mean() > 0.5


def test_given_unknown_pictures_are_learned_from():
    strange, fresh = outputs(200, 6, away=4, along=5), outputs(300, 7, away=4, along=5)
    before = fit_unknown(KNOWN, MADE, None, 0.95)
    after = fit_unknown(KNOWN, MADE, strange, 0.95)
    known = outputs(500, 8)
    known_scores = after.of(known)
    assert auroc(known_scores, after.of(fresh)) > auroc(before.of(known), before.of(fresh)) + 0.1
    assert (known_scores <= after.limit).mean() == pytest.approx(0.95, abs=0.03)
    of_known, of_strange = held_out_scores(KNOWN, MADE, strange, 0.95)
    assert (of_known <= 0).mean() == pytest.approx(0.95, abs=0.03)
    assert auroc(of_known, of_strange) == pytest.approx(auroc(known_scores, after.of(fresh)), abs=0.05)


def test_unknown_pictures_like_the_known_ones_are_not_told_apart():
    """What is measured is measured on others than it was fitted on."""
    of_known, of_strange = held_out_scores(KNOWN, MADE, outputs(300, 9), 0.95)
    assert auroc(of_known, of_strange) == pytest.approx(0.5, abs=0.08)
    assert (of_strange > 0).mean() < 0.12


@pytest.mark.parametrize("keep", [0.5, 0.8, 0.99])
def test_so_many_are_kept_as_were_asked_for(keep):
    score = fit_unknown(KNOWN, MADE, None, keep)
    assert (score.of(outputs(2000, 10)) <= score.limit).mean() == pytest.approx(keep, abs=0.04)


def test_a_program_computes_it():
    score = fit_unknown(KNOWN, MADE, outputs(100, 11, away=4, along=5), 0.95)
    fresh = outputs(200, 12, sure=3.0)
    found = score.program().run(fresh.features, fresh.logits)
    np.testing.assert_allclose(found, score.of(fresh), rtol=1e-4, atol=1e-4)
    largest = Outputs(np.float32([[200, -300, 0] + [0] * 7, [3e4] * 10]), KNOWN.features[:2])
    np.testing.assert_allclose(score.program().run(largest.features, largest.logits), score.of(largest), rtol=1e-3)


def test_it_is_small():
    weights = np.zeros((448 + 2, 2))  # S4's features
    assert UnknownScore(weights, np.zeros(2), 0.0).program().size_bytes < 8000


@pytest.mark.parametrize("constant", ["features", "logits", "both"])
@pytest.mark.filterwarnings("error")
def test_features_or_logits_that_never_change_give_finite_scores(constant):
    def held(found: Outputs) -> Outputs:
        logits = np.zeros_like(found.logits) if constant != "features" else found.logits
        features = np.zeros_like(found.features) if constant != "logits" else found.features
        return Outputs(logits, features)

    score = fit_unknown(held(KNOWN), [held(each) for each in MADE], None, 0.95)
    assert np.isfinite(score.weights).all() and np.isfinite(score.bias).all() and np.isfinite(score.limit)
    known = score.of(held(outputs(200, 13)))
    assert np.isfinite(known).all()
    assert (known <= score.limit).mean() > 0.8


def test_made_pictures_are_always_the_same():
    digests = {}
    for kind in KINDS:
        pictures = list(made_pictures(kind, 8))
        assert {each.mode for each in pictures} == {"RGB"}
        assert {each.size for each in pictures} <= {(side, side) for side in SIDES}
        digests[kind] = [hashlib.sha256(each.tobytes()).hexdigest() for each in pictures]
        assert digests[kind] == [hashlib.sha256(each.tobytes()).hexdigest() for each in made_pictures(kind, 8)]
        assert digests[kind][:3] == [hashlib.sha256(each.tobytes()).hexdigest() for each in made_pictures(kind, 3)]
    assert len({each for found in digests.values() for each in found}) == 8 * len(KINDS)


def test_what_the_card_says_of_it():
    assert METHOD != METHOD_WITH_UNKNOWN
    assert "given unknown ones" in METHOD_WITH_UNKNOWN
