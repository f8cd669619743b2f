"""From a checkpoint's file to a verified file for elsewhere, in one call; what ``shvit export`` does.

Not in ``exporting``, since an int8 file is evaluated before it takes its name. ONNX, OpenVINO and the folder for
browsers need no PyTorch.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from shvit.atomic import check_folder, check_outputs
from shvit.display import say
from shvit.errors import ArgumentError
from shvit.exporting.options import FORMATS, HUB_FILES, FileOptions, Format, Precision, check_combination
from shvit.hub.resolve import INT8, reference_of
from shvit.modelfile.report import ExportReport
from shvit.network.imagenet import IMAGENET
from shvit.network.sides import ImageSize
from shvit.reading import read_text
from shvit.shipped import SHIPPED_MODELS

if TYPE_CHECKING:
    import numpy as np

    from shvit.card import Card, TaskName
    from shvit.network.checkpoint import Checkpoint
    from shvit.network.network import FoldedNetwork

Weights = Literal["auto", "model", "ema"]

NEEDS_CALIBRATION = (
    "--precision int8: give --calibration DATA, images to calibrate and to measure on: labelled ones, or a folder of "
    "photographs"
)


@dataclass(frozen=True)
class ExportOptions(FileOptions):
    """All that ``shvit export`` can be told: what kind of file, of which weights, judged by what."""

    weights: Weights = "auto"
    """Which weights of a training checkpoint; auto: the moving average where there is one."""
    image_size: ImageSize | None = None
    """Of the input, in pixels: a side, or height and width; the checkpoint's or the variant's when not given."""
    classes: str | Path | Sequence[str] | None = None
    """Class names, a file of them, one a line, or ``imagenet-1k``, for a checkpoint that has none. When not given, the
    checkpoint's; ImageNet-1k's for the published weights; else numbers."""
    calibration: str | Path | None = None
    """For int8: labelled images, as ``shvit.train`` takes; the training split is calibrated on, the validation split
    measured. Or a folder of photographs without labels, 200 or more: one half is calibrated on, of the other it is
    measured how often the first label is float32's."""
    max_loss: float = 0.5
    """For int8 on labelled images: points of top-1, of 100, that may be lost on the validation split; layers stay in
    float32 where need be, and no file is written if that is not enough. At 100 nothing is judged."""
    verify: str | Path | None = None
    """Images to compare the file with its network on, as ``shvit.train`` takes, at least 200; crops of the package's
    photographs when not given."""
    image_key: str | None = None
    """Of these data, if they are tar shards with several images under one key, the extension of the one meant."""
    push: str | None = None
    """With format hub: the repository on the Hugging Face Hub, ``user/name``, that the folder is pushed to."""
    private: bool = False
    """Where that repository is new, only those see it whom its owner lets."""

    def __post_init__(self) -> None:
        if not 0 <= self.max_loss <= 100:
            raise ArgumentError(f"--max-loss: expected 0 to 100 points, got {self.max_loss:g}")
        if self.push is not None and self.format != "hub":
            raise ArgumentError(f"--push {self.push}: what is pushed is a folder for the hub; give --format hub")
        if self.private and self.push is None:
            raise ArgumentError("--private: says who may see what is pushed; give --push user/name")


