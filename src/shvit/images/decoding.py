"""The two ways from an image to a network's input, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np

from shvit.card import Preprocessing
from shvit.errors import ArgumentError
from shvit.images.preprocess import ImageSource, decode, preprocess

Decoding = Literal["exact", "fast"]
"""``exact``: the pixels of Pillow and torchvision. ``fast``: nearly those, in about half the time."""


def preparation(decoding: Decoding) -> Callable[[ImageSource, Preprocessing], np.ndarray]:
    """What makes a network's input of an image: ``preprocess`` after ``decode``, or ``preprocess_fast``.

    Raises:
        MissingDependencyError: what fast decoding needs is not installed.
        ValueError: there is no such way.
    """
    if decoding not in get_args(Decoding):
        raise ArgumentError(f"decoding: expected one of {', '.join(get_args(Decoding))}, got {decoding!r}")
    if decoding == "fast":
        from shvit.images.fast import preprocess_fast

        return preprocess_fast
    return _exact


def _exact(image: ImageSource, preprocessing: Preprocessing) -> np.ndarray:
    return preprocess(decode(image), preprocessing)
