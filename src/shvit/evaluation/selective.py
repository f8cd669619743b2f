"""How often answers are right where only high scores are answers, and how well unknown pictures are told apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np


@dataclass(frozen=True)
class RiskCoverage:
    """How often the answers are right, from each score on, where only higher scores are answers.

    Geifman and El-Yaniv, Selective Classification for Deep Neural Networks, 2017.
    """

    scores: np.ndarray
    """``float64 (K,)``, each that occurs, falling."""
    answers: np.ndarray
    """``int64 (K,)``: images with this score or a higher one."""
    right: np.ndarray
    """``int64 (K,)``: of these, those with a right answer."""
    total: int
    """All images."""
    of: ClassVar[str] = "of the images"
    """What coverage is a share of, in words."""

    @property
    def coverage(self) -> np.ndarray:
        """``float64 (K,)``: share of the images with an answer, in [0, 1]."""
        return self.answers / self.total

    @property
    def precision(self) -> np.ndarray:
        """``float64 (K,)``: share of the answers that is right, in [0, 1]."""
        return self.right / self.answers

    @property
    def area(self) -> float:
        """Area under the risk over the coverage (AURC), in [0, 1]: the mean share of wrong answers over all scores."""
        weights = np.diff(self.answers, prepend=0)
        return float(((1 - self.precision) * weights).sum() / self.total)

    def coverage_at(self, precision: float) -> float:
        """The largest share of the images that can be answered with so many right, in [0, 1]."""
        enough = self.precision >= precision
        return float(self.coverage[enough].max()) if enough.any() else 0.0


def risk_coverage(scores: np.ndarray, right: np.ndarray) -> RiskCoverage:
    """Args: scores: ``(N,)``, of each image's answer; right: ``bool (N,)``, whether it is."""
    order = np.argsort(-scores, kind="stable")
    falling, hits = scores[order].astype(np.float64), np.cumsum(right[order])
    last = np.flatnonzero(np.append(falling[1:] != falling[:-1], True))  # of equal scores all are answers, or none
    return RiskCoverage(falling[last], last + 1, hits[last], len(scores))


def auroc(known: np.ndarray, unknown: np.ndarray) -> float:
    """Chance that an unknown picture has a higher score than a known one, in [0, 1]; of equal scores half.

    Args:
        known, unknown: scores, ``(N,)`` and ``(M,)``, at least one each.
    """
    ordered = np.sort(known)
    below = np.searchsorted(ordered, unknown, side="left")
    equal = np.searchsorted(ordered, unknown, side="right") - below
    return float((below + equal / 2).mean() / len(known))


def taken_for_known(known: np.ndarray, unknown: np.ndarray, kept: float = 0.95) -> float:
    """Share of the unknown pictures below the limit that keeps so many known ones (FPR at 95 % recall), in [0, 1]."""
    return float((unknown <= np.quantile(known, kept, method="higher")).mean())
