"""How much of the machine's peak a network reaches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shvit.bench.cost import Cost
from shvit.bench.networks import Network, Session, export_all
from shvit.bench.peaks import Peaks
from shvit.bench.speed import Conditions, Timed, time_files

PRECISIONS = ("fp32", "int8")


@dataclass(frozen=True)
class Reached:
    """One network in one engine and precision."""

    timed: Timed
    share_of_peak: float | None
    """Operations a second over those of the large matrix product of the same precision; ``None`` if it failed."""

    def to_dict(self) -> dict[str, Any]:
        return {**self.timed.to_dict(), "share_of_peak": self.share_of_peak}


def measure_reached(
    networks: Sequence[Network], costs: dict[str, Cost], peaks: Peaks, conditions: Conditions, session: Session
) -> list[Reached]:
    """Exports the networks, times them, and compares.

    All operations are held against one peak, those that int8 leaves in float32 as well: they are what it pays for them.

    Args:
        conditions: with as many threads as the peaks are of.
    """
    files = [each for network in networks for each in export_all(network, PRECISIONS, session)]
    found = []
    for timed in time_files(files, conditions, session.advance):
        peak = peaks.int8_gops if timed.source.precision == "int8" else peaks.fp32_gflops
        speed = timed.to_dict()["images_per_second"]
        operations = None if speed is None else 2 * costs[timed.source.model].macs * speed
        found.append(Reached(timed, None if operations is None else operations / (1e9 * peak)))
    return found
