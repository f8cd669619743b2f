"""Measure speed, cost and memory, of ours and of others, beside each other in one run."""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shvit.atomic import check_outputs
from shvit.cli.predict import notice, positive
from shvit.cli.progress import progress
from shvit.display import json_text, say
from shvit.engines.auto import CANDIDATES

if TYPE_CHECKING:
    from shvit.bench.cost import Cost
    from shvit.bench.networks import Network
    from shvit.bench.peaks import Peaks
    from shvit.bench.reached import Reached

ENGINES = ("auto", *CANDIDATES)
"""Those that read ONNX files, which is what is measured."""

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
    _add_compare(actions)
    _add_pipeline(actions)
    _add_cost(actions)
    _add_studies(actions)


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
    parser.add_argument(
        "--engine", nargs="+", choices=ENGINES, default=CANDIDATES, metavar="E", help=f"default: {' '.join(CANDIDATES)}"
    )


def _print_rows(args: argparse.Namespace, contents: dict[str, Any], header: list[str], rows: list[list[str]]) -> None:
    """Prints what was asked for on stdout, and what failed on stderr."""
    from shvit.bench.tables import machine_line, markdown_table, print_table

    left = sum(each in ("model", "engine", "precision", "study", "choice", "layer", "operation") for each in header)
    if args.format == "json":
        print(json_text(contents, indent=2))
    elif args.format == "markdown":
        for line in (machine_line(contents["machine"]), "", *markdown_table(header, rows, left).splitlines()):
            say(line)
    else:
        say(machine_line(contents["machine"]))
        print_table(header, rows, left)


# speed ---------------------------------------------------------------------------------------------------------------


def _add_speed(actions: Any) -> None:
    from shvit.bench.networks import PRECISIONS
    from shvit.shipped import DEFAULT_MODEL

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
            files = model_files(args.model, args.precision, Path(folder), notice, args.image_size, advance)
        with progress("timing", len(files) * combinations * (args.rounds + 1)) as advance:
            timed = time_files(files, args.engine, args.threads, args.batch_size, args.seconds, args.rounds, advance)
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
        say(f"failed: {reason}", sys.stderr)
    if failed:
        say(f"{len(failed)} of {len(results)} configurations failed", sys.stderr)
    return 1 if failed else 0


# compare -------------------------------------------------------------------------------------------------------------

COMPARE_EPILOG = """\
Peers are names of timm's; see docs/benchmarks.md for what is done to both sides. Nothing is downloaded: weights are
random, and the accuracies in the table and the chart are published ones, with their sources. The default compares all
four variants with seven networks in every engine and two precisions, and takes about half an hour.

examples:
  shvit bench compare --output report/                   compare.json, compare.md, compare.png
  shvit bench compare --model shvit_s4 --peers mobilevitv2_100 --precision int8 --threads 1 --batch-size 16
  shvit bench compare --model shvit_s1 --peers mobilenetv4_conv_small efficientnet_b0 --engine openvino

exit status: 0 all fine, 1 some configurations failed (the others are measured), 2 wrong usage
"""


def _add_compare(actions: Any) -> None:
    from shvit.bench.networks import PRECISIONS

    parser = _subcommand(
        actions, "compare", "time SHViT beside timm's networks, on equal terms", COMPARE_EPILOG, _compare
    )
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
    _add_engines(parser)
    parser.add_argument(
        "--precision", nargs="+", choices=PRECISIONS, default=["fp32", "int8"], metavar="P", help="default: fp32 int8"
    )
    parser.add_argument("--threads", type=positive, default=1, metavar="N", help="default: 1")
    parser.add_argument("--batch-size", type=positive, default=16, metavar="N", help="default: 16")
    _add_timing(parser, 5)
    _add_format(parser)
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="write compare.json, compare.md and compare.png here"
    )


