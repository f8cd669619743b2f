"""What becomes of inputs in a run: rows of labels, or of embeddings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa

from shvit.batch.inputs import Input
from shvit.batch.listing import Kind
from shvit.batch.plan import WorkerSetup
from shvit.embeddings.table import Rows, embeddings_schema, rows_table
from shvit.images.preprocess import ImageSource
from shvit.predicting.classifier import Classifier
from shvit.predicting.embedder import Embedder, Embedding
from shvit.tasks.results import Result

R = TypeVar("R", Result, Embedding)


def row_schema(kind: Kind, embedding: bool) -> pa.Schema:
    """Of a part with labels: one row an input, ``error`` null or the answer null; of videos with the frame's time.

    ``decision``, ``accepted``, ``known`` and ``unknown_score`` are null where the model's card decides nothing.
    """
    time = [pa.field("time", pa.float64())] if kind == "video" else []
    features = [pa.field("embedding", pa.list_(pa.float32()))] if embedding else []
    return pa.schema(
        [
            pa.field("source", pa.string(), nullable=False),
            *time,
            pa.field("labels", pa.list_(pa.string())),
            pa.field("class_ids", pa.list_(pa.int32())),
            pa.field("scores", pa.list_(pa.float32())),
            pa.field("decision", pa.string()),
            pa.field("accepted", pa.list_(pa.bool_())),
            pa.field("known", pa.bool_()),
            pa.field("unknown_score", pa.float32()),
            *features,
            pa.field("error", pa.string()),
            pa.field("model", pa.string(), nullable=False),
            pa.field("model_sha256", pa.string(), nullable=False),
            pa.field("version", pa.string(), nullable=False),
        ]
    )


class RowMaker(ABC, Generic[R]):
    """A model on one thread, and the table of what it says.

    Raises:
        ModelFileError, MissingDependencyError: this machine cannot run the model.
    """

    schema: pa.Schema

    @abstractmethod
    def __init__(self, setup: WorkerSetup) -> None:
        raise NotImplementedError

    @abstractmethod
    def stream(self, images: Iterable[ImageSource]) -> Iterator[R]:
        """One result an image, in order."""

    @abstractmethod
    def failed(self, source: str, error: str | None) -> R:
        """The result of an input that there is no image of."""

    @abstractmethod
    def table(self, found: Sequence[tuple[Input, R]]) -> pa.Table:
        """Of ``schema``: a row an input."""


class LabelRows(RowMaker[Result]):
    def __init__(self, setup: WorkerSetup) -> None:
        self._setup, self.schema = setup, row_schema(setup.kind, setup.embedding)
        self._classifier = Classifier(
            setup.model, setup.engine, 1, setup.batch_size, setup.decoding, embedding=setup.embedding
        )

    def stream(self, images: Iterable[ImageSource]) -> Iterator[Result]:
        wanted = self._setup.answering
        return self._classifier.stream(images, wanted.top_k, min_score=wanted.min_score, unknown=wanted.unknown)

    def failed(self, source: str, error: str | None) -> Result:
        return Result(source, error=error)

    def table(self, found: Sequence[tuple[Input, Result]]) -> pa.Table:
        return pa.Table.from_pylist([self._row(*each) for each in found], self.schema)

    def _row(self, given: Input, result: Result) -> dict[str, Any]:
        found = result.predictions if result.error is None else None
        return {
            "source": given.source,
            "time": given.time,
            "labels": None if found is None else [each.label for each in found],
            "class_ids": None if found is None else [each.class_id for each in found],
            "scores": None if found is None else [each.score for each in found],
            "decision": result.decision,
            "accepted": None if result.decision is None else [each.accepted for each in result.predictions],
            "known": result.known,
            "unknown_score": result.unknown_score,
            "embedding": result.embedding,
            "error": result.error,
            "model": self._setup.model_name,
            "model_sha256": self._setup.model_sha256,
            "version": self._setup.version,
        }


class EmbeddingRows(RowMaker[Embedding]):
    def __init__(self, setup: WorkerSetup) -> None:
        assert setup.embeddings is not None  # it is a run of embeddings
        self._embedder = Embedder(setup.model, setup.embeddings, setup.engine, 1, setup.batch_size, setup.decoding)
        self._timed = setup.kind == "video"
        self.schema = embeddings_schema(self._embedder.info, times=self._timed)

    def stream(self, images: Iterable[ImageSource]) -> Iterator[Embedding]:
        return self._embedder.stream(images)

    def failed(self, source: str, error: str | None) -> Embedding:
        return Embedding(source, None, error=error)

    def table(self, found: Sequence[tuple[Input, Embedding]]) -> pa.Table:
        info = self._embedder.info
        nothing = np.zeros(info.values, info.dtype)
        rows = Rows(
            [given.source for given, _ in found],
            [each.sha256 for _, each in found],
            np.stack([nothing if each.values is None else each.values for _, each in found]),
            [each.error for _, each in found],
            times=[given.time for given, _ in found] if self._timed else None,
        )
        return rows_table(rows, info)


def row_maker(setup: WorkerSetup) -> RowMaker[Any]:
    """What makes the rows that a run is of."""
    return LabelRows(setup) if setup.embeddings is None else EmbeddingRows(setup)
