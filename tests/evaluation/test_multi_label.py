"""Figures of several labels, beside others' code and by hand; evaluation through the command."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shvit.card import ClassInfo, Decision, Metric, Threshold
from shvit.cli.main import main
from shvit.errors import DataError
from shvit.evaluation.measure import EvaluationOptions, evaluate
from shvit.evaluation.multi_label import (
    LabelPredictions,
    answer_figures,
    answered_by_halves,
    fit_thresholds,
    label_figures,
    label_predictions,
    label_verdict,
    surest_mistakes,
)
from shvit.evaluation.tally import TALLIES
from shvit.evaluation.task_measures import MEASURES
from shvit.tasks import TASKS
from shvit.tasks.ranking import average_precisions, f1_scores, mean_average_precision

from ..conftest import colour_card, write_colour_model
from ..data.test_several_labels import write_csv

COLOURS = ("red", "green", "blue")


def random_scores(seed: int, count: int = 60, classes: int = 5, levels: int = 1000):
    rng = np.random.default_rng(seed)
    labels = rng.random((count, classes)) < 0.3
    scores = (rng.integers(0, levels, labels.shape) / levels).astype(np.float32)
    return scores, labels


@pytest.mark.parametrize("levels", [3, 1000])  # with 3, many are equal
def test_precision_and_f1_are_scikit_learns(levels):
    metrics = pytest.importorskip("sklearn.metrics")
    scores, labels = random_scores(0, levels=levels)
    found = average_precisions(scores, labels)
    expected = [metrics.average_precision_score(labels[:, each], scores[:, each]) for each in range(5)]
    assert found == pytest.approx(expected, abs=1e-12)
    assert mean_average_precision(scores, labels) == pytest.approx(
        metrics.average_precision_score(labels, scores, average="macro"), abs=1e-12
    )
    answers = scores >= 0.5
    assert f1_scores(answers, labels) == pytest.approx(metrics.f1_score(labels, answers, average=None), abs=1e-12)
    figures = answer_figures(answers, labels)
    assert figures.f1 == pytest.approx(metrics.f1_score(labels, answers, average="micro"))
    assert figures.precision == pytest.approx(metrics.precision_score(labels, answers, average="micro"))
    assert figures.recall == pytest.approx(metrics.recall_score(labels, answers, average="micro"))
    assert figures.exact_match == pytest.approx(metrics.accuracy_score(labels, answers))
    loss = LabelPredictions(np.arange(60), labels, scores.clip(0.01, 0.99)).loss
    by_class = [metrics.log_loss(labels[:, each], scores[:, each].clip(0.01, 0.99)) for each in range(5)]
    assert loss == pytest.approx(sum(by_class), rel=1e-5)


def test_precision_by_hand():
    scores, labels = np.array([[0.9], [0.8], [0.7], [0.6]]), np.array([[True], [False], [True], [False]])
    assert average_precisions(scores, labels).tolist() == [pytest.approx((1 + 2 / 3) / 2)]
    assert average_precisions(np.zeros((4, 1)), labels).tolist() == [0.5]  # nothing is told apart: the frequency
    nobody = np.zeros((4, 2), dtype=bool)
    assert np.isnan(average_precisions(np.zeros((4, 2)), nobody)).all()
    assert mean_average_precision(np.zeros((4, 2)), nobody) == 0


@given(st.integers(0, 1000), st.sampled_from((2, 5, 1000)))
def test_no_threshold_is_better_than_the_fitted(seed, levels):
    scores, labels = random_scores(seed, 25, 2, levels)
    thresholds = fit_thresholds(scores, labels)
    for place in np.flatnonzero(labels.any(axis=0)):
        column, right = scores[:, place], labels[:, [place]]
        best = max(f1_scores((column >= each)[:, None], right)[0] for each in np.unique(column))
        assert f1_scores((column >= np.float32(thresholds[place]))[:, None], right)[0] == pytest.approx(best)
    assert (thresholds[~labels.any(axis=0)] == 0.5).all()


def test_fitted_thresholds_are_measured_on_other_images():
    scores, labels = random_scores(3, 400, 4)  # chance: what is fitted to it does not hold
    predictions = LabelPredictions(np.arange(400), labels, scores)
    fitted = answer_figures(predictions.answers(fit_thresholds(scores, labels)), labels).f1_macro
    honest = answer_figures(answered_by_halves(predictions), labels).f1_macro
    assert honest < fitted


def test_figures_are_strict_json_and_have_all_labels():
    scores, labels = random_scores(1)
    labels[:, 4] = False
    card = colour_card(classes=tuple(ClassInfo(each, f"label {each}") for each in range(5)), task="multi_label")
    predictions = LabelPredictions(np.arange(60), labels, scores)
    found = label_figures(predictions, card, None)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["classes_without_images"] == ["label 4"]
    assert (len(found["per_class"]), found["per_class"][4]["average_precision"]) == (5, None)
    low, high = found["map_interval"]
    assert low < found["map"] < high
    assert found["at_card_thresholds"] is None
    decision = Decision("fp32", "data", 60, temperature=2.0, min_score=0.9, thresholds=(Threshold(1, "label 1", 0.2),))
    decided = label_figures(predictions, replace(card, decision=decision), None)
    assert [each["threshold"] for each in decided["per_class"]] == [0.9, 0.2, 0.9, 0.9, 0.9]
    assert decided["at_card_thresholds"]["recall"] < decided["at_half"]["recall"]


def test_a_temperature_is_taken_back():
    logits = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    for name, tally in TALLIES.items():
        task = TASKS[name]
        back = tally.without_temperature(task.scores(logits / 2), 2.0)
        expected = task.scores(logits)
        assert back == pytest.approx(expected.max(axis=1) if name == "classification" else expected, abs=1e-6)


def test_the_verdict_names_what_is_weak_and_compares_with_the_card():
    labels = np.array([[True, False], [False, True], [True, False], [False, True]] * 50)
    scores = np.where(labels, 0.7, 0.3).astype(np.float32)
    scores[:, 1] = 0.9  # tells nothing
    card = colour_card(
        classes=(ClassInfo(0, "cat"), ClassInfo(1, "dog")),
        task="multi_label",
        metrics=(Metric("map", 0.8, "elsewhere"),),
    )
    sentences = label_verdict(label_figures(LabelPredictions(np.arange(200), labels, scores), card, None), card)
    assert sentences[0].startswith("mAP 75.0%")
    assert "Its card states 80.0% for elsewhere" in sentences[0]
    assert sentences[1].startswith("Labels that it finds worst, by average precision: dog (50%, 100 images)")
    assert "67% are right, and it gives 100%" in sentences[2]
    assert "no probabilities (calibration error" in sentences[3]


def test_surest_mistakes():
    predictions = label_predictions(
        np.array([[0.95, 0.1, 0.5], [0.8, 0.7, 0.1], [0.2, 0.9, 0.4]], np.float32), [[1], [0, 1], []], np.arange(3)
    )
    assert predictions.labels.tolist() == [[False, True, False], [True, True, False], [False] * 3]
    assert surest_mistakes(predictions, np.full(3, 0.5), 5) == [(0, 0), (2, 1)]


@pytest.fixture
def several(tmp_path):
    """A model file that tells each colour by itself, and pictures of any of them."""
    from PIL import Image

    card = colour_card(task="multi_label")
    model = write_colour_model(tmp_path / "colours.onnx", card.to_json())
    rng = np.random.default_rng(0)
    rows = [("path", "labels")]
    for place in range(24):
        here = [channel for channel in range(3) if rng.random() < 0.5]
        pixels = np.zeros((32, 48, 3), np.uint8)
        for channel in here:
            pixels[..., channel] = rng.integers(1, 200)
        Image.fromarray(pixels).save(tmp_path / f"{place}.png")
        rows.append((f"{place}.png", "|".join(COLOURS[channel] for channel in here)))
    (tmp_path / "classes.txt").write_text("\n".join(COLOURS))
    return model, write_csv(tmp_path / "labels.csv", rows)


def test_evaluation_of_a_model_file(several, tmp_path, capsys):
    model, data = several
    result = evaluate(model, data, EvaluationOptions(workers=0, held_out="none", report=tmp_path / "report"))
    assert (result.top1, result.mean_average_precision) == (None, 1.0)
    assert "mean_average_precision=1.0000" in repr(result)
    folder = tmp_path / "report"
    assert {each.name for each in folder.iterdir()} <= set(MEASURES["multi_label"].report_files)
    rows = list(csv.DictReader((folder / "predictions.csv").open()))
    black = next(row for row in rows if not row["labels"])
    assert (black["predicted"], black["exact"]) == ("red|green|blue", "0")  # logits of 0 are scores of one half
    page = (folder / "report.html").read_text()
    assert "mAP 100.0%" in page
    assert "Surest mistakes" in page
    assert json.loads((folder / "results.json").read_text())["map"] == 1.0
    status = main(["eval", "--model", str(model), "--data", str(data), "--held-out", "none", "--workers", "0"])
    told = capsys.readouterr().out
    assert status == 0
    assert "mAP 100.00%" in told
    assert "least average precision" in told
    assert "top-1" not in told


def test_corruptions_fast_decoding_and_labels_of_a_file(several, tmp_path):
    model, data = several
    names = tmp_path / "labels.json"
    names.write_text(json.dumps({"0.png": ["red", "blue"], "1.png": [], "2.png": "green"}))
    options = EvaluationOptions(
        workers=0, held_out="none", labels=names, corruptions=("contrast",), severities=(1,), fast_decode=True
    )
    found = evaluate(model, data, options).figures
    assert (found["images"], found["labels"], found["without_labels"]) == (3, 3, 1)
    assert found["corruptions"][0].keys() == {"corruption", "severity", "map"}
    assert set(found["fast_decoding"]) == {"map", "map_change", "same_prediction", "images_per_second"}


def test_a_model_of_one_label_on_pictures_of_several(several, tmp_path):
    _, data = several
    model = write_colour_model(tmp_path / "one.onnx", colour_card().to_json())
    result = evaluate(model, data, EvaluationOptions(workers=0, held_out="none"))
    assert any("without labels are left out: the model tells one of each" in note for note in result.notes)
    assert result.top1 == 1.0  # any of a picture's labels is right
    write_csv(data, [("path", "labels"), *((f"{place}.png", "red" if place == 23 else "") for place in range(24))])
    assert evaluate(model, data, EvaluationOptions(workers=0, held_out="none")).measured == 1


def test_nothing_to_measure(several, tmp_path):
    model, data = several
    empty = tmp_path / "empty.json"
    empty.write_text(json.dumps({"0.png": []}))
    with pytest.raises(DataError, match="none of its 1 images has a label"):
        evaluate(model, data, EvaluationOptions(workers=0, held_out="none", labels=empty))
