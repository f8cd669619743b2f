from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shvit.bench.summary import percentiles, ratios, summary

latencies = st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=50)


@given(latencies)
def test_percentiles_are_ordered_lie_among_the_values_and_ignore_their_order(values):
    found = percentiles(values)
    tolerance = 1e-9 * max(values)
    assert min(values) - tolerance <= found["p50"] <= found["p95"] + tolerance
    assert found["p95"] <= found["p99"] + tolerance <= max(values) + 2 * tolerance
    assert percentiles(values[::-1]) == found


def test_percentiles_of_a_hundred_and_one_values_are_the_values_at_those_places():
    shuffled = np.random.default_rng(0).permutation(101).astype(float).tolist()
    assert percentiles(shuffled) == {"p50": 50, "p95": 95, "p99": 99}


@given(latencies, st.floats(0.01, 100))
def test_drift_that_both_sides_feel_leaves_the_ratio_alone(values, factor):
    """Each round is as slow as it likes; theirs takes ``factor`` times as long as ours in every one."""
    found = ratios(values, [factor * each for each in values])
    assert found == pytest.approx({"median": factor, "min": factor, "max": factor})


@given(latencies, latencies)
def test_ratios_of_exchanged_sides_are_reciprocal_at_the_ends(ours, theirs):
    count = min(len(ours), len(theirs))
    forwards, backwards = ratios(ours[:count], theirs[:count]), ratios(theirs[:count], ours[:count])
    assert forwards["min"] == pytest.approx(1 / backwards["max"])
    assert forwards["min"] <= forwards["median"] <= forwards["max"]


def test_sides_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        ratios([1, 2], [1])


def test_summary():
    assert summary([3, 1, 2]) == {"median": 2, "min": 1, "max": 3}
