"""An index of many embeddings: divided into cells of similar ones, of which a search looks into the nearest few."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from shvit.errors import MissingDependencyError
from shvit.install import install_command
from shvit.predicting.embeddings import unit_rows

PER_CELL = 256
"""Embeddings in a cell, on the mean."""

LEARNED_FROM = 20
"""Embeddings for each cell that the cells' middles are found with."""

ITERATIONS = 6

PROBED = 48
"""Cells that a search looks into."""

COMPARED = 8
"""For each embedding that is asked for, so many candidates are given, to be compared exactly; and at least 64."""

NEIGHBOURING = 4
"""Cells in which an embedding's near duplicates are looked for: its own, and those whose middles are next."""

_BLOCK = 8192


@dataclass(frozen=True, eq=False)
class Cells:
    """N embeddings in C cells, as inverted lists (IVF): rows of a cell stand together, in 8 bits."""

    middles: np.ndarray
    """``float32 (C, values)``, of length 1."""
    starts: np.ndarray
    """``int64 (C + 1,)``: the rows of cell c are ``order[starts[c]:starts[c + 1]]``."""
    order: np.ndarray
    """``int32 (N,)``, places among the embeddings."""
    codes: np.ndarray
    """``int8 (N, values)``, in that order: an embedding of length 1 is ``codes * scales``."""
    scales: np.ndarray
    """``float32 (N,)``."""

    @property
    def count(self) -> int:
        return len(self.middles)

    def candidates(self, query: np.ndarray, top_k: int) -> np.ndarray:
        """Places, ``int64``, of the embeddings that may be among the ``top_k`` nearest; at least so many.

        Args:
            query: ``float32 (values,)``, of length 1.
        """
        wanted = max(COMPARED * top_k, 64)
        nearness = self.middles @ query
        probed = PROBED
        cells = np.argsort(-nearness)[:probed] if probed < self.count else np.arange(self.count)
        lengths = np.diff(self.starts)
        while lengths[cells].sum() < min(top_k, len(self.order)):  # cells may be small, or many may be asked for
            probed *= 2
            cells = np.argsort(-nearness)[:probed]
        # Cell by cell, so that what is converted stays in the processor's cache.
        found = [(self.starts[cell], self.starts[cell + 1]) for cell in np.sort(cells)]
        products = [self.codes[start:end].astype(np.float32) @ query for start, end in found]
        rows = np.concatenate([np.arange(start, end) for start, end in found])
        similarities = np.concatenate(products) * self.scales[rows]
        if len(rows) > wanted:
            rows = rows[np.argpartition(-similarities, wanted)[:wanted]]
        return self.order[rows].astype(np.int64)

    def blocks(
        self, rows: np.ndarray, units: Callable[[np.ndarray], np.ndarray], height: int, width: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Rows that may be near to each other, as two lists of which all are to be compared with all.

        Those of a cell, with all whose own cell it is or one of the ``NEIGHBOURING`` nearest ones.

        Args:
            rows: places, ``int64``.
            units: the embeddings at places, of length 1.
            height, width: of the lists, at most.
        """
        around = np.empty((len(rows), min(NEIGHBOURING, self.count)), np.int32)
        for start in range(0, len(rows), _BLOCK):
            nearness = units(rows[start : start + _BLOCK]) @ self.middles.T
            nearest = np.argpartition(-nearness, around.shape[1] - 1, axis=1)[:, : around.shape[1]]
            around[start : start + _BLOCK] = nearest
        own = np.empty(len(self.order), np.int32)
        own[self.order] = np.repeat(np.arange(self.count, dtype=np.int32), np.diff(self.starts))
        members, visitors = _grouped(own[rows], self.count), _grouped(around.reshape(-1), self.count)
        for cell in range(self.count):
            inside, near = rows[members(cell)], rows[visitors(cell) // around.shape[1]]
            for start in range(0, len(near), height):
                for other in range(0, len(inside), width):
                    yield near[start : start + height], inside[other : other + width]


def _grouped(cells: np.ndarray, count: int) -> Callable[[int], np.ndarray]:
    """Gives, for a cell, the places in ``cells`` where it stands."""
    order = np.argsort(cells, kind="stable")
    starts = np.searchsorted(cells[order], np.arange(count + 1))
    return lambda cell: order[starts[cell] : starts[cell + 1]]


def build_cells(stored: np.ndarray, advance: Callable[[int], None] = lambda count: None) -> Cells:
    """Divides embeddings into cells around means of similar ones (k-means).

    Args:
        stored: ``float32`` or ``float16 (N, values)``.
        advance: told of so many more embeddings that are in their cells.

    Raises:
        MissingDependencyError: scikit-learn is not installed.
    """
    count = max(len(stored) // PER_CELL, 1)
    middles = _middles(stored, count)
    own = np.empty(len(stored), np.int32)
    for start in range(0, len(stored), _BLOCK):
        own[start : start + _BLOCK] = (unit_rows(stored[start : start + _BLOCK]) @ middles.T).argmax(1)
        advance(len(stored[start : start + _BLOCK]))
    order = np.argsort(own, kind="stable").astype(np.int32)
    starts = np.searchsorted(own[order], np.arange(count + 1)).astype(np.int64)
    codes, scales = np.empty(stored.shape, np.int8), np.empty(len(stored), np.float32)
    for start in range(0, len(stored), _BLOCK):
        rows = slice(start, start + _BLOCK)
        units = unit_rows(stored[order[rows]])
        scales[rows] = np.maximum(np.abs(units).max(1) / 127, 1e-12)
        codes[rows] = np.rint(units / scales[rows, None])
    return Cells(middles, starts, order, codes, scales)


def _middles(stored: np.ndarray, count: int) -> np.ndarray:
    try:
        from sklearn.cluster import KMeans
    except ImportError:
        raise MissingDependencyError(
            f"an index of {len(stored):,} embeddings is made with scikit-learn, which is not installed; install it "
            f"with: {install_command('teach')}"
        ) from None
    rng = np.random.default_rng(0)
    some = np.sort(rng.choice(len(stored), min(len(stored), count * LEARNED_FROM), replace=False))
    found = KMeans(count, init="random", n_init=1, max_iter=ITERATIONS, random_state=0).fit(unit_rows(stored[some]))
    return unit_rows(found.cluster_centers_)
