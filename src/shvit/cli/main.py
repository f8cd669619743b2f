"""Entry point of the ``shvit`` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any, NoReturn

from shvit._version import __version__
from shvit.display import STANDARD_OUTPUT, guard_terminal, printable, release_output, say

COMMANDS = {
    "predict": "classify images: files, folders, globs or paths on stdin",
    "video": "classify videos, streams and cameras: events and frame by frame",
    "batch": "classify whole collections to Parquet, on all cores or a Ray cluster",
    "embed": "give the features of images, by which alike ones are near, to a Parquet file",
    "serve": "answer predictions over HTTP, with a page to try them on",
    "explain": "show where a model looks: attention and class activation over the pictures",
    "models": "list the networks that have a name, and what of them is here",
    "info": "print the card of a model file",
    "export": "write a verified model file from a checkpoint",
    "teach": "teach a model classes of your own from a few photographs, in seconds",
    "train": "train or fine-tune on a dataset of your own",
    "eval": "measure the accuracy of a model file or a checkpoint",
    "calibrate": "fit when a model's scores are answers, and what is none of its classes",
    "distill": "prepare distillation: run a teacher once",
    "data": "look a dataset over before training on it, move pictures between its classes",
    "similar": "find pictures that are alike, duplicates, and labels that look wrong",
    "runs": "compare training runs in a table",
    "bench": "measure speed, cost and memory, beside other networks",
}
"""Subcommand to its one line of help; the module ``shvit.cli.NAME`` has ``add_arguments`` and ``run``."""

EPILOG = """\
examples:
  shvit predict photo.jpg
  shvit predict photos/ --format csv --output labels.csv
  shvit teach photos/ --model shvit_s4 --output mine.onnx
  shvit train data/ --model shvit_s1 --epochs 30 --output runs/mine
  shvit export --model runs/mine/best.safetensors --output mine.onnx
  shvit predict photos/ --model mine.onnx

`shvit COMMAND --help` explains a command.

exit status: 0 all fine, 1 some inputs failed (the others are done), 2 wrong usage or it could not go on, 70 a fault of
shvit itself, 130 interrupted; SHVIT_DEBUG=1 shows where in the program an error arose
"""


class Parser(argparse.ArgumentParser):
    """Prints what was typed, which may be the name of any file, as ``printable`` shows it.

    Options may be spelt with underscores, as a recipe's keys are, and a mistyped name is answered with the nearest.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.set_defaults(parser=self)  # of a subcommand's subcommand its own, which knows its options

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        given = list(sys.argv[1:] if args is None else args)
        end = given.index("--") if "--" in given else len(given)
        return super().parse_known_args([*map(self._with_hyphens, given[:end]), *given[end:]], namespace)

    def _with_hyphens(self, argument: str) -> str:
        name, equals, value = argument.partition("=")
        hyphens = name.replace("_", "-")
        return hyphens + equals + value if name.startswith("--") and self._has(hyphens) else argument

    def _has(self, option: str) -> bool:
        return option in self._option_string_actions

    def refuse(self, unrecognized: Sequence[str]) -> NoReturn:
        """Ends with an error that names what was not understood and, where one is near, what was meant."""
        options = (each.partition("=")[0].replace("_", "-") for each in unrecognized if each.startswith("--"))
        near = next(filter(None, (_nearest(each, self._option_string_actions) for each in options)), None)
        hint = f"; did you mean {near}?" if near else ""
        self.error(f"unrecognized arguments: {' '.join(unrecognized)}{hint}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            if near := _nearest(str(value), map(str, action.choices or ())):
                error.message += f"; did you mean {near}?"
            raise

    def error(self, message: str) -> NoReturn:
        super().error(printable(message))

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        try:
            sys.stdout.flush()  # what --help and --version print
        except OSError as error:
            release_output()
            if not isinstance(error, BrokenPipeError):
                status, message = 2, f"{self.prog}: error: {error.filename or STANDARD_OUTPUT}: {error.strerror}\n"
        super().exit(status, message)


def _nearest(text: str, known: Iterable[str]) -> str | None:
    from difflib import get_close_matches  # here, because only errors need it

    return next(iter(get_close_matches(text, list(known), n=1)), None)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Returns:
        The exit status: 0 all fine, 1 some inputs failed, 2 wrong usage or it could not go on, 70 a fault of the
        program's own, 130 interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if argv is None:
        guard_terminal()
    chosen = next((each for each in arguments if not each.startswith("-")), None)
    name = f"shvit {chosen}" if chosen in COMMANDS else "shvit"
    try:
        args = _parse(arguments, chosen)
        status = args.run(args)
        sys.stdout.flush()  # here a full disk can still be told of
        return status
    except KeyboardInterrupt:
        return _interrupted()
    except Exception as error:
        if isinstance(error.__cause__, KeyboardInterrupt):  # as modules in C raise it from where they are imported
            return _interrupted()
        if isinstance(error, OSError) and error.filename == STANDARD_OUTPUT:
            release_output()
        if isinstance(error, BrokenPipeError) and error.filename in (STANDARD_OUTPUT, None):
            return 0  # the reader went away, as `head` does
        from shvit.cli.faults import FAULT, print_trace, reason_for_user, report_fault, trace_wanted

        reason = reason_for_user(error)
        if reason is None:
            report_fault(error, arguments)
            return FAULT
        if trace_wanted():
            print_trace(error)
        say(f"{name}: error: {reason}", sys.stderr)
        return 2


def _interrupted() -> int:
    say("interrupted", sys.stderr)
    return 130


def _parse(arguments: list[str], chosen: str | None) -> argparse.Namespace:
    """Builds only the parser of the command that was chosen: the others' modules are not imported."""
    parser = Parser(
        prog="shvit",
        description="SHViT image classification: predict, train, export.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"shvit {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
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
        command.set_defaults(run=module.run)
    if not arguments:  # somebody who looks what there is
        parser.print_help(sys.stderr)
        parser.exit(2)
    args, more_arguments = parser.parse_known_args(arguments)
    args.more_arguments = more_arguments
    if more_arguments and not getattr(sys.modules[args.run.__module__], "TAKES_MORE_ARGUMENTS", False):
        args.parser.refuse(more_arguments)
    return args
