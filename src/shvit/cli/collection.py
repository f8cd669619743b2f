"""What commands that run over whole collections have in common: options, the progress, and what is said at the end."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import ExitStack, redirect_stdout
from typing import TYPE_CHECKING, Any

from shvit.cli.arguments import positive
from shvit.display import notice, progress_bar, say
from shvit.engines import BATCH_SIZE, ENGINES
from shvit.images.sources import COMPANION_EXTENSIONS, VIDEO_EXTENSIONS, describe_left_out
from shvit.reading import listed_paths

if TYPE_CHECKING:
    from shvit.batch.run import BatchSummary, RunOptions

KINDS = ("images", "tar", "parquet", "video")

Run = Callable[["RunOptions", Callable[[int | None, int], None], Callable[[int], None]], "BatchSummary"]


def add_sources(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="folder, file or pattern with *, as a path or a URL such as s3://, or - for paths on stdin",
    )


def add_running(parser: argparse.ArgumentParser, unit_size: int) -> None:
    """Args: unit_size: inputs in a part, where nothing else is asked for."""
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
        "--unit-size", type=positive, default=unit_size, metavar="N", help="inputs in a part (default: %(default)s)"
    )
    parser.add_argument("--engine", choices=ENGINES, default="auto", help="default: auto")
    parser.add_argument("--batch-size", type=positive, default=BATCH_SIZE, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--fast-decode",
        action="store_true",
        help="decode and resize to nearly the same pixels in about half the time (needs the extra fast)",
    )


def common_settings(args: argparse.Namespace) -> dict[str, Any]:
    """Those of ``BatchSettings`` that every such command takes; a list on stdin is read."""
    return {
        "sources": tuple(args.sources),
        "listed": tuple(listed_paths(sys.stdin)) if "-" in args.sources else (),
        "model": args.model,
        "kind": args.kind,
        "column": args.column,
        "fps": args.fps,
        "keyframes": args.keyframes,
        "engine": args.engine,
        "decoding": "fast" if args.fast_decode else "exact",
        "batch_size": args.batch_size,
        "unit_size": args.unit_size,
    }


def run_shown(args: argparse.Namespace, doing: str, run: Run) -> BatchSummary:
    """Runs with a progress bar, and says what became of it.

    Args:
        doing: what is done to the inputs, for the bar.
        run: ``run_batch`` or what is called like it, without the settings and the output.
    """
    from shvit.batch.run import RunOptions

    with ExitStack() as stack:
        if args.ray_address is not None:  # Ray prints what it notices to stdout
            stack.enter_context(redirect_stdout(sys.stderr))
        bars: list[Callable[[int], None]] = []

        def begin(total: int | None, finished: int) -> None:
            if finished:
                say(f"{finished:,} inputs are done already", sys.stderr)
            bars.append(stack.enter_context(progress_bar(doing, total, finished)))

        options = RunOptions(args.workers, args.ray_address, args.retry_failed)
        done = run(options, begin, lambda count: bars[0](count))
    speed = f", {done.inputs_now:,} of them now at {done.images_per_second:,.0f} a second" if done.inputs_now else ""
    why = " (the column error says why)" if done.failed else ""
    say(f"{args.output}: {done.inputs:,} inputs, {done.failed:,} failed{why}{speed}")
    if done.left_out.keys() - COMPANION_EXTENSIONS:
        notice(describe_left_out(done.left_out))
    if done.left_out.keys() & VIDEO_EXTENSIONS:
        notice("the images alone were taken; for the videos beside them run it with --kind video")
    if done.workers_lost:
        say(f"{done.workers_lost} workers died and were replaced", sys.stderr)
    return done
