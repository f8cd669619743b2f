from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from shvit.card import ClassInfo
from shvit.evaluation.classifiers import measure_latency
from shvit.evaluation.evaluate import Evaluation
from shvit.evaluation.figures import summarize, worst_classes
from shvit.evaluation.metrics import Predictions, confusion_matrix
from shvit.evaluation.plots import TICK_LABELS, TILE, confusion_figure, contact_sheet, tile

from ..conftest import Clock
from .test_metrics import random_predictions


@pytest.fixture
def results() -> dict:
    _, _, predictions = random_predictions(0, count=30)
    classes = [ClassInfo(i, f"class {i}") for i in range(50)]  # of which most have neither images nor predictions
    return summarize(Evaluation(predictions, (), 2.0), np.array([1.0, 2.0, 9.0]), [], classes)


def test_a_summary_is_strict_json(results):
    assert json.loads(json.dumps(results, allow_nan=False)) == results
    assert results["images_per_second"] == 15
    assert results["latency"]["median_ms"] == 2
    assert len(results["per_class"]) <= 8


def test_a_class_is_surely_right_from_some_score_on_or_too_few_to_tell():
    """Class 0 is right from 0.6 on for 60 images, class 1 for 30, which do not prove 90 %."""
    rng = np.random.default_rng(0)
    score = np.concatenate([rng.uniform(0.6, 1, 60), rng.uniform(0.3, 0.6, 40), rng.uniform(0.9, 1, 30)])
    predicted, right = np.repeat([0, 1], [100, 30]), np.arange(130) % 2 == 0
    right[:60] = right[100:] = True
    labels = np.where(right, predicted, 2)
    ranked, scores = np.stack([predicted, (predicted + 1) % 3], 1), np.stack([score, (1 - score) / 2], 1)
    found = Evaluation(Predictions(np.arange(130), labels, ranked, scores, np.zeros(130)), (), 1.0)
    classes = [ClassInfo(i, f"class {i}") for i in range(3)]
    first, second, _ = summarize(found, np.array([1.0]), [], classes)["per_class"]
    assert 0.5 < first["sure_score"] < 0.62
    assert first["sure_answers"] >= 60 and first["sure_low"] >= 0.9
    assert [second[f"sure_{each}"] for each in ("score", "answers", "precision", "low", "high")] == [None] * 5


def test_worst_classes_come_first_and_have_images(results):
    results["per_class"].append({"images": 0, "accuracy": None})
    worst = worst_classes(results)
    assert [each["accuracy"] for each in worst] == sorted(each["accuracy"] for each in worst)
    assert all(each["images"] for each in worst)


@pytest.mark.parametrize("classes", [3, TICK_LABELS, TICK_LABELS + 1, 200])
def test_a_confusion_matrix_names_its_classes_only_while_they_can_be_read(classes):
    names = [f"name {i}" for i in range(classes)]
    _, _, predictions = random_predictions(0, count=20 * classes, classes=classes)
    panel = confusion_figure(confusion_matrix(predictions)[1], names).axes[0]
    drawn = [label.get_text() for label in panel.get_yticklabels()]
    if classes <= TICK_LABELS:
        assert drawn == names
    else:
        assert len(drawn) < 20


def test_a_contact_sheet_cuts_what_does_not_fit():
    tiles = [tile(Image.new("RGB", size, (0, 0, 200))) for size in ((8, 4), (3000, 1000), (10, 900))]
    assert all(max(each.size) == TILE for each in tiles)
    sheet = contact_sheet(tiles, [("true: " + "W" * 500, "said: wolf")] * 3, columns=2)
    assert sheet.width < 2.3 * TILE
    gutter = np.asarray(sheet)[:, [5, sheet.width // 2, sheet.width - 3]]
    assert (gutter == 255).all()


class Slow:
    """Takes a known time of a clock that nothing else moves, longer when it is cold, and counts."""

    engine, card = "slow", SimpleNamespace()

    def __init__(self, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds, self.clock, self.batches = seconds, Clock(), []
        monkeypatch.setattr("shvit.evaluation.classifiers.time", self.clock)

    def predict_batch(self, batch: np.ndarray) -> np.ndarray:
        self.batches.append(batch.shape)
        self.clock.now += self.seconds * (1 if len(self.batches) > 3 else 10)
        return np.ones((1, 1), np.float32)


def test_latency_is_of_single_images_after_the_warm_up(monkeypatch):
    slow = Slow(0.002, monkeypatch)
    taken = measure_latency(slow, np.zeros((4, 6, 3), np.uint8), warm_up=3, runs=5)
    assert slow.batches == [(1, 4, 6, 3)] * 8
    assert taken == pytest.approx([2] * 5)


def test_a_slow_model_is_not_timed_forever(monkeypatch):
    slow = Slow(0.05, monkeypatch)
    taken = measure_latency(slow, np.zeros((4, 6, 3), np.uint8), warm_up=100, runs=100, seconds=2.01)
    assert len(slow.batches) == 1 + len(taken)  # the first, a cold one, was more than a fifth of the time
    assert taken == pytest.approx([500] * 2 + [50] * 21)
