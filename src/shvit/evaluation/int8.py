"""An 8-bit model file that is measured beside the float32 one before it takes its name."""

from __future__ import annotations

import math
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import onnx

from shvit.card import Card, Metric
from shvit.data.alignment import describe_missing
from shvit.data.datasets import short_path
from shvit.data.protocol import ImageDataset
from shvit.errors import DataError, ExportError, ShvitError
from shvit.evaluation.evaluate import evaluate_classifier
from shvit.evaluation.labels import LabelledImages, dataset_labels, evenly_spaced, match_classes
from shvit.evaluation.metrics import Predictions
from shvit.evaluation.samples import BATCH, FEWEST_CALIBRATION_IMAGES, calibration_images
from shvit.exporting import (
    FORMATS,
    ExportReport,
    FileOptions,
    Int8Accuracy,
    Int8Agreement,
    Int8Precision,
    export_model,
    export_onnx,
)
from shvit.modelfile.quantize import rank_layers
from shvit.modelfile.source import batches_of
from shvit.network.network import FoldedNetwork
from shvit.predicting.classifier import Classifier

if TYPE_CHECKING:
    from shvit.models import SHViT

RANKING_IMAGES = 64
"""Calibration images that layers are compared on."""

ENOUGH_TO_JUDGE = 1000
"""Validation images that tell half a point. With fewer, those calibrated on are judged by too, and a note says so."""

SIGNIFICANCE = 0.05
"""Probability below which a difference between two classifiers is no accident."""

ENOUGH_UNLABELLED = 100
"""Photographs, of those without labels, to calibrate on and to measure on, each."""

MAX_DISAGREEMENT = 10.0
"""Points, of 100, of other first labels than float32's that are accepted where there are no labels. Most are of
photographs that float32 is not sure of either."""

LAYERS_CAN_BE_KEPT = ("onnx", "openvino", "web", "hub")


class Lost(Protocol):
    """What one file loses to another, of the same images."""

    @property
    def images(self) -> int: ...

    @property
    def points(self) -> float:
        """Of 100; negative if it is better."""


class PairedLoss(NamedTuple):
    """What one classifier loses to another, of the same images."""

    images: int
    lost: int
    """Images that only the other one is right about."""
    won: int
    """Images that only this one is right about."""

    @property
    def points(self) -> float:
        """Of 100; negative if it is right more often."""
        return 100 * (self.lost - self.won) / self.images

    def exceeds(self, points: float) -> bool:
        """Whether it is more than this, and more than an accident: a one-sided sign test (McNemar's, exact)."""
        if self.points <= points:
            return False
        return tail(self.lost, self.lost + self.won, 0.5) < SIGNIFICANCE


def tail(least: int, count: int, probability: float) -> float:
    """How probable it is that of so many trials at least ``least`` succeed, each with this probability, in (0, 1)."""

    def exactly(successes: int) -> float:  # by logarithms: of thousands of trials the factors are no numbers
        ways = math.lgamma(count + 1) - math.lgamma(successes + 1) - math.lgamma(count - successes + 1)
        return math.exp(ways + successes * math.log(probability) + (count - successes) * math.log1p(-probability))

    return math.fsum(map(exactly, range(least, count + 1)))


def paired_loss(before: np.ndarray, after: np.ndarray) -> PairedLoss:
    """Compares what two classifiers are right about, ``bool (N,)`` each."""
    return PairedLoss(len(before), int((before & ~after).sum()), int((after & ~before).sum()))


class Candidate(NamedTuple):
    """Which layers of a file stay in float32."""

    kept: tuple[str, ...]
    ranked: int
    """Of how many that were compared; 0 before any were."""


def candidates(rank: Callable[[], list[str]]) -> Iterator[Candidate]:
    """All in 8 bits; then without the layer that costs most, without two, four and so on, up to half of them.

    Args:
        rank: the layers, the one that costs most first; asked only when the first candidate was not good enough.
    """
    yield Candidate((), 0)
    ranked = rank()
    kept = 0
    while 2 * kept < len(ranked):
        kept = max(1, 2 * kept)
        yield Candidate(tuple(ranked[:kept]), len(ranked))


class Judge(ABC):
    """What an 8-bit file is measured on."""

    calibration: np.ndarray
    """The images that ranges are taken from, ``uint8 (N, H, W, 3)``."""

    @abstractmethod
    def observe(self, float32: Path, tell: Callable[[str], None]) -> None:
        """Measures the float32 file, which the others are compared with; tells where there is little to judge by."""

    @abstractmethod
    def judge(self, written: Path, command: str) -> Judgement:
        """Measures an 8-bit file, which ``command`` measures again."""


@dataclass(frozen=True)
class Judgement:
    """How an 8-bit file compares with float32."""

    loss: Lost
    limit: float
    """Points, of 100, that may be lost."""
    too_much: bool
    """It loses more, and more than an accident could be."""
    metrics: tuple[Metric, ...]
    """For its card."""
    found: Int8Accuracy | Int8Precision | Int8Agreement
    summary: str
    """Both files' figures, for a message."""