def _compare(args: argparse.Namespace) -> int:
    from shvit.atomic import write_bytes, write_json, write_text
    from shvit.bench.compare import compare
    from shvit.bench.peers import PEERS

    peers = list(PEERS) if args.peers is None else args.peers
    _make_folder(args.output, ("compare.json", "compare.md", "compare.png"), ())
    files = (len(args.model) + len(peers)) * len(args.precision)
    with _exporting_then_timing(files, len(args.engine), args.rounds) as (folder, advance):
        comparison = compare(
            args.model,
            peers,
            args.engine,
            args.precision,
            args.threads,
            args.batch_size,
            args.seconds,
            args.rounds,
            folder,
            _command(),
            notice,
            advance,
        )
    contents = comparison.to_dict()
    if args.output is not None:
        from shvit.bench.charts import accuracy_chart

        plural = "s" if args.threads > 1 else ""
        title = f"{comparison.machine['processor']}, {args.threads} thread{plural}, batch {args.batch_size}"
        write_json(contents, args.output / "compare.json")
        write_text(comparison.markdown(), args.output / "compare.md")
        write_bytes(accuracy_chart(comparison.contenders(), title), args.output / "compare.png")
        say(f"written: {args.output}/compare.json, compare.md, compare.png", sys.stderr)
    _print_rows(args, contents, *comparison.rows())
    return _report_failures(contents["results"])


@contextmanager
def _exporting_then_timing(files: int, engines: int, rounds: int) -> Iterator[tuple[Path, Callable[[int], None]]]:
    """A folder for so many model files, and a bar over exporting them and timing each in so many engines."""
    with (
        tempfile.TemporaryDirectory() as folder,
        progress("exporting, then timing", files * (1 + engines * (rounds + 1))) as advance,
    ):
        yield Path(folder), advance


def _make_folder(path: Path | None, names: Iterable[str], inputs: Iterable[str]) -> None:
    """Before work that takes long, not after it; no file that is written may be one that is read."""
    if path is None:
        return
    check_outputs([("--output", path / name) for name in dict.fromkeys(names)], inputs)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--output {path}: cannot be made: {error.strerror}") from None


def _command() -> str:
    return shlex.join(["shvit", *sys.argv[1:]])


# pipeline ------------------------------------------------------------------------------------------------------------

PIPELINE_EPILOG = """\
The phases are timed one after the other; then the whole, as `shvit predict` runs it, beside timm + Pillow + PyTorch
where those are installed, slices of the files in turns. timm's network of the same variant has random weights.

examples:
  shvit bench pipeline photos/
  shvit bench pipeline --photographs 480 --model shvit_s1 --precision int8 --threads 1 2
  shvit bench pipeline photos/ --model mine.onnx --engine openvino --format json

exit status: 0 all fine, 1 some files cannot be read, 2 wrong usage
"""


def _add_pipeline(actions: Any) -> None:
    from shvit.bench.networks import PRECISIONS
    from shvit.shipped import DEFAULT_MODEL

    parser = _subcommand(actions, "pipeline", "time image files to labels, phase by phase", PIPELINE_EPILOG, _pipeline)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("folder", nargs="?", type=Path, metavar="DIR", help="images, in all levels of a folder")
    source.add_argument(
        "--photographs", type=positive, metavar="N", help="so many photographs of 500×375 instead, made for the purpose"
    )
    parser.add_argument("--model", default=DEFAULT_MODEL, help="as for shvit bench speed (default: %(default)s)")
    parser.add_argument("--precision", choices=PRECISIONS, default="int8", help="of what is exported (default: int8)")
    parser.add_argument("--engine", choices=ENGINES, default="auto", help="default: auto")
    parser.add_argument(
        "--threads", nargs="+", type=positive, metavar="N", help="of the engine (default: 1, and all if more)"
    )
    parser.add_argument("--limit", type=positive, metavar="N", help="take the first N files of the folder")
    parser.add_argument("--no-timm", action="store_true", help="leave timm out")
    _add_format(parser)


