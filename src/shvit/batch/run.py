"""A batch run from its start, or from where an earlier one was ended, to its end."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.parquet as pq

from shvit.batch.listing import Unit
from shvit.batch.plan import BatchSettings, Plan, make_plan
from shvit.batch.pool import Pool, Processes, ThisProcess, WorkerLost
from shvit.batch.stores import Output, open_binary
from shvit.batch.worker import FAILED, UnitDone, part_name
from shvit.engines import available_threads
from shvit.errors import BatchError

MAX_LOSSES = 12
"""Workers that may die of one unit before the run gives up; enough to find five inputs that kill."""

_FOOTERS_AT_ONCE = 16


@dataclass(frozen=True)
class BatchSummary:
    """What is in the output, and what this run did of it."""

    inputs: int
    """Rows in the output."""
    failed: int
    """Of them, how many hold an error."""
    inputs_now: int
    """Rows that this run wrote."""
    left_out: Counter[str]
    """Files among the inputs that were not read, by suffix or by what they are."""
    workers_lost: int
    """Workers that died and were replaced."""
    seconds: float
    """From the start to the end."""
    seconds_working: float
    """Of that, from the first worker's being ready to the last part's being in place."""

    @property
    def images_per_second(self) -> float:
        """Of this run, its start left out."""
        return self.inputs_now / self.seconds_working if self.inputs_now else 0.0


@dataclass(frozen=True)
class RunOptions:
    """How a run is done; none of it decides what the rows hold."""

    workers: int | None = None
    """How many, each on one thread; when not given, one a processor of this machine, or of the cluster."""
    ray_address: str | None = None
    """Of a Ray cluster, as ``ray.init`` takes it (``auto``, ``HOST:PORT``); ``local`` starts one on this machine;
    ``None`` does without Ray."""
    retry_failed: bool = False
    """Do those units again in which an input failed."""


def run_batch(
    settings: BatchSettings,
    output: str,
    options: RunOptions = RunOptions(),
    begin: Callable[[int | None, int], None] = lambda total, finished: None,
    advance: Callable[[int], None] = lambda count: None,
) -> BatchSummary:
    """Runs a model on everything that the sources hold, and leaves a folder of Parquet files with one row an input.

    What an earlier run finished stays: started again after whatever end, a run goes on.

    Args:
        output: folder, or URL of an object store.
        options: how it is done.
        begin: told how many inputs there are, if that is known, and how many are finished, before work starts.
        advance: told of each so many more inputs that are done.

    Raises:
        BatchError: it cannot start or go on; what is finished stays.
        ModelFileError: the model cannot be used.
        MissingDependencyError: a package is missing that the sources, the output, the engine or Ray needs.
    """
    started = time.perf_counter()
    place = Output(output)
    plan = make_plan(settings, place)
    finished = _finished(place, plan)
    if options.retry_failed:
        for number in [number for number, (_, failed) in finished.items() if failed]:
            del finished[number]
    inputs, failed = (sum(counts[which] for counts in finished.values()) for which in (0, 1))
    begin(plan.inputs, inputs)
    lost, now = 0, 0
    ready: float | None = None
    working = 0.0
    if len(finished) < plan.units:
        with ExitStack() as stack:
            place.clear_partials("part-")
            stack.callback(place.clear_partials, "part-")  # of workers that are ended in the middle
            pool = stack.enter_context(closing(_pool(plan, options, plan.units - len(finished))))
            todo, again = plan.read_units(set(finished)), deque[Unit]()
            left = plan.units - len(finished)
            while left:
                while pool.free() and (unit := again.popleft() if again else next(todo, None)) is not None:
                    ready = ready or time.perf_counter()
                    pool.submit(unit)
                for event in pool.wait():
                    if isinstance(event, UnitDone):
                        left, now, failed = left - 1, now + event.inputs, failed + event.failed
                        advance(event.inputs)
                        continue
                    lost += 1
                    again.append(replace(event.unit, losses=event.unit.losses + 1))
                    if again[-1].losses == MAX_LOSSES:
                        raise BatchError(_deadly(event))
            working = time.perf_counter() - (ready or started)
    return BatchSummary(inputs + now, failed, now, plan.left_out, lost, time.perf_counter() - started, working)


def _deadly(event: WorkerLost) -> str:
    first = event.unit.items[0].path
    return (
        f"unit {event.unit.number} (from {first} on) ended {MAX_LOSSES} workers, the last one with {event.reason}: "
        "its inputs kill who reads them, or there is too little memory; what is finished stays"
    )


def _pool(plan: Plan, options: RunOptions, units: int) -> Pool:
    if options.ray_address is not None:
        from shvit.batch.cluster import RayActors

        return RayActors(plan.setup, options.ray_address, options.workers, units)
    count = min(options.workers or available_threads(), units)
    return ThisProcess(plan.setup) if count == 1 else Processes(plan.setup, count)


def _finished(output: Output, plan: Plan) -> dict[int, tuple[int, int]]:
    """Units whose rows are in place: how many there are, and how many of them hold an error."""
    parts = {part_name(number): number for number in range(plan.units)}
    there = [name for name in output.names() if name in parts]

    def count(name: str) -> tuple[int, int] | None:
        try:
            with open_binary(output.path(name), 2**16) as stream, pq.ParquetFile(stream) as part:
                return part.metadata.num_rows, int(part.metadata.metadata[FAILED])
        except (OSError, pa.ArrowException, KeyError, ValueError):
            return None  # not whole, as a disk may leave it: to be done again

    with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:
        counts = zip((parts[name] for name in there), pool.map(count, there), strict=True)
        return {number: rows for number, rows in counts if rows is not None}