class AccuracyJudge(Judge):
    """By labelled images: how often a file is right.

    Args:
        card: of the network; the images' classes are found among its.
        train: images that the ranges are taken from.
        val: images that a file is measured on.
        max_loss: points of top-1 that it may lose to float32, of 100; at 100 nothing is judged.
        name: of the file, for messages.
    """

    def __init__(self, card: Card, train: ImageDataset, val: ImageDataset, max_loss: float, name: str) -> None:
        self.calibration, self._calibration_labels = calibration_images(train, card)
        labels = dataset_labels(val, match_classes(val, card.classes, name)[0])
        self._val = LabelledImages(val, labels, evenly_spaced(list(labels), None))
        self._max_loss, self._classes = max_loss, card.classes

    def observe(self, float32: Path, tell: Callable[[str], None]) -> None:
        self._whole, self._right = self._measure(float32)
        if self._max_loss < 100:
            _check_above_chance(self._whole, len(self._classes), self._val.name, tell)
            if missing := describe_missing(self._whole.labels, self._classes):
                tell(f"{self._val.name}: {missing}")
        if len(self._whole) < ENOUGH_TO_JUDGE:
            tell(
                f"{len(self._whole):,} validation images do not tell a loss of {self._max_loss:g} points; the "
                f"{len(self.calibration):,} images calibrated on are judged by too; give at least {ENOUGH_TO_JUDGE:,} "
                "validation images to measure it"
            )

    def judge(self, written: Path, command: str) -> Judgement:
        found, answers = self._measure(written)
        on = f"{short_path(self._val.name)} ({len(found):,} images)"
        top1 = round(found.top1, 4)
        loss = paired_loss(self._right, answers)
        return Judgement(
            loss,
            self._max_loss,
            loss.exceeds(self._max_loss),
            (Metric("top1", top1, on, command), Metric("top5", round(found.top5, 4), on, command)),
            Int8Accuracy(top1, self._whole.top1, len(self._whole)),
            f"on the {len(found):,} validation images it is right for {found.top1:.2%}, float32 for "
            f"{self._whole.top1:.2%}",
        )

    def _measure(self, file: Path) -> tuple[Predictions, np.ndarray]:
        """On the validation images; and which images a file is right about, of all that are judged by."""
        classifier = Classifier(file)
        workers = 0 if "jax" in sys.modules else 1  # litert-torch starts its threads, of which a fork may hang
        predictions = evaluate_classifier(classifier, self._val, BATCH, workers=workers).predictions
        if len(predictions) >= ENOUGH_TO_JUDGE:
            return predictions, predictions.correct
        answers = probabilities_of(classifier, self.calibration).argmax(axis=1)
        return predictions, np.concatenate([predictions.correct, answers == self._calibration_labels])


class AgreementJudge(Judge):
    """By photographs without labels: how often a file's first label is float32's, and how far its score moves.

    Half of them are calibrated on, the other half measured.

    Args:
        pixels: the photographs, preprocessed, ``uint8 (N, H, W, 3)``.
        name: of where they are from.
        max_disagreement: points, of 100, of other first labels that are accepted; at 100 nothing is judged.

    Raises:
        DataError: there are too few.
    """

    def __init__(self, pixels: np.ndarray, name: str, max_disagreement: float) -> None:
        if len(pixels) < 2 * FEWEST_CALIBRATION_IMAGES:
            raise DataError(
                f"{name}: {len(pixels)} photographs are too few to calibrate int8 on one half and measure it on the "
                f"other; give at least {2 * FEWEST_CALIBRATION_IMAGES}, better {2 * ENOUGH_UNLABELLED}"
            )
        self.calibration, self._held_out = pixels[::2], pixels[1::2]
        self._name, self._limit = name, max_disagreement

    def observe(self, float32: Path, tell: Callable[[str], None]) -> None:
        self._expected = probabilities_of(Classifier(float32), self._held_out)
        if len(self.calibration) < ENOUGH_UNLABELLED:
            tell(
                f"{self._name}: int8 is calibrated on {len(self.calibration)} photographs and measured on "
                f"{len(self._held_out)}, which is little; better give {2 * ENOUGH_UNLABELLED} or more"
            )
        if len(np.unique(self._expected.argmax(axis=1))) == 1:
            tell(f"{self._name}: float32 gives all photographs the same first label, so that agreement says little")

    def judge(self, written: Path, command: str) -> Judgement:
        found = probabilities_of(Classifier(written), self._held_out)
        first = self._expected.argmax(axis=1)
        same = found.argmax(axis=1) == first
        rows = np.arange(len(first))
        shift = float(np.abs(found[rows, first] - self._expected[rows, first]).mean())
        agreement, count, changed = float(same.mean()), len(same), int((~same).sum())
        on = f"{count:,} photographs without labels, not calibrated on ({self._name})"
        return Judgement(
            PairedLoss(count, changed, 0),
            self._limit,
            100 * changed / count > self._limit and tail(changed, count, self._limit / 100) < SIGNIFICANCE,
            (Metric("float32_agreement", round(agreement, 4), on), Metric("score_shift", round(shift, 4), on)),
            Int8Agreement(agreement, shift, count, len(self.calibration)),
            f"its first label is float32's on {agreement:.2%} of {count:,} photographs",
        )


