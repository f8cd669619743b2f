"""Processes that a study starts and looks at: where they run, when a server among them is ready, what they use."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import psutil


class Tree:
    """A process and all that it started, and they."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)

    def processes(self) -> list[psutil.Process]:
        """Those that live, the first one first."""
        return [self._root, *self._root.children(recursive=True)]

    def cpu_seconds(self) -> float:
        """Of those that live, since each began."""
        used = [process.cpu_times() for process in self.processes()]
        return sum(each.user + each.system for each in used)

    def memory_bytes(self) -> int:
        """Resident, what processes share counted once (PSS)."""
        total = 0
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):  # it ended meanwhile
                total += process.memory_full_info().pss
        return total


class PeakMemory(threading.Thread):
    """The most memory that a tree of processes was seen to have.

    Args:
        pid: of the first one.
        seconds: between two looks.
    """

    def __init__(self, pid: int, seconds: float = 0.25) -> None:
        super().__init__(daemon=True)
        self.bytes = 0
        self._tree, self._seconds, self._ended = Tree(pid), seconds, threading.Event()

    def run(self) -> None:
        while not self._ended.wait(self._seconds):
            with suppress(psutil.NoSuchProcess):
                self.bytes = max(self.bytes, self._tree.memory_bytes())

    def __enter__(self) -> PeakMemory:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()


class Started(Tree):
    """A process that runs within ``started``."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        super().__init__(process.pid)
        self.process = process

    def memory_mb(self) -> float:
        """Of it and all that it started, in units of 2**20 bytes."""
        return self.memory_bytes() / 2**20

    def end(self) -> None:
        with suppress(psutil.NoSuchProcess):  # it has ended, and what it started belongs to nobody
            for each in reversed(self.processes()[1:]):
                with suppress(psutil.NoSuchProcess):
                    each.terminate()
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextmanager
def started(command: Sequence[str], cores: set[int], port: int | None) -> Iterator[Started]:
    """A process on some cores; with a port, once it answers there as ``wait_for`` asks."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE if port is None else subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    server = Started(process)
    try:
        if port is not None:
            wait_for(port, process)
        yield server
    finally:
        server.end()


def wait_for(port: int, process: subprocess.Popen[str], limit: float = 60) -> None:
    """Until something answers 200 to any of the usual health checks.

    Raises:
        RuntimeError: nothing did within ``limit`` seconds, or the process ended.
    """
    until = time.perf_counter() + limit
    while time.perf_counter() < until:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args}: ended with status {process.returncode}")
        for path in ("readyz", "health", "openapi.json"):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=1) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                continue
        time.sleep(0.01)
    raise RuntimeError(f"{process.args}: not ready after {limit} s")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
