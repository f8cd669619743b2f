"""Count parameters, arithmetic and bytes moved."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shvit.cli.arguments import image_size, positive
from shvit.cli.bench.options import ENGINES, add_format, add_timing, conditions, subcommand
from shvit.cli.bench.output import exporting_then_timing, make_folder, print_rows, report_failures
from shvit.display import say
from shvit.errors import ArgumentError

if TYPE_CHECKING:
    from shvit.bench.cost import Cost
    from shvit.bench.networks import Network
    from shvit.bench.peaks import Peaks
    from shvit.bench.reached import Reached


EPILOG = """\
Bytes are weights, input and output of every layer of the folded network, for one image. In int8, convolutions are in 8
bits and the rest in float32, as our quantisation leaves them. The bound is the roofline's: each layer takes its
arithmetic at the peak measured here, or its bytes at the speed of copying, whichever is longer.

examples:
  shvit bench cost --model shvit_s4
  shvit bench cost --model shvit_s1 shvit_s2 shvit_s3 shvit_s4 --no-peaks --format markdown
  shvit bench cost --model shvit_s4 --layers
  shvit bench cost --model shvit_s4 --engine onnxruntime openvino      and how much of the peak it reaches
  shvit bench cost --model shvit_s4 --output report/     cost.json, and a chart of each
"""


def add_subcommand(actions: Any) -> None:
    parser = subcommand(actions, "cost", "count parameters, arithmetic and bytes moved", EPILOG, _run)
    parser.add_argument(
        "--model", nargs="+", default=["shvit_s1"], metavar="MODEL", help="variant or checkpoint (default: shvit_s1)"
    )
    parser.add_argument(
        "--image-size",
        type=image_size,
        metavar="N|HxW",
        help="another side of the input, in pixels, or height and width",
    )
    parser.add_argument("--threads", type=positive, default=1, metavar="N", help="of the machine's peak (default: 1)")
    parser.add_argument("--no-peaks", action="store_true", help="count only; measure nothing")
    parser.add_argument("--layers", action="store_true", help="list every layer")
    parser.add_argument(
        "--engine",
        nargs="+",
        choices=ENGINES,
        default=[],
        metavar="E",
        help="also time the models in these, in fp32 and int8, and say how much of the peak they reach",
    )
    parser.add_argument("--batch-size", type=positive, default=16, metavar="N", help="for --engine (default: 16)")
    add_timing(parser, 3)
    add_format(parser)
    parser.add_argument("--output", type=Path, metavar="DIR", help="write cost.json and a chart of each model here")


def _run(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from shvit.atomic import write_bytes, write_json
    from shvit.bench.cost import count_cost
    from shvit.bench.machine import machine
    from shvit.bench.networks import deployed, open_network
    from shvit.bench.tables import figure
    from shvit.network.sides import in_words

    if args.no_peaks and (args.output is not None or args.engine):
        raise ArgumentError("--no-peaks: --output and --engine need them")
    names = ["cost.json", *(f"cost_{Path(each).stem}.png" for each in args.model)]
    make_folder(args.output, names, args.model)
    networks = [open_network(model, args.image_size) for model in args.model]
    costs = {each.model: count_cost(deployed(each), each.image_size) for each in networks}
    peaks, reached = None, []
    if not args.no_peaks:
        from shvit.bench.peaks import measure_peaks

        peaks = measure_peaks(args.threads)
        if args.engine:
            reached = _reached(args, networks, costs, peaks)
        if args.format != "json":
            say(
                f"peak of {peaks.threads} thread{'s' * (peaks.threads > 1)}: {peaks.fp32_gflops:,.0f} G operations/s "
                f"in float32 ({peaks.fp32_by}), {peaks.int8_gops:,.0f} in int8 ({peaks.int8_by}), "
                f"{peaks.copy_gb_per_second:.1f} GB/s copied",
                hang=2,
            )
    contents: dict[str, Any] = {
        "machine": machine(),
        "peaks": asdict(peaks) if peaks else None,
        "results": [
            {"model": each.model, "image_size": each.image_size, **costs[each.model].to_dict(peaks)}
            for each in networks
        ],
        "reached": [each.to_dict() for each in reached],
    }
    if args.output is not None and peaks is not None:
        from shvit.bench.charts import roofline_chart

        write_json(contents, args.output / "cost.json")
        for model, cost in costs.items():
            write_bytes(roofline_chart(cost, peaks, Path(model).stem), args.output / f"cost_{Path(model).stem}.png")
    if args.layers:
        header = ["model", "layer", "operation", "output", "MACs", "kB fp32", "kB int8", "ops/byte"]
        rows = [
            [
                *(model, layer.name or "(network)", layer.operation, "×".join(map(str, layer.output_shape[1:]))),
                f"{layer.macs:,}",
                *(f"{layer.bytes(precision) / 1000:,.1f}" for precision in ("fp32", "int8")),
                f"{2 * layer.macs / layer.bytes('fp32'):.1f}",
            ]
            for model, cost in costs.items()
            for layer in cost.layers
        ]
    else:
        header = ["model", "input", "parameters", "MACs", "activations", "MB fp32", "MB fp16", "MB int8", "ops/byte"]
        header += ["bound fp32 images/s", "bound int8 images/s"] if peaks else []
        rows = []
        for each in networks:
            cost = costs[each.model]
            row = [
                each.model,
                in_words(each.image_size),
                f"{cost.parameters:,}",
                f"{cost.macs:,}",
                f"{cost.activations:,}",
            ]
            row += [f"{cost.bytes(precision) / 1e6:.1f}" for precision in ("fp32", "fp16", "int8")]
            row.append(f"{cost.intensity('fp32'):.1f}")
            if peaks:
                row += [figure(1 / cost.seconds(peaks, precision)) for precision in ("fp32", "int8")]
            rows.append(row)
    print_rows(args, contents, header, rows)
    if args.format != "json":
        for share in (each for each in reached if each.share_of_peak is not None):
            found = share.to_dict()
            say(
                f"{found['model']}, {found['precision']}, {found['engine']}, batches of {found['batch_size']}: "
                f"{figure(found['images_per_second'])} images/s, {found['share_of_peak']:.0%} of the peak",
                hang=2,
            )
    return report_failures([each.to_dict() for each in reached])


def _reached(args: argparse.Namespace, networks: list[Network], costs: dict[str, Cost], peaks: Peaks) -> list[Reached]:
    from shvit.bench.reached import PRECISIONS, measure_reached

    files = len(networks) * len(PRECISIONS)
    with exporting_then_timing(files, len(args.engine), args.rounds) as session:
        found = conditions(args, args.engine, [peaks.threads], [args.batch_size])
        return measure_reached(networks, costs, peaks, found, session)
