"""Train or fine-tune a SHViT. Every value of the recipe is a flag, and a key of a YAML file. Needs the lab."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shvit.display import say
from shvit.errors import ArgumentError

if TYPE_CHECKING:
    from shvit.card import TaskName
    from shvit.training import Execution, Recipe, TrainedRun

EPILOG = """\
DATA is a folder with train/ and val/ (or validation/), each with one sub-folder for each class; a folder of class
folders alone, of which a part is then held out; Parquet files in the Hugging Face image layout; tar shards in
WebDataset's; or a CSV of paths and labels. `shvit data check DATA` looks it over. Pictures with any number of labels: a
CSV of paths and labels (cat|dog), a folder with labels.csv, Parquet with lists, COCO's annotations.

Without --config the recipe suits the number of images: with --pretrained a fine-tuning, else a training from nothing.

examples:
  shvit train photos/ --model shvit_s1 --pretrained                  fine-tune the published ImageNet weights
  shvit train photos/ --pretrained mine.safetensors --lr 1e-3        ... or weights of your own
  shvit train photos/ --from mine.onnx                               ... or those that shvit teach wrote a file on
  shvit train data/ --config recipes/tiny_imagenet.yaml --output runs/tiny
  shvit train coco/ --pretrained --loss asymmetric                   several labels a picture
  shvit train data/ --output runs/mine --resume auto                 go on where the run was stopped
  shvit train data/ --print_config                                   the whole recipe as YAML, and stop
"""

TAKES_MORE_ARGUMENTS = True
"""The recipe's flags are parsed here, by the library that knows the recipe's types."""

SHORT = {"--lr": "--optimizer.lr", "--loss": "--multi_label.loss"}
"""Flags that people type, and the recipe's keys behind them."""

KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}
"""Types of the recipe's values in words."""

