"""A network on its way into a file."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from threadpoolctl import threadpool_limits

from shvit.card import Card
from shvit.errors import ExportError
from shvit.machine import available_threads
from shvit.network.forward import logits_of
from shvit.network.network import FoldedNetwork

Precision = Literal["fp32", "fp16", "int8"]

BATCH = 32

Infer = Callable[[np.ndarray], np.ndarray]
"""``uint8 (N, H, W, 3)`` to outputs ``float32 (N, classes)``."""


@dataclass(frozen=True, eq=False)
class Source:
    """What is written, and how.

    Raises:
        ExportError: the card does not fit the network, or int8 has no calibration images.
    """

    network: FoldedNetwork
    path: Path
    """Of the file, for messages."""
    card: Card
    """What the file is to say of itself; its class count must be the network's."""
    precision: Precision
    batch_size: int = 1
    """Images that the file takes at once, in a format that fixes them."""
    calibration: np.ndarray | None = None
    """For int8: images like those to be classified, preprocessed, ``uint8 (N, H, W, 3)``."""
    keep_float: Collection[str] = ()
    """For int8: layers to leave in float32, by name ("stages.1.blocks.0"), where the format can."""
    dynamic_size: bool = False
    """The file takes images of any height and width, where the format can."""
    reference: Infer | None = None
    """The network in another implementation, which is compared with; NumPy's when not given."""
    _known: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list, repr=False)
    """Images and their logits: several files of a network are compared with it on the same ones."""

    def __post_init__(self) -> None:
        channels, classes = self.network.config.in_chans, self.network.config.num_classes
        if channels != 3:
            raise ExportError(f"{self.path}: a model file takes RGB images, the network has in_chans={channels}")
        if len(self.card.classes) != classes:
            raise ExportError(
                f"{self.path}: the card names {len(self.card.classes)} classes, the network has {classes}"
            )
        if self.card.output != "logits":
            raise ExportError(f"{self.path}: export writes logits, the card says {self.card.output}")
        if self.precision == "int8" and self.calibration is None:
            raise ExportError(f"{self.path}: int8 needs calibration images")

    def logits(self, images: np.ndarray) -> np.ndarray:
        """What the network itself makes of ``uint8 (N, H, W, 3)``: ``float32 (N, classes)``."""
        for known, logits in self._known:
            if known is images:
                return logits
        if self.reference is not None:
            logits = np.concatenate([self.reference(each) for each in batches_of(images)])
        else:
            # An image a thread: feature maps of many would not fit into a processor's cache, and the linear algebra's
            # own threads, which wait by spinning, take fifteen times as long beside another process that is as busy.
            with threadpool_limits(1, "blas"), ThreadPoolExecutor(available_threads()) as threads:
                logits = np.concatenate(list(threads.map(partial(logits_of, self.network), batches_of(images, 1))))
        self._known[:] = [(images, logits)]
        return logits


def batches_of(images: np.ndarray, size: int = BATCH) -> Iterator[np.ndarray]:
    for start in range(0, len(images), size):
        yield images[start : start + size]
