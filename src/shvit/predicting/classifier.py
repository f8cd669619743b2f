"""Images to labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

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
from shvit.engines.onnx_graph import check_file, pooled_features
from shvit.errors import ArgumentError, ModelFileError, ModelOutputError, check_positive
from shvit.hub.resolve import resolve_model
from shvit.images.decoding import Decoding, preparation
from shvit.images.preprocess import ImageSource, describe, image_sources
from shvit.predicting.outputs import check_rows, probabilities
from shvit.predicting.pickling import MadeOfFile
from shvit.predicting.pipeline import decoded_batches
from shvit.predicting.results import Prediction, Result
from shvit.shipped import DEFAULT_MODEL

if TYPE_CHECKING:
    from shvit.engines.onnxruntime import ONNXRuntimeEngine

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
        image_size: another side of the input than the card's, in pixels, for a file that takes images of any size.
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
        image_size: int | None = None,
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
        self._embedding_engine = _load_with_embedding(self._path, self.threads) if embedding else None
        if embedding:
            self.engine_choice = EngineChoice("onnxruntime", "the one that gives embeddings", {})
        elif self._auto:
            self.engine_choice = choose(self._path, self.threads, batch_size, images)
        else:
            self.engine_choice = EngineChoice(engine, "asked for", {})
        self._engine = self._embedding_engine or load_engine(self.engine_choice.engine, self._path, self.threads)
        self.card = read_card(self._engine.metadata, self._path)
        check_graph(self._path, self._engine, self.card)
        if image_size is not None:
            self.card = _resized(self.card, image_size, self._engine, self._path)

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
        """Probabilities of prepared images.

        Args:
            batch: ``uint8 (N, H, W, 3)``, RGB, as ``preprocess`` returns them.

        Returns:
            ``float32 (N, classes)``, each row summing to 1.

        Raises:
            ValueError: the batch has another type or shape.
            ModelOutputError: the graph fails, or returns for one of the images what cannot be probabilities.
        """
        expected = (*self.card.preprocessing.image_size, 3)
        if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[1:] != expected or not len(batch):
            raise ArgumentError(
                f"batch: expected uint8 (N, {', '.join(map(str, expected))}), got {batch.dtype} {batch.shape}"
            )
        with as_model_output_error(self._path):
            output = self._engine.infer(np.ascontiguousarray(batch))
        return probabilities(output, len(batch), self.card, self._path)

    def predict_each(self, batch: np.ndarray) -> list[np.ndarray | ModelOutputError]:
        """Like ``predict_batch``, with an error only for those images that the graph fails on.

        A batch that fails is run again image by image.

        Returns:
            For each image its probabilities, ``float32 (classes,)``, or what is wrong with them.

        Raises:
            ValueError: the batch has another type or shape.
        """
        return _each(self.predict_batch, batch)

    def _judge(self, batch: np.ndarray) -> list[_Judged | ModelOutputError]:
        """Of each image its probabilities, and its embedding if that was asked for."""

        def run(part: np.ndarray) -> list[_Judged]:
            if self._embedding_engine is None:
                return [_Judged(row, None) for row in self.predict_batch(part)]
            with as_model_output_error(self._path):
                output, extra = self._embedding_engine.infer_with_outputs(part)
            (features,) = extra.values()
            check_rows(features, len(part), self._path, "embedding")
            rows = probabilities(output, len(part), self.card, self._path)
            return [_Judged(*each) for each in zip(rows, features, strict=True)]

        return _each(run, batch)

    def predict(self, images: ImageSource | Iterable[ImageSource], top_k: int = 5) -> list[Result]:
        """Labels of one image or several, one result each, in order.

        An image that cannot be read, or that the graph fails on, gives a result with ``error``; the others are not
        affected.

        Args:
            images: paths, encoded bytes, PIL images or arrays ``uint8 (H, W, 3)``; one, or a list, a tuple or an
                iterator of them.
            top_k: labels for each image; at most as many as there are classes.

        Raises:
            ImageTypeError: it is none of these, such as ``None`` or a set.
        """
        chosen = image_sources(images)
        most = len(chosen) if isinstance(chosen, Sized) else self.batch_size
        return list(self.stream(chosen, top_k, max(min(self.batch_size, most), 1)))

    def stream(
        self, images: ImageSource | Iterable[ImageSource], top_k: int = 5, batch_size: int | None = None
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
        check_positive("top_k", top_k)
        check_positive("batch_size", batch_size)
        shape = (*self.card.preprocessing.image_size, 3)
        with closing(decoded_batches(images, self.preprocess, shape, batch_size, self.threads)) as batches:
            for batch in batches:
                pixels = batch.pixels
                rows = iter(self._judge(pixels) if len(pixels) else ())
                for place, image in enumerate(batch.sources):
                    if place in batch.errors:
                        yield Result(describe(image), error=batch.errors[place])
                        continue
                    judged = next(rows)
                    if isinstance(judged, ModelOutputError):
                        yield Result(describe(image), error=str(judged))
                        continue
                    best = top_predictions(judged.probabilities, self.card, top_k)
                    yield Result(describe(image), best, embedding=judged.embedding)


class _Judged(NamedTuple):
    """What a network says of an image."""

    probabilities: np.ndarray
    embedding: np.ndarray | None


def _each(run: Callable[[np.ndarray], Iterable[T]], batch: np.ndarray) -> list[T | ModelOutputError]:
    """What ``run`` returns for each image; where a batch fails, each image is run alone."""
    try:
        return list(run(batch))
    except ModelOutputError as error:
        if len(batch) == 1:
            return [error]
        return [_each(run, batch[place : place + 1])[0] for place in range(len(batch))]


def top_predictions(probabilities: np.ndarray, card: Card, top_k: int) -> tuple[Prediction, ...]:
    """The most probable classes of one image, best first, and of equals the first; without sorting all of a thousand.

    Args:
        probabilities: ``float32 (classes,)``.
        card: has the classes.
    """
    candidates = np.arange(len(probabilities))
    if top_k < len(probabilities):
        least = np.partition(probabilities, -top_k)[-top_k]
        candidates = np.flatnonzero(probabilities >= least)
    best = candidates[np.argsort(-probabilities[candidates], kind="stable")[:top_k]]
    classes, short = card.classes, card.short_labels
    return tuple(Prediction(classes[i].label, int(i), classes[i].wnid, float(probabilities[i]), short[i]) for i in best)


def _load_with_embedding(path: Path, threads: int) -> ONNXRuntimeEngine:
    """The engine with the pooled features as a second output of the graph, in memory."""
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
        return ONNXRuntimeEngine(path, threads, (features,))


def _resized(card: Card, side: int, engine: Engine, path: Path) -> Card:
    """The card with another input size; refused where the graph has a size of its own."""
    check_positive("image_size", side)
    if any(own not in (None, side) for own in engine.input_shape[1:3]):
        height, width = card.preprocessing.image_size
        raise ArgumentError(
            f"image_size {side}: {path} takes images of {height}x{width} only; export it with --dynamic-size, or with "
            f"--image-size {side}"
        )
    return replace(card, preprocessing=replace(card.preprocessing, image_size=(side, side)))


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


def read_card(metadata: dict[str, str], path: Path) -> Card:
    """The card in a model file's metadata.

    Raises:
        ModelFileError: there is none, or it cannot be read.
    """
    if METADATA_KEY not in metadata:
        raise ModelFileError(
            f"{path}: the file has no card, so its classes and preprocessing are unknown; make one with: shvit export"
        )
    return Card.from_json(metadata[METADATA_KEY], source=str(path))
