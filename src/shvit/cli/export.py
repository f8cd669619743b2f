"""Write a network to a file for elsewhere: folded, verified on real images, with its card."""

from __future__ import annotations

import argparse
from pathlib import Path

from shvit.cli.arguments import check_folder_name, image_size, positive
from shvit.cli.data import IMAGE_KEY_HELP
from shvit.display import say
from shvit.evaluation.export import ExportOptions, export
from shvit.exporting import FORMATS, ExportReport
from shvit.exporting.options import HUB_MODEL
from shvit.hub.names import PREFIX
from shvit.hub.resolve import INT8

EPILOG = """\
examples:
  shvit export --model runs/mine/best.safetensors --output mine.onnx
  shvit export --model shvit_s4 --output s4.onnx                ImageNet-1k weights, by name
  shvit export --model shvit_s4 --precision int8 --calibration photos/ --output s4.onnx    200 photographs, no labels
  shvit export --model shvit_s1.pth --output s1.onnx            a checkpoint of the reference repository
  shvit export --model mine.safetensors --precision int8 --calibration data/ --output mine.onnx      smaller and faster
  shvit export --model mine.safetensors --dynamic-size --output mine.onnx    for shvit predict --image-size N
  shvit export --model mine.safetensors --format litert --output mine.tflite      Android; docs/deploy/ has all formats
  shvit export --model mine.onnx --format web --output site     a page for any host of static files; needs no PyTorch
  shvit export --model mine.safetensors --format hub --output mine --push user/mine    for the Hugging Face Hub

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
  hub          a folder    fp16, fp32, int8   for timm and Hugging Face's libraries; int8 too, with --calibration

onnx, openvino, web and hub need no PyTorch; the others need the lab.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        required=True,
        metavar="NAME|CHECKPOINT",
        help="a name (shvit_s4, hf://user/repository) or a file of weights",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE|DIR", help="where to write; without it a name in int8 is kept (NAME:int8)"
    )
    parser.add_argument("--format", choices=tuple(FORMATS), default="onnx", help="default: onnx")
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
        help="for int8: labelled images, as for shvit train (the training split is calibrated on, the validation split "
        "measured), or a folder of 200 photographs or more without labels (one half is calibrated on; of the other it "
        "is measured how often the first label is float32's)",
    )
    parser.add_argument("--image-key", metavar="EXTENSION", help=f"of these data: {IMAGE_KEY_HELP}")
    parser.add_argument(
        "--max-loss",
        type=float,
        default=0.5,
        metavar="POINTS",
        help="for int8 on labelled images: top-1 that may be lost on the validation split; layers stay in float32 "
        "where need be, and no file is written if that is not enough (default: 0.5)",
    )
    parser.add_argument(
        "--image-size",
        type=image_size,
        metavar="N|HxW",
        help="side of the input, in pixels, or height and width, as 160x320 (default: the checkpoint's, or the "
        "variant's)",
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
    parser.add_argument(
        "--push",
        metavar="USER/NAME",
        help="hub: the repository on the Hugging Face Hub that the folder becomes, in one commit; with the token of "
        "`hf auth login` or HF_TOKEN",
    )
    parser.add_argument("--private", action="store_true", help="with --push: a new repository is not seen by all")


def run(args: argparse.Namespace) -> int:
    if args.format in ("web", "hub") and args.output is not None:
        check_folder_name("--output", args.output)
    options = ExportOptions(
        format=args.format,
        precision=args.precision,
        batch_size=args.batch_size,
        dynamic_size=args.dynamic_size,
        weights=args.ema,
        image_size=args.image_size,
        classes=args.classes,
        calibration=args.calibration,
        max_loss=args.max_loss,
        verify=args.verify,
        image_key=args.image_key,
        push=args.push,
        private=args.private,
    )
    report = export(args.model, args.output, options, progress=True)
    print_report(report, options, f"{args.model}{INT8}" if args.output is None else str(report.path))
    return 0


def print_report(report: ExportReport, options: ExportOptions, model: str) -> None:
    """Args: model: what other commands take the file by."""
    size = f"{report.path}: {report.size_bytes / 1e6:.1f} MB"
    if options.format == "web" and report.images == 0:
        say(f"{size}, {report.card.name} with {len(report.card.classes)} classes, for the browser")
        _print_how_to_open(report.path)
        return
    if (found := report.int8) is not None:
        say(found.sentence)
    if found is not None and found.kept_float:
        say(f"left in float32: {', '.join(found.kept_float)}")
    verification = report.card.verification
    assert verification is not None
    say(f"{size}, {options.format} in {verification.precision}")
    if report.max_difference is None or report.top1_agreement is None:
        say(f"  {verification.notes}")
        return
    where = "crops of photographs" if options.verify is None else "images"
    say(f"  run by {verification.engine} on {report.images} {where}:")
    say(f"  largest difference of a logit {report.max_difference:.1e} of the largest logit")
    say(f"  same first label on {report.top1_agreement:.1%}")
    if verification.notes:
        say(f"  {verification.notes}")
    if options.format == "web":
        _print_how_to_open(report.path)
    if options.format == "hub":
        _print_hub(report, options)
    if report.path.suffix in (".onnx", ".xml", ".tflite"):
        say(f"try it: shvit predict IMAGE --model {model}")


def _print_how_to_open(folder: Path) -> None:
    say(f"try it: python -m http.server --bind 127.0.0.1 --directory {folder} 8000, then http://127.0.0.1:8000")


def _print_hub(report: ExportReport, options: ExportOptions) -> None:
    if options.calibration is None:
        say("  without onnx/model_quantized.onnx: for 8 bits in browsers give --calibration DATA")
    if report.pushed is None:
        say(f"README.md names it user/name: push it with --push USER/NAME, or hf upload USER/NAME {report.path}")
        say(f"try it: shvit predict IMAGE --model {report.path / HUB_MODEL}")
        return
    say(f"pushed: {report.pushed}")
    say(f"try it: shvit predict IMAGE --model {PREFIX}{options.push}")
