"""Time the paper's design choices."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from shvit.cli.arguments import image_size, positive
from shvit.cli.bench.options import ENGINES, add_format, add_timing, conditions, subcommand
from shvit.cli.bench.output import exporting_then_timing, make_folder, print_rows, report_failures, typed
from shvit.errors import ArgumentError

EPILOG = """\
macro: stem stride 16, 8 and 4, with three and with four stages. partial: the share of the channels that are attended.
heads: one head on a part of the channels beside several on all. Weights are random: accuracy is not measured here.

examples:
  shvit bench studies
  shvit bench studies --study macro --model shvit_s4 --batch-size 1
  shvit bench studies --output report/                   studies.json and studies.png

exit status: 0 all fine, 1 some failed (the others are measured), 2 wrong usage
"""


def add_subcommand(actions: Any) -> None:
    names = ("macro", "partial", "heads")
    parser = subcommand(actions, "studies", "time the paper's design choices", EPILOG, _run)
    parser.add_argument("--study", nargs="+", choices=names, default=names, metavar="NAME", help=f"{', '.join(names)}")
    parser.add_argument("--model", default="shvit_s1", metavar="VARIANT", help="that is varied (default: %(default)s)")
    parser.add_argument(
        "--image-size",
        type=image_size,
        metavar="N|HxW",
        help="another side of the input, in pixels, or height and width",
    )
    parser.add_argument("--engine", choices=ENGINES, default="onnxruntime", help="default: onnxruntime")
    parser.add_argument("--threads", type=positive, default=1, metavar="N", help="default: 1")
    parser.add_argument("--batch-size", type=positive, default=16, metavar="N", help="default: 16")
    add_timing(parser, 3)
    add_format(parser)
    parser.add_argument("--output", type=Path, metavar="DIR", help="write studies.json and studies.png here")


def _run(args: argparse.Namespace) -> int:
    from shvit.atomic import write_bytes, write_json
    from shvit.bench.machine import machine
    from shvit.bench.studies import STUDIES, run_studies
    from shvit.bench.tables import figure, spread
    from shvit.models import VARIANTS
    from shvit.network.sides import sides

    if args.model not in VARIANTS:
        raise ArgumentError(f"--model {args.model}: expected one of {', '.join(VARIANTS)}")
    make_folder(args.output, ("studies.json", "studies.png"), ())
    base = VARIANTS[args.model]
    choices = [choice for study in args.study for choice in STUDIES[study](base)]
    described = machine()
    with exporting_then_timing(len(choices), 1, args.rounds) as session:
        found = conditions(args, [args.engine], [args.threads], [args.batch_size])
        studied = run_studies(choices, args.image_size or sides(base.image_size), found, session)
    results = [each.to_dict() for each in studied]
    contents = {"command": typed(), "machine": described, "model": args.model, "results": results}
    if args.output is not None:
        from shvit.bench.charts import studies_chart

        write_json(contents, args.output / "studies.json")
        write_bytes(studies_chart(studied), args.output / "studies.png")
    header = ["study", "choice", "tokens", "parameters", "MACs", "MB fp32", "images/s", "of the first"]
    rows = []
    for each in studied:
        row = [each.study, each.name, ", ".join(map(str, each.tokens)), f"{each.cost.parameters / 1e6:.1f} M"]
        row += [
            f"{each.cost.macs / 1e6:,.0f} M",
            f"{each.cost.bytes('fp32') / 1e6:.1f}",
            figure(each.images_per_second),
        ]
        speed = each.speed_to_first
        row.append(spread(speed) if speed else "-")
        rows.append(row)
    print_rows(args, contents, header, rows)
    return report_failures(results)