BROKEN_SHOWN = 10
"""How many unreadable images are named at the end; `shvit data check` names all."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DATA", help="dataset: a folder, a file or hf://NAME")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="run folder (default: runs/shvit, or runs/shvit-2 and so on if that is taken; with --resume auto the last "
        "of these)",
    )
    parser.add_argument(
        "--resume",
        choices=("auto", "never"),
        default="never",
        help="auto: go on from the run folder's newest checkpoint if there is one (default: never)",
    )
    parser.add_argument(
        "--from",
        dest="taught",
        type=Path,
        metavar="FILE",
        help="go on from a model file that shvit teach wrote: with the weights that it was taught on, which its card "
        "names or --pretrained gives, at its image size",
    )
    parser.add_argument("--wandb", action="store_true", help="log to Weights & Biases too, which must be installed")
    if {"-h", "--help"} & set(sys.argv):
        parser.epilog = f"{EPILOG}\nthe recipe, and how to run it:\n{_parser().format_help().split('options:', 1)[-1]}"


def _parser(defaults: Recipe | None = None) -> Any:
    from jsonargparse import ArgumentParser, set_parsing_settings

    from shvit.runs.run_folder import flatten
    from shvit.training import Execution, Recipe

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(prog="shvit train DATA", add_help=False, exit_on_error=False)
    parser.add_argument("--config", action="config", help="recipe, YAML; flags after it override it")
    parser.add_class_arguments(Execution)
    parser.add_class_arguments(Recipe)
    if defaults is not None:
        parser.set_defaults(dict(flatten(asdict(defaults))))
    return parser


def parse_recipe(
    arguments: list[str], images: int | None = None, begun: Path | None = None, task: TaskName = "classification"
) -> tuple[Recipe, Execution]:
    """The recipe that flags and YAML files describe, and how to run it.

    Args:
        images: how many there are to train on, which decides the defaults where no file is given. Without it
            ``--print_config`` has no effect yet.
        begun: recipe of the run that is resumed; where it exists and no other file is given, its values are the
            defaults: those of this version may be others than those that the run began with.
        task: the images'.

    Raises:
        ValueError: an unknown key, or a value that cannot be; the message names it.
    """
    from shvit.training import Execution, Recipe
    from shvit.training.defaults import default_recipe

    arguments = _as_keys(arguments)
    if begun is not None and begun.is_file() and not _recipe_files(arguments):
        arguments = ["--config", str(begun), *arguments]
    parser = _parser()
    values = _parsed(parser, _without_printing(arguments))
    if images is not None:
        if values.config is None:
            recipe = default_recipe(
                values.model,
                images,
                values.pretrained,
                values.quantization_aware,
                values.sync_norm,
                task,
                values.head_start,
            )
            parser = _parser(recipe)
        values = _parsed(parser, arguments)
    objects = parser.instantiate(values).as_dict()
    execution = {name: objects.pop(name) for name in Execution.__dataclass_fields__}
    objects.pop("config")
    return Recipe(**objects), _joined(Execution(**execution))


def _as_keys(arguments: list[str]) -> list[str]:
    """Flags as people type them to keys as Python and YAML spell them."""
    keys = [re.sub(r"^--[^=]+", lambda flag: "--" + flag[0][2:].replace("-", "_"), each) for each in arguments]
    keys = [re.sub(r"^--[^=]+", lambda flag: SHORT.get(flag[0], flag[0]), each) for each in keys]
    for place, each in enumerate(keys):
        if each == "--pretrained" and (place + 1 == len(keys) or keys[place + 1].startswith("--")):
            keys[place] = "--pretrained=hub"
    return keys


def _without_printing(arguments: list[str]) -> list[str]:
    """Without ``--print_config``, which would print and stop."""
    return [each for each in arguments if not each.startswith("--print_config")]


def _recipe_files(arguments: list[str]) -> list[str]:
    """What ``--config`` names."""
    files = [after for each, after in pairwise(arguments) if each == "--config"]
    return files + [each.partition("=")[2] for each in arguments if each.startswith("--config=")]


def _pretrained(arguments: list[str]) -> str | None:
    """What the flags and recipe files say of it."""
    return _parsed(_parser(), _without_printing(_as_keys(arguments))).pretrained


def _with_values(values: dict[str, Any], arguments: list[str]) -> list[str]:
    """Flags with these of the recipe's values: behind recipe files, before the flags that were given."""
    keys = _as_keys(arguments)
    files = [place for place, each in enumerate(keys) if each.partition("=")[0] == "--config"]
    behind = max((place + 2 - ("=" in keys[place]) for place in files), default=0)
    # A tuple is written as a list is in YAML.
    texts = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    return [*keys[:behind], *(f"--{name}={value}" for name, value in texts.items()), *keys[behind:]]


def _parsed(parser: Any, arguments: list[str]) -> Any:
    """What the recipe's flags say.

    Raises:
        ArgumentError: an unknown key, or a value that cannot be; the message names it.
    """
    import jsonargparse

    try:
        return parser.parse_args(arguments)
    except (jsonargparse.ArgumentError, UnicodeDecodeError) as error:
        raise ArgumentError(_explain(error, arguments)) from None


def _explain(error: Exception, arguments: list[str]) -> str:
    """The library's explanation as one line, with the file's name if it is of one, without advice on its own flags."""
    import jsonargparse

    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    message = " ".join(line for line in lines if "see '--help'" not in line and "--print_config" not in line)
    message = re.sub(r"<class '(\w+)'>|typing\.(?=Literal)", r"\1", message)
    if wrong := re.fullmatch(r'Parser key "([\w.]+)": Expected an? (\w+|Literal\[.*\])\. Got value: (.*)', message):
        message = f"{wrong[1]}: expected {_in_words(wrong[2])}, got {wrong[3]}"
    parser = _parser()
    if unknown := re.search(r"(?:arguments: --|[Oo]ption ')([\w.]+)", message):
        name = unknown[1].rpartition(".")[2]
        keys = {key.rpartition(".")[2]: key for key in parser.get_defaults().keys()}  # noqa: SIM118 - a Namespace
        if close := difflib.get_close_matches(name, keys, n=1, cutoff=0.5):
            key = keys[close[0]]
            message += f"; did you mean {'--' + key.replace('_', '-') if 'arguments: --' in message else key}?"
    for place, each in enumerate(arguments):
        if each == "--config" or each.startswith("--config="):
            file = each.partition("=")[2] or "".join(arguments[place + 1 : place + 2])
            try:
                parser.parse_args(["--config", file])
            except (jsonargparse.ArgumentError, UnicodeDecodeError):
                return f"{file}: {message}"
    return message


