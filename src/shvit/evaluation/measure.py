"""From a model and labelled images to figures and a report, in one call; what ``shvit eval`` does."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from shvit.atomic import check_outputs
from shvit.card import Card, short_labels
from shvit.data.alignment import describe_missing
from shvit.data.broken import BrokenImage
from shvit.data.datasets import is_divided, open_dataset, open_datasets
from shvit.data.protocol import ImageDataset
from shvit.data.targets import classes_of
from shvit.data.trained_on import count_trained_on, divide_as_trained
from shvit.data.workers import check_guarded
from shvit.display import progress_bar, say
from shvit.engines import EngineName
from shvit.errors import ArgumentError, DataError
from shvit.evaluation.classifiers import ImageClassifier, measure_latency, open_classifier
from shvit.evaluation.evaluate import (
    SEVERITIES,
    Evaluation,
    evaluate_classifier,
    evaluate_corrupted,
    evaluate_fast_decoding,
    unknown_scores_of,
)
from shvit.evaluation.figures import fast_decoding_figures, provenance, unknown_figures
from shvit.evaluation.labels import LabelledImages, dataset_labels, evenly_spaced, labels_from_file, match_classes
from shvit.evaluation.samples import pictures_in
from shvit.evaluation.tally import TALLIES
from shvit.evaluation.task_measures import MEASURES, Measure
from shvit.images.decoding import preparation
from shvit.images.preprocess import decode, preprocess
from shvit.network.sides import ImageSize
from shvit.predicting.classifier import Classifier


@dataclass(frozen=True)
class EvaluationOptions:
    """All that ``shvit eval`` can be told: which images, by which labels, how, and what else to measure."""

    split: Literal["val", "train"] = "val"
    held_out: int | Literal["none"] | None = None
    """Of data without splits: a seed measures what a training with it held out, "none" all of it. When not given, what
    the training of this model held out, where these are its images; else all of it."""
    val_share: float = 0.1
    """With a seed in ``held_out``: share of each class that was held out, in (0, 1)."""
    image_key: str | None = None
    """Of tar shards with several images under one key, the extension of the one that is meant."""
    labels: str | Path | None = None
    """JSON or CSV of file name and label(s), in place of the data's own."""
    limit: int | None = None
    """Only so many images, evenly spaced over the split."""
    corruptions: Sequence[str] = ()
    """Keys of ``shvit.evaluation.corruptions.CORRUPTIONS``: measure on images corrupted so, too."""
    severities: Sequence[int] = (3,)
    """Of the corruptions, each 1 to 5."""
    fast_decode: bool = False
    """Measure also what fast decoding changes."""
    unknown: str | Path | None = None
    """A folder of pictures of none of the classes: measure how many are noticed, by a file that was calibrated."""
    engine: EngineName = "auto"
    """For a model file."""
    threads: int | None = None
    """Threads of one inference; all when not given."""
    image_size: ImageSize | None = None
    """Another input size, for a checkpoint or a file that takes any."""
    batch_size: int = 64
    workers: int = 2
    """Decoding processes; 0 decodes in this one."""
    report: str | Path | None = None
    """A folder to write a report to; whether that can be done is checked before anything is measured."""
    csv_safe: bool = False
    """In the report's tables, put a ``'`` before text that a spreadsheet would take for a formula."""
    command: str | None = None
    """What the report names as the way to measure the same again; the call in Python when not given."""

    def __post_init__(self) -> None:
        if self.corruptions:
            from shvit.evaluation.corruptions import CORRUPTIONS

            for name in self.corruptions:
                if name not in CORRUPTIONS:
                    raise ArgumentError(f"--corruptions {name}: expected all, or some of {', '.join(CORRUPTIONS)}")
        for severity in self.severities:
            if severity not in SEVERITIES:
                raise ArgumentError(f"--severity: expected 1 to 5, got {severity}")
        for option, value, least in (
            ("--limit", self.limit, 1),
            ("--batch-size", self.batch_size, 1),
            ("--workers", self.workers, 0),
        ):
            if value is not None and value < least:
                raise ArgumentError(f"{option}: expected {least} or more, got {value}")
        if self.split not in ("val", "train"):
            raise ArgumentError(f"--split: expected val or train, got {self.split!r}")


