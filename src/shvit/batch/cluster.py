"""Workers on a Ray cluster: actors, each on one processor, which need not share a file system with whoever starts."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from shvit.batch.listing import Unit
from shvit.batch.plan import WorkerSetup
from shvit.batch.pool import MAX_STARTS, Pool, WorkerLost, attempt, failure
from shvit.batch.stores import one_line
from shvit.batch.worker import UnitDone, Worker
from shvit.engines import available_threads
from shvit.errors import BatchError, MissingDependencyError
from shvit.install import install_command

START_PATIENCE = 600.0
"""Seconds without any worker, after which there will be none; a cluster that grows takes minutes to."""

CONNECT_PATIENCE = 10.0
"""Seconds that a cluster has to answer."""

_STORE_BYTES = 256 * 2**20
"""Shared memory of a cluster started here: it only ever holds the model."""


class Actor:
    """A worker as Ray runs it."""

    def __init__(self) -> None:
        self._worker: Worker | None = None

    def start(self, setup: WorkerSetup, model: bytes) -> str | None:
        """Loads the model, or says why it cannot."""
        started = attempt(_worker_with, setup, model)
        if isinstance(started, str):
            return started
        self._worker = started
        return None

    def run(self, unit: Unit) -> UnitDone | str:
        assert self._worker is not None  # nothing is given to one that did not start
        return attempt(self._worker.run, unit)


def _worker_with(setup: WorkerSetup, model: bytes) -> Worker:
    """A worker whose model file came as its bytes."""
    with tempfile.TemporaryDirectory(prefix="shvit-") as folder:
        file = Path(folder) / setup.model.name
        file.write_bytes(model)
        return Worker(replace(setup, model=file))


class RayActors(Pool):
    """Actors on a cluster; one that dies, with its process or its whole node, is replaced where there is room.

    Args:
        address: as ``ray.init`` takes it, or ``local`` for a cluster of this machine alone. Where the program is
            connected already, that connection is used and stays.
        count: how many; when not given, one a processor of the cluster.
        units: no more than these are needed.

    Raises:
        MissingDependencyError: Ray is not installed.
        BatchError: there is no such cluster.
    """

    def __init__(self, setup: WorkerSetup, address: str, count: int | None, units: int) -> None:
        # Read when Ray is imported: tell nobody that it is used, and say nothing of graphics cards.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            import ray
        except ImportError:
            raise MissingDependencyError(f"--ray-address: needs Ray: {install_command('ray')}") from None
        self._ray = ray
        self._ours = not ray.is_initialized()
        if self._ours:
            _connect(ray, address, count)
        processors = int(ray.cluster_resources().get("CPU", 0))
        self._actor: Any = ray.remote(num_cpus=1)(Actor)
        self._setup, self._model = setup, ray.put(setup.model.read_bytes())
        self._idle: list[Any] = []
        self._busy: dict[Any, tuple[Any, Unit | None]] = {}
        self._starts, self._alone_since = 0, time.monotonic()
        self._count = min(count or max(processors, 1), units)
        for _ in range(self._count):
            self._start()

    def _start(self) -> None:
        actor = self._actor.remote()
        self._busy[actor.start.remote(self._setup, self._model)] = actor, None

    def free(self) -> int:
        return len(self._idle)

    def submit(self, unit: Unit) -> None:
        actor = self._idle.pop()
        self._busy[actor.run.remote(unit)] = actor, unit

    def wait(self) -> list[UnitDone | WorkerLost]:
        done, _ = self._ray.wait(list(self._busy), num_returns=1, timeout=1.0)
        happened: list[UnitDone | WorkerLost] = []
        for reference in done:
            actor, unit = self._busy.pop(reference)
            try:
                message = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                happened += self._replace(actor, unit, one_line(error))
                continue
            if isinstance(message, str):
                raise failure(message)
            self._starts = 0
            self._idle.append(actor)
            if message is not None:
                happened.append(message)
        self._check_alone()
        return happened

    def _replace(self, actor: Any, unit: Unit | None, reason: str) -> list[UnitDone | WorkerLost]:
        self._ray.kill(actor)  # it may only be out of reach
        if unit is None:
            self._starts += 1
            if self._starts >= MAX_STARTS * self._count:
                raise BatchError(
                    f"{self._starts} workers died before they were ready, the last one with: {reason[-300:]}"
                )
        self._start()
        return [WorkerLost(unit, reason[-300:])] if unit is not None else []

    def _check_alone(self) -> None:
        if self._idle or any(unit is not None for _, unit in self._busy.values()):
            self._alone_since = time.monotonic()
        elif time.monotonic() - self._alone_since > START_PATIENCE:
            raise BatchError(
                f"no worker became ready in {START_PATIENCE:.0f} s: the cluster has no free processor "
                f"({self._ray.available_resources().get('CPU', 0):.0f} of "
                f"{self._ray.cluster_resources().get('CPU', 0):.0f})"
            )

    def close(self) -> None:
        for actor in (*self._idle, *(actor for actor, _ in self._busy.values())):
            self._ray.kill(actor)
        if self._ours:
            self._ray.shutdown()


def _connect(ray: Any, address: str, count: int | None) -> None:
    own: dict[str, Any] = {}
    _check_reachable(address)
    if address == "local":
        processors = max(count or 0, available_threads())
        own = {"num_cpus": processors, "include_dashboard": False, "object_store_memory": _STORE_BYTES}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except Exception as error:  # Ray has no class of its own for most of what can go wrong here
        raise BatchError(f"--ray-address {address}: cannot be reached: {one_line(error)[:300]}") from None


def _check_reachable(address: str) -> None:
    """Ray tries for minutes, complaining, where nobody answers."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_PATIENCE).close()
        except OSError as error:
            raise BatchError(f"--ray-address {address}: cannot be reached: {one_line(error)}") from None
