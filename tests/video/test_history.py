from __future__ import annotations

import json

import numpy as np
import pytest

from shvit.video.history import KEPT, LEAST, STRETCHES, ScoreHistory


def scores(time: float) -> np.ndarray:
    return np.array([0.5 + 0.4 * np.sin(time / 50), 0.5 if 100 < time < 101 else 0.0, LEAST / 2, 0.001])


def followed(times: np.ndarray, through_json: bool = False) -> ScoreHistory:
    history = ScoreHistory()
    for time in times.tolist():
        if through_json:
            history = ScoreHistory.from_json(json.loads(json.dumps(history.to_json())))
        history.add(time, scores(time))
    return history


@pytest.mark.parametrize("seconds", [3.0, 300.0, 30_000.0])
def test_curves_keep_their_shape_in_bounded_memory(seconds):
    history = followed(np.arange(0, seconds, seconds / 3000))
    times, found = np.array(history.curve(0)).T
    assert 10 < len(times) <= STRETCHES
    assert (np.diff(times) > 0).all() and seconds * 0.95 < times[-1] < seconds * 1.01
    if seconds < 1000:
        np.testing.assert_allclose(found, 0.5 + 0.4 * np.sin(times / 50), atol=0.01)
    assert max(score for _, score in history.curve(1)) == (0.5 if seconds == 300 else 0)
    assert {score for _, score in history.curve(2) + history.curve(99)} == {0}
    assert len(json.dumps(history.to_json())) < 50_000


def test_a_run_that_goes_on_has_the_same_curves():
    times = np.arange(0, 60, 0.21)
    assert followed(times, through_json=True).to_json() == followed(times).to_json()


def test_a_part_without_frames_has_no_point_and_one_of_many_labels_has_the_highest():
    history = ScoreHistory()
    for time in (0.0, 100.0, 100.0 + 1e-6):
        history.add(time, np.linspace(0, 1, 1000))
        history.add(time, np.linspace(1, 0, 1000))
    assert [time for time, _ in history.curve(999)] == pytest.approx([0, 100], abs=history.step)
    assert all(len(part) == KEPT for part in history.to_json()["parts"] if part is not None)
    assert {score for _, score in history.curve(0)} == {score for _, score in history.curve(999)} == {1}
