"""An evaluation in a few sentences: how good, beside what was to be expected, and where it fails."""

from __future__ import annotations

import math

import numpy as np

from shvit.card import Card
from shvit.evaluation.metrics import (
    ClassCounts,
    Predictions,
    calibration,
    class_counts,
    confused_pairs,
    wilson_interval,
)
from shvit.evaluation.selective import risk_coverage

ONE_PAIR = 0.1
"""Share of all mistakes from which on one pair of classes is the main weakness."""

NAMED = 3
"""Classes that are named as the weakest, at most."""

COSTLY = 3
"""Pairs of classes that are named as confused most, at most."""

SURELY = 0.95
"""Share of right answers for which it is told how much can be answered."""

OFF = 0.02
"""Mean gap of score and accuracy up to which scores are taken for probabilities."""

ENOUGH_FOR_SCORES = 500
"""Images from which on the error of 15 bins says more of the classifier than of the sample."""


def verdict(predictions: Predictions, card: Card) -> tuple[str, ...]:
    """How good the classifier is, its main weakness, which confusions cost most, how much it can answer surely, and
    whether its scores can be believed; a sentence each.

    Args:
        predictions: at least one.
        card: the classifier's; the accuracy that it states, if it does, is compared with.
    """
    counts = class_counts(predictions, len(card.classes))
    sentences = (
        _how_good(predictions, counts, card),
        _weakness(predictions, counts, card),
        _confusions(predictions, counts, card),
        _coverage(predictions),
        _scores(predictions),
    )
    return tuple(each for each in sentences if each is not None)


def _how_good(predictions: Predictions, counts: ClassCounts, card: Card) -> str:
    total, right = len(predictions), int(predictions.correct.sum())
    low, high = wilson_interval(right, total)
    found = f"Right for {right / total:.1%} of {total:,} images ({right:,}; 95% interval {low:.1%} to {high:.1%})"
    simplest = int(counts.images.max()) / total
    chance = f"always answering the most frequent class would be right for {simplest:.1%}"
    if low <= simplest:
        return f"{found}, which is not clearly better than guessing: {chance}."
    stated = next((each for each in card.metrics if each.name == "top1" and 0 <= each.value <= 1), None)
    if stated is None:
        return f"{found}; {chance}."
    apart = 100 * (right / total - stated.value)
    if low <= stated.value <= high:
        compared = "in line with"
    else:
        compared = f"{abs(apart):.1f} points {'more' if apart > 0 else 'less'} than"
    return f"{found}, {compared} the {stated.value:.1%} that its card states for {stated.dataset}; {chance}."


def _weakness(predictions: Predictions, counts: ClassCounts, card: Card) -> str:
    names, wrong = card.short_labels, int((~predictions.correct).sum())
    if not wrong:
        return "It made no mistake on these images."
    (label, taken, times), *_ = confused_pairs(predictions, 1)
    pair = f"{names[label]} is taken for {names[taken]} ({times:,} of {counts.images[label]:,} images of it"
    if times >= ONE_PAIR * wrong and times > 1:
        return f"Main weakness: {pair}; {times / wrong:.0%} of all mistakes)."
    # Of classes with few images chance picks the worst: only those that are worse by more than that count.
    weak = [
        place
        for place in np.lexsort((-counts.images, np.nan_to_num(counts.accuracy, nan=2))).tolist()
        if counts.images[place]
        and wilson_interval(int(counts.correct[place]), int(counts.images[place]))[1] < predictions.top1
    ]
    if not weak:
        return f"No class and no pair of classes stands out among the {wrong:,} mistakes; most often {pair})."
    named = ", ".join(f"{names[each]} ({counts.correct[each]:,} of {counts.images[each]:,})" for each in weak[:NAMED])
    others = f", {len(weak)} such classes in all" if len(weak) > NAMED else ""
    return f"Main weakness: the classes that it recognises least: {named}{others}."


def _confusions(predictions: Predictions, counts: ClassCounts, card: Card) -> str | None:
    """``None`` where nothing is confused more than once."""
    names, wrong = card.short_labels, int((~predictions.correct).sum())
    pairs = [each for each in confused_pairs(predictions, COSTLY) if each[2] > 1]
    if len(pairs) < 2:
        return None
    named = "; ".join(
        f"{names[label]} taken for {names[taken]} ({times:,} of {counts.images[label]:,})"
        for label, taken, times in pairs
    )
    share = sum(times for _, _, times in pairs) / wrong
    return f"Most costly confusions, {share:.0%} of all mistakes: {named}."


def _coverage(predictions: Predictions) -> str | None:
    """``None`` where it is right so often anyway."""
    if predictions.top1 >= SURELY or len(predictions) < ENOUGH_FOR_SCORES:
        return None
    share = risk_coverage(predictions.confidence, predictions.correct).coverage_at(SURELY)
    if share < 0.005:
        return f"No score is high enough to be right {SURELY:.0%} of the time."
    return f"To be right {SURELY:.0%} of the time it could answer only the surest {share:.0%} of these images."


def _scores(predictions: Predictions) -> str:
    total, right, said = len(predictions), predictions.top1, float(predictions.confidence.mean())
    error = calibration(predictions).error
    by_chance = 2 * math.sqrt(right * (1 - right) / total)
    if abs(said - right) > max(OFF, by_chance):
        wrong = "high" if said > right else "low"
        return f"Its scores are too {wrong}: {said:.1%} on average (calibration error {error:.1%})."
    if total < ENOUGH_FOR_SCORES:
        return f"These are too few images to tell whether its scores can be believed (calibration error {error:.1%})."
    if error > 2 * OFF:
        return f"Its scores are too high for some images and too low for others (calibration error {error:.1%})."
    return f"Its scores can be read as probabilities (calibration error {error:.1%})."
