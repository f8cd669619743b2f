"""What 8 bits cost a file of several labels."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from shvit.card import ClassInfo
from shvit.errors import DataError
from shvit.evaluation import int8_labels
from shvit.evaluation.evaluate import Evaluation
from shvit.evaluation.int8_labels import PrecisionJudge
from shvit.evaluation.multi_label import LabelPredictions
from shvit.exporting import Int8Precision

from ..conftest import colour_card

CLASSES = tuple(ClassInfo(each, name) for each, name in enumerate("abcd"))


def predictions(noise: float, count: int = 600) -> LabelPredictions:
    """Of labels that are told the better the less noise there is."""
    rng = np.random.default_rng(0)
    labels = rng.random((count, 4)) < 0.3
    return LabelPredictions(
        np.arange(count), labels, (labels + noise * rng.normal(size=labels.shape)).astype(np.float32)
    )


@pytest.fixture
def judge(monkeypatch):
    """One that has seen a good float32 file, and what the next file says."""
    said = SimpleNamespace(next=predictions(0.3))
    images = SimpleNamespace(name="data (val)", classes=CLASSES, labels=predictions(0).labels)
    monkeypatch.setattr(int8_labels, "calibration_images", lambda *_: (np.zeros((1, 2, 2, 3), np.uint8), None))
    monkeypatch.setattr(int8_labels, "Classifier", lambda file: None)
    monkeypatch.setattr(int8_labels, "evaluate_classifier", lambda *_, **__: Evaluation(said.next, (), 1.0))
    told: list[str] = []
    found = PrecisionJudge(colour_card(classes=CLASSES, task="multi_label"), images, images, 0.5, "file")
    found.observe("float32", told.append)
    return SimpleNamespace(judge=found.judge, said=said, told=told, itself=found)


def test_a_loss_is_told_in_points_of_map(judge):
    assert "600 validation images hardly tell a loss of 0.5 points" in judge.told[0]
    judge.said.next = predictions(0.6)
    found = judge.judge("int8", "command")
    assert found.too_much
    assert found.loss.points > 5
    assert [each.name for each in found.metrics] == ["map", "f1"]
    assert isinstance(found.found, Int8Precision)
    assert f"mAP {found.found.mean_average_precision:.2%} in int8" in found.found.sentence
    judge.said.next = predictions(0.3)
    same = judge.judge("int8", "command")
    assert (same.too_much, same.loss.points) == (False, 0)


def test_an_accident_is_no_loss(judge):
    whole = judge.said.next
    few = LabelPredictions(whole.indices[:12], whole.labels[:12], whole.scores[:12])
    judge.said.next = few
    judge.itself.observe("float32", judge.told.append)
    scores = few.scores.copy()
    scores[np.flatnonzero(few.labels[:, 0])[0], 0] = -1  # one image is ranked last
    judge.said.next = LabelPredictions(few.indices, few.labels, scores)
    found = judge.judge("int8", "command")
    assert found.loss.points > 0.5
    assert not found.too_much


def test_what_cannot_be_judged_is_refused(judge):
    judge.said.next = LabelPredictions(np.arange(600), predictions(0).labels, np.zeros((600, 4), np.float32))
    with pytest.raises(DataError, match="no more than by chance"):
        judge.itself.observe("float32", judge.told.append)