def export(
    model: str | Path,
    output: str | Path | None = None,
    options: ExportOptions | None = None,
    *,
    format: Format | None = None,
    precision: Precision | None = None,
    calibration: str | Path | None = None,
    image_size: ImageSize | None = None,
    progress: bool = False,
) -> ExportReport:
    """Writes a network to a file that runs elsewhere: folded, verified on real images, with its card.

    It does what ``shvit export`` does, with the same checks and defaults. The formats: ``docs/deploy/README.md``::

        shvit.export("runs/mine/best.safetensors", "mine.onnx")
        shvit.export("runs/mine/best.safetensors", "mine8.onnx", precision="int8", calibration="photos/")
        shvit.export("mine.onnx", "site", format="web")  # a finished model file, for the browser; needs no PyTorch

    Args:
        model: a checkpoint's file, or a name on the hub (``shvit_s4``, ``hf://user/repository``); with
            ``format="web"`` also an ONNX model file or a shipped model's name, which is packed as it is.
        output: where to write, with the format's suffix; a file that is there is replaced. Without one, the int8 file
            of a name is kept for ``shvit_s4:int8``.
        options: what else there is to say; the keywords below override its values.
        format: onnx, openvino, coreml, litert, executorch, torch, aotinductor, tensorrt, web or hub; onnx when not
            given.
        precision: fp32, fp16 or int8; the format's first in ``shvit.exporting.FORMATS`` when not given.
        calibration: images for int8, which is measured on them too: labelled ones as ``shvit.train`` takes them, or a
            folder of photographs.
        image_size: of the input, in pixels: a side, or height and width, as ``(160, 320)`` or ``"160x320"``; what the
            checkpoint was evaluated at when not given.
        progress: tell on stderr where class names come from, and how the search for layers goes that int8 would cost
            too much.

    Returns:
        Where the file is, how it compares with its network, its card and, for int8, its accuracy.

    Raises:
        ExportError: the file differs from its network, loses too much in int8, or cannot be written. None is left.
        CheckpointError, ModelFileError: ``model`` cannot be used.
        DataError: images cannot be used.
        MissingDependencyError: a converter, or PyTorch for one that needs it, is not installed; the message says which
            command installs it.
        ArgumentError: a value that cannot be.
        HubError: it cannot be pushed; the folder is written, unless that was known before.
        ValueError: an output that is one of the inputs.
    """
    if isinstance(model, str) and model.endswith(INT8) and reference_of(model) is not None:
        raise ArgumentError(f"{model}: give {model.removesuffix(INT8)}, and --precision int8 for 8 bits")
    given: dict[str, Any] = {
        "format": format,
        "precision": precision,
        "calibration": calibration,
        "image_size": image_size,
    }
    given = {name: each for name, each in given.items() if each is not None}
    options = replace(options or ExportOptions(), **given)
    output, name = _kept(model, options, progress) if output is None else (Path(output), Path(output).stem)
    _check_output(model, output, options)
    if options.format == "web" and (model in SHIPPED_MODELS or str(model).lower().endswith(".onnx")):
        return _pack(model, output, options)
    chosen = check_combination(options, output)
    if chosen == "int8" and options.calibration is None:
        raise ArgumentError(NEEDS_CALIBRATION)
    if options.push is not None:
        from shvit.hub.push import check_push

        options = replace(options, repository=check_push(options.push).repository)
    network, card = _open(model, name, options, progress)
    if options.format == "hub" and network.unfolded is None:
        raise ArgumentError(
            f"{model}: is folded, and a repository for the hub holds weights in training form; give the checkpoint "
            "that it came from"
        )
    report = _write(network, output, card, options, progress)
    if options.push is None:
        return report
    from shvit.hub.push import push_folder

    return replace(report, pushed=push_folder(output, options.push, options.private, HUB_FILES, progress))


def _write(network: FoldedNetwork, output: Path, card: Card, options: ExportOptions, progress: bool) -> ExportReport:
    from shvit.exporting.formats import export_model

    images = None
    if options.verify is not None:
        from shvit.evaluation.samples import verification_pixels

        images = verification_pixels(str(options.verify), card.preprocessing, options.image_key)
    if options.precision == "int8":
        return _export_int8(network, output, card, options, images, progress)
    calibration = None
    if options.format == "hub" and options.calibration is not None:
        calibration = _calibration(options.calibration, card, options, progress)
    return export_model(network, output, card, options, images=images, calibration=calibration)


def _calibration(data: str | Path, card: Card, options: ExportOptions, progress: bool) -> np.ndarray:
    """Images that a file in 8 bits beside others takes its ranges from, ``uint8 (N, H, W, 3)``."""
    from shvit.data.trained_on import open_as_trained
    from shvit.evaluation.samples import are_unlabelled, calibration_images, photographs
    from shvit.evaluation.tally import TALLIES

    if are_unlabelled(data):
        return photographs(data, card.preprocessing, _teller(progress))
    task = TALLIES[card.task].data_task
    return calibration_images(open_as_trained(data, card.training_split, options.image_key, task)[0], card)[0]


def _kept(model: str | Path, options: ExportOptions, progress: bool) -> tuple[Path, str]:
    """Where the int8 file of a name is kept, and what it is called.

    Raises:
        ArgumentError: it is no such file that is to be written.
    """
    from shvit.hub.convert import converted_file
    from shvit.hub.fetch import fetch

    reference = reference_of(model)
    own = ("image_size", "classes", "batch_size")
    if (
        reference is None
        or (options.format, options.precision) != ("onnx", "int8")
        or options.dynamic_size
        or any(getattr(options, each) is not None for each in own)
    ):
        raise ArgumentError(
            "--output: missing; it can be left out for a name in 8 bits only, which is kept for later: "
            "shvit export --model shvit_s4 --precision int8 --calibration photos/"
        )
    if options.calibration is None:
        raise ArgumentError(NEEDS_CALIBRATION)
    return converted_file(fetch(reference, wanted="weights", progress=progress), "int8"), f"{reference.name}{INT8}"


