"""Images of many requests, decoded in a few threads and run through the engine together.

An image goes from the event loop to the decoders' queue, from there to its model's queue, and its result back to the
event loop; each is one hand-over, the last one for a whole batch. Nothing else is shared between the threads.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import re
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from shvit.errors import ImageError, ModelOutputError, ShvitError
from shvit.images.preprocess import describe
from shvit.predicting.classifier import Classifier
from shvit.serve.metrics import Metrics, ModelMetrics
from shvit.serve.workers import TookTooLongError, Workers
from shvit.tasks import Judged

logger = logging.getLogger("shvit.serve")

Encoded = bytes | str
"""An image as it came: its bytes, or their base64."""

STOP_SECONDS = 2.0
"""How long the end of the server waits for threads; by then all that was accepted is answered, or was given up."""

_PATH = re.compile(r"(?:^|[\s'\"(\[=:])(?:/|~/|[A-Za-z]:\\)\S")
"""Where a file of the server's is named."""

ENGINE_FAILED = "the engine failed; the server's log says how"

CANNOT_BE_DECODED = "cannot be decoded"


class EngineFailure(Exception):  # noqa: N818 - what happened, not what is wrong with the caller's input
    """The engine failed on a batch; the log says how."""


Outcome = Judged | str | EngineFailure


class Job:
    """The images of one request, and what becomes of them. Lives in the event loop's thread.

    Args:
        with_mirrored: after them their mirror images.
    """

    def __init__(
        self, served: Served, images: Sequence[Encoded], loop: asyncio.AbstractEventLoop, with_mirrored: bool = False
    ) -> None:
        self.served = served
        given = [(image, mirrored) for mirrored in ((False, True) if with_mirrored else (False,)) for image in images]
        self.outcomes: list[Outcome | None] = [None] * len(given)
        """For each image what the graph says of it, why it cannot be read, or that the engine failed."""
        self.done: asyncio.Future[None] = loop.create_future()
        """Set when all have an outcome, or when it was cancelled."""
        self.cancelled = False
        self.images = [_Image(self, place, *each, loop) for place, each in enumerate(given)]
        self._left = len(given)

    def settle(self, place: int, outcome: Outcome) -> None:
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

    __slots__ = ("accepted", "decode_began", "decode_ended", "encoded", "job", "loop", "mirrored", "pixels", "place")

    def __init__(self, job: Job, place: int, encoded: Encoded, mirrored: bool, loop: asyncio.AbstractEventLoop) -> None:
        self.job, self.place, self.encoded, self.mirrored, self.loop = job, place, encoded, mirrored, loop
        self.accepted = time.perf_counter()
        self.decode_began = self.decode_ended = 0.0
        self.pixels: np.ndarray | None = None
        """``uint8 (H, W, 3)``."""

    def do(self) -> Callable[[], None]:
        """Decodes."""
        served = self.job.served
        if self.job.cancelled:
            return served.miss
        self.decode_began = time.perf_counter()
        encoded, self.encoded = self.encoded, b""
        try:
            if isinstance(encoded, str):
                encoded = _from_base64(encoded)
            pixels = served.classifier.preprocess(encoded)
            if self.mirrored:
                pixels = pixels[:, ::-1]
        except ImageError as error:
            return partial(self._fail, self.settle_failed, public_reason(str(error), encoded))
        except Exception as error:  # a fault of ours must not end the thread that serves all
            logger.exception("decoding failed")
            return partial(self._fail, self.job.fail, EngineFailure(str(error)))
        return partial(self._decoded, pixels)

    def _decoded(self, pixels: np.ndarray) -> None:
        self.pixels, self.decode_ended = pixels, time.perf_counter()
        self.job.served.add(self)

    def _fail(self, settle: Callable[[Any], None], why: Any) -> None:
        self.job.served.miss()
        self.loop.call_soon_threadsafe(settle, why)

    def give_up(self, error: Exception) -> None:
        self.job.served.miss()
        if isinstance(error, TookTooLongError):
            self.settle_failed(f"decoding {error}")
        else:
            self.job.fail(error)

    def settle_failed(self, reason: str) -> None:
        """In the event loop."""
        if not self.job.cancelled:
            self.job.served.metrics.failed.inc()
            self.job.settle(self.place, reason)


