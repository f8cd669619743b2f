"""Which things belong together, where pairs of them are found."""

from __future__ import annotations

import numpy as np


class Joined:
    """Which things belong together, as they are found (union-find)."""

    def __init__(self, count: int) -> None:
        self._parents = np.arange(count)

    def roots(self, places: np.ndarray) -> np.ndarray:
        """Of each, the first of all that it is joined with, which stands for them."""
        roots = places
        while not np.array_equal(above := self._parents[roots], roots):
            roots = above
        self._parents[places] = roots
        return roots

    def root(self, place: int) -> int:
        return int(self.roots(np.array([place]))[0])

    def join(self, first: np.ndarray, second: np.ndarray, near: np.ndarray) -> None:
        """Args: near: ``bool (len(first), len(second))``, which pairs belong together."""
        # However many pairs are near, as those of a thousand black frames are, a round looks at one for each row and
        # for each column, and few rounds are needed.
        rows, columns = np.flatnonzero(near.any(1)), np.flatnonzero(near.any(0))
        near, first, second = near[np.ix_(rows, columns)], first[rows], second[columns]
        while near.size:
            roots, others = self.roots(first), self.roots(second)
            apart = near & (roots[:, None] != others[None])
            rows, columns = np.flatnonzero(apart.any(1)), np.flatnonzero(apart.any(0))
            by_row = np.stack([roots[rows], others[apart[rows].argmax(1)]])
            by_column = np.stack([roots[apart[:, columns].argmax(0)], others[columns]])
            for root, other in np.unique(np.concatenate([by_row, by_column], axis=1), axis=1).T.tolist():
                low, high = sorted((self.root(root), self.root(other)))
                self._parents[high] = low
            near, first, second = near[np.ix_(rows, columns)], first[rows], second[columns]
