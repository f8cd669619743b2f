"""Processes that decode: started, fed and ended here; what to say of one that died."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from shvit.atomic import write_bytes
from shvit.errors import ArgumentError, DataError

GUARD = 'if __name__ == "__main__":'

AHEAD = 2
"""Tasks that are given out for each process before the first one's result is taken."""

Task = TypeVar("Task")
Result = TypeVar("Result")


def in_processes(
    work: Callable[[Task], Result], tasks: Iterable[Task], workers: int, name: str, remedy: str = "use fewer workers"
) -> Generator[Result, None, None]:
    """What ``work`` returns for each task, in order; however many there are, memory holds a few for each process.

    Args:
        work: copied to each process once, so it may hold a whole dataset; what it raises is raised here.
        workers: processes, at least 1. They end with the generator, or with this process, however that ends.
        name: of the dataset, for the message.
        remedy: what to do about a process that died, for the message.

    Raises:
        DataError: a process died.
    """
    context = multiprocessing.get_context()
    given: deque[Future[Result]] = deque()
    with ExitStack() as left:
        if context.get_start_method() == "fork":
            start: Callable[[], None] = partial(_start, work)
        else:
            # Python hands a process that it starts anew its arguments through a pipe. Where they are more than that
            # holds, and the process dies first, as it does in a script without a guard, Python waits for ever.
            file = Path(left.enter_context(TemporaryDirectory()), "work")
            write_bytes(pickle.dumps(work), file)
            start = partial(_start_anew, file)
        pool = ProcessPoolExecutor(workers, context, start)
        left.callback(pool.shutdown, cancel_futures=True)
        try:
            for task in tasks:
                given.append(pool.submit(_run, task))
                if len(given) > AHEAD * workers:
                    yield given.popleft().result()
            while given:
                yield given.popleft().result()
        except BrokenProcessPool:
            raise worker_died(f"{name}: a process that decodes was ended from outside", remedy) from None


_work: Callable[[Any], Any]
"""Of a process that decodes: what it was started for."""


def _start_anew(file: Path) -> None:
    _start(pickle.loads(file.read_bytes()))


def _start(work: Callable[[Any], Any]) -> None:
    global _work
    _work = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all; whoever started this one decides
    yield_to_the_network()
    # The pool's processes wait for tasks for ever where their parent was killed.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # this one was started
    parent.join()
    os._exit(1)


def _run(task: Any) -> Any:
    return _work(task)


def yield_to_the_network() -> None:
    """A process that takes a core from the network stalls all of its threads: let it have what is left."""
    if sys.platform != "win32":
        os.nice(9)


def worker_died(what: str, remedy: str, lacking: str = "memory") -> DataError:
    """The error for a process that decodes and died.

    Args:
        what: died, and what is known of it.
        lacking: what a machine most often ran out of.
    """
    forked = multiprocessing.get_start_method(allow_none=True) in (None, "fork") and sys.platform == "linux"
    unguarded = "" if forked else f", or the script's call is not under {GUARD}"
    return DataError(f"{what}: most often the machine ran out of {lacking}{unguarded}; {remedy}")


def check_guarded(workers: int) -> None:
    """Refuses to work while a process that was started for decoding reads the user's script.

    Args:
        workers: decoding processes that are wanted.

    Raises:
        ArgumentError: where Python starts processes anew, the script's call is not kept from them.
    """
    # multiprocessing refuses by the same sign, but only once the work has begun.
    if workers and getattr(multiprocessing.current_process(), "_inheriting", False):
        raise ArgumentError(
            f"the script's call runs again in each decoding process: put it under {GUARD}, or decode with workers=0"
        )
