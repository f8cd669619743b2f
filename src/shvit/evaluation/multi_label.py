"""What is counted where a picture has any number of labels; NumPy only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from shvit.card import Card
from shvit.evaluation.metrics import SMALLEST, Calibration, calibration_of
from shvit.tasks.multi_label import USUAL_THRESHOLD, MultiLabel
from shvit.tasks.ranking import average_precisions, f1_scores, mean_average_precision

RESAMPLES = 100
"""Sets of images that the interval of mAP is taken from."""

MOST_RESAMPLED = 50_000_000
"""Scores that are sorted for it at most; of more there is no interval, which would be narrow anyway."""


OFF = 0.02
"""Mean gap of score and frequency up to which scores are taken for probabilities."""

WORTH_FITTING = 0.02
"""Gain in F1 from which on thresholds of labels are recommended."""


@dataclass(frozen=True)
class LabelPredictions:
    """What a classifier said of N images, beside what is right; classes are the classifier's, C of them."""

    indices: np.ndarray
    """``int64 (N,)``: which images of the dataset these are."""
    labels: np.ndarray
    """``bool (N, C)``: whether each label is right."""
    scores: np.ndarray
    """``float32 (N, C)``, in [0, 1]."""

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def confidence(self) -> np.ndarray:
        """``float32 (N,)``: each image's best score."""
        return self.scores.max(axis=1)

    @property
    def mean_average_precision(self) -> float:
        return mean_average_precision(self.scores, self.labels)

    @property
    def loss(self) -> float:
        """Binary cross-entropy, summed over the labels, mean over the images."""
        right = np.where(self.labels, self.scores, 1 - self.scores).astype(np.float64)
        return float(-np.log(right.clip(SMALLEST, 1)).sum(axis=1).mean())

    def calibration(self, scores: np.ndarray | None = None) -> Calibration:
        """Scores beside how often the label is right, over all images and labels.

        Args:
            scores: others than its own, ``(N, C)``.
        """
        return calibration_of((self.scores if scores is None else scores).reshape(-1), self.labels.reshape(-1))

    def answers(self, thresholds: np.ndarray | float) -> np.ndarray:
        """The labels given, ``bool (N, C)``.

        Args:
            thresholds: from which score on each is, ``(C,)`` or one for all.
        """
        return self.scores >= np.asarray(thresholds, np.float32)


def label_predictions(scores: np.ndarray, accepted: Sequence[Sequence[int]], indices: np.ndarray) -> LabelPredictions:
    """Args: scores: ``(N, C)``; accepted: of each image its labels, any number; indices: ``(N,)``, which images."""
    return LabelPredictions(np.asarray(indices), MultiLabel().targets(accepted, scores.shape[1]), scores)


def concatenate_labels(parts: Sequence[LabelPredictions]) -> LabelPredictions:
    """The predictions of several batches as one."""
    return LabelPredictions(
        np.concatenate([part.indices for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.scores for part in parts]),
    )