@dataclass(frozen=True, repr=False)
class EvaluationResult:
    """How good a model is on labelled images; shares are in [0, 1]."""

    figures: dict[str, Any]
    """Everything that was measured, as ``results.json`` of a report has it: per class, calibration, latency, ..."""
    evaluation: Evaluation
    """Each image's prediction, and the images that could not be read."""
    images: ImageDataset
    """The whole dataset, of which the predictions' indices are."""
    card: Card
    """The model's."""
    read: tuple[str, ...]
    """What was read besides the images: a report is not written over it."""

    def __repr__(self) -> str:
        what = f"{self.figures['model']!r}, {self.figures['data']!r}"
        named = (("top1", self.top1), ("top5", self.top5), ("mean_average_precision", self.mean_average_precision))
        reached = ", ".join(f"{name}={value:.4f}" for name, value in named if value is not None)
        return f"EvaluationResult({what}, {reached}, measured={self.measured})"

    @property
    def top1(self) -> float | None:
        """Share of the images whose most probable class is right; ``None`` of several labels."""
        return self.figures.get("top1")

    @property
    def top5(self) -> float | None:
        """Share of the images whose class is among the five most probable; ``None`` of several labels."""
        return self.figures.get("top5")

    @property
    def mean_average_precision(self) -> float | None:
        """Of several labels: how well images with a label are ranked before those without (mAP), in [0, 1]."""
        return self.figures.get("map")

    @property
    def loss(self) -> float:
        """Cross-entropy: mean negative natural logarithm of the right class's probability, or of all labels'."""
        return self.figures["loss"]

    @property
    def calibration_error(self) -> float:
        """Mean gap between confidence and accuracy, over 15 bins of equal width; of several labels, of each score."""
        return self.figures["ece"]

    @property
    def measured(self) -> int:
        """How many images were measured."""
        return self.figures["images"]

    @property
    def broken(self) -> tuple[BrokenImage, ...]:
        """Images that could not be read; they are in none of the figures."""
        return self.evaluation.broken

    @property
    def notes(self) -> list[str]:
        """How classes were matched, which images these are, and warnings."""
        return self.figures["notes"]

    def write_report(self, folder: str | Path, csv_safe: bool = False) -> Path:
        """Writes HTML, JSON, CSV and pictures; an earlier report is replaced.

        Args:
            csv_safe: in the tables, put a ``'`` before text that a spreadsheet would take for a formula.

        Returns:
            The page to open.

        Raises:
            ValueError: a file of the report is one of the inputs.
            OSError: it cannot be written.
            MissingDependencyError: what draws it is not installed.
        """
        folder, measure = Path(folder), MEASURES[self.card.task]
        _check_report(folder, self.read, self.images, measure)
        folder.mkdir(parents=True, exist_ok=True)
        measure.write_report(folder, self.figures, self.evaluation, self.images, self.card, csv_safe)
        return folder / "report.html"