def probabilities_of(classifier: Classifier, pixels: np.ndarray) -> np.ndarray:
    """Of prepared images ``uint8 (N, H, W, 3)``: ``float32 (N, classes)``."""
    return np.concatenate([classifier.predict_batch(part) for part in batches_of(pixels, BATCH)])


def export_int8(
    network: SHViT | FoldedNetwork,
    path: str | Path,
    card: Card,
    judge: Judge,
    options: FileOptions | None = None,
    *,
    verify_on: np.ndarray | None = None,
    on_search: Callable[[str], None] = lambda message: None,
) -> ExportReport:
    """Writes an 8-bit model file whose card says what 8 bits cost.

    If it loses too much with everything in 8 bits, in ONNX and OpenVINO the layers that cost most stay in float32: one,
    two, four and so on, up to half of them. Too much is more than the judge's limit and more than an accident could be;
    with fewer than ``ENOUGH_TO_JUDGE`` labelled validation images, those calibrated on are counted too.

    Args:
        card: what the file says of itself; its metrics, which are of other weights, are replaced.
        judge: has the images that ranges are taken from, and those that the file is measured on.
        options: what kind of file, of a format that has int8 and an engine: onnx (when not given), openvino, litert,
            web or hub. With ``dynamic_size`` it is calibrated and measured at the card's size.
        verify_on: as ``images`` of ``export_model``.
        on_search: told in a sentence how the search for such layers goes, and where there is little to judge by.

    Raises:
        ExportError: it loses more all the same, or as for ``export_model``. No file is left.
        DataError: float32 is right less often than by chance, or no image can be read.
    """
    path, options = Path(path), replace(options or FileOptions(), precision="int8")
    notes: list[str] = []

    def tell(note: str) -> None:
        notes.append(note)
        on_search(note)

    with tempfile.TemporaryDirectory() as folder:
        float32 = Path(folder) / "float32.onnx"
        export_onnx(network, float32, card, "fp32")
        judge.observe(float32, tell)
        graph = onnx.load(float32)
    inside = FORMATS[options.format].inside
    command = f"shvit eval --model {Path(path.name) / inside} --data DATA"
    judged: list[Judgement] = []

    def assess(written: Path) -> tuple[Metric, ...]:
        judged.append(judge.judge(written / inside, command))
        if judged[-1].too_much:
            raise _TooMuchLostError
        return judged[-1].metrics

    def rank() -> list[str]:
        if options.format not in LAYERS_CAN_BE_KEPT:
            return []
        tell("comparing layers")
        return rank_layers(graph, judge.calibration[:RANKING_IMAGES])

    for kept, ranked in candidates(rank):
        try:
            report = export_model(
                network,
                path,
                card,
                options,
                images=verify_on,
                calibration=judge.calibration,
                keep_float=kept,
                assess=assess,
            )
        except _TooMuchLostError:
            tried = f", with {len(kept)} of {ranked} layers in float32" if kept else ""
            lost = f"{judged[-1].loss.points:.2f} points on {judged[-1].loss.images:,} images"
            tell(f"int8 loses {lost} with {', '.join(kept) or 'nothing'} in float32")
            continue
        return replace(report, int8=replace(judged[-1].found, kept_float=kept, notes=tuple(notes)))
    raise ExportError(
        f"{path}: int8 loses {lost}{tried} ({judged[-1].summary}); at most {judged[-1].limit:g} points may be lost "
        "(--max-loss); fine-tune it for 8 bits with: shvit train DATA --pretrained CHECKPOINT "
        "--quantization-aware true"
    )


def _check_above_chance(predictions: Predictions, classes: int, data: str, warn: Callable[[str], None]) -> None:
    """Refuses labels by which nothing could be lost, and warns of those by which little could.

    Raises:
        DataError: the network is right less often than one that guesses.
    """
    count, chance = len(predictions), 1 / classes
    right, expected = int(predictions.correct.sum()), len(predictions) * chance
    found = f"{data}: float32 is right for {predictions.top1:.2%} of {count:,} validation images"
    if right < expected:
        raise DataError(
            f"{found}, less than by chance ({chance:.2%}), so that what int8 costs cannot be judged; check with "
            "`shvit eval` that the labels are those of the network's classes, and give more images if they are "
            "(--max-loss 100 does not judge)"
        )
    # 1.645 standard deviations: what guessing stays below in 95 of 100 cases.
    if classes > 1 and right <= expected + 1.645 * math.sqrt(expected * (1 - chance)):
        warn(f"{found}, hardly more than by chance ({chance:.2%}): what int8 costs shows in little of that")


class _TooMuchLostError(ShvitError):
    """An 8-bit file is less accurate than it may be; no name is given to it."""
