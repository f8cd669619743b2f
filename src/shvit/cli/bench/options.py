"""Options that several of the measurements take."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from shvit.cli.arguments import positive, seconds
from shvit.engines.auto import CANDIDATES, installed_engines

if TYPE_CHECKING:
    from shvit.bench.speed import Conditions

ENGINES = ("auto", *CANDIDATES)
"""Those that read ONNX files, which is what is measured."""


def subcommand(
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


def add_timing(parser: argparse.ArgumentParser, duration: float, rounds: int = 5) -> None:
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


def add_format(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=("table", "markdown", "json"), default="table", help="default: table")


def add_engines(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--engine",
        nargs="+",
        choices=ENGINES,
        default=installed_engines(),
        metavar="E",
        help=f"default: those of {' and '.join(CANDIDATES)} that are installed",
    )


def conditions(
    args: argparse.Namespace, engines: Sequence[str], threads: Sequence[int], batch_sizes: Sequence[int]
) -> Conditions:
    """What is timed in, for as long as ``add_timing`` asked."""
    from shvit.bench.speed import Conditions

    return Conditions(engines, threads, batch_sizes, args.seconds, args.rounds)
