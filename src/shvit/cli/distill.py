"""Prepare distillation: run a teacher once, on the crops that a student will see. Needs the lab."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import get_args

from shvit.atomic import check_outputs
from shvit.card import TaskName
from shvit.cli.arguments import positive
from shvit.cli.data import IMAGE_KEY_HELP
from shvit.display import say, terminal

EPILOG = """\
examples:
  shvit distill precompute data/ --teacher tf_efficientnet_lite2 --output logits/ --views 3 --fit-head
  shvit train data/ --distillation.logits logits/

`shvit distill precompute --help` explains it. To run the teacher beside the student instead, no preparation is
needed: shvit train data/ --distillation.teacher tf_efficientnet_lite2
"""

PRECOMPUTE_EPILOG = """\
The logits belong to these images, this seed and this crop scale: train with the same ones. Stopped or killed, the same
command goes on where it was. More --views, or --fit-head, given later cost only what is new.

examples:
  shvit distill precompute data/ --teacher tf_efficientnet_lite2 --output logits/ --views 3 --fit-head
  shvit distill precompute data/ --teacher regnety_160.deit_in1k --device cuda --batch-size 256 --output logits/
  shvit distill precompute data/ --teacher runs/s4/best.safetensors --output logits/
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    precompute = actions.add_parser(
        "precompute",
        help="run a teacher once and keep its logits",
        description="Run a teacher once, on the crops that a student will see, and keep its logits.",
        epilog=PRECOMPUTE_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = precompute.add_argument
    add("data", metavar="DATA", help="dataset; the training split is used")
    add("--image-key", metavar="EXTENSION", help=IMAGE_KEY_HELP)
    add("--teacher", required=True, metavar="NAME", help="a timm model, shvit_s1 to _s4, or a SHViT checkpoint's file")
    add("--teacher-weights", type=Path, metavar="FILE", help="a timm model's state dict (default: timm's own)")
    add("--teacher-size", type=positive, metavar="N", help="side of its images (default: its own)")
    add("--output", required=True, type=Path, metavar="DIR", help="where the logits go")
    add("--views", type=positive, default=4, metavar="N", help="crops of each image (default: 4)")
    add("--crop-scale", type=float, nargs=2, default=(0.35, 1.0), metavar=("MIN", "MAX"), help="default: 0.35 1.0")
    add("--seed", type=int, default=0, help="of the crops, and of what is held out, as in training (default: 0)")
    add(
        "--val-share",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="share of each class that training holds out, where DATA has no validation split (default: 0.1)",
    )
    add("--task", choices=get_args(TaskName), help="as in training (default: what the data have)")
    add("--fit-head", action="store_true", help="first fit the teacher's last layer to the labels")
    add("--backend", choices=("eager", "openvino"), default="eager", help="default: eager PyTorch")
    add("--device", choices=("cpu", "cuda", "mps"), default="cpu", help="of the eager backend (default: cpu)")
    add("--batch-size", type=positive, default=32, metavar="N", help="default: 32")
    add("--workers", type=int, default=1, metavar="N", help="decoding processes (default: 1)")
    add(
        "--report-every",
        type=float,
        default=30,
        metavar="SECONDS",
        help="between lines on stderr where that is not a terminal (default: 30)",
    )


def run(args: argparse.Namespace) -> int:
    from shvit.data import Augmentation
    from shvit.data.datasets import open_datasets
    from shvit.data.targets import task_of_labels
    from shvit.training.distillation import load_teacher, view_file
    from shvit.training.precompute import TeacherExecution, precompute_logits

    files = [args.output / "logits.json", *(view_file(args.output, view) for view in range(args.views))]
    check_outputs(
        [("--output", each) for each in files],
        [each for each in (args.data, args.teacher, args.teacher_weights) if each],
    )
    augmentation = Augmentation(crop_scale=tuple(args.crop_scale))
    images, _, note = open_datasets(args.data, args.seed, args.val_share, args.image_key, args.task)
    if note is not None:
        say(note, sys.stderr)
    task = None if args.fit_head else task_of_labels(images)
    teacher = load_teacher(args.teacher, args.teacher_weights, images.classes, args.teacher_size, task)
    with _reported(args.views * len(images), args.report_every) as report:
        card = precompute_logits(
            teacher,
            images,
            args.output,
            args.views,
            augmentation,
            args.seed,
            args.fit_head,
            TeacherExecution(args.backend, args.device, args.workers, args.batch_size),
            report,
        )
    fitted = ", its last layer fitted to them" if card.fit_head else ""
    crops = "1 crop of each" if card.views == 1 else f"{card.views} crops of each"
    say(f"{args.output}: logits of {card.teacher} on {crops} of {card.images:,} images{fitted}")
    if card.top1 is not None:
        say(f"the teacher is right on {card.top1:.2%} of the crops")
    if card.broken:
        say(f"{card.broken} images are broken and have no logits")
    # Always: training's own default depends on how many images there are.
    scale = f" --augmentation.crop_scale '{list(augmentation.crop_scale)}'"
    image_key = "" if args.image_key is None else f" --image-key {args.image_key}"
    val_share = "" if note is None or args.val_share == 0.1 else f" --val_share {args.val_share:g}"
    task_given = "" if args.task is None else f" --task {args.task}"
    more = f"{scale}{val_share}{task_given}"
    say(f"next: shvit train {args.data}{image_key} --distillation.logits {args.output} --seed {card.seed}{more}")
    return 0


@contextmanager
def _reported(total: int, every: float) -> Iterator[Callable[[int], None]]:
    """A progress bar where somebody watches, else a line now and then, both on stderr.

    Gives a function that takes the number of images done; its first call says what was there already.
    """
    if not sys.stderr.isatty():
        yield _lines(total, every)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from shvit.runs.logs import RateColumn

    columns = (TextColumn("teacher"), BarColumn(), MofNCompleteColumn(), RateColumn("images/s"), TimeRemainingColumn())
    with Progress(*columns, console=terminal(stderr=True), speed_estimate_period=120) as bar:

        def show(done: int) -> None:
            if not bar.tasks:
                bar.add_task("teacher", total=total, completed=done)
            bar.update(bar.tasks[0].id, completed=done)

        yield show


def _lines(total: int, every: float) -> Callable[[int], None]:
    first: int | None = None
    started = said = time.monotonic()

    def show(done: int) -> None:
        nonlocal first, started, said
        now = time.monotonic()
        if first is None:
            first, started, said = done, now, now
            if done:
                say(f"going on: {done:,} of {total:,} images are done", sys.stderr)
        elif now - said >= every or done == total:
            rate = (done - first) / max(now - started, 1e-9)
            left = timedelta(seconds=round((total - done) / max(rate, 1e-9)))
            say(f"{done:,} of {total:,} images, {rate:,.0f} images/s, {left} left", sys.stderr)
            said = now

    return show