def _pipeline(args: argparse.Namespace) -> int:
    from shvit.bench.machine import machine
    from shvit.bench.networks import model_files
    from shvit.bench.pipeline import PHASES, measure_pipeline, timm_network, write_photographs
    from shvit.bench.tables import figure, spread
    from shvit.engines import available_threads
    from shvit.images.sources import walk_images
    from shvit.predicting.classifier import Classifier

    described = machine()
    threads = args.threads or sorted({1, available_threads()})
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        if args.folder is None:
            (scratch / "photographs").mkdir()
            paths = write_photographs(scratch / "photographs", args.photographs)
        else:
            if not args.folder.is_dir():
                raise ValueError(f"{args.folder}: expected a folder of images")
            paths = list(walk_images(args.folder))[: args.limit]
            if not paths:
                raise ValueError(f"{args.folder}: no images in this folder")
        (model,) = model_files([args.model], [args.precision], scratch, notice)
        if model.file is None:
            raise ValueError(model.error)
        network = None
        if not args.no_timm:
            card = Classifier(model.file, threads=1).card
            try:
                network = timm_network(card.architecture, len(card.classes))
            except (ImportError, RuntimeError) as error:
                notice(f"timm is left out: {str(error).splitlines()[0]}")
        sides = 2 if network is None else 3
        with progress("classifying", len(threads) * len(paths) * sides) as advance:
            reports = [
                measure_pipeline(model.file, paths, count, args.engine, network=network, advance=advance)
                for count in threads
            ]
        kilobytes = sum(path.stat().st_size for path in paths) / len(paths) / 1000
    contents = {
        "command": _command(),
        "machine": described,
        "model": args.model,
        "precision": model.precision,
        "weights": model.weights,
        "mean_file_kb": kilobytes,
        "results": [each.to_dict() for each in reports],
    }
    header = ["threads", *(f"{phase} ms" for phase in PHASES), "shvit images/s", "timm images/s", "faster by"]
    rows = []
    for each in reports:
        speeds, faster = each.images_per_second, each.times_faster
        row = [str(each.threads), *(figure(each.phases[phase]) for phase in PHASES)]
        row += [figure(speeds["shvit"]["median"]), figure(speeds["timm"]["median"]) if "timm" in speeds else "-"]
        row.append(spread(faster) if faster else "-")
        rows.append(row)
    _print_rows(args, contents, header, rows)
    failed = reports[0].failed
    if failed:
        say(f"{failed} of {len(paths)} files cannot be read", sys.stderr)
    return 1 if failed else 0


# cost ----------------------------------------------------------------------------------------------------------------

