"""Measure speed, cost and memory, of ours and of others, beside each other in one run."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shvit.cli.predict import positive
from shvit.cli.progress import progress
from shvit.runtime.engines import ENGINES

EPILOG = """\
examples:
  shvit bench speed                                     the shipped model, in every engine
  shvit bench speed --model shvit_s4 --precision fp32 int8 --threads 1 --batch-size 1 16
  shvit bench compare --output report/                  beside timm's MobileViTv2, MobileNetV4, EfficientNet, ...
  shvit bench pipeline photos/                          JPEG files to labels, phase by phase
  shvit bench cost --model shvit_s4                     parameters, MACs, bytes moved, layer by layer
  shvit bench studies --output report/                  the paper's design choices

`shvit bench SUBCOMMAND --help` explains each; docs/benchmarks.md says how they measure, and what that misses.
"""

SPEED_EPILOG = """\
MODEL is a variant (shvit_s1 to shvit_s4), a shipped model, a model file (.onnx) or a checkpoint. Variants and
checkpoints are exported first, in each precision; a model file is run as it is. Weights that this machine does not have
are drawn at random, and int8 is calibrated on photographs in the package: neither changes the speed, and both are said.

Every configuration runs in a process of its own, in turns with all others. Memory is that process's peak.

examples:
  shvit bench speed --model mine.onnx --threads 1 2 4
  shvit bench speed --model shvit_s1 shvit_s4 --precision fp32 int8 --threads 1 --batch-size 1 16 --format markdown
  shvit bench speed --model shvit_s4 --engine onnxruntime openvino --precision fp32 int8 --threads 1 --batch-size 16 \\
      --seconds 3 --format json | jq '.results[] | {engine, precision, images_per_second}'

exit status: 0 all fine, 1 some configurations failed (the others are measured), 2 wrong usage
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="SUBCOMMAND", required=True)
    _add_speed(actions)


def run(args: argparse.Namespace) -> int:
    return args.act(args)


def _subcommand(
    actions: Any, name: str, summary: str, epilog: str, act: Callable[[argparse.Namespace], int]
) -> argparse.ArgumentParser:
    parser = actions.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(act=act)
    return parser


def seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a positive number of seconds, got {text}")
    return value


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


def _add_timing(parser: argparse.ArgumentParser, duration: float, rounds: int = 5) -> None:
    parser.add_argument(
        "--seconds",
        type=seconds,
        default=duration,
        metavar="S",
        help="timed for each configuration (default: %(default)g)",
    )
    parser.add_argument(
        "--rounds", type=positive, default=rounds, metavar="N", help="turns that make it up (default: %(default)s)"
    )


def _add_format(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=("table", "markdown", "json"), default="table", help="default: table")


def _add_engines(parser: argparse.ArgumentParser) -> None:
    every = [each for each in ENGINES if each != "auto"]
    parser.add_argument(
        "--engine", nargs="+", choices=ENGINES, default=every, metavar="E", help=f"default: {' '.join(every)}"
    )


def _print_rows(args: argparse.Namespace, contents: dict[str, Any], header: list[str], rows: list[list[str]]) -> None:
    """Prints what was asked for on stdout, and what failed on stderr."""
    from shvit.bench.tables import machine_line, markdown_table, print_table

    left = sum(each in ("model", "engine", "precision") for each in header)
    if args.format == "json":
        print(json.dumps(contents, indent=2, ensure_ascii=False))
    elif args.format == "markdown":
        print(f"{machine_line(contents['machine'])}\n\n{markdown_table(header, rows, left)}")
    else:
        print(machine_line(contents["machine"]))
        print_table(header, rows, left)


# speed ---------------------------------------------------------------------------------------------------------------


def _add_speed(actions: Any) -> None:
    from shvit.bench.networks import PRECISIONS
    from shvit.runtime.models import DEFAULT_MODEL

    parser = _subcommand(
        actions,
        "speed",
        "time models in engines, precisions, thread counts and batch sizes",
        SPEED_EPILOG,
        _speed,
    )
    parser.add_argument(
        "--model", nargs="+", default=[DEFAULT_MODEL], metavar="MODEL", help=f"default: {DEFAULT_MODEL}"
    )
    _add_engines(parser)
    parser.add_argument(
        "--precision",
        nargs="+",
        choices=PRECISIONS,
        default=["fp32"],
        metavar="P",
        help="of what is exported: fp32, int8, or fp16, which only stores weights so (default: fp32)",
    )
    parser.add_argument("--threads", nargs="+", type=positive, default=[1], metavar="N", help="default: 1")
    parser.add_argument("--batch-size", nargs="+", type=positive, default=[1], metavar="N", help="default: 1")
    parser.add_argument(
        "--image-size", type=positive, metavar="N", help="side of the input of what is exported, in pixels"
    )
    _add_timing(parser, 3)
    _add_format(parser)


def _speed(args: argparse.Namespace) -> int:
    from shvit.bench.machine import machine
    from shvit.bench.networks import model_files
    from shvit.bench.speed import time_files
    from shvit.bench.tables import figure

    described = machine()
    combinations = len(args.engine) * len(args.threads) * len(args.batch_size)
    with tempfile.TemporaryDirectory() as folder:
        with progress("exporting", len(args.model) * len(args.precision)) as advance:
            files = model_files(args.model, args.precision, Path(folder), _note, args.image_size, advance)
        with progress("timing", len(files) * combinations * (args.rounds + 1)) as advance:
            timed = time_files(
                files, args.engine, args.threads, args.batch_size, args.seconds, args.rounds, advance
            )
    results = [each.to_dict() for each in timed]
    header = ["model", "engine", "precision", "threads", "batch", "images/s", "range of rounds"]
    header += ["p50 ms", "p95 ms", "p99 ms", "peak MB"]
    rows = []
    for each in results:
        row = [each["model"], each["engine"], each["precision"], str(each["threads"]), str(each["batch_size"])]
        if each["error"] is None:
            spread, latency = each["images_per_second_of_rounds"], each["latency_ms"]
            row += [figure(each["images_per_second"]), f"{figure(spread['min'])} to {figure(spread['max'])}"]
            row += [figure(latency[key]) for key in ("p50", "p95", "p99")] + [figure(each["peak_memory_mb"])]
        else:
            row += ["failed"] + ["-"] * 5
        rows.append(row)
    _print_rows(args, {"machine": described, "results": results}, header, rows)
    return _report_failures(results)


def _report_failures(results: list[dict[str, Any]]) -> int:
    """One line for each reason; the exit status."""
    failed = [each for each in results if each["error"] is not None]
    for reason in dict.fromkeys(each["error"] for each in failed):
        print(f"failed: {reason}", file=sys.stderr)
    if failed:
        print(f"{len(failed)} of {len(results)} configurations failed", file=sys.stderr)
    return 1 if failed else 0
