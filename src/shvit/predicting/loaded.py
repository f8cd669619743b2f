"""What all that runs a model file on images has in common: the engine, the card, and images to batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from shvit.card import METADATA_KEY, Card
from shvit.engines import (
    BATCH_SIZE,
    Engine,
    EngineChoice,
    available_threads,
    check_engine,
    choose,
    load_engine,
    measure,
)
from shvit.engines.base import FILE_ENGINES
from shvit.engines.onnx_graph import UNKNOWN, has_operator
from shvit.errors import ArgumentError, ModelFileError, ModelOutputError, check_positive
from shvit.hub.resolve import resolve_model
from shvit.images.decoding import Decoding, preparation
from shvit.images.preprocess import ImageSource
from shvit.modelfile.features import load_with_features
from shvit.network.sides import ImageSize, in_words, sides
from shvit.predicting.pickling import MadeOfFile
from shvit.predicting.pipeline import Batch, decoded_batches

T = TypeVar("T")


@dataclass(frozen=True)
class Running:
    """How a model file is run, as ``Classifier`` describes it."""

    engine: str = "auto"
    threads: int | None = None
    batch_size: int = BATCH_SIZE
    decoding: Decoding = "exact"
    images: int | None = None
    image_size: ImageSize | None = None


class LoadedModel(MadeOfFile):
    """A model file with its engine and its card.

    Args:
        model: a name, or the path of a model file.
        feature_stages: of how many of the last stages features are asked for, 0 to 2.
        arguments: all that the object was made with besides ``model``, to make it again.
    """

    engine_choice: EngineChoice
    """Which engine runs, and why."""

    def __init__(self, model: str | Path, running: Running, feature_stages: int, arguments: Mapping[str, Any]) -> None:
        check_engine(running.engine, running.threads)
        check_positive("batch_size", running.batch_size)
        self._prepare = preparation(running.decoding)
        self._path = resolve_model(model)
        self._note_origin(model, self._path, **arguments)
        self.threads, self.batch_size = running.threads or available_threads(), running.batch_size
        self.decoding, self._images = running.decoding, running.images
        self._auto, self._feature_stages = running.engine == "auto", feature_stages
        auto = choose(self._path, self.threads, self.batch_size, self._images) if self._auto else None
        self.engine_choice = auto or EngineChoice(running.engine, "asked for", {})
        self._engine, self._features = self._load(self.engine)
        self.card = read_card(self._engine.metadata, self._path)
        check_graph(self._path, self._engine, self.card)
        if running.image_size is not None:
            self.card = _resized(self.card, sides(running.image_size), self._engine, self._path)

    def _load(self, engine: str) -> tuple[Engine, tuple[str, ...]]:
        if self._feature_stages:
            return load_with_features(engine, self._path, self.threads, self._feature_stages)
        return load_engine(engine, self._path, self.threads), ()

    @property
    def engine(self) -> str:
        """The name of the engine that runs."""
        return self.engine_choice.engine

    @property
    def path(self) -> Path:
        """The model file."""
        return self._path

    def calibrate(self) -> EngineChoice:
        """Measures the installed engines on this file and goes on with the fastest; later ones of it know of it.

        Takes a second or two; nothing with one engine installed, or when the engine was asked for by name. It is kept
        in the user's cache folder, for this machine, file, number of threads and batch size.
        """
        if self._auto:
            choice = measure(
                self._path,
                self.threads,
                self.batch_size,
                lambda name: load_engine(name, self._path, self.threads),
                self._images,
            )
            if choice.engine != self.engine:
                self._engine, self._features = self._load(choice.engine)
            self.engine_choice = choice
        return self.engine_choice

    def preprocess(self, image: ImageSource) -> np.ndarray:
        """One image to the model's input, ``uint8 (H, W, 3)``.

        Raises:
            ImageError: it cannot be read.
        """
        return self._prepare(image, self.card.preprocessing)

    @property
    def _input(self) -> tuple[int, int, int]:
        return (*self.card.preprocessing.image_size, 3)

    def _checked(self, batch: np.ndarray) -> np.ndarray:
        """Raises: ValueError: it has another type or shape than the graph takes."""
        if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[1:] != self._input or not len(batch):
            raise ArgumentError(
                f"batch: expected uint8 (N, {', '.join(map(str, self._input))}), got {batch.dtype} {batch.shape}"
            )
        return np.ascontiguousarray(batch)

    def _run_stream(
        self,
        images: Iterable[ImageSource],
        batch_size: int | None,
        run: Callable[[np.ndarray], Iterable[T]],
        with_digests: bool = False,
    ) -> Iterator[tuple[ImageSource, str | None, T | str]]:
        """Each image in order, its digest if there are such, and what ``run`` says of it or why it failed, as text.

        Args:
            batch_size: another one than the model's.
            run: batches ``uint8 (N, H, W, 3)`` to N results.
        """
        batch_size = self.batch_size if batch_size is None else batch_size
        check_positive("batch_size", batch_size)
        batches = decoded_batches(images, self.preprocess, self._input, batch_size, self.threads, with_digests)
        with closing(batches):
            for batch in batches:
                yield from _results(batch, run)


def _results(
    batch: Batch, run: Callable[[np.ndarray], Iterable[T]]
) -> Iterator[tuple[ImageSource, str | None, T | str]]:
    pixels = batch.pixels
    rows = iter(run_each(run, pixels) if len(pixels) else ())
    for place, image in enumerate(batch.sources):
        found = batch.errors[place] if place in batch.errors else next(rows)
        yield image, batch.digests.get(place), str(found) if isinstance(found, ModelOutputError) else found


def run_each(run: Callable[[np.ndarray], Iterable[T]], batch: np.ndarray) -> list[T | ModelOutputError]:
    """What ``run`` returns for each image; where a batch fails, each image is run alone."""
    try:
        return list(run(batch))
    except ModelOutputError as error:
        if len(batch) == 1:
            return [error]
        return [run_each(run, batch[place : place + 1])[0] for place in range(len(batch))]


def _resized(card: Card, size: tuple[int, int], engine: Engine, path: Path) -> Card:
    """The card with another input size; refused where the graph has a size of its own."""
    if any(own not in (None, side) for own, side in zip(engine.input_shape[1:3], size, strict=True)):
        height, width = card.preprocessing.image_size
        raise ArgumentError(
            f"image_size {in_words(size)}: {path} takes images of {height}x{width} only; export it with "
            f"--dynamic-size, or with --image-size {in_words(size)}"
        )
    return replace(card, preprocessing=replace(card.preprocessing, image_size=size))


def check_graph(path: Path, engine: Engine, card: Card) -> None:
    """Refuses a file whose card speaks of another graph than the one beside it."""
    for what, graph, said in (
        ("input", engine.input_shape, (None, *card.preprocessing.image_size, 3)),
        ("output", engine.output_shape, (None, len(card.classes))),
    ):
        agree = len(graph) == len(said) and all(
            None in pair or pair[0] == pair[1] for pair in zip(graph, said, strict=True)
        )
        if not agree:
            raise ModelFileError(f"{path}: the graph's {what} has the shape {graph}, the card says {said}")
    if card.decision is not None and path.suffix.lower() not in FILE_ENGINES:
        quantized = has_operator(path, "DequantizeLinear")
        if quantized != (card.decision.precision == "int8"):
            raise ModelFileError(
                f"{path}: the card's decision was fitted on a file in {card.decision.precision}, the graph is in "
                f"{'8 bits' if quantized else 'float'}, whose scores differ; calibrate it anew with: shvit calibrate"
            )
    if card.decision is not None and card.decision.unknown is not None and UNKNOWN not in engine.outputs:
        raise ModelFileError(
            f"{path}: the card has a limit for unknown pictures, the graph gives no {UNKNOWN} score; calibrate the "
            "file anew with: shvit calibrate"
        )


def read_card(metadata: dict[str, str], path: Path, with_decision: bool = True) -> Card:
    """The card in a model file's metadata.

    Args:
        with_decision: as for ``Card.from_json``.

    Raises:
        ModelFileError: there is none, or it cannot be read.
    """
    if METADATA_KEY not in metadata:
        raise ModelFileError(
            f"{path}: the file has no card, so its classes and preprocessing are unknown; make one with: shvit export"
        )
    return Card.from_json(metadata[METADATA_KEY], str(path), with_decision)
