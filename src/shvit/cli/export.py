"""Write a network to a file for elsewhere: folded, verified on real images, with its card. Needs the lab."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from shvit.atomic import check_folder, check_outputs
from shvit.cli.arguments import positive
from shvit.cli.data import IMAGE_KEY_HELP
from shvit.display import say
from shvit.reading import read_text
from shvit.shipped import SHIPPED_MODELS

if TYPE_CHECKING:
    from shvit.exporting import ExportReport
    from shvit.models.checkpoints import Checkpoint

EPILOG = """\
examples:
  shvit export --model runs/mine/best.safetensors --output mine.onnx
  shvit export --model shvit_s4 --output shvit_s4.onnx          ImageNet-1k weights from the hub
  shvit export --model shvit_s1.pth --output s1.onnx            a checkpoint of the reference repository
  shvit export --model mine.safetensors --precision int8 --calibration data/ --output mine.onnx      smaller and faster
  shvit export --model mine.safetensors --dynamic-size --output mine.onnx    for shvit predict --image-size N
  shvit export --model mine.safetensors --format litert --output mine.tflite      Android; docs/deploy/ has all formats
  shvit export --model mine.onnx --format web --output site     a page for any host of static files; needs no PyTorch

formats and precisions, the default first:
  onnx         .onnx       fp16, fp32, int8   batches of any size
  openvino     .xml        fp16, fp32, int8   batches of any size; weights in a .bin beside it
  coreml       .mlpackage  fp16, fp32         one image; not run here, only checked
  litert       .tflite     fp32, fp16, int8   --batch-size images
  executorch   .pte        fp32               --batch-size images
  torch        .pt2        fp32               batches of any size
  aotinductor  .pt2        fp32               batches of any size; for this machine's processor
  tensorrt     .engine     fp16, fp32         up to --batch-size images; for this machine's GPU
  web          a folder    fp16, fp32, int8   a page that classifies in the browser; --model may be an ONNX file
"""

FORMATS = ("onnx", "openvino", "coreml", "litert", "executorch", "torch", "aotinductor", "tensorrt", "web")


IMAGENET = "imagenet-1k"
"""What ``--classes`` takes beside a file."""

COMPANIONS = {"openvino": (".bin",), "executorch": (".card.json",), "tensorrt": (".card.json",)}
"""What is written beside a file, by its format."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", required=True, metavar="NAME|CHECKPOINT", help="variant (weights from the hub) or file"
    )
    parser.add_argument("--output", required=True, type=Path, metavar="FILE|DIR", help="where to write")
    parser.add_argument("--format", choices=FORMATS, default="onnx", help="default: onnx")
    parser.add_argument(
        "--ema",
        choices=("auto", "model", "ema"),
        default="auto",
        help="which weights of a training checkpoint (default: auto, the moving average where there is one)",
    )
    parser.add_argument(
        "--precision",
        choices=("fp16", "fp32", "int8"),
        help="of stored weights and, with int8 and in Core ML and TensorRT, of arithmetic; see below (default: the "
        "format's first); int8 needs --calibration",
    )
    parser.add_argument(
        "--batch-size", type=positive, metavar="N", help="images at once, for a format that fixes them (default: 1)"
    )
    parser.add_argument(
        "--verify",
        metavar="DATA",
        help="images to compare the file with its network on, as for shvit train (default: crops of the package's "
        "photographs)",
    )
    parser.add_argument(
        "--calibration",
        metavar="DATA",
        help="for int8: labelled images, as for shvit train; the training split is calibrated on, the validation split "
        "measured",
    )
    parser.add_argument("--image-key", metavar="EXTENSION", help=f"of these data: {IMAGE_KEY_HELP}")
    parser.add_argument(
        "--max-loss",
        type=float,
        default=0.5,
        metavar="POINTS",
        help="for int8: top-1 that may be lost on the validation split; layers stay in float32 where need be, and no "
        "file is written if that is not enough (default: 0.5)",
    )
    parser.add_argument(
        "--image-size",
        type=positive,
        metavar="N",
        help="side of the input, in pixels (default: the checkpoint's, or the variant's)",
    )
    parser.add_argument(
        "--dynamic-size",
        action="store_true",
        help="the file takes images of any size, --image-size by default (onnx, openvino)",
    )
    parser.add_argument(
        "--classes",
        metavar="FILE|imagenet-1k",
        help="class names, one a line, for a checkpoint that has none; or ImageNet-1k's (default: the checkpoint's, "
        "ImageNet-1k's for the published weights, else numbers)",
    )


def _check_output(args: argparse.Namespace) -> None:
    """Raises: ValueError: the file, or what is written beside it, cannot be written to or is an input."""
    read = (SHIPPED_MODELS.get(args.model, args.model), args.classes, args.verify, args.calibration)
    inputs = [each for each in read if each is not None]
    if args.format in ("web", "coreml"):
        check_folder("--output", args.output, inputs)
        return
    suffixes = COMPANIONS.get(args.format, ())
    outputs = [args.output, *(args.output.with_suffix(each) for each in suffixes)]
    check_outputs([("--output", each) for each in outputs], inputs)


