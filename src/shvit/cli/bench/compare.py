"""Time SHViT beside timm's networks, on equal terms."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from shvit.cli.arguments import positive
from shvit.cli.bench.options import add_engines, add_format, add_timing, conditions, subcommand
from shvit.cli.bench.output import exporting_then_timing, make_folder, print_rows, report_failures, typed
from shvit.display import say

EPILOG = """\
Peers are names of timm's; see docs/benchmarks.md for what is done to both sides. Nothing is downloaded: weights are
random, and the accuracies in the table and the chart are published ones, with their sources. The default compares all
four variants with seven networks in every engine and two precisions, and takes about half an hour.

examples:
  shvit bench compare --output report/                   compare.json, compare.md, compare.png
  shvit bench compare --model shvit_s4 --peers mobilevitv2_100 --precision int8 --threads 1 --batch-size 16
  shvit bench compare --model shvit_s1 --peers mobilenetv4_conv_small efficientnet_b0 --engine openvino

exit status: 0 all fine, 1 some configurations failed (the others are measured), 2 wrong usage
"""


def add_subcommand(actions: Any) -> None:
    from shvit.bench.networks import PRECISIONS

    parser = subcommand(actions, "compare", "time SHViT beside timm's networks, on equal terms", EPILOG, _run)
    variants = [f"shvit_s{each}" for each in (4, 1, 2, 3)]
    parser.add_argument(
        "--model",
        nargs="+",
        default=variants,
        metavar="VARIANT",
        help=f"ratios are the first one's (default: {' '.join(variants)})",
    )
    parser.add_argument(
        "--peers", nargs="+", metavar="NAME", help="timm's names (default: those in docs/benchmarks.md)"
    )
    add_engines(parser)
    parser.add_argument(
        "--precision", nargs="+", choices=PRECISIONS, default=["fp32", "int8"], metavar="P", help="default: fp32 int8"
    )
    parser.add_argument("--threads", type=positive, default=1, metavar="N", help="default: 1")
    parser.add_argument("--batch-size", type=positive, default=16, metavar="N", help="default: 16")
    add_timing(parser, 5)
    add_format(parser)
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="write compare.json, compare.md and compare.png here"
    )


def _run(args: argparse.Namespace) -> int:
    from shvit.atomic import write_bytes, write_json, write_text
    from shvit.bench.compare import compare
    from shvit.bench.peers import PEERS

    peers = list(PEERS) if args.peers is None else args.peers
    make_folder(args.output, ("compare.json", "compare.md", "compare.png"), ())
    files = (len(args.model) + len(peers)) * len(args.precision)
    with exporting_then_timing(files, len(args.engine), args.rounds) as session:
        found = conditions(args, args.engine, [args.threads], [args.batch_size])
        comparison = compare(args.model, peers, args.precision, found, session, typed())
    contents = comparison.to_dict()
    if args.output is not None:
        from shvit.bench.charts import accuracy_chart

        plural = "s" if args.threads > 1 else ""
        title = f"{comparison.machine['processor']}, {args.threads} thread{plural}, batch {args.batch_size}"
        write_json(contents, args.output / "compare.json")
        write_text(comparison.markdown(), args.output / "compare.md")
        write_bytes(accuracy_chart(comparison.contenders(), title), args.output / "compare.png")
        say(f"written: {args.output}/compare.json, compare.md, compare.png", sys.stderr)
    print_rows(args, contents, *comparison.rows())
    return report_failures(contents["results"])
