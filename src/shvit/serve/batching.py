"""Images of many requests, decoded in a few threads and run through the engine together.

An image goes from the event loop to the decoders' queue, from there to its model's queue, and its result back to the
event loop; each is one hand-over, the last one for a whole batch. Nothing else is shared between the threads.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import threading
import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue

import numpy as np

from shvit.errors import ImageError, ShvitError
from shvit.runtime.classifier import Classifier
from shvit.runtime.preprocess import describe
from shvit.serve.metrics import Metrics, ModelMetrics

logger = logging.getLogger("shvit.serve")

Encoded = bytes | str
"""An image as it came: its bytes, or their base64."""


class EngineFailure(Exception):  # noqa: N818 - what happened, not what is wrong with the caller's input
    """The engine failed on a batch; the log says how."""


class Job:
    """The images of one request, and what becomes of them. Lives in the event loop's thread."""

    def __init__(self, served: Served, images: Sequence[Encoded], loop: asyncio.AbstractEventLoop) -> None:
        self.served = served
        self.outcomes: list[np.ndarray | str | None] = [None] * len(images)
        """For each image its probabilities ``float32 (classes,)``, or why there are none."""
        self.done: asyncio.Future[None] = loop.create_future()
        """Set when all have an outcome, or when it was cancelled."""
        self.cancelled = False
        self.images = [_Image(self, place, image) for place, image in enumerate(images)]
        self._left = len(images)

    def settle(self, place: int, outcome: np.ndarray | str) -> None:
        self.outcomes[place] = outcome
        self._left -= 1
        if not self._left and not self.done.done():
            self.done.set_result(None)

    def fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)

    def cancel(self) -> None:
        """What has not begun is not done any more, and its bytes are let go of; nothing if all is done."""
        if self.done.done():
            return
        self.cancelled = True
        for image in self.images:
            image.encoded = b""
        self.served.metrics.dropped.inc(self._left)
        self.done.set_result(None)


class _Image:
    """One image on its way, and when it passed where."""

    __slots__ = ("accepted", "decode_began", "decode_ended", "encoded", "job", "pixels", "place")

    def __init__(self, job: Job, place: int, encoded: Encoded) -> None:
        self.job, self.place, self.encoded = job, place, encoded
        self.accepted = time.perf_counter()
        self.decode_began = self.decode_ended = 0.0
        self.pixels: np.ndarray | None = None
        """``uint8 (H, W, 3)``."""


class Task:
    """An image of which a decoder makes the answer by itself. Lives in the event loop's thread, but for ``run``."""

    def __init__(self, encoded: Encoded, work: Callable[[bytes], bytes], loop: asyncio.AbstractEventLoop) -> None:
        self.done: asyncio.Future[bytes | None] = loop.create_future()
        """Set to the answer, to what was raised, or when it was cancelled to ``None``."""
        self._encoded, self._work, self._loop = encoded, work, loop

    def cancel(self) -> None:
        """If it has not begun it is not done any more."""
        if not self.done.done():
            self._encoded = b""
            self.done.set_result(None)

    def run(self) -> None:
        """In a decoder's thread."""
        if self.done.done():
            return
        encoded, self._encoded = self._encoded, b""
        try:
            answer = self._work(_from_base64(encoded) if isinstance(encoded, str) else encoded)
        except (ShvitError, ValueError) as error:
            self._loop.call_soon_threadsafe(self._settle, None, error)
        except Exception as error:  # a fault of ours must not end the thread that serves all
            logger.exception("a task failed")
            self._loop.call_soon_threadsafe(self._settle, None, EngineFailure(str(error)))
        else:
            self._loop.call_soon_threadsafe(self._settle, answer, None)

    def _settle(self, answer: bytes | None, error: Exception | None) -> None:
        if self.done.done():
            return
        if error is None:
            self.done.set_result(answer)
        else:
            self.done.set_exception(error)


class Served:
    """A model and its queue of decoded images."""

    def __init__(self, name: str, classifier: Classifier, metrics: Metrics) -> None:
        self.name, self.classifier = name, classifier
        self.metrics = ModelMetrics(metrics, name)
        self.ready: SimpleQueue[_Image | None] = SimpleQueue()
        self._coming = 0
        self._lock = threading.Lock()
        metrics.engine.labels(name, classifier.engine).set(1)

    def expect(self, count: int) -> None:
        """So many more images will be decoded for it, or fewer."""
        with self._lock:
            self._coming += count

    @property
    def expecting(self) -> bool:
        """Whether images are on their way that it could wait for."""
        return self._coming > 0


