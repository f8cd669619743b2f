"""The decision part of a card that tells any number of labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from shvit.calibration.fitting import Fitting
from shvit.calibration.outputs import Outputs
from shvit.card import Threshold
from shvit.evaluation.multi_label import fit_thresholds
from shvit.evaluation.selective import RiskCoverage, risk_coverage
from shvit.evaluation.thresholds import least_score, promise

FEWEST_PICTURES = 20
"""With a label, and without it, from which on it gets a threshold of its own."""


@dataclass(frozen=True)
class LabelCurve(RiskCoverage):
    """How often labels are right where only high scores are given."""

    present: int = 0
    """Labels that are right, over all images."""
    of: ClassVar[str] = "of the labels that are there"

    @property
    def coverage(self) -> np.ndarray:
        """``float64 (K,)``: share of these that is given (recall), in [0, 1]."""
        return self.right / max(self.present, 1)


class LabelFitting(Fitting):
    """Each label of each image is an answer of its own, with its score."""

    tells_unknown: ClassVar[bool] = False

    def judge(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return scores.reshape(-1), self._targets.reshape(-1)

    def curve_of(self, scores: np.ndarray, right: np.ndarray) -> RiskCoverage:
        found = risk_coverage(scores, right)
        return LabelCurve(found.scores, found.answers, found.right, found.total, int(right.sum()))

    def _fit_thresholds(self, right: np.ndarray) -> None:
        """For a target one of all labels, or one for each with ``per_class``; without one, of each the best F1."""
        target, labels = self._options.target_precision, self._targets
        scores = self._scores.reshape(labels.shape)
        enough = np.minimum(labels.sum(axis=0), (~labels).sum(axis=0)) >= FEWEST_PICTURES
        given = np.zeros_like(labels)
        shared = np.ones(labels.shape[1], bool)
        if target is None:
            best = fit_thresholds(scores, labels)
            self._keep({each: float(best[each]) for each in np.flatnonzero(enough).tolist()})
            return
        if self._options.per_class:
            own = {}
            for each in np.flatnonzero(enough).tolist():
                found = least_score(risk_coverage(scores[:, each], labels[:, each]), target)
                if found is not None:
                    own[each] = found[0]
                    shared[each] = False
                    given[:, each] = scores[:, each] >= found[0]
            self._keep(own)
        common = None
        if shared.any():
            curve = risk_coverage(scores[:, shared].reshape(-1), labels[:, shared].reshape(-1))
            common = least_score(curve, target)
        if common is not None:
            self._min_score = common[0]
            given[:, shared] = scores[:, shared] >= common[0]
        elif shared.any() and self._thresholds:
            self._min_score = 1.0
        if not given.any():
            self.notes.append(
                f"no threshold: on these {len(labels)} images no score is surely right {target:.0%} of the time; give "
                "more images, or a lower --target-precision"
            )
            return
        answered = int(given.any(axis=1).sum())
        found_right, answers = int((given & labels).sum()), int(given.sum())
        kept = promise(target, found_right, answers, answers)
        self._promise = replace(kept, coverage=answered / len(labels))

    def _keep(self, own: dict[int, float]) -> None:
        classes = self._card.classes
        self._thresholds = tuple(Threshold(each, classes[each].label, score) for each, score in own.items())
        self.notes.append(
            f"{len(own)} of {len(classes)} labels have a threshold of their own; the others have fewer than "
            f"{FEWEST_PICTURES} images here, or are not right often enough"
        )

    def _fit_unknown(self, made: Sequence[Outputs], strange: Outputs | None) -> None:
        self.notes.append("no unknown score: a picture of none of the labels has none above its threshold")
