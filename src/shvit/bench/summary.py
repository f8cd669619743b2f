"""Many timings in a few figures."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median and range of one or more values."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def percentiles(milliseconds: Sequence[float]) -> dict[str, float]:
    """Median, 95th and 99th percentile, interpolated between the two nearest of the sorted values."""
    p50, p95, p99 = np.percentile(milliseconds, (50, 95, 99))
    return {"p50": float(p50), "p95": float(p95), "p99": float(p99)}


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Median and range of the quotients of values measured in the same round: ``theirs / ours``.

    Of two latencies that is how many times faster ours is. Drift of the machine that lasts longer than a round is in
    both values of a pair and cancels; it would not in a quotient of two medians.
    """
    return summary([b / a for a, b in zip(ours, theirs, strict=True)])
