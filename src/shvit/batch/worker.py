"""What one worker does: a unit in, a file of rows out. The same in a process and on a cluster."""

from __future__ import annotations

import json
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from shvit._version import __version__
from shvit.batch.inputs import Input, read_items
from shvit.batch.listing import Kind, Unit
from shvit.batch.plan import WorkerSetup
from shvit.batch.stores import Output
from shvit.errors import BatchError
from shvit.images.preprocess import ImageSource
from shvit.predicting.classifier import Classifier
from shvit.tasks.results import Result

ROWS_AT_ONCE = 4096
"""Rows that are in memory before they are written."""

CAREFUL_FROM = 2
"""After so many crashes on a unit, its inputs run one at a time to find the culprit; the first crash is more often the
machine's."""

DEADLY = 2
"""After so many crashes on an input it is a failed one."""


def row_schema(kind: Kind, embedding: bool) -> pa.Schema:
    """Of a part: one row an input, ``error`` null or the answer null; of videos with the frame's time.

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


FAILED = b"shvit.failed"
"""Key in a part's metadata: how many of its rows hold an error."""


@dataclass(frozen=True)
class UnitDone:
    """What became of a unit."""

    number: int
    inputs: int
    failed: int
    seconds: float


def part_name(number: int) -> str:
    """The file that a unit's rows are in."""
    return f"part-{number:08d}.parquet"


def _deaths_name(unit: Unit) -> str:
    """The file in the output that tells at which input of a unit workers died, and how many: its place to a number."""
    return f"_shvit/deaths-{unit.number:08d}.json"


class Worker:
    """A classifier on one thread, which writes what it finds.

    Raises:
        ModelFileError, MissingDependencyError: this machine cannot run the model.
        BatchError: this machine has another version of shvit.
    """

    def __init__(self, setup: WorkerSetup) -> None:
        if setup.version != __version__:
            raise BatchError(
                f"the run is of shvit {setup.version}, a worker has {__version__}: install the same on all"
            )
        self._setup, self._schema = setup, row_schema(setup.kind, setup.embedding)
        self._output = Output(setup.output)
        self._classifier = Classifier(
            setup.model, setup.engine, 1, setup.batch_size, setup.decoding, embedding=setup.embedding
        )

    def run(self, unit: Unit) -> UnitDone:
        """Classifies a unit and puts its rows in place, whole or not at all.

        Raises:
            OSError: the output cannot be written.
        """
        started, inputs, failed = time.perf_counter(), 0, 0
        results = self._results(unit) if unit.losses < CAREFUL_FROM else self._careful_results(unit)
        with (
            self._output.create(part_name(unit.number)) as path,
            path.open("wb") as sink,  # a name need not be text, which pyarrow takes it for
            pq.ParquetWriter(sink, self._schema, compression="zstd") as part,
        ):
            while rows := [self._row(*each) for each in islice(results, ROWS_AT_ONCE)]:
                part.write_table(pa.Table.from_pylist(rows, self._schema))
                inputs, failed = inputs + len(rows), failed + sum(row["error"] is not None for row in rows)
            part.add_key_value_metadata({FAILED.decode(): str(failed)})
        if unit.losses >= CAREFUL_FROM:
            self._output.remove(_deaths_name(unit))
        return UnitDone(unit.number, inputs, failed, time.perf_counter() - started)

    def _inputs(self, unit: Unit) -> Iterator[Input]:
        return read_items(unit.items, self._setup.kind, self._setup.column, self._setup.sampling)

    def _stream(self, images: Iterable[ImageSource]) -> Iterator[Result]:
        wanted = self._setup.answering
        return self._classifier.stream(images, wanted.top_k, min_score=wanted.min_score, unknown=wanted.unknown)

    def _results(self, unit: Unit) -> Iterator[tuple[Input, Result]]:
        """Every input without its pixels, in order, and what became of it."""
        waiting: deque[Input] = deque()

        def images() -> Iterator[ImageSource]:
            for each in self._inputs(unit):
                waiting.append(each._replace(data=b""))
                if each.error is None:
                    yield each.data

        def unread() -> Iterator[tuple[Input, Result]]:
            while waiting and waiting[0].error is not None:
                failed = waiting.popleft()
                yield failed, Result(failed.source, error=failed.error)

        for result in self._stream(images()):
            yield from unread()
            yield waiting.popleft(), result
        yield from unread()

    def _careful_results(self, unit: Unit) -> Iterator[tuple[Input, Result]]:
        """The same, one by one, each noted before it is decoded: it is the one at fault if nothing comes after."""
        noted = self._output.read(_deaths_name(unit))
        deaths = Counter[str](json.loads(noted) if noted else {})
        for place, each in enumerate(self._inputs(unit)):
            key, error = str(place), each.error
            if error is None and deaths[key] >= DEADLY:
                error = f"{deaths[key]} workers died while they decoded it"
            if error is not None:
                yield each, Result(each.source, error=error)
                continue
            with self._output.create(_deaths_name(unit)) as path:
                path.write_text(json.dumps({**deaths, key: deaths[key] + 1}), encoding="utf-8")
            yield from ((each, result) for result in self._stream([each.data]))

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
