"""Options and values that several commands take."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from shvit.display import say
from shvit.errors import ArgumentError, MissingDependencyError
from shvit.install import install_command
from shvit.network.sides import sides
from shvit.shipped import DEFAULT_MODEL
from shvit.tasks import Answering

BROKEN_SHOWN = 20
"""How many unreadable inputs are named."""

FILE_SUFFIXES = frozenset(
    (".csv", ".htm", ".html", ".jpeg", ".jpg", ".json", ".jsonl", ".mp4", ".onnx", ".parquet", ".pdf", ".png", ".zip")
)
"""Of names that nobody gives to a folder."""


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text}")
    return value


def image_size(text: str) -> tuple[int, int]:
    """Height and width of a network's input."""
    try:
        return sides(text)
    except ArgumentError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("image_size: ")) from None


def seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a positive number of seconds, got {text}")
    return value


MODELS = "a model file, or a name: shvit_s1 to shvit_s4, hf://user/repository, a shipped one (shvit models lists them)"
"""What is taken for a model, in help texts."""


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default=DEFAULT_MODEL, help=f"{MODELS} (default: %(default)s)")


def add_answering(parser: argparse._ActionsContainer, each: str) -> None:
    """Args: each: what is classified, for help: ``image``."""
    parser.add_argument(
        "--top-k", type=positive, default=5, metavar="K", help=f"labels for each {each} (default: %(default)s)"
    )
    parser.add_argument(
        "--min-score",
        type=_share,
        metavar="SCORE",
        help="from which score on a label is an answer, 0 to 1 (default: the model's own thresholds, if it has any)",
    )
    parser.add_argument(
        "--no-unknown",
        action="store_true",
        help="never say that a picture shows none of the classes; thresholds stay (--min-score 0 takes them off)",
    )


def answering(args: argparse.Namespace) -> Answering:
    """What was asked for with ``add_answering``."""
    return Answering(args.top_k, args.min_score, not args.no_unknown)


def add_fitting(parser: argparse.ArgumentParser) -> None:
    """What a model's decisions are fitted for."""
    parser.add_argument(
        "--unknown",
        type=Path,
        metavar="DIR",
        help="20 or more pictures of none of the classes: learn to notice such, and tell how many",
    )
    parser.add_argument(
        "--keep",
        type=float,
        default=0.95,
        metavar="SHARE",
        help="share of the pictures of its own classes that stay known (default: %(default)s)",
    )
    parser.add_argument(
        "--target-precision",
        type=float,
        metavar="SHARE",
        help="share of the answers that are to be right, such as 0.95; lower scores are then no answers",
    )


def name_broken(broken: Sequence[str], what: str) -> int:
    """Tells which inputs could not be read, as far as there is room; gives the exit status.

    Args:
        what: they are, for people: ``images``.
    """
    for each in broken[:BROKEN_SHOWN]:
        say(each, sys.stderr)
    if broken:
        say(f"{len(broken)} {what} could not be read", sys.stderr)
    return 1 if broken else 0


@contextmanager
def pyarrow_wanted(extra: str) -> Iterator[None]:
    """Imports inside that fail for want of pyarrow say what installs it.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != "pyarrow":
            raise
        raise MissingDependencyError(f"needs pyarrow, which is not installed: {install_command(extra)}") from None


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected 0 to 1, got {text}")
    return value


def add_csv_safe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--csv-safe",
        action="store_true",
        help="in CSV, put a ' before text that a spreadsheet would take for a formula (=, +, -, @, tab)",
    )


def check_written_as(option: str, path: Path | None, written: str, suffixes: tuple[str, ...]) -> None:
    """Refuses a name that promises another format than the one that is written; one without a suffix promises none.

    Args:
        written: the format's name, for people.
        suffixes: those that say so, the usual one first.

    Raises:
        ArgumentError: it is such a name.
    """
    if path is not None and path.suffix and path.suffix.lower() not in suffixes:
        raise ArgumentError(
            f"{option} {path}: {written} is written, and named {' or '.join(suffixes)}, such as "
            f"{path.with_suffix(suffixes[0])}"
        )


def check_format_of(option: str, path: Path | None, chosen: str, formats: Mapping[str, str]) -> None:
    """Refuses a name that promises another format than the one that was chosen.

    Args:
        formats: by suffix, what is in a file of that name.

    Raises:
        ArgumentError: it is such a name.
    """
    promised = None if path is None else formats.get(path.suffix.lower())
    if promised is not None and promised != chosen:
        raise ArgumentError(f"{option} {path}: would hold the format {chosen}; add --format {promised}")


def check_not_read(option: str, folder: Path | None, sources: Sequence[str]) -> None:
    """Refuses to put results into a folder that is read, where the next run would take them for inputs.

    Raises:
        ArgumentError: the folder is one of the sources, or inside of one.
    """
    if folder is None:
        return
    for source in sources:
        if Path(source).is_dir() and folder.resolve().is_relative_to(Path(source).resolve()):
            raise ArgumentError(
                f"{option} {folder}: is in {source}, which is read; the next run would read the results too: name a "
                "folder outside of it"
            )


def check_folder_name(option: str, path: str | Path | None) -> None:
    """Refuses the name of a file where a folder is written.

    Raises:
        ArgumentError: it is such a name.
    """
    if path is not None and Path(path).suffix.lower() in FILE_SUFFIXES and not Path(path).is_dir():
        raise ArgumentError(f"{option} {path}: a folder is written; give the name of one, such as {Path(path).stem}")
