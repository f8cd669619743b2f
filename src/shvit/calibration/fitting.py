"""The decision part of a card, fitted to what a model says of labelled images."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, cast

import numpy as np
from threadpoolctl import threadpool_limits

from shvit.calibration.outputs import Outputs
from shvit.calibration.temperature import FEWEST_IMAGES, cross_validated_scores, fit_temperature, has_optimum
from shvit.calibration.unknown import (
    FEWEST_KNOWN,
    FEWEST_UNKNOWN,
    METHOD,
    METHOD_WITH_UNKNOWN,
    fit_unknown,
    held_out_scores,
)
from shvit.card import Card, Decision, Promise, Threshold, Unknown
from shvit.errors import ArgumentError
from shvit.evaluation.metrics import calibration_of
from shvit.evaluation.selective import RiskCoverage, auroc, risk_coverage
from shvit.evaluation.thresholds import least_score, promise
from shvit.modelfile.program import Program
from shvit.tasks import task_of

FEW_NOTICED = 0.5
"""Share of the unknown pictures below which it is told how to notice more."""

OTHER_SHARES = (0.9, 0.8)
"""Of its own pictures that stay known, for comparison."""


@dataclass(frozen=True)
class CalibrationOptions:
    """All that ``shvit calibrate`` can be told."""

    unknown: str | Path | None = None
    """A folder of pictures of none of the classes: to tell how many of such are noticed, and to notice more."""
    target_precision: float | None = None
    """Share of the answers that are to be right, in (0, 1); lower scores are then no answers."""
    per_class: bool = False
    """With it: a threshold of its own for each class with enough images."""
    keep: float = 0.95
    """Share of the pictures of its own classes that stay known, in (0, 1)."""
    split: Literal["val", "train"] = "val"
    """Which of the data's images; ``val`` or ``train``."""
    image_key: str | None = None
    """Of tar shards with several images under one key, the extension of the one that is meant."""
    limit: int | None = None
    """Only so many images, evenly spaced over the split."""
    threads: int | None = None
    """Threads of one inference; all when not given."""
    workers: int = 2
    """Decoding processes; 0 decodes in this one."""

    def __post_init__(self) -> None:
        if self.target_precision is not None and not 0 < self.target_precision < 1:
            raise ArgumentError(
                f"--target-precision: expected more than 0 and less than 1, got {self.target_precision:g}"
            )
        if self.per_class and self.target_precision is None:
            raise ArgumentError("--per-class: thresholds are for a target; give --target-precision too, such as 0.95")
        if not 0 < self.keep < 1:
            raise ArgumentError(f"--keep: expected more than 0 and less than 1, got {self.keep:g}")