def _open(model: str | Path, name: str, options: ExportOptions, progress: bool) -> tuple[FoldedNetwork, Card]:
    """The network of a checkpoint or of a name on the hub, and its card."""
    names = _class_names(options.classes)
    keep_unfolded = options.format == "hub"
    reference = reference_of(model)
    if reference is not None:
        from shvit.hub.convert import open_published
        from shvit.hub.fetch import fetch

        fetched = fetch(reference, wanted="weights", progress=progress)
        network, card, notes = open_published(fetched, name, options.image_size, names, options.weights, keep_unfolded)
    else:
        from shvit.modelfile.card import card_for
        from shvit.network.loading import load_folded

        network, checkpoint = load_folded(model, options.weights, keep_unfolded)
        card = card_for(network, checkpoint, name, options.image_size, names)
        notes = list(checkpoint.notes)
        if progress and names is None and (told := _where_names_come_from(checkpoint, network.config.num_classes)):
            say(told, sys.stderr)
    for note in notes:
        if progress:
            say(f"{model}: {note}", sys.stderr)
        else:
            warnings.warn(f"{model}: {note}", stacklevel=3)
    return network, card


def _export_int8(
    network: FoldedNetwork,
    output: Path,
    card: Card,
    options: ExportOptions,
    images: np.ndarray | None,
    progress: bool,
) -> ExportReport:
    from shvit.data.trained_on import open_as_trained
    from shvit.evaluation.int8 import MAX_DISAGREEMENT, AccuracyJudge, AgreementJudge, Judge, export_int8
    from shvit.evaluation.int8_labels import PrecisionJudge
    from shvit.evaluation.samples import are_unlabelled, photographs
    from shvit.evaluation.tally import TALLIES

    data, tell = options.calibration, _teller(progress)
    assert data is not None
    judge: Judge
    if are_unlabelled(data):
        limit = 100 if options.max_loss >= 100 else MAX_DISAGREEMENT
        judge = AgreementJudge(photographs(data, card.preprocessing, tell), str(data), limit)
    else:
        task = TALLIES[card.task].data_task
        train, val, _ = open_as_trained(data, card.training_split, options.image_key, task)
        judges: dict[TaskName, Callable[..., Judge]] = {"classification": AccuracyJudge, "multi_label": PrecisionJudge}
        judge = judges[card.task](card, train, val, options.max_loss, output.name)
    return export_int8(network, output, card, judge, options, verify_on=images, on_search=tell)


def _teller(progress: bool) -> Callable[[str], None]:
    """What tells sentences on stderr, or drops them."""
    return partial(say, file=sys.stderr) if progress else lambda sentence: None


def _check_output(model: str | Path, output: Path, options: ExportOptions) -> None:
    """Raises: ArgumentError: the file, or what is written beside it, cannot be written to or is an input."""
    classes = options.classes if isinstance(options.classes, (str, Path)) and options.classes != IMAGENET else None
    read = (SHIPPED_MODELS.get(str(model), model), classes, options.verify, options.calibration)
    inputs = [each for each in read if each is not None]
    info = FORMATS.get(options.format)
    if info is not None and info.is_folder:
        check_folder("--output", output, inputs)
        return
    companions = info.companions if info is not None else ()
    outputs = [output, *(output.with_suffix(each) for each in companions)]
    check_outputs([("--output", each) for each in outputs], inputs)


def _where_names_come_from(checkpoint: Checkpoint, outputs: int) -> str | None:
    """What to say of the classes' names where the checkpoint has none."""
    from shvit.network.class_names import known_classes

    known = known_classes(checkpoint, outputs)
    if known is None:
        imagenet = f", or --classes {IMAGENET}" if outputs == 1000 else ""
        return (
            f"class names: {checkpoint.path} has none, so they are numbered, class 0 to class {outputs - 1}; name them "
            f"with --classes FILE{imagenet}"
        )
    if known[1] is None:
        return None
    return f"class names: ImageNet-1k's, because {known[1]}; if they are others, give --classes FILE"


def _class_names(classes: str | Path | Sequence[str] | None) -> list[str] | Literal["imagenet-1k"] | None:
    """Raises: ArgumentError: the file is not text."""
    if classes is None:
        return None
    if classes == IMAGENET:
        return "imagenet-1k"
    if not isinstance(classes, (str, Path)):
        return list(classes)
    try:
        return read_text(Path(classes)).splitlines()
    except UnicodeDecodeError:
        raise ArgumentError(f"--classes {classes}: expected text in UTF-8, one name a line") from None


def _pack(model: str | Path, output: Path, options: ExportOptions) -> ExportReport:
    """An ONNX model file into a folder for the browser, as it is."""
    from shvit.web.site import write_site

    for option in ("precision", "batch_size", "verify", "calibration", "image_size", "classes"):
        if getattr(options, option) is not None:
            raise ArgumentError(f"--{option.replace('_', '-')}: {model} is a finished model file; leave it out")
    card = write_site(model, output)
    size = sum(each.stat().st_size for each in output.rglob("*") if each.is_file())
    return ExportReport(output, size, card, 0, None, None)
