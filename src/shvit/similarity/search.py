"""Search by cosine similarity: exactly where there are few embeddings, through an index where there are many."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from shvit.embeddings.table import Embeddings, read_embeddings
from shvit.errors import ArgumentError, DataError
from shvit.predicting.embeddings import unit_rows
from shvit.similarity.cells import Cells, build_cells
from shvit.similarity.index_file import open_or_build

EXACT_ROWS = 50_000
"""Up to so many embeddings are all compared, which takes about 10 ms; more are searched through an index."""

_BLOCK = 16_384
"""Rows that are converted to ``float32`` at once."""


class Neighbours(NamedTuple):
    """The most similar embeddings to each of Q vectors, the nearest first."""

    places: np.ndarray
    """``int64 (Q, k)``, among the embeddings."""
    similarities: np.ndarray
    """``float32 (Q, k)``, cosines in [-1, 1]."""


class EmbeddingIndex:
    """Embeddings, ready to be searched.

    More than ``EXACT_ROWS`` are divided into cells of similar ones, and those of the cells nearest to a vector are
    compared with it. Of a file that index is kept beside it, as ``NAME.index``, and made anew when the embeddings
    changed; where it cannot be written it is kept in memory.

    Args:
        embeddings: a file of ``shvit embed``, a folder of such parts, or what ``read_embeddings`` returned.
        exact: compare with all, however many there are. Default: up to ``EXACT_ROWS``.
        notice: told in a line of an index that is made, or that cannot be kept.
        advance: told of so many more rows that are in a new index.

    Raises:
        DataError: the file cannot be read, or holds no embeddings.
        MissingDependencyError: an index is to be made, and scikit-learn is not installed.

    Example:
        >>> index = EmbeddingIndex("embeddings.parquet")
        >>> found = index.search(index.embeddings.matrix[:1], top_k=5)
        >>> [index.embeddings.sources[place] for place in found.places[0]]
        ['photos/cat.jpg', ...]
    """

    def __init__(
        self,
        embeddings: Embeddings | str | Path,
        exact: bool | None = None,
        notice: Callable[[str], None] = lambda line: None,
        advance: Callable[[int], None] = lambda count: None,
    ) -> None:
        path = None if isinstance(embeddings, Embeddings) else Path(embeddings)
        given = embeddings if isinstance(embeddings, Embeddings) else read_embeddings(embeddings)
        self.embeddings: Embeddings = given.pictures()
        """One row for each picture: of several views the first."""
        if not len(self.embeddings):
            failed = f"; all {self.embeddings.failed:,} pictures failed" if self.embeddings.failed else ""
            raise DataError(f"{path or 'embeddings'}: no embeddings to search in{failed}")
        self._units: np.ndarray | None = None
        self._cells: Cells | None = None
        if exact is None:
            exact = len(self.embeddings) <= EXACT_ROWS
        if not exact:
            stored = self.embeddings.stored
            self._cells = build_cells(stored, advance) if path is None else open_or_build(path, stored, notice, advance)

    def __len__(self) -> int:
        return len(self.embeddings)

    def __repr__(self) -> str:
        how = "exact" if self._cells is None else f"{self._cells.count} cells"
        return f"EmbeddingIndex({len(self):,} embeddings of {self.embeddings.info.model}, {how})"

    @property
    def exact(self) -> bool:
        """Whether all embeddings are compared with each vector."""
        return self._cells is None

    def units(self, places: np.ndarray) -> np.ndarray:
        """Embeddings as ``float32 (N, values)`` of length 1."""
        if len(self) <= EXACT_ROWS and self._units is None:
            self._units = unit_rows(self.embeddings.stored)
        return self._units[places] if self._units is not None else unit_rows(self.embeddings.stored[places])

    def search(self, vectors: np.ndarray, top_k: int = 10) -> Neighbours:
        """The embeddings most similar to each vector.

        Args:
            vectors: ``(Q, values)``, of the same model and options as the embeddings; of any length but 0.
            top_k: how many for each; fewer where there are not so many embeddings.

        Raises:
            ArgumentError: the vectors have another shape, are not finite or have length 0, or ``top_k`` is not
                positive.
        """
        queries = self._checked(vectors)
        if top_k < 1:
            raise ArgumentError(f"top_k: expected a positive number, got {top_k}")
        top_k = min(top_k, len(self))
        if self._cells is None:
            return _exact(queries, self._blocks(), top_k)
        found = [self._nearest(query, top_k) for query in queries]
        return Neighbours(np.stack([places for places, _ in found]), np.stack([values for _, values in found]))

    def blocks(self, rows: np.ndarray, height: int, width: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Rows of which all are to be compared with all, as two lists, so that no near pair of ``rows`` is left out.

        Args:
            rows: places, ``int64``.
            height, width: how many of the first and of the second list there are, at most.
        """
        if self._cells is not None:
            yield from self._cells.blocks(rows, self.units, height, width)
            return
        for start in range(0, len(rows), height):
            for other in range(start, len(rows), width):
                yield rows[start : start + height], rows[other : other + width]

    def _checked(self, vectors: np.ndarray) -> np.ndarray:
        values = self.embeddings.info.values
        if vectors.ndim != 2 or vectors.shape[1] != values or vectors.dtype.kind != "f" or not len(vectors):
            raise ArgumentError(
                f"vectors: expected floating-point numbers (Q, {values}), got {vectors.dtype} {vectors.shape}"
            )
        lengths = np.linalg.norm(vectors.astype(np.float32), axis=1)
        if not np.isfinite(lengths).all() or not lengths.all():
            raise ArgumentError("vectors: one is not finite, or has length 0")
        return unit_rows(vectors)

    def _blocks(self) -> Iterator[np.ndarray]:
        for start in range(0, len(self), _BLOCK):
            yield self.units(np.arange(start, min(start + _BLOCK, len(self))))

    def _nearest(self, query: np.ndarray, top_k: int) -> tuple[np.ndarray, np.ndarray]:
        """Through the index; what it finds is compared by the embeddings as they are kept."""
        assert self._cells is not None  # otherwise all are compared
        places = self._cells.candidates(query, top_k)
        similarities = np.clip(self.units(places) @ query, -1, 1)
        order = np.argsort(-similarities, kind="stable")[:top_k]
        return places[order], similarities[order]


def _exact(queries: np.ndarray, blocks: Iterator[np.ndarray], top_k: int) -> Neighbours:
    places = np.zeros((len(queries), 0), np.int64)
    best = np.zeros((len(queries), 0), np.float32)
    start = 0
    for block in blocks:
        similarities = np.clip(queries @ block.T, -1, 1)
        here = np.broadcast_to(np.arange(start, start + len(block)), similarities.shape)
        places, best = np.concatenate([places, here], axis=1), np.concatenate([best, similarities], axis=1)
        if best.shape[1] > top_k:
            kept = np.argpartition(-best, top_k - 1, axis=1)[:, :top_k]
            places, best = np.take_along_axis(places, kept, 1), np.take_along_axis(best, kept, 1)
        start += len(block)
    order = np.lexsort((places, -best), axis=1)  # of equal ones the first comes first
    return Neighbours(np.take_along_axis(places, order, 1), np.take_along_axis(best, order, 1))
