"""Entry point of the ``shvit`` command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from shvit._version import __version__
from shvit.display import guard_terminal, printable, say
from shvit.errors import ShvitError

COMMANDS = {
    "predict": "classify images: files, folders, globs or paths on stdin",
    "video": "classify videos, streams and cameras: events and frame by frame",
    "batch": "classify whole collections to Parquet, on all cores or a Ray cluster",
    "serve": "answer predictions over HTTP, with a page to try them on",
    "explain": "show where a model looks: attention and class activation over the pictures",
    "models": "list the variants and the shipped models",
    "info": "print the card of a model file",
    "export": "write a verified model file from a checkpoint",
    "train": "train or fine-tune on a dataset of your own",
    "eval": "measure the accuracy of a model file or a checkpoint",
    "distill": "prepare distillation: run a teacher once",
    "data": "look a dataset over before training on it",
    "runs": "compare training runs in a table",
    "bench": "measure speed, cost and memory, beside other networks",
}
"""Subcommand to its one line of help; the module ``shvit.cli.NAME`` has ``add_arguments`` and ``run``."""

EPILOG = """\
examples:
  shvit predict photo.jpg
  shvit predict photos/ --format csv --output labels.csv
  shvit train data/ --model shvit_s1 --epochs 30 --output runs/mine
  shvit export --model runs/mine/best.safetensors --output mine.onnx
  shvit predict photos/ --model mine.onnx

`shvit COMMAND --help` explains a command.
"""


class Parser(argparse.ArgumentParser):
    """Prints what was typed, which may be the name of any file, as ``printable`` shows it."""

    def error(self, message: str) -> NoReturn:
        super().error(printable(message))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status: 0 all fine, 1 some inputs failed, 2 wrong usage."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if argv is None:
        guard_terminal()
    parser = Parser(
        prog="shvit",
        description="SHViT image classification: predict, train, export.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"shvit {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    chosen = next((each for each in arguments if not each.startswith("-")), None)
    for name, summary in COMMANDS.items():
        if name != chosen:
            commands.add_parser(name, help=summary, add_help=False)
            continue
        module = import_module(f"shvit.cli.{name}")
        command = commands.add_parser(
            name,
            help=summary,
            description=module.__doc__,
            epilog=module.EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run, parser=command)
    args, more_arguments = parser.parse_known_args(arguments)
    args.more_arguments = more_arguments
    if more_arguments and not getattr(sys.modules[args.run.__module__], "TAKES_MORE_ARGUMENTS", False):
        args.parser.error(f"unrecognized arguments: {' '.join(more_arguments)}")
    try:
        return args.run(args)
    except (ShvitError, ValueError) as error:
        say(f"shvit {args.command}: error: {error}", sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if (error.name or "shvit").partition(".")[0] == "shvit":
            raise
        say(
            f"shvit {args.command}: error: needs {error.name}, which is not installed; install the lab with: "
            "pip install 'shvit[torch]'",
            sys.stderr,
        )
        return 2
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            # The reader went away, as `head` does. Keep the interpreter from complaining at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        say(f"shvit {args.command}: error: {error.filename or ''}: {error.strerror or error}", sys.stderr)
        return 2
    except KeyboardInterrupt:
        say("interrupted", sys.stderr)
        return 130
