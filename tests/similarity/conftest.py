from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from shvit.embeddings.table import Embeddings, EmbeddingsInfo, EmbeddingsWriter, Rows

VALUES = 24


def info(**changes) -> EmbeddingsInfo:
    fields = {
        "model": "shvit_test",
        "model_sha256": "a" * 64,
        "backbone": "b" * 64,
        "values": VALUES,
        "dtype": "float32",
        "normalized": False,
        "flip": False,
        "stages": 1,
        "version": "1",
    }
    return EmbeddingsInfo(**{**fields, **changes})


def digest_of(name: object) -> str:
    return hashlib.sha256(str(name).encode()).hexdigest()


def made(matrix: np.ndarray, labels=None, sha256=None, sources=None, views=None, **changes) -> Embeddings:
    sources = sources or [f"{place}.jpg" for place in range(len(matrix))]
    digests = sha256 or [digest_of(source) for source in sources]
    changed = {"values": matrix.shape[1], "dtype": str(matrix.dtype), **changes}
    return Embeddings(info(**changed), sources, digests, labels, views, matrix, 0)


def clustered(count: int, values: int = VALUES, centres: int = 40, seed: int = 0) -> np.ndarray:
    """Rows as networks give them: many around each of some middles, all with something in common."""
    middles = np.random.default_rng(99).standard_normal((centres, values)) + 1
    rng = np.random.default_rng(seed)
    rows = middles[rng.integers(0, centres, count)] + 0.5 * rng.standard_normal((count, values))
    return rows.astype(np.float32)


def write(path: Path, embeddings: Embeddings) -> Path:
    with EmbeddingsWriter(path, embeddings.info, embeddings.labels is not None, embeddings.views is not None) as file:
        file.write(
            Rows(
                embeddings.sources,
                embeddings.sha256,
                embeddings.stored,
                labels=embeddings.labels,
                views=embeddings.views,
            )
        )
    return path


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads of linear algebra wait by spinning, and beside a busy process take many times as long."""
    with threadpool_limits(1):
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