def evaluate(
    model: str | Path,
    data: str | Path,
    options: EvaluationOptions | None = None,
    *,
    split: Literal["val", "train"] | None = None,
    limit: int | None = None,
    report: str | Path | None = None,
    progress: bool = False,
) -> EvaluationResult:
    """Measures a model file or a checkpoint on labelled images.

    It does what ``shvit eval`` does, with the same checks and defaults. Of a folder that the model was trained on, the
    images that the training held out are measured::

        result = shvit.evaluate("mine.onnx", "photos/")
        print(result.top1, result.figures["per_class"])
        result.write_report("report/")  # open report/report.html

    Images are decoded in two processes of their own. Where Python starts those anew (macOS, Windows), the call in a
    script belongs under ``if __name__ == "__main__":``, or takes ``shvit.EvaluationOptions(workers=0)``.

    Args:
        model: a name (``shvit_s4``, ``hf://user/repository``, a shipped model's), a model file, or a checkpoint.
        data: a dataset, as ``shvit.train`` takes it; its classes are matched to the model's and may be fewer.
        options: what else there is to say; the keywords below override its values.
        split: the data's validation or training images; val when not given.
        limit: only so many images, evenly spaced over the split.
        report: a folder to write a report to, which is checked before anything is measured.
        progress: a progress bar and warnings on stderr; without it, warnings are Python's.

    Raises:
        DataError: the images cannot be used, or none of them can be read; or their classes are not the model's.
        ModelFileError, CheckpointError: the model cannot be used.
        ArgumentError: a value that cannot be.
        ValueError: a file of the report is one of the inputs.
        MissingDependencyError: what a checkpoint (PyTorch), a report, corruptions, fast decoding or Parquet need is not
            installed; the message says which command installs it.
    """
    given: dict[str, Any] = {"split": split, "limit": limit, "report": report}
    given = {name: each for name, each in given.items() if each is not None}
    options = replace(options or EvaluationOptions(), **given)
    check_guarded(options.workers)
    # What is missing is told before the first pass, not after it.
    if options.fast_decode:
        preparation("fast")
    if options.report is not None:
        import shvit.evaluation.report  # noqa: F401
    classifier = open_classifier(model, options.engine, options.threads, options.image_size)
    pictures = _unknown_pictures(classifier, model, options)
    images, origin, warning = open_images(model, data, options, classifier.card)
    tell_warning(warning, progress)
    read = tuple(str(each) for each in (model, data, options.labels) if each is not None)
    if options.report is not None:
        _check_report(Path(options.report), read, images, MEASURES[classifier.card.task])
    chosen, notes = choose_images(str(model), images, classifier.card, options)
    notes[1:1] = [*origin, *([] if warning is None else [f"warning: {warning}"])]
    if options.report is not None:
        Path(options.report).mkdir(parents=True, exist_ok=True)
    measured, figures = _measure(classifier, chosen, pictures, options, progress)
    missing = describe_missing(measured.predictions.labels, classifier.card.classes)
    notes += [missing] if missing else []
    call = f"shvit.evaluate({str(model)!r}, {str(data)!r})"
    result = EvaluationResult(
        {
            "model": str(model),
            "data": str(data),
            "split": options.split,
            "notes": notes,
            "engine": classifier.engine,
            "threads": options.threads,
            **figures,
            **provenance(options.command or call),
        },
        measured,
        images,
        classifier.card,
        read,
    )
    if options.report is not None:
        result.write_report(options.report, options.csv_safe)
    return result


def tell_warning(warning: str | None, progress: bool) -> None:
    """On stderr where progress is shown there; else as Python's, of the line that called whoever calls this."""
    if warning is not None and progress:
        say(f"warning: {warning}", sys.stderr)
    elif warning is not None:
        warnings.warn(warning, stacklevel=3)


def _check_report(folder: Path, read: Sequence[str], images: ImageDataset, measure: Measure) -> None:
    """Raises: ValueError: a file of the report cannot be written to, or is an input."""
    sources = (images.source(index) for index in range(len(images)))
    check_outputs([("--output", folder / name) for name in measure.report_files], chain(read, sources))


def choose_images(
    model: str, images: ImageDataset, card: Card, options: EvaluationOptions
) -> tuple[LabelledImages, list[str]]:
    """The images to measure with the classes that are right for each, and what is worth noting of them.

    Raises:
        DataError: as ``match_classes`` and ``labels_from_file``; or no image has a label.
    """
    classes = card.classes
    if options.labels is None:
        matched, way = match_classes(images, classes, model)
        accepted = dataset_labels(images, matched)
        notes = [f"classes matched by {way}"]
        if way == "number":
            first = next(each for index in range(len(images)) for each in classes_of(images.labels, index))
            notes[0] += f", not by name: {images.classes[first].label} is {short_labels(classes)[matched[first]]}"
    else:
        accepted = labels_from_file(Path(options.labels), images, classes, TALLIES[card.task].unlabelled)
        notes = [f"labels of {options.labels}, which has none for {len(images) - len(accepted):,} images"]
    given, accepted = len(accepted), TALLIES[card.task].measurable(accepted)
    if not any(accepted.values()):
        raise DataError(f"{images.name}: none of its {given:,} images has a label; nothing can be measured")
    if len(accepted) < given:
        notes.append(f"{given - len(accepted):,} images without labels are left out: the model tells one of each")
    chosen = LabelledImages(images, accepted, evenly_spaced(list(accepted), options.limit))
    if len(chosen) < len(accepted):
        notes.append(f"{len(chosen):,} of {len(accepted):,} images, evenly spaced")
    return chosen, notes


