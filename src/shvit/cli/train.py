"""Train or fine-tune a SHViT. Every value of the recipe is a flag, and a key of a YAML file. Needs the lab."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shvit.train import Recipe

EPILOG = """\
DATA is a folder with train/ and val/ (or validation/), each with one sub-folder for each class; or a folder of
Parquet files train-*.parquet and validation-*.parquet in the Hugging Face image layout.

examples:
  shvit train data/ --model shvit_s1 --pretrained hub --epochs 10 --output runs/mine
  shvit train data/ --config recipes/tiny_imagenet.yaml --output runs/tiny
  shvit train data/ --image-size 160 --optimizer.lr 5e-4 --output runs/mine
  shvit train data/ --output runs/mine --resume auto       go on where the run was stopped
  shvit train data/ --print_config                         the whole recipe as YAML, and stop
"""

TAKES_MORE_ARGUMENTS = True
"""The recipe's flags are parsed here, by the library that knows the recipe's types."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DATA", help="dataset folder")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/shvit"), metavar="DIR", help="run folder (default: %(default)s)"
    )
    parser.add_argument(
        "--resume",
        choices=("auto", "never"),
        default="never",
        help="auto: go on from the run folder's checkpoint if there is one (default: never)",
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, mps or auto (default: auto)")
    if {"-h", "--help"} & set(sys.argv):
        parser.epilog = f"{EPILOG}\nthe recipe:\n{_recipe_parser().format_help().split('options:', 1)[-1]}"


def _recipe_parser() -> Any:
    from jsonargparse import ArgumentParser, set_parsing_settings

    from shvit.train import Recipe

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(prog="shvit train DATA", add_help=False)
    parser.add_argument("--config", action="config", help="recipe, YAML; flags after it override it")
    parser.add_class_arguments(Recipe)
    return parser


def parse_recipe(arguments: list[str]) -> Recipe:
    """The recipe that flags and YAML files describe."""
    from shvit.train import Recipe

    parser = _recipe_parser()
    # Keys are spelt as in Python and YAML; on a command line people type --image-size.
    arguments = [re.sub(r"^--[^=]+", lambda flag: "--" + flag[0][2:].replace("-", "_"), each) for each in arguments]
    values = parser.instantiate(parser.parse_args(arguments)).as_dict()
    values.pop("config")
    return Recipe(**values)


def run(args: argparse.Namespace) -> int:
    from shvit.data import open_dataset
    from shvit.train import fit, resume, setup
    from shvit.train.logs import RunLog

    recipe = parse_recipe(args.more_arguments)
    train, val = open_dataset(args.data, "train"), open_dataset(args.data, "val")
    job = setup(recipe, train, val, args.output, args.device)
    if args.resume == "auto":
        if resume(job):
            print(f"going on from epoch {job.progress.epoch + 1} of {recipe.epochs}", file=sys.stderr)
    elif (args.output / "checkpoint.pt").exists():
        raise ValueError(f"--output {args.output}: holds a run already; add --resume auto, or give another folder")
    print(
        f"{recipe.model}: {len(train):,} training and {len(val):,} validation images, {len(train.classes)} classes",
        file=sys.stderr,
    )
    with RunLog(job) as log:
        progress = fit(job, log)
    best = args.output / "best.safetensors"
    print(f"best top-1 {progress.best_top1:.2%}; weights in {best}")
    print(f"next: shvit export --model {best} --output {args.output / recipe.model}.onnx")
    return 0
