"""Write a model file from a network: folded, verified on real images, with its card inside. Needs the lab."""

from __future__ import annotations

import argparse
from pathlib import Path

from shvit.cli.predict import positive

EPILOG = """\
examples:
  shvit export --model runs/mine/best.safetensors --output mine.onnx
  shvit export --model shvit_s4 --output shvit_s4.onnx          ImageNet-1k weights from the hub
  shvit export --model shvit_s1.pth --output s1.onnx            a checkpoint of the reference repository
  shvit export --model mine.safetensors --precision int8 --calibration data/ --output mine.onnx      smaller and faster
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", required=True, metavar="NAME|CHECKPOINT", help="variant (weights from the hub) or file"
    )
    parser.add_argument("--output", required=True, type=Path, metavar="FILE.onnx", help="where to write")
    parser.add_argument(
        "--ema",
        choices=("auto", "model", "ema"),
        default="auto",
        help="which weights of a training checkpoint (default: auto, the moving average where there is one)",
    )
    parser.add_argument(
        "--precision",
        choices=("fp16", "fp32", "int8"),
        default="fp16",
        help="how weights are stored (default: fp16, half the size; engines compute in float32 all the same); int8 "
        "has convolutions computed in 8 bits, and needs --calibration",
    )
    parser.add_argument(
        "--calibration",
        metavar="DATA",
        help="for int8: labelled images, as for shvit train; the training split is calibrated on, the validation split "
        "measured",
    )
    parser.add_argument(
        "--max-loss",
        type=float,
        default=0.5,
        metavar="POINTS",
        help="for int8: write no file that loses more top-1 on the validation split (default: 0.5)",
    )
    parser.add_argument(
        "--image-size",
        type=positive,
        metavar="N",
        help="side of the input, in pixels (default: the checkpoint's, or the variant's)",
    )
    parser.add_argument(
        "--classes", type=Path, metavar="FILE", help="class names, one a line, for a checkpoint that has none"
    )


def run(args: argparse.Namespace) -> int:
    from shvit.export.card import card_for
    from shvit.export.onnx import export_onnx
    from shvit.models import VARIANTS
    from shvit.models.checkpoints import load_model
    from shvit.models.create import fetch_pretrained

    path = fetch_pretrained(args.model) if args.model in VARIANTS else Path(args.model)
    model, checkpoint = load_model(path, args.ema)
    names = args.classes.read_text().splitlines() if args.classes else None
    card = card_for(model, checkpoint, name=args.output.stem, image_size=args.image_size, class_names=names)
    if args.precision == "int8":
        if args.calibration is None:
            raise ValueError("--precision int8: give --calibration DATA, labelled images to calibrate and to measure on")
        from shvit.data.datasets import open_datasets
        from shvit.evaluation.int8 import export_int8

        train, val, _ = open_datasets(args.calibration)
        report, top1, whole, images = export_int8(model, args.output, card, train, val, args.max_loss)
        print(f"top-1 {top1:.2%} in int8, {whole:.2%} in float32, on {images:,} validation images")
    else:
        report = export_onnx(model, args.output, card, args.precision)
    print(f"{report.path}: {report.size_bytes / 1e6:.1f} MB, verified on {report.images} photographs:")
    print(f"  largest difference of a logit {report.max_difference:.1e} of the largest logit")
    print(f"  same first label on {report.top1_agreement:.0%}")
    print(f"try it: shvit predict IMAGE --model {report.path}")
    return 0
