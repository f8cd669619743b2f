"""What an engine is."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import numpy as np

from shvit.card import MAX_SIDE
from shvit.errors import MissingDependencyError, ModelFileError, ModelOutputError, ShvitError
from shvit.install import pip_install

FILE_ENGINES = {".tflite": "litert", ".xml": "openvino"}
"""Files that are of one engine, by suffix; the others are ONNX, which the other engines load."""


FLOATS = ("float32", "float16", "float64")
"""Types of a graph's output that can be scores."""


class Engine(ABC):
    """A model file, loaded: ``uint8`` images in, scores out.

    What it returns is the file's own and not checked: ``shvit.predicting.outputs`` does that.

    Args:
        path: the model file.
        threads: how many threads one inference may use.
    """

    name: ClassVar[str]

    metadata: dict[str, str]
    """The file's metadata; the card is in it."""
    input_shape: tuple[int | None, ...]
    """Of the graph, ``None`` where any length will do: (N, H, W, 3)."""
    output_shape: tuple[int | None, ...]
    """Of the graph: (N, classes)."""

    def __init__(self, path: Path, threads: int) -> None:
        raise NotImplementedError

    outputs: tuple[str, ...]
    """Names of all that the graph returns; the first is what ``infer`` gives."""

    @abstractmethod
    def infer(self, batch: np.ndarray) -> np.ndarray:
        """Runs the graph.

        Args:
            batch: ``uint8 (N, H, W, 3)``, RGB, contiguous.

        Returns:
            Of a sound file ``float32 (N, classes)``: logits or probabilities, as the card says.

        Raises:
            Exception: whatever the engine's library raises where the graph fails.
        """

    @abstractmethod
    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        """Like ``infer``, to all of the graph's outputs, in their order; of a sound file ``float32 (N, ...)``."""


def check_signature(path: Path, inputs: int, outputs: int) -> None:
    """Refuses a graph without an output, or with another number of inputs than one.

    Raises:
        ModelFileError: it is such a graph.
    """
    if inputs != 1 or not outputs:
        raise ModelFileError(
            f"{path}: expected a graph of one input, images, and an output, this one has {inputs} inputs and {outputs} "
            "outputs; make one with: shvit export"
        )


def check_input(path: Path, element: str, shape: tuple[int | None, ...]) -> None:
    """Refuses a graph whose input is not a batch of ``uint8`` images.

    Raises:
        ModelFileError: it takes something else.
    """
    if any(side is not None and not 1 <= side <= MAX_SIDE for side in shape[1:]):
        raise ModelFileError(f"{path}: the graph's input has the shape {shape}; expected sides of 1 to {MAX_SIDE}")
    if element != "uint8" or len(shape) != 4:
        raise ModelFileError(
            f"{path}: expected a graph that takes uint8 images (N, H, W, 3), this one takes {element} of {len(shape)} "
            "dimensions; make one with: shvit export"
        )


def check_output(path: Path, element: str) -> None:
    """Refuses a graph whose output is not of floating-point numbers.

    Args:
        element: the type's name, such as ``float32``.

    Raises:
        ModelFileError: it gives something else.
    """
    if element not in FLOATS:
        raise ModelFileError(
            f"{path}: expected a graph that returns scores in float32, this one returns {element}; make one with: "
            "shvit export"
        )


@contextmanager
def as_model_output_error(path: Path) -> Iterator[None]:
    """Turns what an engine raises where a graph fails, whatever it is, into ``ModelOutputError``."""
    try:
        yield
    except ShvitError:
        raise
    except Exception as error:  # memory that it lacks is among them: the next images may need less
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ModelOutputError(f"{path}: the graph failed: {reason[:200]}") from None


@contextmanager
def as_model_file_error(path: Path, engine: str) -> Iterator[None]:
    """Turns an engine's own errors about a file, of whatever kind they are, into ``ModelFileError``."""
    try:
        yield
    except ShvitError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ModelFileError(f"{path}: not a model that {engine} can load: {reason[:200]}") from None


def check_version(package: str, found: str, minimum: str) -> None:
    """Refuses a package that is too old.

    Args:
        found: its version, such as ``1.32.0``.
        minimum: as far as it matters, such as ``1.20``.

    Raises:
        MissingDependencyError: it is older.
    """
    numbers = [tuple(int(part) for part in re.findall(r"\d+", version)[:2]) for version in (found, minimum)]
    if numbers[0] < numbers[1]:
        raise MissingDependencyError(
            f"{package} {found} is too old, at least {minimum} is needed; install it with: "
            + pip_install("--upgrade", f"{package}>={minimum}")
        )
