"""Time image files to labels, phase by phase."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from shvit.cli.arguments import positive
from shvit.cli.bench.options import ENGINES, add_format, subcommand
from shvit.cli.bench.output import print_rows, typed
from shvit.display import notice, progress_bar, say
from shvit.errors import ArgumentError

EPILOG = """\
The phases are timed one after the other; then the whole, as `shvit predict` runs it, beside timm + Pillow + PyTorch
where those are installed, slices of the files in turns. timm's network of the same variant has random weights.

examples:
  shvit bench pipeline photos/
  shvit bench pipeline --photographs 480 --model shvit_s1 --precision int8 --threads 1 2
  shvit bench pipeline photos/ --model mine.onnx --engine openvino --format json

exit status: 0 all fine, 1 some files cannot be read, 2 wrong usage
"""


def add_subcommand(actions: Any) -> None:
    from shvit.bench.networks import PRECISIONS
    from shvit.shipped import DEFAULT_MODEL

    parser = subcommand(actions, "pipeline", "time image files to labels, phase by phase", EPILOG, _run)
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
    add_format(parser)


def _run(args: argparse.Namespace) -> int:
    from shvit.bench.machine import machine
    from shvit.bench.networks import Session, model_files
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
                raise ArgumentError(f"{args.folder}: expected a folder of images")
            paths = list(walk_images(args.folder))[: args.limit]
            if not paths:
                raise ArgumentError(f"{args.folder}: no images in this folder")
        (model,) = model_files([args.model], [args.precision], Session(scratch, notice))
        if model.file is None:
            raise ArgumentError(model.error)
        network = None
        if not args.no_timm:
            card = Classifier(model.file, threads=1).card
            try:
                network = timm_network(card.architecture, len(card.classes))
            except (ImportError, RuntimeError) as error:
                notice(f"timm is left out: {str(error).splitlines()[0]}")
        sides = 2 if network is None else 3
        with progress_bar("classifying", len(threads) * len(paths) * sides) as advance:
            reports = [
                measure_pipeline(model.file, paths, count, args.engine, network=network, advance=advance)
                for count in threads
            ]
        kilobytes = sum(path.stat().st_size for path in paths) / len(paths) / 1000
    contents = {
        "command": typed(),
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
    print_rows(args, contents, header, rows)
    failed = reports[0].failed
    if failed:
        say(f"{failed} of {len(paths)} files cannot be read", sys.stderr)
    return 1 if failed else 0