class DecoderJob:
    """An image of which a decoder makes the answer by itself. Lives in the event loop's thread, but for ``do``."""

    def __init__(self, encoded: Encoded, work: Callable[[bytes], bytes], loop: asyncio.AbstractEventLoop) -> None:
        self.done: asyncio.Future[bytes | None] = loop.create_future()
        """Set to the answer, to what was raised, or when it was cancelled to ``None``."""
        self._encoded, self._work, self._loop = encoded, work, loop

    def cancel(self) -> None:
        """If it has not begun it is not done any more."""
        if not self.done.done():
            self._encoded = b""
            self.done.set_result(None)

    def do(self) -> Callable[[], object]:
        """In a decoder's thread."""
        if self.done.done():
            return lambda: None
        encoded, self._encoded = self._encoded, b""
        try:
            answer = self._work(_from_base64(encoded) if isinstance(encoded, str) else encoded)
        except ShvitError as error:
            return self._later(None, error)
        except Exception as error:  # a fault of ours must not end the thread that serves all
            logger.exception("a job failed")
            return self._later(None, EngineFailure(str(error)))
        return self._later(answer, None)

    def give_up(self, error: Exception) -> None:
        self._settle(None, error)

    def _later(self, answer: bytes | None, error: Exception | None) -> Callable[[], object]:
        return partial(self._loop.call_soon_threadsafe, self._settle, answer, error)

    def _settle(self, answer: bytes | None, error: Exception | None) -> None:
        if self.done.done():
            return
        if error is None:
            self.done.set_result(answer)
        else:
            self.done.set_exception(error)


class Served:
    """A model, and the decoded images that wait for it."""

    def __init__(self, name: str, classifier: Classifier, metrics: Metrics) -> None:
        self.name, self.classifier = name, classifier
        self.metrics = ModelMetrics(metrics, name)
        self._ready: list[_Image] = []
        self._coming = 0
        """Images that are on their way: accepted and not yet decoded."""
        self._ended = False
        self._changed = threading.Condition(threading.Lock())
        metrics.engine.labels(name, classifier.engine).set(1)

    def expect(self, count: int) -> None:
        """So many more images are on their way."""
        with self._changed:
            self._coming += count

    def add(self, image: _Image) -> None:
        """One that was on its way is decoded. Wakes the engine's thread only if that changes what it waits for."""
        with self._changed:
            self._coming -= 1
            self._ready.append(image)
            missing = self.classifier.batch_size - len(self._ready)
            first = len(self._ready) == 1
            if missing <= 0 or not self._coming or (first and self._coming < missing):
                self._changed.notify()

    def miss(self) -> None:
        """One that was on its way will not come."""
        with self._changed:
            self._coming -= 1
            self._changed.notify()

    def end(self) -> None:
        """No more will come."""
        with self._changed:
            self._ended = True
            self._changed.notify()

    def next_batch(self, max_delay: float) -> list[_Image] | None:
        """Waits for at least one image and gives at most ``batch_size``; ``None`` at the end.

        While as many are on their way as are missing, the decoders are at work and a full batch is waited for:
        running a small one now would take from them what a full one saves. Else an image waits for ``max_delay``
        seconds, and only while any are on their way.
        """
        batch_size = self.classifier.batch_size
        with self._changed:
            while len(self._ready) < batch_size and not self._ended:
                patience = None
                if self._ready:
                    if not self._coming:
                        break
                    if self._coming < batch_size - len(self._ready):
                        patience = self._ready[0].decode_ended + max_delay - time.perf_counter()
                        if patience <= 0:
                            break
                self._changed.wait(patience)
            batch = self._ready[:batch_size]
            del self._ready[:batch_size]
        return batch or None


class Batcher:
    """Decodes in a pool of threads and runs each model in a thread of its own.

    Args:
        models: what is served.
        decoders: threads that decode.
        max_delay: seconds that a decoded image waits for others, while there are some on their way but not enough to
            fill its batch.
        decode_timeout: seconds that decoding an image may take, or a job.
    """

    def __init__(self, models: Sequence[Served], decoders: int, max_delay: float, decode_timeout: float) -> None:
        self._models, self._max_delay = models, max_delay
        self._decoders = Workers("shvit-decode", decoders, decode_timeout)
        self._engines = [
            threading.Thread(target=self._infer, args=(served,), name=f"shvit-infer-{served.name}", daemon=True)
            for served in models
        ]
        self.ended = False
        """Whether all threads have, and the process may end like any other."""

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begins; results are given to ``loop``."""
        self._loop = loop
        self._decoders.start(loop)
        for thread in self._engines:
            thread.start()

    def stop(self) -> None:
        """Finishes what was submitted and ends the threads, but does not wait for one that is stuck."""
        until = time.monotonic() + STOP_SECONDS
        decoders_ended = self._decoders.stop(until)
        for served in self._models:
            served.end()
        for thread in self._engines:
            thread.join(max(until - time.monotonic(), 0))
        self.ended = decoders_ended and not any(thread.is_alive() for thread in self._engines)

    @property
    def alive(self) -> bool:
        """Whether all threads run, and not too many are stuck."""
        return self._decoders.alive and all(thread.is_alive() for thread in self._engines)

    @property
    def stuck(self) -> int:
        """Decoders that were given up and still run."""
        return self._decoders.stuck

    def submit(self, served: Served, images: Sequence[Encoded], with_mirrored: bool = False) -> Job:
        """Takes the images of a request; called in the event loop's thread."""
        job = Job(served, images, self._loop, with_mirrored)
        served.expect(len(job.images))
        for image in job.images:
            self._decoders.submit(image)
        return job

    def submit_decoder_job(self, image: Encoded, work: Callable[[bytes], bytes]) -> DecoderJob:
        """Has a decoder do something else with an image, in its turn; called in the event loop's thread."""
        job = DecoderJob(image, work, self._loop)
        self._decoders.submit(job)
        return job

    def _infer(self, served: Served) -> None:
        while (batch := served.next_batch(self._max_delay)) is not None:
            wanted = [image for image in batch if not image.job.cancelled]
            if not wanted:
                continue
            began = time.perf_counter()
            outcomes = _rows(served, [image.pixels for image in wanted])  # type: ignore[misc]
            for image in wanted:
                image.pixels = None
            self._loop.call_soon_threadsafe(_settle, served, wanted, outcomes, began, time.perf_counter())