def run(args: argparse.Namespace) -> int:
    _check_output(args)
    if args.format == "web" and (args.model in SHIPPED_MODELS or args.model.lower().endswith(".onnx")):
        return _pack(args)
    from shvit.exporting import export_model
    from shvit.exporting.card import card_for
    from shvit.exporting.formats import check_combination
    from shvit.models import VARIANTS
    from shvit.models.checkpoints import load_model
    from shvit.models.create import fetch_pretrained

    precision = check_combination(args.format, args.precision, args.output, args.batch_size, args.dynamic_size)
    if precision == "int8" and args.calibration is None:
        raise ValueError("--precision int8: give --calibration DATA, labelled images to calibrate and to measure on")
    if not 0 <= args.max_loss <= 100:
        raise ValueError(f"--max-loss: expected 0 to 100 points, got {args.max_loss:g}")
    path = fetch_pretrained(args.model) if args.model in VARIANTS else Path(args.model)
    model, checkpoint = load_model(path, args.ema)
    names = _class_names(args.classes) if args.classes else None
    card = card_for(model, checkpoint, name=args.output.stem, image_size=args.image_size, class_names=names)
    if names is None and (told := _where_names_come_from(checkpoint, model.num_classes)):
        say(told, sys.stderr)
    images = None
    if args.verify is not None:
        from shvit.evaluation.samples import verification_pixels

        images = verification_pixels(args.verify, card.preprocessing, args.image_key)
    if precision == "int8":
        from shvit.data.trained_on import open_as_trained
        from shvit.evaluation.int8 import export_int8

        train, val, _ = open_as_trained(args.calibration, card.training_split, args.image_key)
        report, top1, whole, count, kept = export_int8(
            model,
            args.output,
            card,
            train,
            val,
            args.max_loss,
            args.format,
            args.batch_size,
            images,
            on_search=lambda line: say(line, sys.stderr),
            dynamic_size=args.dynamic_size,
        )
        say(f"top-1 {top1:.2%} in int8, {whole:.2%} in float32, on {count:,} validation images")
        if kept:
            say(f"left in float32: {', '.join(kept)}")
    else:
        report = export_model(
            model,
            args.output,
            card,
            args.format,
            precision,
            args.batch_size,
            images,
            dynamic_size=args.dynamic_size,
        )
    print_report(report, args.format, args.verify)
    return 0


def _where_names_come_from(checkpoint: Checkpoint, outputs: int) -> str | None:
    """What to say of the classes' names where the checkpoint has none."""
    from shvit.models.class_names import known_classes

    known = known_classes(checkpoint, outputs)
    if known is None:
        imagenet = ", or --classes imagenet-1k" if outputs == 1000 else ""
        return (
            f"class names: {checkpoint.path} has none, so they are numbered, class 0 to class {outputs - 1}; name them "
            f"with --classes FILE{imagenet}"
        )
    if known[1] is None:
        return None
    return f"class names: ImageNet-1k's, because {known[1]}; if they are others, give --classes FILE"


def _class_names(path: str) -> list[str] | Literal["imagenet-1k"]:
    """Raises: ValueError: the file is not text."""
    if path == IMAGENET:
        return "imagenet-1k"
    try:
        return read_text(path).splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"--classes {path}: expected text in UTF-8, one name a line") from None


def _pack(args: argparse.Namespace) -> int:
    """An ONNX model file into a folder for the browser, as it is."""
    from shvit.web.site import write_site

    for option in ("precision", "batch_size", "verify", "calibration", "image_size", "classes"):
        if getattr(args, option) is not None:
            raise ValueError(f"--{option.replace('_', '-')}: {args.model} is a finished model file; leave it out")
    card = write_site(args.model, args.output)
    size = sum(each.stat().st_size for each in args.output.rglob("*") if each.is_file())
    say(f"{args.output}: {size / 1e6:.1f} MB, {card.name} with {len(card.classes)} classes, for the browser")
    _print_how_to_open(args.output)
    return 0


def _print_how_to_open(folder: Path) -> None:
    say(f"try it: python -m http.server --bind 127.0.0.1 --directory {folder} 8000, then http://127.0.0.1:8000")


def print_report(report: ExportReport, format: str, verified_on: str | None) -> None:
    verification = report.card.verification
    assert verification is not None
    say(f"{report.path}: {report.size_bytes / 1e6:.1f} MB, {format} in {verification.precision}")
    if report.max_difference is None or report.top1_agreement is None:
        say(f"  {verification.notes}")
        return
    say(f"  run by {verification.engine} on {report.images} {'images' if verified_on else 'crops of photographs'}:")
    say(f"  largest difference of a logit {report.max_difference:.1e} of the largest logit")
    say(f"  same first label on {report.top1_agreement:.1%}")
    if verification.notes:
        say(f"  {verification.notes}")
    if format == "web":
        _print_how_to_open(report.path)
    if report.path.suffix in (".onnx", ".xml", ".tflite"):
        say(f"try it: shvit predict IMAGE --model {report.path}")
