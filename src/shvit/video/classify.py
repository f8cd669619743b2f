"""Frames to scores: each becomes the network's input as a still image would, and several are run together."""

from __future__ import annotations

import io
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass

import numpy as np
from PIL import Image

from shvit.card import Preprocessing
from shvit.errors import MissingDependencyError, ModelOutputError, VideoError
from shvit.images.preprocess import is_long, padded, resize_and_crop
from shvit.install import install_command
from shvit.predicting.classifier import Classifier
from shvit.tasks import Judged
from shvit.video.frames import Damage, Frame

try:
    from shvit.images.resize import preprocess_pixels
except ImportError as error:
    raise MissingDependencyError(
        f"video needs kornia-rs to resize, which is not installed; install it with: {install_command('video')}"
    ) from error

PrepareFrame = Callable[[Frame], np.ndarray]
"""A frame to ``uint8 (H, W, 3)``, the network's input; raises ``VideoError``."""


@dataclass(frozen=True)
class Classified:
    """A frame and what the network says of it."""

    frame: Frame
    pixels: np.ndarray
    """``uint8 (H, W, 3)``: what the network saw."""
    judged: Judged

    def picture(self) -> bytes:
        """What the network saw, as JPEG."""
        buffer = io.BytesIO()
        Image.fromarray(self.pixels).save(buffer, "JPEG", quality=80)
        return buffer.getvalue()


def frame_preparation(preprocessing: Preprocessing, fast: bool = False) -> PrepareFrame:
    """What makes a network's input of a frame.

    Args:
        fast: libav resizes, in the video's own colours, in a quarter of the time; the pixels are then one level from
            those of a still picture on average, instead of a seventh.
    """

    def usual(frame: Frame) -> np.ndarray:
        return preprocess_pixels(frame.image, preprocessing)

    def quick(frame: Frame) -> np.ndarray:
        rows, columns = resize_and_crop(*frame.size, preprocessing)
        if is_long(rows, columns):
            return usual(frame)
        resized = frame.resized(columns.resized, rows.resized)
        if preprocessing.resize_mode == "pad":
            return padded(resized, preprocessing)
        return resized[rows.first : rows.first + rows.kept, columns.first : columns.first + columns.kept]

    return quick if fast else usual


def classified(
    items: Iterable[Frame | Damage], classifier: Classifier, prepare: PrepareFrame
) -> Generator[Classified | Damage, None, None]:
    """Scores of all frames, in order; damage stays in its place.

    With several threads of the classifier, frames are read and prepared while others are in the engine; memory holds a
    few batches of decoded frames at most.
    """
    size, threads = classifier.batch_size, classifier.threads
    with ExitStack() as stack:
        pool = None
        if threads > 1:
            items = stack.enter_context(closing(read_ahead(items, size)))
            pool = stack.enter_context(ThreadPoolExecutor(threads, thread_name_prefix="shvit-frames"))
        pending: deque[tuple[Frame | Damage, Future[np.ndarray]]] = deque()
        for item in items:
            pending.append((item, _begin(prepare, item, pool)))
            if len(pending) >= (size if pool is None else 2 * size):
                yield from _classify([pending.popleft() for _ in range(size)], classifier)
        while pending:
            yield from _classify([pending.popleft() for _ in range(min(size, len(pending)))], classifier)


def _begin(prepare: PrepareFrame, item: Frame | Damage, pool: ThreadPoolExecutor | None) -> Future[np.ndarray]:
    if isinstance(item, Frame) and pool is not None:
        return pool.submit(prepare, item)
    done: Future[np.ndarray] = Future()
    if isinstance(item, Frame):
        try:
            done.set_result(prepare(item))
        except VideoError as error:
            done.set_exception(error)
    return done


def _classify(
    batch: list[tuple[Frame | Damage, Future[np.ndarray]]], classifier: Classifier
) -> Iterator[Classified | Damage]:
    results: list[tuple[Frame, np.ndarray] | Damage] = []
    for item, prepared in batch:
        if isinstance(item, Damage):
            results.append(item)
            continue
        try:
            results.append((item, prepared.result()))
        except VideoError as error:
            results.append(Damage(item.time, str(error)))
    pixels = [each[1] for each in results if not isinstance(each, Damage)]
    judged = iter(classifier.judge_each(np.stack(pixels)) if pixels else ())
    for each in results:
        if isinstance(each, Damage):
            yield each
        elif isinstance(found := next(judged), ModelOutputError):
            yield Damage(each[0].time, str(found))
        else:
            yield Classified(*each, found)


def read_ahead(items: Iterable[Frame | Damage], size: int) -> Generator[Frame | Damage, None, None]:
    """The same, read in a thread of its own, up to ``size`` ahead; the thread ends with the iterator."""
    waiting: queue.Queue[Frame | Damage | BaseException | None] = queue.Queue(size)
    stopped = threading.Event()

    def put(item: Frame | Damage | BaseException | None) -> None:
        while not stopped.is_set():
            try:
                return waiting.put(item, timeout=0.1)
            except queue.Full:
                continue

    def read() -> None:
        try:
            for item in items:
                put(item)
                if stopped.is_set():
                    return
        except BaseException as error:  # whatever it is, it is for whoever reads here
            put(error)
        put(None)

    thread = threading.Thread(target=read, name="shvit-video", daemon=True)
    thread.start()
    try:
        while (item := waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()
