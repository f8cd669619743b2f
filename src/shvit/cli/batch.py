"""Classify whole collections of images to a folder of Parquet files, one row an input; needs no PyTorch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import ExitStack, redirect_stdout

from shvit.cli.arguments import add_answering, add_model, check_folder_name, positive
from shvit.display import notice, progress_bar, say
from shvit.engines import BATCH_SIZE, ENGINES
from shvit.errors import MissingDependencyError
from shvit.images.sources import COMPANION_EXTENSIONS, describe_left_out
from shvit.install import install_command

KINDS = ("images", "tar", "parquet", "video")

EPILOG = """\
examples:
  shvit batch photos/ --output labels/                      a folder, all levels, on all cores
  shvit batch 'shards/*.tar' --output labels/               WebDataset shards
  shvit batch data/*.parquet --column image --output labels/
  shvit batch videos/ --fps 1 --output labels/              a row a second of each video
  shvit batch s3://bucket/photos --output s3://bucket/labels
  shvit batch s3://bucket/shards --output s3://bucket/labels --ray-address auto    on a Ray cluster

The same command again goes on where it was ended; with --retry-failed it also does over what failed. Read the rows with
anything that reads a folder of Parquet: pandas.read_parquet("labels/").

exit status: 0 all fine, 1 some inputs failed (the others are done), 2 wrong usage or it could not go on
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sources", nargs="+", metavar="SOURCE", help="folder, file or pattern with *, as a path or a URL such as s3://"
    )
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="folder or object store (s3://) for the parts, made if missing"
    )
    add_model(parser)
    add_answering(parser, "input")
    parser.add_argument(
        "--workers", type=positive, metavar="N", help="of one thread each (default: one a processor, here or there)"
    )
    parser.add_argument(
        "--ray-address",
        metavar="ADDRESS",
        help="Ray cluster: auto, HOST:PORT, or local to start one here (default: processes of this machine, no Ray)",
    )
    parser.add_argument("--kind", choices=KINDS, help="what to take of the sources (default: the one kind they hold)")
    parser.add_argument("--column", help="of Parquet files, the one with the images (default: the only one)")
    parser.add_argument("--fps", type=float, help="of videos, frames a second at most (default: every frame)")
    parser.add_argument("--keyframes", action="store_true", help="of videos, only key frames, many times as fast")
    parser.add_argument("--retry-failed", action="store_true", help="do those parts again in which an input failed")
    parser.add_argument(
        "--unit-size", type=positive, default=1024, metavar="N", help="inputs in a part (default: %(default)s)"
    )
    parser.add_argument(
        "--embedding", action="store_true", help="also the pooled features before the head (engine onnxruntime)"
    )
    parser.add_argument("--engine", choices=ENGINES, default="auto", help="default: auto")
    parser.add_argument("--batch-size", type=positive, default=BATCH_SIZE, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--fast-decode",
        action="store_true",
        help="decode and resize to nearly the same pixels in about half the time (needs the extra fast)",
    )


def run(args: argparse.Namespace) -> int:
    check_folder_name("--output", args.output)
    try:
        from shvit.batch.plan import BatchSettings
        from shvit.batch.run import run_batch
    except ModuleNotFoundError as error:
        if error.name != "pyarrow":
            raise
        raise MissingDependencyError(f"needs pyarrow, which is not installed: {install_command('ray')}") from None

    settings = BatchSettings(
        sources=tuple(args.sources),
        model=args.model,
        kind=args.kind,
        column=args.column,
        fps=args.fps,
        keyframes=args.keyframes,
        top_k=args.top_k,
        min_score=args.min_score,
        unknown=not args.no_unknown,
        embedding=args.embedding,
        engine=args.engine,
        decoding="fast" if args.fast_decode else "exact",
        batch_size=args.batch_size,
        unit_size=args.unit_size,
    )
    with ExitStack() as stack:
        if args.ray_address is not None:  # Ray prints what it notices to stdout
            stack.enter_context(redirect_stdout(sys.stderr))
        bars: list[Callable[[int], None]] = []

        def begin(total: int | None, finished: int) -> None:
            if finished:
                say(f"{finished:,} inputs are done already", sys.stderr)
            bars.append(stack.enter_context(progress_bar("classifying", total, finished)))

        done = run_batch(
            settings,
            args.output,
            args.workers,
            args.ray_address,
            args.retry_failed,
            begin,
            lambda count: bars[0](count),
        )
    speed = f", {done.inputs_now:,} of them now at {done.images_per_second:,.0f} a second" if done.inputs_now else ""
    why = " (the column error says why)" if done.failed else ""
    say(f"{args.output}: {done.inputs:,} inputs, {done.failed:,} failed{why}{speed}")
    if done.left_out.keys() - COMPANION_EXTENSIONS:
        notice(describe_left_out(done.left_out))
    if done.workers_lost:
        say(f"{done.workers_lost} workers died and were replaced", sys.stderr)
    return 1 if done.failed else 0
