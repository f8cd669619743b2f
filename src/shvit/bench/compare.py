"""Ours beside others, exported, quantised and run the same way in one run."""

from __future__ import annotations

import datetime
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shvit.bench.cost import Cost, count_cost
from shvit.bench.machine import machine
from shvit.bench.networks import Session, deployed, export_all, open_network
from shvit.bench.peers import PUBLISHED, open_peer
from shvit.bench.speed import Conditions, Timed, time_files
from shvit.bench.summary import ratios
from shvit.bench.tables import figure, machine_line, markdown_table, spread
from shvit.network.sides import in_words


@dataclass(frozen=True)
class Contender:
    """One network, and the fastest of the ways it was run."""

    name: str
    ours: bool
    top1: float | None
    """Published, per cent."""
    best: Timed
    milliseconds_per_image: float


@dataclass(frozen=True)
class Comparison:
    """All that was measured."""

    command: str
    threads: int
    batch_size: int
    ours: tuple[str, ...]
    peers: tuple[str, ...]
    timed: tuple[Timed, ...]
    costs: dict[str, Cost]
    machine: dict[str, Any]

    @property
    def names(self) -> tuple[str, ...]:
        return self.ours + self.peers

    @property
    def precisions(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(each.source.precision for each in self.timed))

    def best(self, name: str, precision: str | None = None) -> Timed | None:
        """The fastest way that a network ran, in one precision or in any; ``None`` where each failed."""
        ran = [
            each
            for each in self.timed
            if each.source.model == name
            and each.measurement.error is None
            and precision in (None, each.source.precision)
        ]
        return min(ran, key=_milliseconds, default=None)

    def contenders(self) -> list[Contender]:
        """Each network in its fastest way, without those that did not run."""
        found = []
        for name in self.names:
            best = self.best(name)
            if best is not None:
                top1 = PUBLISHED[name].top1 if name in PUBLISHED else None
                found.append(Contender(name, name in self.ours, top1, best, _milliseconds(best) / self.batch_size))
        return found

    def speedups(self) -> list[dict[str, Any]]:
        """How many times faster each of ours is than each peer, both in their best engine: median and range of rounds.

        In each precision, and with each side in its fastest one.
        """
        found = []
        for ours in self.ours:
            for peer in self.peers:
                for precision in (*self.precisions, None):
                    mine, other = self.best(ours, precision), self.best(peer, precision)
                    if mine is not None and other is not None:
                        faster = ratios(mine.measurement.round_medians, other.measurement.round_medians)
                        found.append({"model": ours, "peer": peer, "precision": precision or "best", **faster})
        return found

    def to_dict(self) -> dict[str, Any]:
        return {
            "command": self.command,
            "date": datetime.date.today().isoformat(),
            "machine": self.machine,
            "threads": self.threads,
            "batch_size": self.batch_size,
            "results": [each.to_dict() for each in self.timed],
            "times_faster": self.speedups(),
            "networks": {
                name: {
                    "parameters": self.costs[name].parameters,
                    "macs": self.costs[name].macs,
                    "published": PUBLISHED[name]._asdict() if name in PUBLISHED else None,
                }
                for name in self.names
            },
        }

    def rows(self) -> tuple[list[str], list[list[str]]]:
        """A line for each network: header and cells."""
        header = ["model", "input", "top-1", "parameters", "MACs"]
        header += [f"{precision} images/s" for precision in self.precisions]
        header += [f"{self.ours[0]} is faster, {precision}" for precision in (*self.precisions, "best")]
        speedups = {
            (each["peer"], each["precision"]): each for each in self.speedups() if each["model"] == self.ours[0]
        }
        rows = []
        for name in self.names:
            cost, known = self.costs[name], PUBLISHED.get(name)
            sides = next((each.measurement.image_size for each in self.timed if each.source.model == name), None)
            row = [name, in_words(sides) if sides else "-", f"{known.top1:.1f}" if known else "-"]
            row += [f"{cost.parameters / 1e6:.1f} M", f"{cost.macs / 1e6:,.0f} M"]
            for precision in self.precisions:
                best = self.best(name, precision)
                row.append("failed" if best is None else f"{self._speed(best)} ({best.measurement.engine})")
            for precision in (*self.precisions, "best"):
                ratio = speedups.get((name, precision))
                row.append(spread(ratio) if ratio else "")
            rows.append(row)
        return header, rows

    def _speed(self, timed: Timed) -> str:
        return figure(1000 * self.batch_size / _milliseconds(timed))

    def markdown(self) -> str:
        """A report."""
        header, rows = self.rows()
        sources = [
            f"- {name}: {PUBLISHED[name].weights}, {PUBLISHED[name].source}" for name in self.names if name in PUBLISHED
        ]
        return "\n".join(
            (
                "# SHViT beside others",
                "",
                f"`{self.command}`, {datetime.date.today().isoformat()}, {machine_line(self.machine)}.",
                "",
                f"{self.threads} thread{'s' * (self.threads > 1)}, batches of {self.batch_size}. Random weights "
                "where none are at hand. All are exported to the same kind of graph (uint8 images in, normalisation "
                "folded, branches merged), quantised by the same function, and timed in turns, each in the faster "
                "engine. Ratios are medians of rounds, with the smallest and the largest. Top-1 is published, not "
                "measured here.",
                "",
                markdown_table(header, rows),
                "",
                "![accuracy against latency](compare.png)",
                "",
                "Sources of the accuracies:",
                "",
                *sources,
                "",
            )
        )


def _milliseconds(timed: Timed) -> float:
    """Median latency of a batch, of the rounds'."""
    return statistics.median(timed.measurement.round_medians)


def compare(
    ours: Sequence[str],
    peers: Sequence[str],
    precisions: Sequence[str],
    conditions: Conditions,
    session: Session,
    command: str,
) -> Comparison:
    """Exports and times all.

    Args:
        ours: variants of SHViT; ratios in the table are the first one's.
        peers: timm's names.
        conditions: engines may be several; each network counts in its fastest.
        command: what the user typed.

    Raises:
        ValueError: there is no such network, or more than one thread count or batch size.
    """
    (threads,), (batch_size,) = conditions.threads, conditions.batch_sizes
    described = machine()
    costs, files = {}, []
    for open_one, names in ((open_network, ours), (open_peer, peers)):
        for name in names:
            network = open_one(name)
            costs[name] = count_cost(deployed(network), network.image_size)
            files += export_all(network, precisions, session)
    timed = time_files(files, conditions, session.advance)
    return Comparison(command, threads, batch_size, tuple(ours), tuple(peers), tuple(timed), costs, described)
