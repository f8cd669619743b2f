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
class Conditions:
    """What files are timed in: every combination of these."""

    engines: Sequence[str]
    threads: Sequence[int] = (1,)
    batch_sizes: Sequence[int] = (1,)
    seconds: float = 3
    """For each combination, over all its rounds."""
    rounds: int = 5


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
    conditions: Conditions,
    advance: Callable[[int], None] = lambda count: None,
) -> list[Timed]:
    """Times all combinations in turns; what fails is one failed entry.

    Args:
        advance: as for ``interleave``.
    """
    combinations = list(itertools.product(files, conditions.engines, conditions.threads, conditions.batch_sizes))
    runnable = [
        Configuration(source.model, source.file, source.precision, engine, count, batch_size)
        for source, engine, count, batch_size in combinations
        if source.file is not None
    ]
    measured = iter(interleave(runnable, conditions.seconds, conditions.rounds, advance))
    timed = []
    for source, engine, count, batch_size in combinations:
        if source.file is not None:
            timed.append(Timed(source, next(measured)))
        else:
            unmade = Configuration(source.model, Path(), source.precision, engine, count, batch_size)
            timed.append(Timed(source, Measurement(unmade, engine, error=source.error)))
    return timed
