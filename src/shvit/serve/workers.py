"""Threads that do one piece of work after another; one that is stuck is given up, and another takes its place."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Protocol

logger = logging.getLogger("shvit.serve")

MAX_STUCK = 8
"""Threads that may be stuck at the same time; from then on none is replaced, and the process asks to be restarted."""


class Work(Protocol):
    """What a worker does."""

    def do(self) -> Callable[[], object]:
        """In the worker's thread. Changes nothing that others see: the work may be given up meanwhile.

        Returns:
            What hands the result over; called at once in the same thread, or never.
        """

    def give_up(self, error: Exception) -> None:
        """In the event loop's thread, in place of the result."""


class TookTooLongError(Exception):
    """The work took longer than is accepted."""


class NoWorkerError(Exception):
    """All threads are stuck."""


class _Worker(threading.Thread):
    def __init__(self, name: str, queue: SimpleQueue[Work | None]) -> None:
        super().__init__(name=name, daemon=True)
        self._queue, self._lock = queue, threading.Lock()
        self._work: Work | None = None
        self._began = 0.0
        self._given_up = False

    def run(self) -> None:
        while (work := self._queue.get()) is not None:
            with self._lock:
                self._work, self._began = work, time.monotonic()
            hand_over = work.do()
            with self._lock:
                if self._given_up:
                    return
                self._work = None
            hand_over()
            del work, hand_over  # nor is it held until the next comes

    def give_up(self, began_before: float) -> Work | None:
        """What it is at, if that began too long ago; its result will then be thrown away."""
        with self._lock:
            if self._work is None or self._began > began_before:
                return None
            self._given_up = True
            return self._work


class Workers:
    """
    Args:
        name: of the threads, before their number.
        count: threads that work.
        seconds: that a piece of work may take. A thread cannot be ended from outside: one whose work takes longer is
            left to itself, and what it comes to is thrown away.
    """

    def __init__(self, name: str, count: int, seconds: float) -> None:
        self._name, self._count, self._seconds = name, count, seconds
        self._queue: SimpleQueue[Work | None] = SimpleQueue()
        self._workers: list[_Worker] = []
        self._given_up: list[_Worker] = []
        self._begun = 0
        self._timer: asyncio.TimerHandle | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        for _ in range(self._count):
            self._begin()
        self._look_later()

    def stop(self, until: float) -> bool:
        """Has the threads finish what was submitted.

        Args:
            until: when to wait no longer, in ``time.monotonic``'s seconds.

        Returns:
            Whether all have ended, those that were given up too.
        """
        if self._timer is not None:
            self._loop.call_soon_threadsafe(self._timer.cancel)
        for _ in self._workers:
            self._queue.put(None)
        for worker in self._workers:
            worker.join(max(until - time.monotonic(), 0))
        return not any(worker.is_alive() for worker in (*self._workers, *self._given_up))

    def submit(self, work: Work) -> None:
        self._queue.put(work)

    @property
    def stuck(self) -> int:
        """Threads that were given up and still run."""
        return sum(worker.is_alive() for worker in self._given_up)

    @property
    def alive(self) -> bool:
        """Whether there are as many threads as there should be, and no more that are stuck than may be."""
        return len(self._workers) == self._count and all(worker.is_alive() for worker in self._workers)

    def _begin(self) -> None:
        worker = _Worker(f"{self._name}-{self._begun}", self._queue)
        self._begun += 1
        self._workers.append(worker)
        worker.start()

    def _look_later(self) -> None:
        self._timer = self._loop.call_later(min(self._seconds / 4, 0.25), self._look)

    def _look(self) -> None:
        """In the event loop's thread: gives up what takes too long."""
        self._look_later()
        self._given_up = [worker for worker in self._given_up if worker.is_alive()]
        long_ago = time.monotonic() - self._seconds
        for worker in list(self._workers):
            if (work := worker.give_up(long_ago)) is not None:
                self._workers.remove(worker)
                self._given_up.append(worker)
                logger.error("%s: given up after %g s; %d stuck", worker.name, self._seconds, len(self._given_up))
                work.give_up(TookTooLongError(f"took longer than the {self._seconds:g} s accepted"))
        while len(self._workers) < self._count and len(self._given_up) < MAX_STUCK:
            self._begin()
        if not self._workers:
            self._give_up_the_waiting()

    def _give_up_the_waiting(self) -> None:
        while True:
            try:
                work = self._queue.get_nowait()
            except Empty:
                return
            if work is not None:
                work.give_up(NoWorkerError("all threads are stuck"))