def _measure(
    classifier: ImageClassifier,
    chosen: LabelledImages,
    pictures: Sequence[str],
    options: EvaluationOptions,
    progress: bool,
) -> tuple[Evaluation, dict[str, Any]]:
    """Every pass over the images, and what came of them in figures.

    Args:
        pictures: of none of the classes.
    """
    batch_size, workers, severities = options.batch_size, options.workers, options.severities
    passes = 1 + options.fast_decode + len(options.corruptions) * len(severities)
    with progress_bar("evaluating", passes * len(chosen), wanted=progress) as advance:
        measured = evaluate_classifier(classifier, chosen, batch_size, workers, advance)
        readable = LabelledImages(chosen.images, chosen.accepted, measured.predictions.indices)
        robustness = evaluate_corrupted(
            classifier, readable, options.corruptions, severities, batch_size, workers, advance
        )
        fast = None
        if options.fast_decode:
            fast = evaluate_fast_decoding(classifier, readable, measured, batch_size, workers, advance)
    first = decode(chosen.images.read(int(readable.indices[0])))
    latency = measure_latency(classifier, preprocess(first, classifier.card.preprocessing))
    card = classifier.card
    figures = MEASURES[card.task].figures(measured, latency, robustness, card)
    figures["fast_decoding"] = fast_decoding_figures(fast, TALLIES[card.task].figure)
    figures["unknown"] = _measure_unknown(classifier, measured, pictures, options)
    return measured, figures


def _measure_unknown(
    classifier: ImageClassifier, measured: Evaluation, pictures: Sequence[str], options: EvaluationOptions
) -> dict[str, Any] | None:
    decision = classifier.card.decision
    if not pictures or decision is None or not isinstance(classifier, Classifier):
        return None
    scores, broken = unknown_scores_of(classifier, pictures, options.batch_size)
    if not len(scores):
        raise DataError(f"--unknown {options.unknown}: none of the {len(broken)} pictures can be read: {broken[0]}")
    figures = unknown_figures(measured, scores, str(options.unknown), decision)
    return None if figures is None else {**figures, "broken": broken}


def _unknown_pictures(classifier: ImageClassifier, model: str | Path, options: EvaluationOptions) -> list[str]:
    """Those of none of the classes; none where they were not asked for.

    Raises:
        ArgumentError, DataError: nothing can be told of them.
    """
    decision = classifier.card.decision
    if options.unknown is None:
        return []
    if decision is None or decision.unknown is None:
        raise ArgumentError(
            f"--unknown: {model} has no unknown score; give it one with: shvit calibrate --model {model} --data DATA "
            "--output FILE"
        )
    return pictures_in(options.unknown)


def open_images(
    model: str | Path, data: str | Path, options: EvaluationOptions, card: Card
) -> tuple[ImageDataset, list[str], str | None]:
    """The images to measure, what is worth noting of them, and a warning where the model may know them.

    Args:
        card: has what the model remembers of its training, and the task that it was trained for.
    """
    trained, task = card.training_split, TALLIES[card.task].data_task
    notes: list[str] = []
    if isinstance(options.held_out, int):
        train, val, note = open_datasets(data, options.held_out, options.val_share, options.image_key, task)
        if note is None:
            raise ArgumentError(f"--held-out: {data} is divided into splits already; leave it out")
        images = val if options.split == "val" else train
        notes.append(note)
    else:
        images = open_dataset(data, options.split, options.image_key, task)
        parts = divide_as_trained(images, trained) if trained is not None and options.held_out is None else None
        if parts is not None and trained is not None:
            images = parts[1] if options.split == "val" else parts[0]
            which = "held out by" if options.split == "val" else "used for"
            notes.append(
                f"the {len(images):,} of {len(images.images):,} images that were {which} this model's training (seed "
                f"{trained.seed}, {(trained.val_share or 0) * 100:.3g} % of each class held out); "
                "--held-out none measures all"
            )
    if options.split == "train":
        return images, notes, None
    if trained is None:
        if options.held_out is not None or is_divided(data, options.image_key):
            return images, notes, None
        return (
            images,
            notes,
            f"{model} does not tell which images it was trained on; if these are among them, the figures are too "
            "high (shvit eval --held-out SEED measures those that training held out)",
        )
    known = count_trained_on(images, trained)
    if not known:
        return images, notes, None
    return (
        images,
        notes,
        f"the model was trained on some of these images ({known} of the {len(trained.remembered)} training images that "
        "it remembers are among them): the figures are too high; measure on images that it has not seen",
    )
