"""Pictures that are there more than once."""

from __future__ import annotations

import numpy as np
import pytest

from shvit.errors import ArgumentError, DataError
from shvit.predicting.embeddings import unit_rows
from shvit.similarity.duplicates import find_duplicates, find_leaks
from shvit.similarity.search import EmbeddingIndex

from .conftest import clustered, digest_of, made


def beside(row: np.ndarray, similarity: float, rng: np.random.Generator) -> np.ndarray:
    """A vector with a given cosine to another one."""
    unit = row / np.linalg.norm(row)
    other = rng.standard_normal(row.shape)
    other -= other @ unit * unit
    return (similarity * unit + np.sqrt(1 - similarity**2) * other / np.linalg.norm(other)).astype(np.float32)


def test_equal_bytes_come_first_and_near_ones_are_joined(rng):
    rows = rng.standard_normal((6, 24)).astype(np.float32)
    rows[3] = beside(rows[0], 0.97, rng)
    rows[4] = rows[1]
    rows[5] = beside(rows[3], 0.97, rng)  # near to the first one's neighbour alone
    digests = [digest_of(place) for place in (0, 1, 2, 3, 1, 5)]
    groups = find_duplicates(made(rows, sha256=digests), 0.96)
    assert [(group.places, group.identical) for group in groups] == [((1, 4), True), ((0, 3, 5), False)]
    assert groups[1].similarities[:2] == pytest.approx((1, 0.97), abs=1e-5)
    assert groups[1].similarities[2] < 0.96


def test_only_equal_bytes(rng):
    rows = np.tile(rng.standard_normal((1, 24)).astype(np.float32), (3, 1))
    groups = find_duplicates(made(rows, sha256=[digest_of(each) for each in "aba"]), 1)
    assert [group.places for group in groups] == [(0, 2)]


@pytest.mark.parametrize("exact", [True, False])
def test_all_near_pairs_of_many(rng, exact):
    rows = clustered(6000, values=48, centres=60)
    copies = rng.choice(6000, 300, replace=False)
    everything = np.concatenate([rows, [beside(rows[place], 0.985, rng) for place in copies]]).astype(np.float32)
    groups = find_duplicates(EmbeddingIndex(made(everything), exact=exact), 0.98)
    joined = {place for group in groups for place in group.places}
    units = unit_rows(everything)
    similarities = units @ units.T
    np.fill_diagonal(similarities, 0)
    expected = set(np.flatnonzero((similarities >= 0.98).any(1)).tolist())
    assert len(expected) >= 600
    assert joined <= expected
    assert len(joined) >= (1 if exact else 0.99) * len(expected)


def test_thousands_of_black_frames_are_one_group():
    groups = find_duplicates(made(np.ones((5000, 24), np.float32)))
    assert [len(group.places) for group in groups] == [5000]


def test_views_of_a_picture_are_no_duplicates(rng):
    rows = np.tile(rng.standard_normal((1, 24)).astype(np.float32), (4, 1))
    embeddings = made(rows, sources=["a.jpg", "a.jpg", "b.jpg", "b.jpg"], views=["centre", "flip"] * 2)
    assert [group.places for group in find_duplicates(embeddings)] == [(0, 1)]
    assert embeddings.pictures().sources == ["a.jpg", "b.jpg"]


def test_leaks_by_bytes_and_by_nearness(rng):
    train = rng.standard_normal((50, 24)).astype(np.float32)
    val = rng.standard_normal((4, 24)).astype(np.float32)
    val[1], val[2] = beside(train[7], 0.98, rng), train[9]
    digests = [digest_of(each) for each in ("p", "q", "9.jpg", "r")]
    leaks = find_leaks(made(train), made(val, sha256=digests), 0.96)
    assert [(leak.place, leak.other, leak.identical) for leak in leaks] == [(2, 9, True), (1, 7, False)]
    assert leaks[1].similarity == pytest.approx(0.98, abs=1e-5)


def test_one_of_length_0_leaks_only_by_its_bytes(rng):
    train = rng.standard_normal((5, 8)).astype(np.float32)
    val = np.concatenate([np.zeros((2, 8), np.float32), train[3:4]])
    found = find_leaks(made(train), made(val, sources=["x.jpg", "4.jpg", "y.jpg"]))
    assert [(each.place, each.other, each.identical) for each in found] == [(1, 4, True), (2, 3, False)]
    assert not find_leaks(made(train), made(val[:1], sources=["x.jpg"]))


def test_leaks_between_different_networks_are_refused():
    with pytest.raises(DataError, match="different networks"):
        find_leaks(made(clustered(3)), made(clustered(3), backbone="c" * 64))


@pytest.mark.parametrize("threshold", [0, -1, 1.01, float("nan")])
def test_refuses_thresholds(threshold):
    with pytest.raises(ArgumentError, match="threshold"):
        find_duplicates(made(clustered(3)), threshold)