class Fitting:
    """What can be fitted to these images, and notes of what cannot.

    Args:
        card: without a decision.
        outputs: of N images.
        targets: what is right for each, as the task's ``losses`` takes it.
        made: of made pictures, by kind; none where the file gives no features.
        strange: of pictures of none of the classes, if there are any.
    """

    tells_unknown: ClassVar[bool] = True
    """Whether an unknown score is fitted."""
    program: Program | None
    """What computes it inside of the file."""

    def __init__(
        self,
        card: Card,
        outputs: Outputs,
        targets: np.ndarray,
        made: Sequence[Outputs],
        strange: Outputs | None,
        options: CalibrationOptions,
    ) -> None:
        self._card, self._outputs, self._targets, self._options = card, outputs, targets, options
        self.notes: list[str] = []
        self._temperature = 1.0
        self._error: float | None = None
        self._error_before: float | None = None
        self._fit_temperature()
        self._scores, right = self.judge(task_of(card).scores(outputs.logits / np.float32(self._temperature)))
        self._best = outputs.logits.argmax(axis=1)
        self.curve = self.curve_of(self._scores, right)
        """How often its answers are right, from each score on."""
        self._min_score: float | None = None
        self._promise: Promise | None = None
        self._thresholds: tuple[Threshold, ...] = ()
        self._fit_thresholds(right)
        self.program = None
        self._unknown: Unknown | None = None
        # One thread: the linear algebra's others wait by spinning, and beside a busy process take many times as long.
        with threadpool_limits(1, "blas"):
            self._fit_unknown(made, strange)

    def judge(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What would be answered, and whether it is right, ``(A,)`` each.

        Args:
            scores: ``(N, classes)``.
        """
        return scores.max(axis=1), scores.argmax(axis=1) == self._targets

    def curve_of(self, scores: np.ndarray, right: np.ndarray) -> RiskCoverage:
        """Args: scores, right: of ``judge``."""
        return risk_coverage(scores, right)

    def decision(self, data: str) -> Decision:
        """Args: data: what the images are called."""
        written = self._card.verification
        return Decision(
            precision="fp32" if written is None else cast(Literal["fp32", "fp16", "int8"], written.precision),
            data=data,
            images=len(self._outputs),
            temperature=self._temperature,
            calibration_error=self._error,
            calibration_error_before=self._error_before,
            min_score=self._min_score,
            thresholds=self._thresholds,
            promise=self._promise,
            unknown=self._unknown,
            created=datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        )

    def _fit_temperature(self) -> None:
        logits, targets, task = self._outputs.logits, self._targets, task_of(self._card)
        if len(targets) < FEWEST_IMAGES:
            self.notes.append(
                f"no temperature, and not how much it can answer: {len(targets)} images are too few to tell how sure "
                f"it should be; give at least {FEWEST_IMAGES}"
            )
            return
        temperature = fit_temperature(task, logits, targets)
        before, after = (
            calibration_of(*self.judge(each)).error
            for each in (task.scores(logits), cross_validated_scores(task, logits, targets))
        )
        if after < before and has_optimum(temperature):
            self._temperature, self._error, self._error_before = temperature, after, before
            return
        self._error = self._error_before = before
        if not has_optimum(temperature):
            self.notes.append(
                f"scores stay as they are: no temperature is the likeliest, as where all of {len(targets)} answers are "
                "right or all wrong; give more images"
            )
            return
        self.notes.append(
            f"scores stay as they are, with a calibration error of {before:.1%}: the likeliest temperature, "
            f"{temperature:.2f}, would make it {after:.1%}"
        )

    def _fit_thresholds(self, right: np.ndarray) -> None:
        """Those of classes first; the other classes share one."""
        target = self._options.target_precision
        if target is None:
            return
        common = least_score(risk_coverage(self._scores, right), target)
        if common is not None:
            self._min_score, self._promise = common
        else:
            self.notes.append(
                f"no threshold: on these {len(right)} images no score is surely right {target:.0%} of the time; give "
                "more images, or a lower --target-precision"
            )
        if self._options.per_class:
            self._fit_class_thresholds(right, target)

    def _fit_class_thresholds(self, right: np.ndarray, target: float) -> None:
        """Of each class whose own answers allow one; the others keep the common one, and all together the promise."""
        found = []
        least = np.full(len(self._card.classes), np.inf if self._min_score is None else self._min_score)
        for each in self._card.classes:
            taken = self._best == each.class_id
            own = least_score(risk_coverage(self._scores[taken], right[taken]), target) if taken.any() else None
            if own is not None:
                found.append(Threshold(each.class_id, each.label, own[0]))
                least[each.class_id] = own[0]
        accepted = self._scores >= least[self._best]
        together = promise(target, int(right[accepted].sum()), int(accepted.sum()), len(right)) if found else None
        if together is None or together.low < target:
            self.notes.append("no thresholds by class: too few images of each, or not right often enough")
            return
        others = "take the common one"
        if self._min_score is None:
            self._min_score, others = 1.0, "give no answer"
        self._thresholds, self._promise = tuple(found), together
        self.notes.append(
            f"{len(found)} of {len(self._card.classes)} classes have a threshold of their own; the others, with too "
            f"few images here or not right often enough, {others}"
        )

    def _fit_unknown(self, made: Sequence[Outputs], strange: Outputs | None) -> None:
        known, keep = self._outputs, self._options.keep
        if not made:
            self.notes.append("no unknown score: the file gives no features; export it anew with: shvit export")
            return
        if len(known) < FEWEST_KNOWN:
            self.notes.append(
                f"no unknown score: {len(known)} images are too few to tell what its own look like; give at least "
                f"{FEWEST_KNOWN}"
            )
            return
        readable = 0 if strange is None else len(strange)
        if self._options.unknown is not None and readable < FEWEST_UNKNOWN:
            self.notes.append(
                f"{readable} unknown pictures are too few to learn from or to tell how many are noticed; give at "
                f"least {FEWEST_UNKNOWN} that can be read"
            )
            strange = None
        fitted = fit_unknown(known, made, strange, keep)
        self.program = fitted.program()
        self._unknown = Unknown(METHOD if strange is None else METHOD_WITH_UNKNOWN, fitted.limit, keep)
        if strange is not None:
            of_known, of_strange = held_out_scores(known, made, strange, keep)
            self._unknown = replace(
                self._unknown,
                kept=float((of_known <= 0).mean()),
                pictures=len(strange),
                auroc=auroc(of_known, of_strange),
                taken_for_known=float((of_strange <= 0).mean()),
            )
            more = _at_other_shares(of_known, of_strange, keep)
            if more and (of_strange > 0).mean() < FEW_NOTICED:
                self.notes.append(f"few unknown pictures are noticed; {more}")


def _at_other_shares(of_known: np.ndarray, of_strange: np.ndarray, keep: float) -> str:
    """How many unknown pictures would be noticed where fewer of its own stay known."""
    return ", ".join(
        f"with --keep {share:g} it would be about {(of_strange > np.quantile(of_known, share)).mean():.0%}"
        for share in OTHER_SHARES
        if share < keep
    )