class Batcher:
    """Decodes in a pool of threads and runs each model in a thread of its own.

    Args:
        models: what is served.
        decoders: threads that decode.
        batch_size: images that are run together at most.
        max_delay: seconds that a decoded image waits for others. It waits only while others are on their way.
    """

    def __init__(self, models: Sequence[Served], decoders: int, batch_size: int, max_delay: float) -> None:
        self._models, self._batch_size, self._max_delay = models, batch_size, max_delay
        self._encoded: SimpleQueue[_Image | Task | None] = SimpleQueue()
        self._decoders = [
            threading.Thread(target=self._decode, name=f"shvit-decode-{number}", daemon=True)
            for number in range(decoders)
        ]
        self._engines = [
            threading.Thread(target=self._infer, args=(served,), name=f"shvit-infer-{served.name}", daemon=True)
            for served in models
        ]

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begins; results are given to ``loop``."""
        self._loop = loop
        for thread in (*self._decoders, *self._engines):
            thread.start()

    def stop(self) -> None:
        """Finishes what was submitted and ends the threads."""
        for _ in self._decoders:
            self._encoded.put(None)
        for thread in self._decoders:
            thread.join()
        for served in self._models:
            served.ready.put(None)
        for thread in self._engines:
            thread.join()

    @property
    def alive(self) -> bool:
        """Whether all threads run."""
        return all(thread.is_alive() for thread in (*self._decoders, *self._engines))

    def submit(self, served: Served, images: Sequence[Encoded]) -> Job:
        """Takes the images of a request; called in the event loop's thread."""
        job = Job(served, images, self._loop)
        served.expect(len(images))
        for image in job.images:
            self._encoded.put(image)
        return job

    def submit_task(self, image: Encoded, work: Callable[[bytes], bytes]) -> Task:
        """Has a decoder do something else with an image, in its turn; called in the event loop's thread."""
        task = Task(image, work, self._loop)
        self._encoded.put(task)
        return task

    def _decode(self) -> None:
        while (image := self._encoded.get()) is not None:
            if isinstance(image, Task):
                image.run()
                continue
            job = image.job
            served = job.served
            if job.cancelled:
                served.expect(-1)
                continue
            image.decode_began = time.perf_counter()
            encoded, image.encoded = image.encoded, b""
            try:
                if isinstance(encoded, str):
                    encoded = _from_base64(encoded)
                image.pixels = served.classifier.preprocess(encoded)
            except ImageError as error:
                reason = str(error).removeprefix(f"{describe(encoded)}: ")
                served.expect(-1)
                self._loop.call_soon_threadsafe(_settle_failed, image, reason)
                continue
            except Exception as error:  # a fault of ours must not end the thread that serves all
                logger.exception("decoding failed")
                served.expect(-1)
                self._loop.call_soon_threadsafe(job.fail, EngineFailure(str(error)))
                continue
            image.decode_ended = time.perf_counter()
            served.ready.put(image)
            served.expect(-1)

    def _infer(self, served: Served) -> None:
        while (batch := self._next_batch(served)) is not None:
            wanted = [image for image in batch if not image.job.cancelled]
            if not wanted:
                continue
            began = time.perf_counter()
            try:
                probabilities = served.classifier.predict_batch(np.stack([image.pixels for image in wanted]))  # type: ignore[misc]
            except Exception as error:  # a fault of the engine's must not end the thread that serves all
                logger.exception("the engine failed on a batch of %d", len(wanted))
                for image in wanted:
                    self._loop.call_soon_threadsafe(image.job.fail, EngineFailure(str(error)))
                continue
            self._loop.call_soon_threadsafe(_settle, served, wanted, probabilities, began, time.perf_counter())

    def _next_batch(self, served: Served) -> list[_Image] | None:
        """At least one image, at most as many as fit; ``None`` at the end."""
        first = served.ready.get()
        if first is None:
            return None
        batch = [first]
        last_call = first.decode_ended + self._max_delay
        while len(batch) < self._batch_size:
            try:
                image = served.ready.get_nowait()
            except Empty:
                patience = last_call - time.perf_counter()
                if patience <= 0 or not served.expecting:
                    break
                try:
                    image = served.ready.get(timeout=patience)
                except Empty:
                    break
            if image is None:
                served.ready.put(None)  # for the next call
                break
            batch.append(image)
        return batch


def _from_base64(text: str) -> bytes:
    """Raises: ImageError: it is not base64."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ImageError("not base64") from None


def _settle_failed(image: _Image, reason: str) -> None:
    if not image.job.cancelled:
        image.job.served.metrics.failed.inc()
        image.job.settle(image.place, reason)


def _settle(served: Served, images: Sequence[_Image], probabilities: np.ndarray, began: float, ended: float) -> None:
    """In the event loop: hands a batch's rows to their requests, and counts."""
    metrics = served.metrics
    metrics.batch_size.observe(len(images))
    metrics.classified.inc(sum(not image.job.cancelled for image in images))
    for image, row in zip(images, probabilities, strict=True):
        metrics.queue.observe(image.decode_began - image.accepted + began - image.decode_ended)
        metrics.decode.observe(image.decode_ended - image.decode_began)
        metrics.infer.observe(ended - began)
        if not image.job.cancelled:
            image.job.settle(image.place, row)
