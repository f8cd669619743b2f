"""From which score on answers are right as often as was asked for."""

from __future__ import annotations

from shvit.card import Promise
from shvit.evaluation.metrics import wilson_interval
from shvit.evaluation.selective import RiskCoverage


def promise(target: float, right: int, answers: int, total: int) -> Promise:
    """What a card says of so many answers, with the 95 % interval of the binomial distribution (Wilson).

    Args:
        target: share that was asked to be right, in (0, 1).
        answers: at least one, of ``total`` images.
    """
    low, high = wilson_interval(right, answers)
    return Promise(target, right / answers, low, high, answers / total)


def least_score(curve: RiskCoverage, target: float) -> tuple[float, Promise] | None:
    """The lowest score from which on answers are right as often as asked, even at the low end of the interval.

    Args:
        target: share of the answers that is to be right, in (0, 1).

    Returns:
        The score, and what was found there; ``None`` where no score is enough, or the images are too few to tell.
    """
    found = None
    for place, (right, answers) in enumerate(zip(curve.right.tolist(), curve.answers.tolist(), strict=True)):
        if right / answers >= target and (kept := promise(target, right, answers, curve.total)).low >= target:
            found = place, kept
    if found is None:
        return None
    place, kept = found
    # Halfway to the next score, which is no answer: rounding must not lose the last that is one.
    below = curve.scores[place + 1] if place + 1 < len(curve.scores) else 0.0
    return float((curve.scores[place] + below) / 2), kept
