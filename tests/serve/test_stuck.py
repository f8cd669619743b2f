"""Decoders that never come back: the others are served, and the server ends all the same."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import httpx2
import numpy as np
import pytest

from shvit.card import Card, ClassInfo, Preprocessing
from shvit.engines import EngineChoice
from shvit.errors import ImageError
from shvit.predicting.classifier import Classifier
from shvit.serve import workers
from shvit.serve.batching import CANNOT_BE_DECODED, Batcher, Served, public_reason
from shvit.serve.metrics import Metrics
from shvit.serve.workers import NoWorkerError, TookTooLongError, Workers

from ..conftest import PATIENCE, wait_until
from .conftest import RED, encoded, running

STUCK = b"never comes back"

NEVER_ENDING = f"""
import threading
from shvit.predicting.classifier import Classifier
from shvit.serve.explain import ModelExplainer
real = Classifier.preprocess
def stuck(self, image, *rest):
    if image == {STUCK!r}:
        threading.Event().wait()
    return real(self, image)
Classifier.preprocess = ModelExplainer.draw = stuck
"""


def post(url: str, body: bytes, route: str = "predict") -> httpx2.Response:
    return httpx2.post(f"{url}/v1/{route}", content=body, headers={"Content-Type": "image/png"}, timeout=PATIENCE)


def test_the_stuck_are_answered_and_the_others_served(colour_model):
    options = ("--model", colour_model, "--threads", 1, "--decode-timeout", 0.5)
    with running(*options, before=NEVER_ENDING) as server, ThreadPoolExecutor(4) as clients:
        stuck = [clients.submit(post, server.url, STUCK, route) for route in ("predict", "explain")]
        good = clients.submit(post, server.url, encoded(RED))
        answers = [each.result() for each in stuck]
        assert [each.status_code for each in answers] == [422, 422]
        assert answers[0].json()["results"][0]["error"] == "decoding took longer than the 0.5 s accepted"
        assert "took longer than the 0.5 s accepted" in answers[1].json()["error"]
        assert good.result().json()["results"][0]["predictions"][0]["label"] == "red"
        assert server.metric("shvit_stuck_decoders") == 2
        assert server.metric("shvit_queue_images") == 0
        assert httpx2.get(f"{server.url}/healthz").json() == {"status": "ok", "stuck_decoders": 2}
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE) == 0  # all was answered


def test_the_end_does_not_wait_for_a_request_that_is_stuck(colour_model):
    options = ("--model", colour_model, "--threads", 1, "--decode-timeout", 1000, "--timeout", 1)
    with running(*options, before=NEVER_ENDING) as server, ThreadPoolExecutor(1) as clients:
        stuck = clients.submit(post, server.url, STUCK)
        server.wait_for_metric("shvit_queue_images", 1)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE) == 1
        with pytest.raises(httpx2.HTTPError):
            stuck.result().raise_for_status()


class Waiting:
    """Work that ends when it is told to."""

    def __init__(self) -> None:
        self.go_on, self.began = threading.Event(), threading.Event()
        self.handed_over = False
        self.error: Exception | None = None

    def do(self):
        self.began.set()
        self.go_on.wait()
        return lambda: setattr(self, "handed_over", True)

    def give_up(self, error: Exception) -> None:
        self.error = error


def look_until(pool: Workers, condition) -> None:
    """Has the pool look for the stuck as its timer does, but for the time."""

    def looked() -> bool:
        pool._look()
        pool._timer.cancel()
        return condition()

    wait_until(looked)


def test_threads_are_replaced_until_too_many_are_stuck(monkeypatch):
    monkeypatch.setattr(workers, "MAX_STUCK", 3)
    loop = asyncio.new_event_loop()
    pool = Workers("test", 2, 0.02)
    pool.start(loop)
    try:
        works = [Waiting() for _ in range(6)]
        for work in works:
            pool.submit(work)
        look_until(pool, lambda: all(work.error for work in works))
        # Three are stuck, and those beside the last of them if the system let them begin; the sixth finds none.
        assert [type(work.error) for work in works].count(TookTooLongError) >= 3
        assert isinstance(works[-1].error, NoWorkerError)
        assert not pool.alive and pool.stuck >= 3
        for work in works:
            work.go_on.set()
        look_until(pool, lambda: pool.stuck == 0 and pool.alive)
        assert not any(work.handed_over for work in works)
        last = Waiting()
        last.go_on.set()
        pool.submit(last)
        look_until(pool, lambda: last.handed_over)
    finally:
        assert pool.stop(time.monotonic() + PATIENCE)
        loop.close()


@pytest.mark.parametrize(
    "text",
    [
        "Command '['gs', '-q', '-sOutputFile=/tmp/tmpabc', '--', '/tmp/tmpdef']' returned non-zero exit status 1.",
        "cannot open /var/lib/x",
        r"cannot open C:\Users\x",
        "one line\nand another",
        "file=/etc/passwd",
    ],
)
def test_clients_are_told_nothing_of_files_and_programs(text):
    assert public_reason(f"<3 bytes>: {text}", b"abc") == CANNOT_BE_DECODED


def test_what_else_is_wrong_is_told():
    assert public_reason("<3 bytes>: not an image, or of a format that is not known", b"abc").startswith("not an image")
    assert public_reason("<3 bytes>: broken data stream: 3/4 read", b"abc") == "broken data stream: 3/4 read"


class Answering(Classifier):
    """Its engine gives what a test says."""

    def __init__(self, answer) -> None:
        classes = (ClassInfo(0, "one"), ClassInfo(1, "other"))
        self.card = Card("test", "none", classes, Preprocessing((1, 1)), output="probabilities")
        self.threads, self.batch_size, self.engine_choice = 1, 4, EngineChoice("test", "asked for", {})
        self._path, self._features = Path("m.onnx"), None
        self._engine = SimpleNamespace(run=lambda batch: {"scores": answer(batch)})

    def preprocess(self, image: bytes) -> np.ndarray:
        if image == b"bad":
            raise ImageError("bad")
        return np.full((1, 1, 3), image[0], np.uint8)


def rows(batch: np.ndarray) -> np.ndarray:
    one = batch[:, 0, 0, 0] == 1
    return np.stack([one, ~one], 1).astype(np.float32)


def with_one_nan(batch: np.ndarray) -> np.ndarray:
    return np.where(batch[:, :1, 0, 0] == 7, np.nan, rows(batch))


def out_of_memory(batch: np.ndarray) -> np.ndarray:
    if 7 in batch:
        raise MemoryError
    return rows(batch)


@pytest.mark.parametrize(
    ("answer", "failed"),
    [
        (with_one_nan, {2}),
        (out_of_memory, {2}),
        (lambda batch: rows(batch)[:1], {2, 3}),
        (lambda batch: rows(batch)[:, :1], {0, 2, 3}),
        (lambda batch: rows(batch).astype(str), {0, 2, 3}),
        (lambda batch: None, {0, 2, 3}),
    ],
)
def test_every_image_has_an_outcome_whatever_the_engine_gives(answer, failed):
    async def ask() -> list:
        metrics = Metrics(lambda: 0, lambda: 0)
        served = Served("m", Answering(answer), metrics)
        batcher = Batcher([served], 1, 0.005, 30)
        batcher.start(asyncio.get_running_loop())
        job = batcher.submit(served, [b"\0", b"bad", b"\7", b"\1"])
        await asyncio.wait_for(job.done, 30)
        await asyncio.to_thread(batcher.stop)
        assert batcher.ended
        return job.outcomes

    with ThreadPoolExecutor(1) as pool:
        outcomes = pool.submit(asyncio.run, ask()).result()
    assert outcomes[1] == "bad"
    if failed == {2, 3}:  # a row for each image is right where it is alone
        failed = set()
    assert {place for place, each in enumerate(outcomes) if isinstance(each, Exception)} == failed
    assert [outcomes[place].scores[0] for place in (0, 3) if place not in failed] == [0, 1][: 2 - len(failed & {0, 3})]