COST_EPILOG = """\
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


def _add_cost(actions: Any) -> None:
    parser = _subcommand(actions, "cost", "count parameters, arithmetic and bytes moved", COST_EPILOG, _cost)
    parser.add_argument(
        "--model", nargs="+", default=["shvit_s1"], metavar="MODEL", help="variant or checkpoint (default: shvit_s1)"
    )
    parser.add_argument("--image-size", type=positive, metavar="N", help="another side of the input, in pixels")
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
    _add_timing(parser, 3)
    _add_format(parser)
    parser.add_argument("--output", type=Path, metavar="DIR", help="write cost.json and a chart of each model here")


def _cost(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from shvit.atomic import write_bytes, write_json
    from shvit.bench.cost import count_cost
    from shvit.bench.machine import machine
    from shvit.bench.networks import deployed, open_network
    from shvit.bench.tables import figure

    if args.no_peaks and (args.output is not None or args.engine):
        raise ValueError("--no-peaks: --output and --engine need them")
    names = ["cost.json", *(f"cost_{Path(each).stem}.png" for each in args.model)]
    _make_folder(args.output, names, args.model)
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
                f"{peaks.copy_gb_per_second:.1f} GB/s copied"
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
                str(each.image_size[0]),
                f"{cost.parameters:,}",
                f"{cost.macs:,}",
                f"{cost.activations:,}",
            ]
            row += [f"{cost.bytes(precision) / 1e6:.1f}" for precision in ("fp32", "fp16", "int8")]
            row.append(f"{cost.intensity('fp32'):.1f}")
            if peaks:
                row += [figure(1 / cost.seconds(peaks, precision)) for precision in ("fp32", "int8")]
            rows.append(row)
    _print_rows(args, contents, header, rows)
    if args.format != "json":
        for share in (each for each in reached if each.share_of_peak is not None):
            found = share.to_dict()
            say(
                f"{found['model']}, {found['precision']}, {found['engine']}, batches of {found['batch_size']}: "
                f"{figure(found['images_per_second'])} images/s, {found['share_of_peak']:.0%} of the peak"
            )
    return _report_failures([each.to_dict() for each in reached])


def _reached(args: argparse.Namespace, networks: list[Network], costs: dict[str, Cost], peaks: Peaks) -> list[Reached]:
    from shvit.bench.reached import PRECISIONS, measure_reached

    files = len(networks) * len(PRECISIONS)
    with _exporting_then_timing(files, len(args.engine), args.rounds) as (folder, advance):
        return measure_reached(
            networks,
            costs,
            peaks,
            args.engine,
            args.batch_size,
            args.seconds,
            args.rounds,
            folder,
            notice,
            advance,
        )


# studies -------------------------------------------------------------------------------------------------------------

STUDIES_EPILOG = """\
macro: stem stride 16, 8 and 4, with three and with four stages. partial: the share of the channels that are attended.
heads: one head on a part of the channels beside several on all. Weights are random: accuracy is not measured here.

examples:
  shvit bench studies
  shvit bench studies --study macro --model shvit_s4 --batch-size 1
  shvit bench studies --output report/                   studies.json and studies.png

exit status: 0 all fine, 1 some failed (the others are measured), 2 wrong usage
"""


def _add_studies(actions: Any) -> None:
    names = ("macro", "partial", "heads")
    parser = _subcommand(actions, "studies", "time the paper's design choices", STUDIES_EPILOG, _studies)
    parser.add_argument("--study", nargs="+", choices=names, default=names, metavar="NAME", help=f"{', '.join(names)}")
    parser.add_argument("--model", default="shvit_s1", metavar="VARIANT", help="that is varied (default: %(default)s)")
    parser.add_argument("--image-size", type=positive, metavar="N", help="another side of the input, in pixels")
    parser.add_argument("--engine", choices=ENGINES, default="onnxruntime", help="default: onnxruntime")
    parser.add_argument("--threads", type=positive, default=1, metavar="N", help="default: 1")
    parser.add_argument("--batch-size", type=positive, default=16, metavar="N", help="default: 16")
    _add_timing(parser, 3)
    _add_format(parser)
    parser.add_argument("--output", type=Path, metavar="DIR", help="write studies.json and studies.png here")


def _studies(args: argparse.Namespace) -> int:
    from shvit.atomic import write_bytes, write_json
    from shvit.bench.machine import machine
    from shvit.bench.studies import STUDIES, run_studies
    from shvit.bench.tables import figure, spread
    from shvit.models import VARIANTS

    if args.model not in VARIANTS:
        raise ValueError(f"--model {args.model}: expected one of {', '.join(VARIANTS)}")
    _make_folder(args.output, ("studies.json", "studies.png"), ())
    base = VARIANTS[args.model]
    choices = [choice for study in args.study for choice in STUDIES[study](base)]
    described = machine()
    with _exporting_then_timing(len(choices), 1, args.rounds) as (folder, advance):
        studied = run_studies(
            choices,
            args.image_size or base.image_size,
            args.engine,
            args.threads,
            args.batch_size,
            args.seconds,
            args.rounds,
            folder,
            notice,
            advance,
        )
    results = [each.to_dict() for each in studied]
    contents = {"command": _command(), "machine": described, "model": args.model, "results": results}
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
    _print_rows(args, contents, header, rows)
    return _report_failures(results)
