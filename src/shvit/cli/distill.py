"""Run a teacher once on the crops that a student will see, and keep its logits. Needs the lab."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

EPILOG = """\
The crops depend on the seed and on augmentation.crop_scale: train with the same ones.

examples:
  shvit distill data/ --teacher tf_efficientnet_lite2 --output logits/ --views 3 --fit-head
  shvit train data/ --distillation.logits logits/
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DATA", help="dataset folder; the training split is used")
    parser.add_argument("--teacher", required=True, metavar="NAME", help="a timm ImageNet-1k model")
    parser.add_argument("--teacher-weights", type=Path, metavar="FILE", help="its state dict (default: timm's own)")
    parser.add_argument("--teacher-size", type=int, metavar="N", help="side of its images (default: its own)")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="where the logits go")
    parser.add_argument("--views", type=int, default=4, metavar="N", help="crops of each image (default: 4)")
    parser.add_argument("--crop-scale", type=float, nargs=2, default=(0.35, 1.0), metavar=("MIN", "MAX"))
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--fit-head", action="store_true", help="first fit the teacher's last layer to the labels")
    parser.add_argument("--backend", choices=("eager", "openvino"), default="eager", help="default: eager PyTorch")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="decoding processes (default: 1)")


def run(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import Progress

    from shvit.data import Augmentation, open_dataset
    from shvit.train.distillation import load_teacher
    from shvit.train.precompute import precompute_logits

    images = open_dataset(args.data, "train")
    teacher = load_teacher(args.teacher, args.teacher_weights, images.classes, args.teacher_size)
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("teacher", total=args.views * len(images))
        card = precompute_logits(
            teacher,
            images,
            args.output,
            args.views,
            Augmentation(crop_scale=tuple(args.crop_scale)),
            args.seed,
            fit_head=args.fit_head,
            backend=args.backend,
            workers=args.workers,
            on_images=lambda view, done: bar.update(task, completed=view * len(images) + done),
        )
    print(f"{args.output}: logits of {card.teacher} on {card.views} crops of {card.images:,} images")
    print(f"next: shvit train {args.data} --distillation.logits {args.output} --seed {card.seed}")
    return 0
