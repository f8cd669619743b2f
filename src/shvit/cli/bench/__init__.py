"""Measure speed, cost and memory, of ours and of others, beside each other in one run."""

from __future__ import annotations

import argparse

from shvit.cli.bench import compare, cost, pipeline, speed, studies

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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="SUBCOMMAND", required=True)
    for subcommand in (speed, compare, pipeline, cost, studies):
        subcommand.add_subcommand(actions)


def run(args: argparse.Namespace) -> int:
    return args.act(args)
