"""From labelled images to a model file that knows when to answer; what ``shvit calibrate`` does."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from shvit.atomic import atomic_folder, check_outputs
from shvit.calibration.fitting import CalibrationOptions, Fitting
from shvit.calibration.made_pictures import EACH, KINDS, made_pictures
from shvit.calibration.outputs import Network
from shvit.calibration.several_labels import LabelFitting
from shvit.calibration.temperature import FEWEST_IMAGES
from shvit.card import Card, Decision, TaskName
from shvit.data.alignment import describe_missing
from shvit.display import progress_bar
from shvit.engines import load_engine
from shvit.engines.onnx_graph import UNKNOWN
from shvit.errors import ModelFileError
from shvit.evaluation.figures import PRECISIONS
from shvit.evaluation.measure import EvaluationOptions, choose_images, open_images, tell_warning
from shvit.evaluation.samples import pictures_in
from shvit.evaluation.selective import RiskCoverage
from shvit.hub.resolve import resolve_model
from shvit.modelfile.finished import FinishedFile, check_suffix, open_finished
from shvit.modelfile.program import Program

FITTINGS: dict[TaskName, type[Fitting]] = {"classification": Fitting, "multi_label": LabelFitting}

TOLERANCE = 1e-3
"""Largest accepted difference of an unknown score from what was fitted, for each unit of it."""


@dataclass(frozen=True, repr=False)
class CalibrationReport:
    """What was found, and written into the card."""

    path: Path
    """The file that was written."""
    card: Card
    images: int
    """Labelled images that it was fitted on."""
    curve: RiskCoverage | None
    """How often its answers are right, from each score on; ``None`` where the images are too few to tell."""
    notes: tuple[str, ...]
    """Which images these are, and what could not be fitted, and why."""
    broken: tuple[str, ...]
    """Images that could not be read, and why."""

    @property
    def decision(self) -> Decision:
        assert self.card.decision is not None
        return self.card.decision

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "output": str(self.path),
            "images": self.images,
            "decision": asdict(self.decision),
            "coverage": self.curve and {f"{each:g}": self.curve.coverage_at(each) for each in PRECISIONS},
            "aurc": self.curve and self.curve.area,
            "notes": list(self.notes),
            "broken": list(self.broken),
        }

    def __repr__(self) -> str:
        found = self.decision
        return (
            f"CalibrationReport({str(self.path)!r}, images={self.images}, temperature={found.temperature:.3f}, "
            f"min_score={found.min_score}, unknown={found.unknown is not None})"
        )


def calibrate(
    model: str | Path,
    data: str | Path,
    output: str | Path,
    options: CalibrationOptions | None = None,
    *,
    unknown: str | Path | None = None,
    target_precision: float | None = None,
    progress: bool = False,
) -> CalibrationReport:
    """Fits a model file's temperature, thresholds and unknown score, and writes the file with them.

    It does what ``shvit calibrate`` does, on any model file, in float or 8 bits, without PyTorch. The graph's logits
    stay the same; a second output, ``unknown``, comes to it::

        report = shvit.calibrate("mine.onnx", "photos/", "mine.onnx", unknown="other/", target_precision=0.95)
        print(report.decision)

    Args:
        model: a name, or the path of a model file (.onnx, .tflite, .xml).
        data: labelled images, as ``shvit.evaluate`` takes them; of a folder that the model was trained on, those that
            the training held out are taken.
        output: the file to write, of the same format; it may be the model file itself.
        options: what else there is to say; the keywords below override its values.
        unknown: a folder of pictures of none of the classes.
        target_precision: share of the answers that are to be right, in (0, 1).
        progress: a progress bar and warnings on stderr; without it, warnings are Python's.

    Raises:
        DataError: the images cannot be used, or their classes are not the model's.
        ModelFileError: the model cannot be used, or its card says probabilities.
        ArgumentError: a value that cannot be.
        ValueError: the output is one of the images.
    """
    given: dict[str, Any] = {"unknown": unknown, "target_precision": target_precision}
    options = replace(
        options or CalibrationOptions(), **{name: each for name, each in given.items() if each is not None}
    )
    path, output = resolve_model(model), Path(output)
    check_suffix(path, output)
    check_outputs([("--output", output)], [data, *([] if options.unknown is None else [options.unknown])])
    pictures = [] if options.unknown is None else pictures_in(options.unknown)
    file = open_finished(path)
    network = Network(file, path, options.threads)
    card = network.card
    if card.output != "logits":
        raise ModelFileError(f"{path}: the card says {card.output}; only logits can be calibrated: export it anew")
    choice = EvaluationOptions(
        split=options.split, image_key=options.image_key, limit=options.limit, workers=options.workers
    )
    images, origin, warning = open_images(model, data, choice, card)
    tell_warning(warning, progress)
    chosen, matched = choose_images(str(model), images, card, choice)
    kinds = tuple(KINDS) if file.features is not None and FITTINGS[card.task].tells_unknown else ()
    total = len(chosen) + len(pictures) + EACH * len(kinds)
    with progress_bar("calibrating", total, wanted=progress) as advance:
        labelled = network.run_labelled(chosen, options.workers, advance)
        strange, unread = network.run_pictures(pictures, advance)
        made = [network.run_pictures(made_pictures(kind), advance)[0] for kind in kinds]
    fitting = FITTINGS[card.task](
        card, labelled.outputs, labelled.targets, [each for each in made if each], strange, options
    )
    decision = fitting.decision(Path(data).resolve().name)
    if missing := describe_missing(labelled.targets, card.classes, "for which nothing was fitted"):
        matched.append(missing)
    if options.split == "train":
        matched.append("these are training images; a model is surer of those that it was trained on than of others")
    matched += _given_up(network.earlier, decision)
    card = replace(card, decision=decision)
    _write(file, path, output, card, fitting.program, network, labelled.sample)
    broken = (*(f"{each.source}: {each.reason}" for each in labelled.broken), *unread)
    notes = (*origin, *matched, *fitting.notes)
    curve = fitting.curve if len(labelled.outputs) >= FEWEST_IMAGES else None
    return CalibrationReport(output, card, len(labelled.outputs), curve, notes, broken)


def _given_up(earlier: Decision | None, decision: Decision) -> list[str]:
    """What the file had from an earlier calibration and has not any more, to be told."""
    if earlier is None:
        return []
    lost = []
    if earlier.promise is not None and decision.promise is None:
        lost.append(f"its threshold for {earlier.promise.target_precision:.0%} (give --target-precision)")
    pictures = 0 if earlier.unknown is None else earlier.unknown.pictures
    if pictures and (decision.unknown is None or not decision.unknown.pictures):
        lost.append(f"what was learned from {pictures:,} unknown pictures (give --unknown)")
    return [f"calibrated anew, the file loses {' and '.join(lost)}"] if lost else []


def _write(
    file: FinishedFile,
    path: Path,
    output: Path,
    card: Card,
    program: Program | None,
    network: Network,
    sample: np.ndarray,
) -> None:
    """Writes the file aside and runs it beside the one that was read, and only then names it.

    Raises:
        ModelFileError: it says something else; no file is left.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    expected = network.run(sample)
    with atomic_folder(output) as aside:
        file.write(aside, UNKNOWN, program, card)
        found = load_engine(file.engine, aside, 1).run(sample)
        logits = next(iter(found.values()))
        if not np.allclose(logits, expected.logits, rtol=0, atol=TOLERANCE):
            raise ModelFileError(f"{path}: with a second output its logits would differ; nothing was written")
        if program is not None:
            assert expected.features is not None  # there is no program without
            scores = program.run(expected.features, expected.logits)
            if not np.allclose(found[UNKNOWN][:, 0], scores, rtol=TOLERANCE, atol=TOLERANCE):
                raise ModelFileError(f"{path}: gives other unknown scores than were fitted; nothing was written")