def _in_words(kind: str) -> str:
    """A type of the recipe's values, as the library names it."""
    if kind.startswith("Literal"):
        return f"one of {kind[8:-1].replace(chr(39), '')}"
    return KINDS.get(kind, kind)


def _joined(execution: Execution) -> Execution:
    """Under ``torchrun`` the number of processes is what it started."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return execution
    local, world = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
    return replace(execution, devices=local, nodes=world // local)


def run(args: argparse.Namespace) -> int:
    from shvit.data.datasets import open_datasets
    from shvit.data.targets import task_of_labels
    from shvit.runs.run_folder import RECIPE
    from shvit.training.checkpoint import checkpoints
    from shvit.training.continuation import continue_from
    from shvit.training.train import TrainingPlan, carry_out, run_folder

    resume = args.resume == "auto"
    folder = args.output or run_folder(resume)
    begun = folder / RECIPE if resume else None
    arguments = args.more_arguments
    start = None
    if args.taught is not None and not (begun is not None and begun.is_file()):
        start = continue_from(args.taught, _pretrained(arguments))
        arguments = _with_values(start.values, arguments)
    wanted = parse_recipe(arguments, begun=begun)[0]
    datasets = open_datasets(args.data, wanted.seed, wanted.val_share, wanted.image_key, wanted.task)
    recipe, execution = parse_recipe(arguments, len(datasets.train), begun, task_of_labels(datasets.train))
    if start is not None and (lost := start.describe_lost(datasets.train.classes)):
        say(lost, sys.stderr)
    files = _recipe_files(arguments)
    plan = TrainingPlan(args.data, datasets, recipe, folder, execution, resume, not files, files, args.wandb)
    try:
        trained = carry_out(plan, progress=True)
    except KeyboardInterrupt:
        if checkpoints(folder) and os.environ.get("RANK", "0") == "0":
            same = "the same command" if resume else "the same command with --resume auto"
            say(f"{folder}: {same} goes on with this run", sys.stderr)
        raise
    if trained.is_first:
        _print_outcome(trained, len(datasets.val), args.data)
    return 0


def _print_outcome(run: TrainedRun, validation_images: int, data: str) -> None:
    from shvit.runs.best import FEW_IMAGES

    best, recipe = run.best, run.recipe
    rule = ", by its validation loss" if validation_images < FEW_IMAGES else ""
    where = f"weights in {best}" if best.exists() else f"{best} is not there any more"
    score = f"top-1 {run.top1:.2%}" if run.top1 is not None else f"mAP {run.mean_average_precision:.2%}"
    when = f"after epoch {run.best_epoch}" if run.best_epoch else "of the fitted head alone, before the first epoch"
    say(f"best {score} {when}{rule}; {where}")
    if not best.exists():  # as when somebody deleted it, and no later epoch was better
        best = run.last
    if run.broken:
        say(f"unreadable images, left out: {len(run.broken)}")
        for each in run.broken[:BROKEN_SHOWN]:
            say(f"  {each.source}: {each.reason}")
    if run.skipped:
        say(f"steps that were not finite, left out: {run.skipped}")
    if not best.exists():
        return
    model_file = run.folder / f"{recipe.model}.onnx"
    image_key = "" if recipe.image_key is None else f" --image-key {recipe.image_key}"
    say(f"next: shvit eval --model {best} --data {data}{image_key} --output {run.folder / 'report'}")
    say(f"      shvit export --model {best} --output {model_file}")
    say(f"      shvit predict IMAGE --model {model_file}")
