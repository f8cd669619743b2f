"""Time models in engines, precisions, thread counts and batch sizes."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from shvit.cli.arguments import image_size, positive
from shvit.cli.bench.options import add_engines, add_format, add_timing, conditions, subcommand
from shvit.cli.bench.output import print_rows, report_failures
from shvit.display import notice, progress_bar

EPILOG = """\
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


def add_subcommand(actions: Any) -> None:
    from shvit.bench.networks import PRECISIONS
    from shvit.shipped import DEFAULT_MODEL

    parser = subcommand(
        actions,
        "speed",
        "time models in engines, precisions, thread counts and batch sizes",
        EPILOG,
        _run,
    )
    parser.add_argument(
        "--model", nargs="+", default=[DEFAULT_MODEL], metavar="MODEL", help=f"default: {DEFAULT_MODEL}"
    )
    add_engines(parser)
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
        "--image-size",
        type=image_size,
        metavar="N|HxW",
        help="side of the input of what is exported, in pixels, or height and width",
    )
    add_timing(parser, 3)
    add_format(parser)


def _run(args: argparse.Namespace) -> int:
    from shvit.bench.machine import machine
    from shvit.bench.networks import Session, model_files
    from shvit.bench.speed import time_files
    from shvit.bench.tables import figure

    described = machine()
    combinations = len(args.engine) * len(args.threads) * len(args.batch_size)
    with tempfile.TemporaryDirectory() as folder:
        with progress_bar("exporting", len(args.model) * len(args.precision)) as advance:
            session = Session(Path(folder), notice, advance)
            files = model_files(args.model, args.precision, session, args.image_size)
        with progress_bar("timing", len(files) * combinations * (args.rounds + 1)) as advance:
            timed = time_files(files, conditions(args, args.engine, args.threads, args.batch_size), advance)
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
    print_rows(args, {"machine": described, "results": results}, header, rows)
    return report_failures(results)
