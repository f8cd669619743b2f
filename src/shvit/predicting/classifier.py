"""Images to labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from dataclasses import asdict
from itertools import repeat
from pathlib import Path

import numpy as np

from shvit.card import ClassInfo
from shvit.engines import BATCH_SIZE
from shvit.engines.base import as_model_output_error
from shvit.errors import ModelOutputError
from shvit.images.decoding import Decoding
from shvit.images.preprocess import ImageSource, describe, image_sources
from shvit.network.sides import ImageSize
from shvit.predicting.loaded import LoadedModel, Running, run_each
from shvit.predicting.outputs import check_rows, scores_of, unknown_scores
from shvit.shipped import DEFAULT_MODEL
from shvit.tasks import Answering, Judged, task_of
from shvit.tasks.results import Result


class Classifier(LoadedModel):
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
        embedding: give each result the pooled features too, of a file of ``shvit export``; see ``Embedder``.

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
        running = Running(engine, threads, batch_size, decoding, images, image_size)
        super().__init__(model, running, int(embedding), {**asdict(running), "embedding": embedding})

    def __repr__(self) -> str:
        return f"Classifier({str(self.path)!r}, engine={self.engine!r}, classes={len(self.classes)})"

    @property
    def classes(self) -> tuple[ClassInfo, ...]:
        return self.card.classes

    @property
    def gives_embeddings(self) -> bool:
        """Whether results have the pooled features too."""
        return bool(self._features)

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
        return run_each(self._judge, self._checked(batch))

    def _judge(self, batch: np.ndarray) -> list[Judged]:
        with as_model_output_error(self._path):
            outputs = self._engine.run(batch)
        count = len(batch)
        rows = scores_of(next(iter(outputs.values())), count, self.card, self._path)
        unknown: Iterable[float | None] = repeat(None, count)
        if self.card.decision is not None and self.card.decision.unknown is not None:
            unknown = unknown_scores(outputs, count, self._path).tolist()
        features: Iterable[np.ndarray | None] = repeat(None, count)
        if self._features:
            features = check_rows(outputs[self._features[-1]], count, self._path, "embedding")
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
        answering, task = Answering(top_k, min_score, unknown), task_of(self.card)
        for image, _, found in self._run_stream(image_sources(images), batch_size, self._judge):
            if isinstance(found, str):
                yield Result(describe(image), error=found)
            else:
                yield task.result(describe(image), found, self.card, answering)