def _rows(served: Served, pixels: Sequence[np.ndarray]) -> Sequence[Judged | EngineFailure]:
    """Of each image what the graph says, or that the engine failed."""
    try:
        judged = served.classifier.judge_each(np.stack(pixels))
    except Exception as error:  # a fault of ours must not end the thread that serves all
        logger.exception("%s: the engine failed on a batch of %d", served.name, len(pixels))
        return [EngineFailure(str(error))] * len(pixels)
    outcomes: list[Judged | EngineFailure] = []
    for each in judged:
        if isinstance(each, ModelOutputError):
            logger.error("%s: the engine failed on an image: %s", served.name, each)
            outcomes.append(EngineFailure(str(each)))
        else:
            outcomes.append(each)
    return outcomes


def public_reason(text: str, encoded: Encoded) -> str:
    """Why an image has no answer, in a line for the client: nothing of the server's files or programs."""
    text = text.removeprefix(f"{describe(encoded)}: ")
    if "\n" in text or _PATH.search(text):
        logger.warning("an image cannot be decoded: %r", text)
        return CANNOT_BE_DECODED
    return text


def _from_base64(text: str) -> bytes:
    """The bytes of base64 as it stands in JSON, where some programs escape ``/``, ``+``, ``=`` and ends of lines.

    Also taken are the data URI of an image, ends of lines, and the alphabet for URLs (``-`` and ``_``);
    padding may be left out. At most one copy of the text is made at a time.

    Raises:
        ImageError: it is something else; the message says what is expected.
    """
    if "\\" in text:
        for escape, character in _ESCAPES:
            text = text.replace(escape, character)
    if text[:5].lower() == "data:":
        head = _DATA_URI.match(text[:_DATA_URI_HEAD])
        if head is None:
            raise ImageError(f"a data URI, but not of an image in base64; {_BASE64_EXPECTED}")
        text = text[head.end() :]
    text = text.replace("\r", "").replace("\n", "")  # not spaces: they may be what a form made of +
    if "-" in text or "_" in text:
        if "+" in text or "/" in text:
            raise ImageError(f"not base64: it has letters of both alphabets, of + / and of - _; {_BASE64_EXPECTED}")
        text = text.replace("-", "+").replace("_", "/")
    if not text.endswith("="):
        text += "=" * (-len(text) % 4)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ImageError(f"not base64; {_BASE64_EXPECTED}") from None


_BASE64_EXPECTED = "expected a file's bytes in base64, or data:image/...;base64,..."

_DATA_URI = re.compile(r"data:(?:image/[\w.+-]+|application/octet-stream)?(?:;[\w-]+=[^;,]*)*;base64,", re.IGNORECASE)
_DATA_URI_HEAD = 256
"""Characters before its data, at most."""

_CODES = {"0": "aAdD", "2": "0bBdDfF", "3": "dD"}
_ESCAPES = [
    *(("\\/", "/"), ("\\n", "\n"), ("\\r", "\r")),
    *((f"\\u00{high}{low}", chr(int(high + low, 16))) for high, lows in _CODES.items() for low in lows),
]


def _settle(
    served: Served, images: Sequence[_Image], outcomes: Sequence[Judged | EngineFailure], began: float, ended: float
) -> None:
    """In the event loop: hands a batch's rows to their requests, and counts."""
    metrics = served.metrics
    metrics.batch_size.observe(len(images))
    for image, outcome in zip(images, outcomes, strict=True):
        metrics.queue.observe(image.decode_began - image.accepted + began - image.decode_ended)
        metrics.decode.observe(image.decode_ended - image.decode_began)
        metrics.infer.observe(ended - began)
        if image.job.cancelled:
            continue
        (metrics.failed if isinstance(outcome, EngineFailure) else metrics.classified).inc()
        image.job.settle(image.place, outcome)
