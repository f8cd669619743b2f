"""Every model in every engine, precision, thread count and batch size, beside each other."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shvit.bench.measure import Configuration, Measurement, interleave
from shvit.bench.networks import ModelFile


@dataclass(frozen=True)
class Timed:
    """A model file and what it gave in one configuration."""

    source: ModelFile
    measurement: Measurement

    def to_dict(self) -> dict[str, Any]:
        return {
            **self.measurement.to_dict(),
            "weights": self.source.weights,
            "calibration": self.source.calibration,
        }


def time_files(
    files: Sequence[ModelFile],
    engines: Sequence[str],
    threads: Sequence[int],
    batch_sizes: Sequence[int],
    seconds: float,
    rounds: int,
    advance: Callable[[int], None] = lambda count: None,
) -> list[Timed]:
    """Times all combinations in turns; what fails is one failed entry.

    Args:
        seconds, rounds, advance: as for ``interleave``.
    """
    combinations = list(itertools.product(files, engines, threads, batch_sizes))
    runnable = [
        Configuration(source.model, source.file, source.precision, engine, count, batch_size)
        for source, engine, count, batch_size in combinations
        if source.file is not None
    ]
    measured = iter(interleave(runnable, seconds, rounds, advance))
    timed = []
    for source, engine, count, batch_size in combinations:
        if source.file is not None:
            timed.append(Timed(source, next(measured)))
        else:
            unmade = Configuration(source.model, Path(), source.precision, engine, count, batch_size)
            timed.append(Timed(source, Measurement(unmade, engine, error=source.error)))
    return timed
