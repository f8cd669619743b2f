"""Workers that units are given to, one at a time: in this process, or in others on this machine."""

from __future__ import annotations

import signal
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import ParamSpec, TypeVar

from shvit.batch.listing import Unit
from shvit.batch.plan import WorkerSetup
from shvit.batch.stores import one_line
from shvit.batch.worker import UnitDone, Worker
from shvit.errors import BatchError, ShvitError

P = ParamSpec("P")
T = TypeVar("T")

MAX_STARTS = 3
"""How often in a row every worker may die before it is ready; more, and the fault is not a machine's that went away."""

_PATIENCE = 10.0
"""Seconds that a process has to end by itself."""


@dataclass(frozen=True)
class WorkerLost:
    """A worker died with a unit in its hands."""

    unit: Unit
    reason: str


class Pool(ABC):
    """Some workers. At most one unit is with each, so that memory does not depend on how many there are."""

    @abstractmethod
    def free(self) -> int:
        """How many workers are ready and have nothing to do."""

    @abstractmethod
    def submit(self, unit: Unit) -> None:
        """Gives a unit to a free worker."""

    @abstractmethod
    def wait(self) -> list[UnitDone | WorkerLost]:
        """Waits until something has happened: units were done, workers were lost, or others became ready.

        Raises:
            BatchError: a worker cannot go on, for a reason that the others share.
        """

    @abstractmethod
    def close(self) -> None:
        """Ends the workers, whatever they are at."""


class ThisProcess(Pool):
    """One worker, which is the caller's own process."""

    def __init__(self, setup: WorkerSetup) -> None:
        self._worker = Worker(setup)
        self._unit: Unit | None = None

    def free(self) -> int:
        return int(self._unit is None)

    def submit(self, unit: Unit) -> None:
        self._unit = unit

    def wait(self) -> list[UnitDone | WorkerLost]:
        assert self._unit is not None
        done = attempt(self._worker.run, self._unit)
        self._unit = None
        if isinstance(done, str):
            raise failure(done)
        return [done]

    def close(self) -> None:
        pass


def attempt(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | str:
    """What ``work`` returns, or why it failed: unlike exceptions that goes safely between processes."""
    try:
        return work(*args, **kwargs)
    except (OSError, ShvitError, MemoryError) as error:
        where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
        return f"{where}{one_line(error)}"
    except Exception:  # a fault of ours: whoever started this says so, and shows where it arose
        return Trace(traceback.format_exc())


class Trace(str):
    """Of an error that no input and no setting should cause, the lines that Python would show."""


def failure(why: str) -> Exception:
    """What to raise for what ``attempt`` gave for a reason."""
    return RuntimeError(f"in a worker:\n{why}") if isinstance(why, Trace) else BatchError(why)


class Processes(Pool):
    """Worker processes on this machine, each with a pipe of its own: it ends when this process does, however that is.

    Args:
        count: how many.
    """

    def __init__(self, setup: WorkerSetup, count: int) -> None:
        self._setup = setup
        self._starts = 0
        self._workers = [_Process(setup) for _ in range(count)]

    def free(self) -> int:
        return sum(worker.idle for worker in self._workers)

    def submit(self, unit: Unit) -> None:
        next(worker for worker in self._workers if worker.idle).give(unit)

    def wait(self) -> list[UnitDone | WorkerLost]:
        pipes = {worker.pipe: place for place, worker in enumerate(self._workers) if not worker.idle}
        happened: list[UnitDone | WorkerLost] = []
        for pipe in wait(list(pipes)):
            assert isinstance(pipe, Connection)
            place = pipes[pipe]
            worker = self._workers[place]
            try:
                message = pipe.recv()
            except (EOFError, OSError):
                happened += self._replace(place)
                continue
            if isinstance(message, str):
                raise failure(message)
            worker.idle, worker.unit, self._starts = True, None, 0
            if isinstance(message, UnitDone):
                happened.append(message)
        return happened

    def _replace(self, place: int) -> list[UnitDone | WorkerLost]:
        worker = self._workers[place]
        worker.end()
        reason = f"exit status {worker.process.exitcode}"
        if worker.unit is None:
            self._starts += 1
            if self._starts >= MAX_STARTS * len(self._workers):
                raise BatchError(f"{self._starts} workers died before they were ready, the last one with {reason}")
        self._workers[place] = _Process(self._setup)
        return [WorkerLost(worker.unit, reason)] if worker.unit is not None else []

    def close(self) -> None:
        for worker in self._workers:
            worker.end()


class _Process:
    """A worker process, and what it is at."""

    def __init__(self, setup: WorkerSetup) -> None:
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=_work, args=(theirs, setup), daemon=True)
        self.process.start()
        theirs.close()  # so that its end is seen here
        self.idle = False
        """Whether it waits for a unit; it says when it is ready."""
        self.unit: Unit | None = None

    def give(self, unit: Unit) -> None:
        self.idle, self.unit = False, unit
        with suppress(OSError):  # it is dead, as waiting for it tells
            self.pipe.send(unit)

    def end(self) -> None:
        self.pipe.close()
        if self.unit is not None or not self.idle:
            self.process.terminate()
        self.process.join(_PATIENCE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def _work(pipe: Connection, setup: WorkerSetup) -> None:
    """A worker process: says that it is ready, then takes units until there is nobody to give any."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all; whoever started this one decides
    worker = attempt(Worker, setup)
    with suppress(EOFError, OSError):
        if isinstance(worker, str):
            pipe.send(worker)
            return
        pipe.send(None)
        while True:
            pipe.send(attempt(worker.run, pipe.recv()))
