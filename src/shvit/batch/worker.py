"""What one worker does: a unit in, a file of rows out. The same in a process and on a cluster."""

from __future__ import annotations

import json
import re
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow.parquet as pq

from shvit._version import __version__
from shvit.batch.inputs import Input, read_items
from shvit.batch.listing import Unit
from shvit.batch.plan import WorkerSetup
from shvit.batch.rows import row_maker
from shvit.batch.stores import Output
from shvit.errors import BatchError
from shvit.images.preprocess import ImageSource

ROWS_AT_ONCE = 4096
"""Rows that are in memory before they are written."""

CAREFUL_FROM = 2
"""After so many crashes on a unit, its inputs run one at a time to find the culprit; the first crash is more often the
machine's."""

DEADLY = 2
"""After so many crashes on an input it is a failed one."""


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


def is_part(name: str) -> bool:
    """Whether a file of this name is one."""
    return re.fullmatch(r"part-\d+\.parquet", name) is not None


def _deaths_name(unit: Unit) -> str:
    """The file in the output that tells at which input of a unit workers died, and how many: its place to a number."""
    return f"_shvit/deaths-{unit.number:08d}.json"


class Worker:
    """A model on one thread, which writes what it finds.

    Raises:
        ModelFileError, MissingDependencyError: this machine cannot run the model.
        BatchError: this machine has another version of shvit.
    """

    def __init__(self, setup: WorkerSetup) -> None:
        if setup.version != __version__:
            raise BatchError(
                f"the run is of shvit {setup.version}, a worker has {__version__}: install the same on all"
            )
        self._setup, self._output, self._maker = setup, Output(setup.output), row_maker(setup)

    def run(self, unit: Unit) -> UnitDone:
        """Runs the model on a unit and puts its rows in place, whole or not at all.

        Raises:
            OSError: the output cannot be written.
        """
        started, inputs, failed = time.perf_counter(), 0, 0
        results = self._results(unit) if unit.losses < CAREFUL_FROM else self._careful_results(unit)
        with (
            self._output.create(part_name(unit.number)) as path,
            path.open("wb") as sink,  # a name need not be text, which pyarrow takes it for
            pq.ParquetWriter(sink, self._maker.schema, compression="zstd") as part,
        ):
            while found := list(islice(results, ROWS_AT_ONCE)):
                part.write_table(self._maker.table(found))
                inputs, failed = inputs + len(found), failed + sum(each.error is not None for _, each in found)
            part.add_key_value_metadata({FAILED.decode(): str(failed)})
        if unit.losses >= CAREFUL_FROM:
            self._output.remove(_deaths_name(unit))
        return UnitDone(unit.number, inputs, failed, time.perf_counter() - started)

    def _inputs(self, unit: Unit) -> Iterator[Input]:
        return read_items(unit.items, self._setup.kind, self._setup.column, self._setup.sampling)

    def _results(self, unit: Unit) -> Iterator[tuple[Input, Any]]:
        """Every input without its pixels, in order, and what became of it."""
        waiting: deque[Input] = deque()

        def images() -> Iterator[ImageSource]:
            for each in self._inputs(unit):
                waiting.append(each._replace(data=b""))
                if each.error is None:
                    yield each.data

        def unread() -> Iterator[tuple[Input, Any]]:
            while waiting and waiting[0].error is not None:
                failed = waiting.popleft()
                yield failed, self._maker.failed(failed.source, failed.error)

        for result in self._maker.stream(images()):
            yield from unread()
            yield waiting.popleft(), result
        yield from unread()

    def _careful_results(self, unit: Unit) -> Iterator[tuple[Input, Any]]:
        """The same, one by one, each noted before it is decoded: it is the one at fault if nothing comes after."""
        noted = self._output.read(_deaths_name(unit))
        deaths = Counter[str](json.loads(noted) if noted else {})
        for place, each in enumerate(self._inputs(unit)):
            key, error = str(place), each.error
            if error is None and deaths[key] >= DEADLY:
                error = f"{deaths[key]} workers died while they decoded it"
            if error is not None:
                yield each, self._maker.failed(each.source, error)
                continue
            with self._output.create(_deaths_name(unit)) as path:
                path.write_text(json.dumps({**deaths, key: deaths[key] + 1}), encoding="utf-8")
            yield from ((each, result) for result in self._maker.stream([each.data]))
