"""Temperature and thresholds of several labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from shvit.calibration.fitting import CalibrationOptions
from shvit.calibration.outputs import Outputs
from shvit.calibration.several_labels import LabelFitting
from shvit.card import Card, ClassInfo
from shvit.evaluation.multi_label import LabelPredictions, answer_figures
from shvit.tasks import task_of

from ..conftest import colour_card

CLASSES = tuple(ClassInfo(each, name) for each, name in enumerate("abcd"))
CARD = colour_card(classes=CLASSES, task="multi_label")


def fitting(options: CalibrationOptions, count: int = 1000, stretch: float = 3.0) -> tuple[LabelFitting, np.ndarray]:
    """Of logits that are so many times too large, and the labels."""
    rng = np.random.default_rng(0)
    logits = rng.normal(-1, 2, (count, 4))
    logits[:, 3] -= 12  # of which there is none
    labels = rng.random((count, 4)) < 1 / (1 + np.exp(-logits))
    outputs = Outputs((stretch * logits).astype(np.float32), None)
    return LabelFitting(CARD, outputs, labels, [], None, options), labels


def answers(card: Card, found: LabelFitting) -> np.ndarray:
    """What the card's decision gives."""
    task, decision = task_of(card), card.decision
    scores = task.scores(found._outputs.logits / np.float32(decision.temperature))
    thresholds = [0.5 if (each := decision.threshold(place)) is None else each for place in range(4)]
    return LabelPredictions(np.arange(len(scores)), scores > 1, scores).answers(np.array(thresholds))


def test_the_temperature_undoes_what_is_too_sure():
    found, _ = fitting(CalibrationOptions())
    decision = found.decision("data")
    assert 2.6 < decision.temperature < 3.4
    assert decision.calibration_error < decision.calibration_error_before
    assert any("no unknown score" in note for note in found.notes)


def test_without_a_target_labels_get_the_threshold_of_the_best_f1():
    found, labels = fitting(CalibrationOptions())
    decision = found.decision("data")
    assert [each.label for each in decision.thresholds] == ["a", "b", "c"]  # d has no images
    assert any("3 of 4 labels have a threshold" in note for note in found.notes)
    fitted = answer_figures(answers(replace(CARD, decision=decision), found), labels).f1_macro
    half = answer_figures(answers(replace(CARD, decision=replace(decision, thresholds=())), found), labels).f1_macro
    assert fitted > half


@pytest.mark.parametrize("per_class", [False, True])
def test_a_target_is_kept(per_class):
    found, labels = fitting(CalibrationOptions(target_precision=0.8, per_class=per_class))
    card = replace(CARD, decision=found.decision("data"))
    given = answers(card, found)
    assert (given & labels).sum() / given.sum() >= 0.8
    assert card.decision.promise.low >= 0.75
    assert card.decision.promise.coverage == given.any(axis=1).mean()
    assert bool(card.decision.thresholds) == per_class
    curve = found.curve
    assert curve.coverage[-1] == 1  # all labels that are there are found if every label is given
    assert curve.coverage_at(0.5) > curve.coverage_at(0.95)


def test_too_few_images_have_no_thresholds():
    found, _ = fitting(CalibrationOptions(target_precision=0.99), count=40)
    assert (found.decision("data").promise, found.decision("data").temperature) == (None, 1.0)
    assert any("no threshold: on these 40 images" in note for note in found.notes)
