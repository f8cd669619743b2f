"""Images to batches: decoding in threads, one batch ahead of whoever infers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from threading import Event

import numpy as np

from shvit.errors import ImageError
from shvit.images.preprocess import ImageSource, describe, encoded_bytes

PrepareImage = Callable[[ImageSource], np.ndarray]
"""An image to ``uint8 (H, W, 3)``; raises ``ImageError``."""


class Batch:
    """Some images in order, and what became of them."""

    sources: list[ImageSource]
    errors: dict[int, str]
    """Of those that could not be read, by their place: why."""
    digests: dict[int, str]
    """By their place, where digests were asked for: SHA-256 of the encoded images, of pixels of their bytes."""

    def __init__(self, sources: list[ImageSource], buffer: np.ndarray, with_digests: bool) -> None:
        self.sources, self.errors, self.digests = sources, {}, {}
        self._with_digests = with_digests
        self._buffer = buffer

    @property
    def pixels(self) -> np.ndarray:
        """``uint8 (N, H, W, 3)`` of those that could be read, in order; good until the next batch is asked for."""
        if not self.errors:
            return self._buffer[: len(self.sources)]
        return self._buffer[[place for place in range(len(self.sources)) if place not in self.errors]]

    def decode(self, places: range, prepare: PrepareImage, stopped: Event) -> None:
        for place in places:
            if stopped.is_set():
                return
            source = self.sources[place]
            try:
                if self._with_digests:
                    encoded = encoded_bytes(source, describe(source))
                    if encoded is not None:
                        source = encoded  # read once
                        self.digests[place] = hashlib.sha256(encoded).hexdigest()
                self._buffer[place] = prepare(source)
            except ImageError as error:
                self.errors[place] = str(error).removeprefix(f"{describe(source)}: ")
                continue
            if self._with_digests and place not in self.digests:
                self.digests[place] = hashlib.sha256(np.asarray(source).tobytes()).hexdigest()


def decoded_batches(
    images: Iterable[ImageSource],
    prepare: PrepareImage,
    image_shape: tuple[int, ...],
    batch_size: int,
    workers: int,
    with_digests: bool = False,
) -> Generator[Batch, None, None]:
    """All images, in order, in batches.

    Memory holds two batches, whatever there is to come. With several workers, the next batch is taken from ``images``
    and being decoded while the caller has this one; with one worker, or batches of one image, as from a camera,
    nothing is taken before it is needed. What ``images`` raises comes after the batches before it.

    Args:
        image_shape: what ``prepare`` returns, (H, W, 3).
        workers: threads that decode; 1 decodes in the caller's own. They end with the iterator.
        with_digests: batches have them.
    """
    pending = iter(images)
    buffers = [np.empty((0, *image_shape), np.uint8)] * 2
    stopped = Event()

    def take() -> Batch | None:
        sources = list(islice(pending, batch_size))
        if len(buffers[0]) < len(sources):
            buffers[0] = np.empty((len(sources), *image_shape), np.uint8)
        batch = Batch(sources, buffers[0], with_digests)
        buffers.reverse()
        return batch if sources else None

    if workers == 1 or batch_size == 1:
        while batch := take():
            batch.decode(range(len(batch.sources)), prepare, stopped)
            yield batch
        return

    with ThreadPoolExecutor(workers, thread_name_prefix="shvit-decode") as pool:

        def begin() -> tuple[Batch | None, list[Future[None]]]:
            batch = take()
            if batch is None:
                return None, []
            count = len(batch.sources)
            step = -(-count // workers)
            parts = [range(start, min(start + step, count)) for start in range(0, count, step)]
            return batch, [pool.submit(batch.decode, part, prepare, stopped) for part in parts]

        try:
            ended: Exception | None = None
            current, parts = begin()
            while current is not None:
                following: tuple[Batch | None, list[Future[None]]] = None, []
                try:
                    following = begin()
                except Exception as error:  # the caller's own iterator failed: first hand over what it gave
                    ended = error
                for part in parts:
                    part.result()
                yield current
                current, parts = following
            if ended is not None:
                raise ended
        finally:
            stopped.set()
