"""Images to labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from shvit.errors import ImageError, ModelFileError
from shvit.runtime.card import METADATA_KEY, Card, ClassInfo
from shvit.runtime.engines import Engine, load_engine
from shvit.runtime.models import DEFAULT_MODEL, resolve_model
from shvit.runtime.preprocess import ImageSource, decode, describe, preprocess
from shvit.runtime.results import Prediction, Result


class Classifier:
    """A model file, ready to classify.

    Args:
        model: a shipped model's name, or the path of a model file.
        engine: ``auto``, ``onnxruntime`` or ``openvino``.
        threads: threads of one inference; all available when not given.

    Raises:
        ModelFileError: the file cannot be used; the message says why.
        MissingDependencyError: the engine is not installed.

    Example:
        >>> classifier = Classifier()
        >>> result = classifier.predict("cat.jpg")[0]
        >>> result.predictions[0].label
        'Egyptian cat'
    """

    def __init__(self, model: str | Path = DEFAULT_MODEL, engine: str = "auto", threads: int | None = None) -> None:
        path = resolve_model(model)
        self._engine = load_engine(engine, path, threads)
        self.engine = self._engine.name
        self.card = read_card(self._engine.metadata, path)
        _check_graph(path, self._engine, self.card)

    @property
    def classes(self) -> tuple[ClassInfo, ...]:
        return self.card.classes

    def preprocess(self, image: ImageSource) -> np.ndarray:
        """One image to the model's input, ``uint8 (H, W, 3)``.

        Raises:
            ImageError: it cannot be read.
        """
        return preprocess(decode(image), self.card.preprocessing)

    def predict_batch(self, batch: np.ndarray) -> np.ndarray:
        """Probabilities of prepared images.

        Args:
            batch: ``uint8 (N, H, W, 3)``, RGB, as ``preprocess`` returns them.

        Returns:
            ``float32 (N, classes)``, each row summing to 1.

        Raises:
            ValueError: the batch has another type or shape.
        """
        expected = (*self.card.preprocessing.image_size, 3)
        if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[1:] != expected or not len(batch):
            raise ValueError(
                f"batch: expected uint8 (N, {', '.join(map(str, expected))}), got {batch.dtype} {batch.shape}"
            )
        output = self._engine.infer(np.ascontiguousarray(batch))
        return softmax(output) if self.card.output == "logits" else output

    def predict(self, images: ImageSource | Sequence[ImageSource], top_k: int = 5) -> list[Result]:
        """Labels of one image or several, one result each, in order.

        An image that cannot be read gives a result with ``error``; the others are not affected.

        Args:
            images: paths, encoded bytes, PIL images or arrays ``uint8 (H, W, 3)``; one or a sequence.
            top_k: labels for each image; at most as many as there are classes.
        """
        single = isinstance(images, bytes | str) or not isinstance(images, Sequence)
        return list(self.stream([images] if single else images, top_k))  # type: ignore[list-item, arg-type]

    def stream(self, images: Iterable[ImageSource], top_k: int = 5, batch_size: int = 16) -> Iterator[Result]:
        """Like ``predict``, for any number of images: results come as soon as their batch is done."""
        if top_k < 1:
            raise ValueError(f"top_k: expected a positive number, got {top_k}")
        if batch_size < 1:
            raise ValueError(f"batch_size: expected a positive number, got {batch_size}")
        pending = iter(images)
        while chosen := list(islice(pending, batch_size)):
            pixels: list[np.ndarray] = []
            errors: dict[int, str] = {}
            for place, image in enumerate(chosen):
                try:
                    pixels.append(self.preprocess(image))
                except ImageError as error:
                    errors[place] = str(error).removeprefix(f"{describe(image)}: ")
            rows = iter(self.predict_batch(np.stack(pixels)) if pixels else ())
            for place, image in enumerate(chosen):
                if place in errors:
                    yield Result(describe(image), error=errors[place])
                else:
                    yield Result(describe(image), self._top(next(rows), top_k))

    def _top(self, probabilities: np.ndarray, top_k: int) -> tuple[Prediction, ...]:
        best = np.argsort(-probabilities, kind="stable")[:top_k]
        return tuple(
            Prediction(self.classes[i].label, int(i), self.classes[i].wnid, float(probabilities[i])) for i in best
        )


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities over the last axis."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def _check_graph(path: Path, engine: Engine, card: Card) -> None:
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
