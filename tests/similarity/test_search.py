"""Search in embeddings, exactly and through the index."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from sklearn.neighbors import NearestNeighbors

from shvit.errors import ArgumentError, DataError
from shvit.similarity.index_file import index_path, read_index
from shvit.similarity.search import EmbeddingIndex

from .conftest import VALUES, clustered, made, write


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_exactly_what_scikit_learn_finds(dtype):
    rows, queries = clustered(20_000).astype(dtype), clustered(20, seed=1)
    found = EmbeddingIndex(made(rows)).search(queries, 12)
    reference = NearestNeighbors(n_neighbors=12, metric="cosine", algorithm="brute").fit(rows.astype(np.float64))
    distances, places = reference.kneighbors(queries.astype(np.float64))
    assert np.array_equal(found.places, places)
    assert np.allclose(found.similarities, 1 - distances, atol=1e-6)
    assert (found.places.dtype, found.similarities.dtype) == (np.int64, np.float32)


def test_fewer_embeddings_than_are_asked_for():
    index = EmbeddingIndex(made(clustered(3)))
    found = index.search(index.embeddings.matrix, 10)
    assert found.places.shape == (3, 3)
    assert found.places[:, 0].tolist() == [0, 1, 2]


def test_one_row():
    assert EmbeddingIndex(made(clustered(1))).search(clustered(2), 5).places.tolist() == [[0], [0]]


def test_of_equal_ones_the_first_comes_first():
    rows = np.tile(clustered(1), (5, 1))
    assert EmbeddingIndex(made(rows)).search(rows[:1], 5).places.tolist() == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("vectors", "top_k", "reason"),
    [
        (clustered(1)[0], 1, "vectors: expected floating-point"),
        (clustered(1)[:, 1:], 1, "vectors: expected floating-point"),
        (clustered(1).astype(int), 1, "vectors: expected floating-point"),
        (clustered(1)[:0], 1, "vectors: expected floating-point"),
        (np.full((1, VALUES), np.nan, np.float32), 1, "not finite"),
        (np.zeros((1, VALUES), np.float32), 1, "length 0"),
        (clustered(1), 0, "top_k: expected a positive number"),
    ],
)
def test_refuses_vectors(vectors, top_k, reason):
    with pytest.raises(ArgumentError, match=reason):
        EmbeddingIndex(made(clustered(3))).search(vectors, top_k)


def test_refuses_no_embeddings():
    with pytest.raises(DataError, match="no embeddings to search in"):
        EmbeddingIndex(made(clustered(0)))


def test_embeddings_of_length_0_are_like_nothing():
    rows = clustered(3)
    rows[1] = 0
    found = EmbeddingIndex(made(rows)).search(rows[:1], 3)
    assert found.places[0, 0] == 0
    assert np.isfinite(found.similarities).all()


def test_the_index_finds_nearly_all():
    rows, queries = clustered(20_000).astype(np.float16), clustered(50, seed=1)
    embeddings = made(rows)
    exact = EmbeddingIndex(embeddings, exact=True).search(queries, 10)
    index = EmbeddingIndex(embeddings, exact=False)
    assert not index.exact
    found = index.search(queries, 10)
    shared = [len(set(a) & set(b)) for a, b in zip(exact.places.tolist(), found.places.tolist(), strict=True)]
    assert np.mean(shared) / 10 >= 0.95
    assert (np.diff(found.similarities, axis=1) <= 0).all()


def test_the_index_gives_as_many_as_are_asked_for():
    rows = clustered(3000)
    found = EmbeddingIndex(made(rows), exact=False).search(rows[:1], 3000)
    assert sorted(found.places[0].tolist()) == list(range(3000))


def test_is_kept_beside_the_file_and_made_anew_when_that_changed(tmp_path):
    path = write(tmp_path / "e.parquet", made(clustered(2000)))
    told: list[str] = []
    first = EmbeddingIndex(path, exact=False, notice=told.append)
    kept = index_path(path)
    assert [str(kept) in line for line in told] == [True]
    before = kept.stat().st_mtime_ns
    again = EmbeddingIndex(path, exact=False, notice=told.append)
    assert len(told) == 1
    assert kept.stat().st_mtime_ns == before
    query = clustered(1, seed=5)
    assert np.array_equal(first.search(query).places, again.search(query).places)
    write(path, made(clustered(2000, seed=9)))
    changed = EmbeddingIndex(path, exact=False, notice=told.append)
    assert len(told) == 2
    exact = EmbeddingIndex(path, exact=True)
    assert changed.search(query).places[0, 0] == exact.search(query).places[0, 0]


def test_a_link_of_its_name_is_not_written_through(tmp_path, monkeypatch):
    monkeypatch.setattr("shvit.similarity.search.EXACT_ROWS", 100)
    path = write(tmp_path / "e.parquet", made(clustered(300)))
    (tmp_path / "precious").write_text("of somebody")
    index_path(path).symlink_to("precious")
    notes = []
    assert not EmbeddingIndex(path, notice=notes.append).exact
    assert "is a link, and not written through" in notes[-1]
    assert (tmp_path / "precious").read_text() == "of somebody"


def test_one_that_cannot_be_written_is_kept_in_memory(tmp_path):
    path = write(tmp_path / "e.parquet", made(clustered(1000)))
    index_path(path).mkdir()
    told: list[str] = []
    index = EmbeddingIndex(path, exact=False, notice=told.append)
    assert "the index is not kept" in told[1]
    assert len(index.search(clustered(1), 3).places[0]) == 3


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("order", lambda a: a + 1),
        ("order", np.zeros_like),
        ("starts", lambda a: a * 2),
        ("starts", lambda a: a[::-1].copy()),
        ("middles", lambda a: np.full_like(a, np.nan)),
        ("scales", lambda a: np.full_like(a, np.inf)),
        ("codes", lambda a: a[:, :-1].copy()),
        ("codes", lambda a: a.astype(np.int16)),
        ("order", lambda a: None),
    ],
)
def test_an_index_that_would_lead_astray_is_not_taken(tmp_path, name, change):
    rows = clustered(1000)
    path = write(tmp_path / "e.parquet", made(rows))
    EmbeddingIndex(path, exact=False)
    kept = index_path(path)
    arrays, metadata = load_file(kept), _metadata(kept)
    assert read_index(kept, metadata["embeddings"], rows.shape) is not None
    changed = {**arrays, name: change(arrays[name])}
    save_file({key: array for key, array in changed.items() if array is not None}, kept, metadata)
    assert read_index(kept, metadata["embeddings"], rows.shape) is None


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04", b"\xff" * 100, (2**40).to_bytes(8, "little") + b"{}", b"\x02\0\0\0\0\0\0\0[]"]
)
def test_damaged_index_files_are_made_anew(tmp_path, content):
    path = write(tmp_path / "e.parquet", made(clustered(1000)))
    index_path(path).write_bytes(content)
    told: list[str] = []
    EmbeddingIndex(path, exact=False, notice=told.append)
    assert len(told) == 1
    assert index_path(path).stat().st_size > 1000 * VALUES


def _metadata(path) -> dict[str, str]:
    data = path.read_bytes()
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
