from __future__ import annotations

import numpy as np
import pytest

from shvit.card import Card, ClassInfo, Metric, Preprocessing
from shvit.evaluation.metrics import Predictions, wilson_interval
from shvit.evaluation.verdict import verdict

ACCURACY = Metric("top1", 0.9, "photos/val")


def card(classes: int = 4, metrics: tuple[Metric, ...] = ()) -> Card:
    named = tuple(ClassInfo(place, f"c{place}, of plants", f"n{place:08d}") for place in range(classes))
    return Card("card", "shvit_s1", named, Preprocessing(), metrics=metrics)


def predictions(said: dict[tuple[int, int], int], confidence: float, classes: int = 4) -> Predictions:
    """So many images of a class that were taken for a class, all with one score."""
    labels, taken = (np.repeat([pair[side] for pair in said], list(said.values())) for side in (0, 1))
    ranked = np.stack([(taken + place) % classes for place in range(classes)], axis=1)
    scores = np.full(ranked.shape, (1 - confidence) / (classes - 1))
    scores[:, 0] = confidence
    return Predictions(np.arange(len(labels)), labels, ranked, scores, np.ones(len(labels)))


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [
        (0, 10, 0, 0.2775),
        (5, 10, 0.2366, 0.7634),
        (10, 10, 0.7225, 1),
        (5252, 10_000, 0.5154, 0.5350),
        (1, 1, 0.2065, 1),
    ],
)
def test_the_interval_is_wilsons(right, total, low, high):
    assert wilson_interval(right, total) == pytest.approx((low, high), abs=5e-5)
    assert wilson_interval(0, total)[0] == 0 and wilson_interval(total, total)[1] == 1


def test_how_good_beside_what_the_card_states():
    found = predictions({(0, 0): 270, (1, 1): 270, (2, 2): 180, (2, 3): 120, (3, 3): 160}, 0.88)
    said = "Right for 88.0% of 1,000 images (880; 95% interval 85.8% to 89.9%)"
    simplest = "always answering the most frequent class would be right for 30.0%."
    assert verdict(found, card())[0] == f"{said}; {simplest}"
    for value, compared in ((0.87, "in line with the 87.0%"), (0.95, "7.0 points less than the 95.0%")):
        stated = (Metric("top5", 0.99, "photos"), Metric("top1", value, "photos/val"))
        expected = f"{said}, {compared} that its card states for photos/val; {simplest}"
        assert verdict(found, card(metrics=stated))[0] == expected
    assert "8.0 points more than the 80.0%" in verdict(found, card(metrics=(Metric("top1", 0.8, "photos"),)))[0]
    assert "card" not in verdict(found, card(metrics=(Metric("top1", 80.0, "photos"),)))[0]  # is no share


def test_what_guessing_would_do_is_no_merit():
    found = predictions({(0, 0): 90, (1, 0): 5, (2, 0): 5}, 0.9)
    assert verdict(found, card(metrics=(ACCURACY,)))[0].endswith(
        "which is not clearly better than guessing: always answering the most frequent class would be right for 90.0%."
    )


def test_the_main_weakness_is_a_pair_or_some_classes_or_neither():
    pair = predictions({(0, 0): 90, (0, 1): 10, (1, 1): 95, (1, 2): 5, (2, 2): 100}, 0.9)
    assert verdict(pair, card())[1] == (
        "Main weakness: c0 is taken for c1 (10 of 100 images of it; 67% of all mistakes)."
    )
    spread = {(place, place): 95 for place in range(1, 40)} | {(place, place + 50): 5 for place in range(1, 40)}
    weak = spread | {(0, 0): 60, **{(0, place): 1 for place in range(41, 81)}}
    said = verdict(predictions(weak, 0.9, 100), card(100))[1]
    assert said == "Main weakness: the classes that it recognises least: c0 (60 of 100)."
    said = verdict(predictions(spread, 0.9, 100), card(100))[1]
    assert said.startswith("No class and no pair of classes stands out among the 195 mistakes; most often c")
    assert verdict(predictions({(0, 0): 3, (1, 1): 1}, 0.9), card())[1] == "It made no mistake on these images."


@pytest.mark.parametrize(
    ("right", "wrong", "confidence", "said"),
    [
        (600, 400, 0.9, "Its scores are too high: 90.0% on average (calibration error 30.0%)."),
        (600, 400, 0.4, "Its scores are too low: 40.0% on average (calibration error 20.0%)."),
        (600, 400, 0.61, "Its scores can be read as probabilities (calibration error 1.0%)."),
        (12, 8, 0.7, "These are too few images to tell whether its scores can be believed (calibration error 10.0%)."),
    ],
)
def test_whether_scores_can_be_believed(right, wrong, confidence, said):
    found = predictions({(0, 0): right // 2, (1, 1): right - right // 2, (1, 2): wrong}, confidence)
    assert verdict(found, card())[-1] == said


def test_scores_that_are_wrong_both_ways():
    low = predictions({(0, 0): 500, (1, 2): 0}, 0.6)
    high = predictions({(1, 1): 100, (1, 2): 400}, 0.6)
    both = Predictions(*(np.concatenate(parts) for parts in zip(vars(low).values(), vars(high).values(), strict=True)))
    both.scores[:500, 0], both.scores[500:, 0] = 0.8, 0.4
    assert verdict(both, card())[-1].startswith("Its scores are too high for some images and too low for others")
