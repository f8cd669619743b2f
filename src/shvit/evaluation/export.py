"""From a checkpoint's file to a verified file for elsewhere, in one call; what ``shvit export`` does.

Not in ``exporting``, since an int8 file is evaluated before it takes its name. Packing for browsers needs no PyTorch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from shvit.atomic import check_folder, check_outputs
from shvit.display import say
from shvit.errors import ArgumentError
from shvit.exporting.options import FORMATS, FileOptions, Format, Precision, check_combination
from shvit.modelfile.report import ExportReport
from shvit.reading import read_text
from shvit.shipped import SHIPPED_MODELS

if TYPE_CHECKING:
    import numpy as np

    from shvit.card import Card
    from shvit.models import SHViT
    from shvit.models.checkpoints import Checkpoint

Weights = Literal["auto", "model", "ema"]

IMAGENET = "imagenet-1k"
"""What ``classes`` takes beside names and a file."""


@dataclass(frozen=True)
class ExportOptions(FileOptions):
    """All that ``shvit export`` can be told: what kind of file, of which weights, judged by what."""

    weights: Weights = "auto"
    """Which weights of a training checkpoint; auto: the moving average where there is one."""
    image_size: int | None = None
    """Side of the input, in pixels; the checkpoint's or the variant's when not given."""
    classes: str | Path | Sequence[str] | None = None
    """Class names, a file of them, one a line, or ``imagenet-1k``, for a checkpoint that has none. When not given, the
    checkpoint's; ImageNet-1k's for the published weights; else numbers."""
    calibration: str | Path | None = None
    """For int8: labelled images, as ``shvit.train`` takes; the training split is calibrated on, the validation split
    measured."""
    max_loss: float = 0.5
    """For int8: points of top-1, of 100, that may be lost on the validation split; layers stay in float32 where need
    be, and no file is written if that is not enough. At 100 nothing is judged."""
    verify: str | Path | None = None
    """Images to compare the file with its network on, as ``shvit.train`` takes, at least 200; crops of the package's
    photographs when not given."""
    image_key: str | None = None
    """Of these data, if they are tar shards with several images under one key, the extension of the one meant."""

    def __post_init__(self) -> None:
        if not 0 <= self.max_loss <= 100:
            raise ArgumentError(f"--max-loss: expected 0 to 100 points, got {self.max_loss:g}")


def export(
    model: str | Path,
    output: str | Path,
    options: ExportOptions | None = None,
    *,
    format: Format | None = None,
    precision: Precision | None = None,
    calibration: str | Path | None = None,
    image_size: int | None = None,
    progress: bool = False,
) -> ExportReport:
    """Writes a network to a file that runs elsewhere: folded, verified on real images, with its card.

    It does what ``shvit export`` does, with the same checks and defaults. The formats: ``docs/deploy/README.md``::

        shvit.export("runs/mine/best.safetensors", "mine.onnx")
        shvit.export("runs/mine/best.safetensors", "mine8.onnx", precision="int8", calibration="photos/")
        shvit.export("mine.onnx", "site", format="web")  # a finished model file, for the browser; needs no PyTorch

    Args:
        model: a checkpoint's file, or a variant's name for its ImageNet weights from the hub; with ``format="web"``
            also an ONNX model file or a shipped model's name, which is packed as it is.
        output: where to write, with the format's suffix; a file that is there is replaced.
        options: what else there is to say; the keywords below override its values.
        format: onnx, openvino, coreml, litert, executorch, torch, aotinductor, tensorrt or web; onnx when not given.
        precision: fp32, fp16 or int8; the format's first in ``shvit.exporting.FORMATS`` when not given.
        calibration: labelled images, for int8, which is measured on them too; as ``shvit.train`` takes them.
        image_size: side of the input, in pixels; what the checkpoint was evaluated at when not given.
        progress: tell on stderr where class names come from, and how the search for layers goes that int8 would cost
            too much.

    Returns:
        Where the file is, how it compares with its network, its card and, for int8, its accuracy.

    Raises:
        ExportError: the file differs from its network, loses too much in int8, or cannot be written. None is left.
        CheckpointError, ModelFileError: ``model`` cannot be used.
        DataError: images cannot be used.
        MissingDependencyError: a converter or PyTorch is not installed; the message says which command installs it.
        ArgumentError: a value that cannot be.
        ValueError: an output that is one of the inputs.
    """
    given: dict[str, Any] = {
        "format": format,
        "precision": precision,
        "calibration": calibration,
        "image_size": image_size,
    }
    given = {name: each for name, each in given.items() if each is not None}
    options = replace(options or ExportOptions(), **given)
    output = Path(output)
    _check_output(model, output, options)
    if options.format == "web" and (model in SHIPPED_MODELS or str(model).lower().endswith(".onnx")):
        return _pack(model, output, options)
    chosen = check_combination(options, output)
    if chosen == "int8" and options.calibration is None:
        raise ArgumentError("--precision int8: give --calibration DATA, labelled images to calibrate and to measure on")
    network, checkpoint = _load(model, options.weights)
    from shvit.exporting.card import card_for
    from shvit.exporting.formats import export_model

    names = _class_names(options.classes)
    card = card_for(network, checkpoint, output.stem, options.image_size, names)
    if progress and names is None and (told := _where_names_come_from(checkpoint, network.num_classes)):
        say(told, sys.stderr)
    images = None
    if options.verify is not None:
        from shvit.evaluation.samples import verification_pixels

        images = verification_pixels(str(options.verify), card.preprocessing, options.image_key)
    if chosen == "int8":
        return _export_int8(network, output, card, options, images, progress)
    return export_model(network, output, card, options, images=images)


def _load(model: str | Path, weights: Weights) -> tuple[SHViT, Checkpoint]:
    """Raises: MissingDependencyError: PyTorch is not installed."""
    from shvit.models import load_model
    from shvit.models.create import weights_file

    return load_model(weights_file(model), weights)


def _export_int8(
    network: SHViT, output: Path, card: Card, options: ExportOptions, images: np.ndarray | None, progress: bool
) -> ExportReport:
    from shvit.data.trained_on import open_as_trained
    from shvit.evaluation.int8 import export_int8

    def tell(sentence: str) -> None:
        if progress:
            say(sentence, sys.stderr)

    assert options.calibration is not None
    train, val, _ = open_as_trained(options.calibration, card.training_split, options.image_key)
    return export_int8(network, output, card, train, val, options.max_loss, options, verify_on=images, on_search=tell)


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
    from shvit.models.class_names import known_classes

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
