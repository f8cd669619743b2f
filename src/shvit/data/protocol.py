"""What every collection of labelled images gives, whatever it is made of."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from shvit.card import ClassInfo


class ImageDataset(Protocol):
    """Encoded images with labels."""

    name: str
    classes: tuple[ClassInfo, ...]
    labels: np.ndarray
    """``int64 (N,)``, each in ``[0, len(classes))``; or, where a picture has any number of labels,
    ``bool (N, len(classes))``."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> bytes:
        """The encoded image (JPEG, PNG, ...).

        Raises:
            ImageError: it cannot be read: it is gone, cut short, too large, or this user may not.
        """

    def source(self, index: int) -> str:
        """A name for the image that a person can find it by."""
