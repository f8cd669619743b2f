"""Holding out images with several labels (Sechidis et al., On the Stratification of Multi-Label Data, 2011)."""

from __future__ import annotations

import numpy as np


def has_several(labels: np.ndarray) -> bool:
    """Whether a dataset's labels are any number for a picture: ``bool (N, classes)`` rather than ``int64 (N,)``."""
    return labels.ndim == 2


def hold_out(labels: np.ndarray, share: float, draws: np.ndarray) -> np.ndarray:
    """Which images to hold out so that about the same share of each label is, the rarest label first.

    Each label has an image to train on. One of two images or more has at least one of them held out, as far as other
    labels allow it. Pictures without labels are held out in the same share.

    Args:
        labels: ``bool (N, classes)``.
        share: in (0, 1).
        draws: ``uint64 (N,)``, a random number of each image, by which the order is decided.

    Returns:
        ``bool (N,)``.
    """
    images = len(labels)
    order = np.argsort(draws, kind="stable")
    labels = labels[order]
    counts = labels.sum(axis=0, dtype=np.int64)
    wanted = counts * share
    wanted = np.where(counts > 1, np.maximum(wanted, 1), wanted)
    # What is still to be put into each part: a row for training and one for validation.
    missing = np.stack([counts - wanted, wanted])
    room = np.array([images * (1 - share), images * share])
    left = np.ones(images, dtype=bool)
    held = np.zeros(images, dtype=bool)

    def put(index: int, part: int) -> None:
        held[index], left[index] = part, False
        missing[part, labels[index]] -= 1
        room[part] -= 1

    remaining = counts.copy()
    while (remaining > 0).any():
        rarest = int(np.where(remaining > 0, remaining, np.iinfo(np.int64).max).argmin())
        for index in np.flatnonzero(left & labels[:, rarest]).tolist():
            put(index, int((missing[1, rarest], room[1]) > (missing[0, rarest], room[0])))
            remaining[labels[index]] -= 1
    for index in np.flatnonzero(left).tolist():
        put(index, int(room[1] > room[0]))
    # Rarer labels may have taken the last image of another.
    for label in np.flatnonzero(labels.any(axis=0) & ~labels[~held].any(axis=0)).tolist():
        if not labels[~held, label].any():
            held[np.flatnonzero(labels[:, label])[0]] = False
    found = np.zeros(images, dtype=bool)
    found[order] = held
    return found
