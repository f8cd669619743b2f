"""From logits to scores, and from scores to what a result says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shvit.card import Decision, Threshold, Unknown
from shvit.tasks import TASKS, Answering, Judged, task_of
from shvit.tasks.multi_label import MultiLabel
from shvit.tasks.results import Prediction, Result

from ..conftest import COLOURS, colour_card

LIMIT = Unknown("in words", 2.0, 0.95)


def decision(**changes) -> Decision:
    return Decision("fp32", "photos", 90, **changes)


def result(scores: list[float], strange: float | None = None, task: str = "classification", **answering) -> Result:
    """What a card with thresholds 0.9 for red and 0.4 for the others, and a limit, makes of scores."""
    decided = decision(min_score=0.4, thresholds=(Threshold(0, "red", 0.9),), unknown=LIMIT)
    card = colour_card(task=task, decision=decided)
    return task_of(card).result("a.png", Judged(np.float32(scores), strange), card, Answering(**answering))


rows = st.lists(st.lists(st.floats(-60, 60, width=32), min_size=3, max_size=3), min_size=1, max_size=4)


@given(rows, st.sampled_from([1.0, 0.05, 3.0]))
def test_scores_are_torchs(rows, temperature):
    logits = np.float32(rows) / np.float32(temperature)
    tensor = torch.from_numpy(logits)
    for name, expected in (("classification", tensor.softmax(-1)), ("multi_label", tensor.sigmoid())):
        found = TASKS[name].scores(logits)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected.numpy(), rtol=2e-5, atol=1e-37)


@given(rows, st.integers(0, 2))
def test_losses_are_torchs(rows, target):
    logits = np.float32(rows)
    targets = np.full(len(logits), target)
    expected = torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(targets), reduction="none")
    np.testing.assert_allclose(TASKS["classification"].losses(logits, targets), expected, rtol=1e-4, atol=1e-5)
    holds = np.eye(3, dtype=bool)[targets]
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.from_numpy(logits), torch.from_numpy(holds.astype(np.float32)), reduction="none"
    ).sum(dim=1)
    np.testing.assert_allclose(TASKS["multi_label"].losses(logits, holds), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("task", list(TASKS))
def test_the_largest_logits_are_no_warning(task):
    largest = np.finfo(np.float32).max
    scores = TASKS[task].scores(np.float32([[largest, 0, -largest]]))
    assert scores[0, 0] == 1
    assert scores[0, 2] == 0


def test_an_answer():
    found = result([0.05, 0.8, 0.15], strange=2.0)  # at the limit is not above it
    assert (found.known, found.decision, found.headline) == (True, "answer", "green")
    assert found.answer == found.predictions[:1]
    assert [each.accepted for each in found.predictions] == [True, None, None]
    assert found.to_dict() == {
        "source": "a.png",
        "predictions": [
            {"label": "green", "class_id": 1, "wnid": None, "score": pytest.approx(0.8), "accepted": True},
            {"label": "blue", "class_id": 2, "wnid": None, "score": pytest.approx(0.15)},
            {"label": "red", "class_id": 0, "wnid": None, "score": pytest.approx(0.05)},
        ],
        "decision": "answer",
        "known": True,
        "unknown_score": 2.0,
    }


def test_unsure_by_the_classs_own_threshold():
    found = result([0.8, 0.15, 0.05], strange=0.0)
    assert (found.known, found.decision, found.answer) == (True, "unsure", ())
    assert found.headline == "unsure (best: red)"


def test_unknown_comes_before_all():
    found = result([0.01, 0.98, 0.01], strange=2.5)
    assert (found.known, found.decision, found.answer) == (False, "unknown", ())
    assert found.headline == "unknown (nearest: green)"
    assert found.to_dict()["known"] is False
    plain = result([0.01, 0.98, 0.01], strange=2.5, unknown=False)
    assert (plain.known, plain.unknown_score, plain.decision) == (None, None, "answer")


def test_min_score_stands_for_all_thresholds():
    assert result([0.8, 0.15, 0.05], min_score=0.7).decision == "answer"
    assert result([0.1, 0.6, 0.3], min_score=0.7).decision == "unsure"
    assert result([0.1, 0.6, 0.3], min_score=0.0).decision == "answer"
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"min_score: expected 0 to 1, got"):
            Answering(min_score=wrong)


def test_a_card_that_decides_nothing_adds_nothing():
    card = colour_card()
    found = task_of(card).result("a.png", Judged(np.float32([0.1, 0.6, 0.3]), 9.0), card, Answering(top_k=1))
    assert (found.known, found.unknown_score, found.answer, found.decision) == (None, None, None, None)
    assert found.headline == "green"
    assert set(found.to_dict()) == {"source", "predictions"}
    assert set(found.to_dict()["predictions"][0]) == {"label", "class_id", "wnid", "score"}


def test_of_several_labels_all_that_are_accepted_are_given():
    found = result([0.95, 0.45, 0.6], task="multi_label", top_k=1)
    assert [each.label for each in found.predictions] == ["red", "blue", "green"]
    assert found.headline == "red, blue, green"
    # a label with a higher threshold of its own between two that are accepted
    found = result([0.8, 0.9, 0.5], task="multi_label", top_k=1)
    assert [(each.label, each.accepted) for each in found.predictions] == [
        ("green", True),
        ("red", False),
        ("blue", True),
    ]
    assert [each.label for each in found.answer or ()] == ["green", "blue"]
    none = result([0.1, 0.2, 0.3], task="multi_label", top_k=2)
    assert (none.decision, none.headline, len(none.predictions)) == ("unsure", "unsure (best: blue)", 2)


def test_of_several_labels_one_half_is_enough_where_the_card_says_nothing():
    card = colour_card(task="multi_label")
    scores = Judged(np.float32([0.5, 0.49, 0.9]))
    found = task_of(card).result("a.png", scores, card, Answering(top_k=3))
    assert [each.label for each in found.answer or ()] == ["blue", COLOURS[0]]


def test_a_failed_input_has_its_reason():
    found = Result("a.png", error="not an image")
    assert (found.decision, found.headline) == (None, "not an image")
    assert found.to_dict() == {"source": "a.png", "error": "not an image"}
    assert Prediction("red, crimson", 0, None, 0.5).short_label == "red, crimson"


@given(
    st.lists(st.sampled_from([0.0, 0.2, 0.4, 0.5, 0.9, 1.0]), min_size=3, max_size=3),
    st.sampled_from([None, 0.4, 0.95]),
    st.sampled_from([None, 0.4, 0.5]),
    st.sampled_from([(), (Threshold(1, "green", 0.2),)]),
)
def test_every_label_above_its_threshold_is_shown(scores, least, of_card, thresholds):
    card = colour_card(task="multi_label", decision=decision(min_score=of_card, thresholds=thresholds))
    task, scores = task_of(card), np.float32(scores)
    expected = {each for each, score in enumerate(scores.tolist()) if task.accepted(0, each, score, card, least)}
    found = task.predictions(scores, card, top_k=1, min_score=least)
    assert {each.class_id for each in found if each.accepted} == expected


def test_labels_below_all_thresholds_cost_nothing(monkeypatch):
    asked = []
    accepted = MultiLabel.accepted
    monkeypatch.setattr(MultiLabel, "accepted", lambda task, *given: asked.append(given) or accepted(task, *given))
    MultiLabel().shown(np.float32([0.1, 0.7, 0.2]), colour_card(task="multi_label"), 1, None)
    assert [class_id for _, class_id, *_ in asked] == [1]
