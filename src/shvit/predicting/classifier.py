"""Images to labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import closing
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import TypeVar

import numpy as np

from shvit.card import METADATA_KEY, Card, ClassInfo
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
from shvit.engines.base import FILE_ENGINES, as_model_file_error, as_model_output_error
from shvit.engines.onnx_graph import UNKNOWN, check_file, has_operator, pooled_features
from shvit.errors import ArgumentError, ModelFileError, ModelOutputError, check_positive
from shvit.hub.resolve import resolve_model
from shvit.images.decoding import Decoding, preparation
from shvit.images.preprocess import ImageSource, describe, image_sources
from shvit.network.sides import ImageSize, in_words, sides
from shvit.predicting.outputs import check_rows, scores_of, unknown_scores
from shvit.predicting.pickling import MadeOfFile
from shvit.predicting.pipeline import decoded_batches
from shvit.shipped import DEFAULT_MODEL
from shvit.tasks import Answering, Judged, task_of
from shvit.tasks.results import Result

T = TypeVar("T")


class Classifier(MadeOfFile):
    """A model file, ready to classify.

    It can be pickled, so that ``multiprocessing``, joblib and Ray take it: with its file and arguments, not its engine.

    Args:
        model: a name (``shvit_s4``, ``hf://user/repository``, a shipped model's), or the path of a model file.
        engine: ``auto``, ``onnxruntime``, ``openvino`` or ``litert``. ``auto`` takes the one that was measured fastest
            on this machine for this file, number of threads and batch size, and ``onnxruntime`` where nothing was
            measured (see ``calibrate``).
        threads: threads of one inference, and that decode; when not given, as many as there are processors that this
            process may use, by its affinity and its container's limit.
        batch_size: images run together by ``predict`` and ``stream``.
        decoding: ``exact``, the pixels that evaluation sees, or ``fast``, nearly those in about half the time (an
            extra, ``shvit[fast]``).
        images: how many there will be, if that is known: ``auto`` then takes no engine that loads longer than it
            saves.
        image_size: another size of the input than the card's, in pixels, for a file that takes images of any size: a
            side, or height and width, as ``(160, 320)`` or ``"160x320"``.
        embedding: give each result the pooled features too; runs in ``onnxruntime``, on a file of ``shvit export``.

    Raises:
        ModelFileError: the file cannot be used; the message says why.
        MissingDependencyError: the engine, or what fast decoding needs, is not installed or too old.
        ValueError: an option has an unsupported value.

    Example:
        >>> classifier = Classifier()
        >>> result = classifier.predict("cat.jpg")[0]
        >>> result.predictions[0].label
        'Egyptian cat'
    """

    engine_choice: EngineChoice
    """Which engine runs, and why."""

    def __init__(
        self,
        model: str | Path = DEFAULT_MODEL,
        engine: str = "auto",
        threads: int | None = None,
        batch_size: int = BATCH_SIZE,
        decoding: Decoding = "exact",
        images: int | None = None,
        image_size: ImageSize | None = None,
        embedding: bool = False,
    ) -> None:
        check_engine(engine, threads)
        if embedding and engine not in ("auto", "onnxruntime"):
            raise ArgumentError(f"embedding: only the engine onnxruntime gives embeddings, not {engine}")
        check_positive("batch_size", batch_size)
        self._prepare = preparation(decoding)
        self._path = resolve_model(model)
        self._note_origin(
            model,
            self._path,
            engine=engine,
            threads=threads,
            batch_size=batch_size,
            decoding=decoding,
            images=images,
            image_size=image_size,
            embedding=embedding,
        )
        self.threads, self.batch_size, self.decoding = threads or available_threads(), batch_size, decoding
        self._images, self._auto = images, engine == "auto" and not embedding
        self._features: str | None = None
        if embedding:
            self.engine_choice = EngineChoice("onnxruntime", "the one that gives embeddings", {})
            self._engine, self._features = _load_with_embedding(self._path, self.threads)
        else:
            auto = choose(self._path, self.threads, batch_size, images) if self._auto else None
            self.engine_choice = auto or EngineChoice(engine, "asked for", {})
            self._engine = load_engine(self.engine_choice.engine, self._path, self.threads)
        self.card = read_card(self._engine.metadata, self._path)
        check_graph(self._path, self._engine, self.card)
        if image_size is not None:
            self.card = _resized(self.card, sides(image_size), self._engine, self._path)

    def __repr__(self) -> str:
        return f"Classifier({str(self.path)!r}, engine={self.engine!r}, classes={len(self.classes)})"

    @property
    def engine(self) -> str:
        """The name of the engine that runs."""
        return self.engine_choice.engine

    @property
    def path(self) -> Path:
        """The model file."""
        return self._path

    def calibrate(self) -> EngineChoice:
        """Measures the installed engines on this file and goes on with the fastest; later classifiers know of it.

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
                self._engine = load_engine(choice.engine, self._path, self.threads)
            self.engine_choice = choice
        return self.engine_choice

    @property
    def classes(self) -> tuple[ClassInfo, ...]:
        return self.card.classes

    def preprocess(self, image: ImageSource) -> np.ndarray:
        """One image to the model's input, ``uint8 (H, W, 3)``.

        Raises:
            ImageError: it cannot be read.
        """
        return self._prepare(image, self.card.preprocessing)

    def predict_batch(self, batch: np.ndarray) -> np.ndarray:
        """Scores of prepared images.

        Args:
            batch: ``uint8 (N, H, W, 3)``, RGB, as ``preprocess`` returns them.

        Returns:
            ``float32 (N, classes)`` in [0, 1], each row summing to 1 unless the card says that several labels may hold.

        Raises:
            ValueError: the batch has another type or shape.
            ModelOutputError: the graph fails, or returns for one of the images what cannot be scores.
        """
        batch = self._checked(batch)
        with as_model_output_error(self._path):
            output = self._engine.infer(batch)
        return scores_of(output, len(batch), self.card, self._path)

    def _checked(self, batch: np.ndarray) -> np.ndarray:
        """Raises: ValueError: it has another type or shape than the graph takes."""
        expected = (*self.card.preprocessing.image_size, 3)
        if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[1:] != expected or not len(batch):
            raise ArgumentError(
                f"batch: expected uint8 (N, {', '.join(map(str, expected))}), got {batch.dtype} {batch.shape}"
            )
        return np.ascontiguousarray(batch)

    def judge_batch(self, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Like ``predict_batch``, and the unknown scores ``float32 (N,)``, of a file with a limit for them."""
        judged = self._judge(self._checked(batch))
        return np.stack([each.scores for each in judged]), np.array([each.unknown for each in judged], np.float32)

    def judge_each(self, batch: np.ndarray) -> list[Judged | ModelOutputError]:
        """What the graph says of each image: its scores, its unknown score and its embedding, where there are such.

        A batch that fails is run again image by image.

        Args:
            batch: as for ``predict_batch``.

        Returns:
            For each image that, or what is wrong with it.

        Raises:
            ValueError: the batch has another type or shape.
        """
        return _each(self._judge, self._checked(batch))

    def _judge(self, batch: np.ndarray) -> list[Judged]:
        with as_model_output_error(self._path):
            outputs = self._engine.run(batch)
        count = len(batch)
        rows = scores_of(next(iter(outputs.values())), count, self.card, self._path)
        unknown: Iterable[float | None] = repeat(None, count)
        if self.card.decision is not None and self.card.decision.unknown is not None:
            unknown = unknown_scores(outputs, count, self._path).tolist()
        features: Iterable[np.ndarray | None] = repeat(None, count)
        if self._features is not None:
            features = check_rows(outputs[self._features], count, self._path, "embedding")
        return [Judged(*each) for each in zip(rows, unknown, features, strict=True)]

    def predict(
        self,
        images: ImageSource | Iterable[ImageSource],
        top_k: int = 5,
        *,
        min_score: float | None = None,
        unknown: bool = True,
    ) -> list[Result]:
        """Labels of one image or several, one result each, in order.

        An image that cannot be read, or that the graph fails on, gives a result with ``error``; the others are not
        affected.

        Args:
            images: paths, encoded bytes, PIL images or arrays ``uint8 (H, W, 3)``; one, or a list, a tuple or an
                iterator of them.
            top_k: labels for each image; at most as many as there are classes.
            min_score: from which score on a label is an answer, in [0, 1], in place of the card's thresholds.
            unknown: call a picture of none of the classes unknown, where the card has a limit (``shvit calibrate``).

        Raises:
            ImageTypeError: it is none of these, such as ``None`` or a set.
        """
        chosen = image_sources(images)
        most = len(chosen) if isinstance(chosen, Sized) else self.batch_size
        size = max(min(self.batch_size, most), 1)
        return list(self.stream(chosen, top_k, size, min_score=min_score, unknown=unknown))

    def stream(
        self,
        images: ImageSource | Iterable[ImageSource],
        top_k: int = 5,
        batch_size: int | None = None,
        *,
        min_score: float | None = None,
        unknown: bool = True,
    ) -> Iterator[Result]:
        """Like ``predict``, for any number of images: results come as soon as their batch is done.

        With several threads the next batch is taken from ``images`` and decoded meanwhile, unless ``batch_size`` is 1.

        Args:
            batch_size: another one than the classifier's.

        Raises:
            ImageTypeError: as of ``predict``.
        """
        images = image_sources(images)
        batch_size = self.batch_size if batch_size is None else batch_size
        check_positive("batch_size", batch_size)
        answering, task = Answering(top_k, min_score, unknown), task_of(self.card)
        shape = (*self.card.preprocessing.image_size, 3)
        with closing(decoded_batches(images, self.preprocess, shape, batch_size, self.threads)) as batches:
            for batch in batches:
                pixels = batch.pixels
                rows = iter(self.judge_each(pixels) if len(pixels) else ())
                for place, image in enumerate(batch.sources):
                    if place in batch.errors:
                        yield Result(describe(image), error=batch.errors[place])
                        continue
                    judged = next(rows)
                    if isinstance(judged, ModelOutputError):
                        yield Result(describe(image), error=str(judged))
                        continue
                    yield task.result(describe(image), judged, self.card, answering)


def _each(run: Callable[[np.ndarray], Iterable[T]], batch: np.ndarray) -> list[T | ModelOutputError]:
    """What ``run`` returns for each image; where a batch fails, each image is run alone."""
    try:
        return list(run(batch))
    except ModelOutputError as error:
        if len(batch) == 1:
            return [error]
        return [_each(run, batch[place : place + 1])[0] for place in range(len(batch))]


def _load_with_embedding(path: Path, threads: int) -> tuple[Engine, str]:
    """The engine with the pooled features as a further output of the graph, in memory, and that output's name."""
    from shvit.engines.onnxruntime import ONNXRuntimeEngine

    with as_model_file_error(path, "onnxruntime"):
        features = None
        if path.suffix.lower() not in FILE_ENGINES:
            check_file(path)
            features = pooled_features(path.read_bytes())
        if features is None:
            raise ModelFileError(
                f"{path}: no head that embeddings could be taken before; expected ONNX of shvit export"
            )
        return ONNXRuntimeEngine(path, threads, (features,)), features


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