def fit_thresholds(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """From which score on each label should be given for the best F1 on these images, ``float64 (C,)``.

    Halfway between two scores, so that rounding changes no answer. A label that no image has stays at one half.
    """
    found = np.full(labels.shape[1], USUAL_THRESHOLD)
    for place in np.flatnonzero(labels.any(axis=0)).tolist():
        order = np.argsort(-scores[:, place], kind="stable")
        ranked, right = scores[order, place].astype(np.float64), labels[order, place]
        f1 = 2 * np.cumsum(right) / (np.arange(1, len(right) + 1) + right.sum())
        f1[:-1][ranked[1:] == ranked[:-1]] = -1  # equals are answered together
        best = int(f1.argmax())
        below = ranked[best + 1] if best + 1 < len(ranked) else 0.0
        found[place] = (ranked[best] + below) / 2
    return found


def answered_by_halves(predictions: LabelPredictions) -> np.ndarray:
    """The labels given by thresholds that were fitted on the other half of the images, ``bool (N, C)``."""
    given = np.zeros_like(predictions.labels)
    for own in (slice(0, None, 2), slice(1, None, 2)):
        other = slice(1 - own.start, None, 2)
        thresholds = fit_thresholds(predictions.scores[other], predictions.labels[other])
        given[own] = predictions.scores[own] >= thresholds.astype(np.float32)
    return given


@dataclass(frozen=True)
class AnswerFigures:
    """How good the labels given are; shares in [0, 1], ``None`` where nothing can be told."""

    precision: float | None
    """Share of the labels given that are right."""
    recall: float | None
    """Share of the right labels that are given."""
    f1: float | None
    """Of these two."""
    f1_macro: float | None
    """Mean of F1 over the labels that occur or are given."""
    exact_match: float
    """Share of the images whose labels are all right, with none left out."""


def answer_figures(given: np.ndarray, labels: np.ndarray) -> AnswerFigures:
    """Args: given: ``bool (N, C)``; labels: those that are right, ``bool (N, C)``."""
    both, answers, right = int((given & labels).sum()), int(given.sum()), int(labels.sum())
    by_label = f1_scores(given, labels)
    return AnswerFigures(
        both / answers if answers else None,
        both / right if right else None,
        2 * both / (answers + right) if answers + right else None,
        float(np.nanmean(by_label)) if answers + right else None,
        float((given == labels).all(axis=1).mean()),
    )


def precision_interval(predictions: LabelPredictions) -> tuple[float, float] | None:
    """Where mAP of all such images lies, with 95 % confidence: percentiles of sets drawn from these (bootstrap)."""
    if predictions.scores.size * RESAMPLES > MOST_RESAMPLED:
        return None
    rng, count = np.random.default_rng(0), len(predictions)
    found = []
    for _ in range(RESAMPLES):
        drawn = rng.integers(0, count, count)
        found.append(mean_average_precision(predictions.scores[drawn], predictions.labels[drawn]))
    low, high = np.percentile(found, (2.5, 97.5))
    return float(low), float(high)


def card_thresholds(card: Card) -> np.ndarray:
    """From which score on each label is an answer, ``float64 (C,)``: the card's, or one half."""
    decision = card.decision
    own = (None if decision is None else decision.threshold(each.class_id) for each in card.classes)
    return np.array([USUAL_THRESHOLD if each is None else each for each in own])


def label_figures(predictions: LabelPredictions, card: Card, before: np.ndarray | None) -> dict[str, Any]:
    """All that is measured, as JSON can hold it; shares are in [0, 1].

    Args:
        card: the classifier's.
        before: scores without the card's temperature, ``(N, C)``, where it has one.
    """
    scores, labels = predictions.scores, predictions.labels
    thresholds, fitted = card_thresholds(card), fit_thresholds(scores, labels)
    given = predictions.answers(thresholds)
    precisions, reliability = average_precisions(scores, labels), predictions.calibration()
    f1, images, answers = f1_scores(given, labels), labels.sum(axis=0), given.sum(axis=0)
    both = (given & labels).sum(axis=0)
    decided = card.decision is not None and (card.decision.min_score is not None or card.decision.thresholds)
    interval = precision_interval(predictions)
    return {
        "images": len(predictions),
        "labels": int(labels.sum()),
        "without_labels": int((~labels.any(axis=1)).sum()),
        "map": predictions.mean_average_precision,
        "map_interval": None if interval is None else list(interval),
        "map_by_chance": float(labels.mean(axis=0)[images > 0].mean()) if images.any() else 0.0,
        "loss": predictions.loss,
        "ece": reliability.error,
        "ece_before_temperature": None if before is None else predictions.calibration(before).error,
        "at_half": asdict(answer_figures(predictions.answers(USUAL_THRESHOLD), labels)),
        "at_card_thresholds": asdict(answer_figures(given, labels)) if decided else None,
        "at_fitted_thresholds": asdict(answer_figures(answered_by_halves(predictions), labels)),
        "per_class": [
            {
                **asdict(each),
                "images": int(images[place]),
                "average_precision": number(precisions[place]),
                "threshold": float(thresholds[place]),
                "predicted": int(answers[place]),
                "precision": int(both[place]) / int(answers[place]) if answers[place] else None,
                "recall": int(both[place]) / int(images[place]) if images[place] else None,
                "f1": number(f1[place]),
                "fitted_threshold": float(fitted[place]) if images[place] else None,
            }
            for place, each in enumerate(card.classes)
        ],
        "classes_without_images": [each.label for each in card.classes if not images[each.class_id]],
        "calibration": [
            {"labels": int(count), "score": number(score), "right": number(right)}
            for count, score, right in zip(
                reliability.counts, reliability.confidence, reliability.accuracy, strict=True
            )
        ],
    }


def number(value: float) -> float | None:
    """NaN is not JSON."""
    return None if math.isnan(value) else float(value)


def weakest_labels(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Entries of ``per_class`` that have images, those found worst first."""
    return sorted((each for each in results["per_class"] if each["images"]), key=lambda each: each["average_precision"])


def surest_mistakes(predictions: LabelPredictions, thresholds: np.ndarray, most: int) -> list[tuple[int, int]]:
    """Images and labels that are furthest on the wrong side of their thresholds: given and not there, or the reverse.

    Args:
        thresholds: ``(C,)``.

    Returns:
        Row and class of each, the worst first; of an image at most one.
    """
    given = predictions.answers(thresholds)
    apart = np.where(given != predictions.labels, np.abs(predictions.scores - thresholds), -1.0)
    worst = apart.argmax(axis=1)
    of_row = apart[np.arange(len(apart)), worst]
    order = np.argsort(-of_row, kind="stable")[:most]
    return [(int(row), int(worst[row])) for row in order if of_row[row] >= 0]


def label_verdict(results: dict[str, Any], card: Card) -> tuple[str, ...]:
    """How good it is, where it fails, what its answers come to, and whether its scores can be believed.

    Args:
        results: of ``label_figures``.
    """
    weak = weakest_labels(results)
    return (
        _how_good(results, card),
        *([] if not weak else [_weakest(weak, card)]),
        _answers(results),
        _scores(results),
    )


def _how_good(results: dict[str, Any], card: Card) -> str:
    interval = results["map_interval"]
    sure = "" if interval is None else f" (95% interval {interval[0]:.1%} to {interval[1]:.1%})"
    occurring = sum(each["images"] > 0 for each in results["per_class"])
    found = (
        f"mAP {results['map']:.1%}{sure} over {occurring} labels on {results['images']:,} images; guessing comes to "
        f"{results['map_by_chance']:.1%}"
    )
    stated = next((each for each in card.metrics if each.name == "map" and 0 <= each.value <= 1), None)
    return f"{found}." if stated is None else f"{found}. Its card states {stated.value:.1%} for {stated.dataset}."


def _weakest(weak: list[dict[str, Any]], card: Card) -> str:
    named = ", ".join(
        f"{card.short_labels[each['class_id']]} ({each['average_precision']:.0%}, {each['images']:,} images)"
        for each in weak[:3]
    )
    return f"Labels that it finds worst, by average precision: {named}."


def _answers(results: dict[str, Any]) -> str:
    own = results["at_card_thresholds"]
    figures, where = (
        (results["at_half"], "from a score of 0.5 on") if own is None else (own, "by its card's thresholds")
    )
    if figures["precision"] is None or figures["recall"] is None:
        return f"Labels given {where}: none, or there is none to give."
    text = (
        f"Of the labels that it gives {where} {figures['precision']:.0%} are right, and it gives "
        f"{figures['recall']:.0%} of those that are; all labels of an image are right for {figures['exact_match']:.0%}."
    )
    now, fitted = figures["f1_macro"], results["at_fitted_thresholds"]["f1_macro"]
    if now is not None and fitted is not None and fitted > now + WORTH_FITTING:
        text += f" With thresholds of their own, labels would come to F1 {fitted:.1%} in place of {now:.1%}."
    return text


def _scores(results: dict[str, Any]) -> str:
    error = results["ece"]
    if error > OFF:
        advice = ": shvit calibrate" if results["ece_before_temperature"] is None else ""
        return f"Its scores are no probabilities (calibration error {error:.1%}){advice}."
    return f"Its scores can be read as probabilities (calibration error {error:.1%})."
