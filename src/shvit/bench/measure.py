"""Configurations timed beside each other: a round goes over all of them, and many rounds make a measurement."""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shvit.bench.summary import percentiles, summary
from shvit.errors import ArgumentError


@dataclass(frozen=True)
class Configuration:
    """One way to run one model file."""

    model: str
    """What to call it."""
    file: Path
    precision: str
    engine: str
    threads: int
    batch_size: int


@dataclass
class Measurement:
    """What a configuration gave, or why it gave nothing."""

    configuration: Configuration
    engine: str
    """The engine's own name, which of ``auto`` is the one that was chosen."""
    rounds: list[list[float]] = field(default_factory=list)
    """Milliseconds of each run of each round."""
    cores_used: list[float] = field(default_factory=list)
    """Processor time over wall time, of each round."""
    peak_memory_mb: float | None = None
    load_seconds: float | None = None
    image_size: tuple[int, int] | None = None
    """Height and width of the input."""
    error: str | None = None

    @property
    def round_medians(self) -> list[float]:
        """Median latency of each round, in milliseconds."""
        return [statistics.median(each) for each in self.rounds]

    def to_dict(self) -> dict[str, Any]:
        """A row of results; of a failed one the figures are ``None`` and ``error`` says why."""
        configuration = self.configuration
        row: dict[str, Any] = {
            "model": configuration.model,
            "engine": self.engine,
            "precision": configuration.precision,
            "threads": configuration.threads,
            "batch_size": configuration.batch_size,
            "image_size": self.image_size,
        }
        runs = [each for times in self.rounds for each in times]
        if self.error is not None or not runs:
            figures = ("images_per_second", "images_per_second_of_rounds", "latency_ms", "peak_memory_mb", "cores_used")
            return {**row, **dict.fromkeys(figures), "load_seconds": None, "runs": 0, "error": self.error}
        speeds = [1000 * configuration.batch_size / each for each in self.round_medians]
        return {
            **row,
            "images_per_second": 1000 * configuration.batch_size / statistics.median(runs),
            "images_per_second_of_rounds": summary(speeds),
            "latency_ms": percentiles(runs),
            "peak_memory_mb": self.peak_memory_mb,
            "cores_used": statistics.median(self.cores_used),
            "load_seconds": self.load_seconds,
            "runs": len(runs),
            "error": None,
        }


def interleave(
    configurations: Sequence[Configuration],
    seconds: float,
    rounds: int = 5,
    advance: Callable[[int], None] = lambda count: None,
) -> list[Measurement]:
    """Times all configurations in turns, each in a process of its own.

    Rounds go over them forwards and backwards by turns, so that a machine that slows down steadily does not favour the
    first. All processes stay loaded, each waiting while another one runs.

    Args:
        seconds: timed for each configuration, over all rounds.
        rounds: turns of each configuration.
        advance: told of each turn that is done; there are ``rounds + 1`` for each configuration, loading included.

    Returns:
        As many, in order. One whose engine is missing, whose file is broken or whose process dies has ``error``.
    """
    if seconds <= 0 or rounds < 1:
        raise ArgumentError(f"seconds, rounds: expected positive numbers, got {seconds:g} and {rounds}")
    measurements = []
    with ExitStack() as stack:
        workers = []
        for each in configurations:
            worker = stack.enter_context(_started(each))
            measurement = Measurement(each, each.engine)
            _take(measurement, worker.answer())
            workers.append(worker)
            measurements.append(measurement)
            advance(1)
        for number in range(rounds):
            turns = list(zip(workers, measurements, strict=True))
            for worker, measurement in turns if number % 2 == 0 else reversed(turns):
                if measurement.error is None:
                    _take(measurement, worker.ask(seconds / rounds))
                advance(1)
    return measurements


def _take(measurement: Measurement, answer: dict[str, Any]) -> None:
    """Adds what a worker answered."""
    if "error" in answer:
        measurement.error = answer["error"]
    elif "milliseconds" in answer:
        measurement.rounds.append(answer["milliseconds"])
        measurement.cores_used.append(answer["cores_used"])
        measurement.peak_memory_mb = answer["peak_memory_mb"]
    else:
        measurement.engine = answer["engine"]
        measurement.load_seconds = answer["load_seconds"]
        measurement.image_size = (answer["image_size"][0], answer["image_size"][1])


@contextmanager
def _started(configuration: Configuration) -> Iterator[_Worker]:
    command = [sys.executable, "-m", "shvit.bench.worker", str(configuration.file), configuration.engine]
    command += [str(configuration.threads), str(configuration.batch_size)]
    with tempfile.TemporaryFile("w+") as complaints:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints, text=True, bufsize=1
        )
        try:
            yield _Worker(process, complaints)
        finally:
            process.kill()
            process.communicate()


@dataclass
class _Worker:
    process: subprocess.Popen[str]
    complaints: Any
    """What it writes on stderr."""

    def ask(self, seconds: float) -> dict[str, Any]:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(f"{seconds}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has died; reading says so
        return self.answer()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        status = self.process.wait()
        if status < 0:
            reason = f"was ended by {signal.Signals(-status).name}"
            reason += ", perhaps for want of memory" if -status == signal.SIGKILL else ""
        else:
            self.complaints.seek(0)
            last = self.complaints.read().strip().splitlines()[-1:]
            reason = f"ended with status {status}" + "".join(f": {each[:200]}" for each in last)
        return {"error": f"the process that ran it {reason}"}
