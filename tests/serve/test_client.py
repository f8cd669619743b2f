"""The client asks a real server; both are asked what the classifier is asked."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TypeVar

import numpy as np
import pytest
from PIL import Image

import shvit
from shvit.errors import ServerError

from .conftest import BLUE, GREEN, RED, TOKEN, RunningServer, encoded, running

Answer = TypeVar("Answer")


def in_a_loop(coroutine: Coroutine[None, None, Answer]) -> Answer:
    """Runs it in a thread of its own: a browser that another test drives keeps a loop running in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


@pytest.fixture(scope="module")
def guarded(colour_model) -> Iterator[RunningServer]:
    with running("--model", colour_model, environment={"SHVIT_TOKEN": TOKEN}) as server:
        yield server


@pytest.fixture
def sources(tmp_path) -> list:
    path = tmp_path / "green.jpg"
    path.write_bytes(encoded(GREEN, "JPEG", (90, 120)))
    (tmp_path / "empty.png").touch()
    noise = np.random.default_rng(0).integers(0, 200, (70, 50, 3), dtype=np.uint8)
    noise[..., 2] += 55
    mixed = [
        path,
        encoded(RED),
        Image.new("CMYK", (40, 60), (255, 255, 0, 0)),
        noise,
        str(tmp_path / "missing.jpg"),
        b"not a picture",
        tmp_path / "empty.png",
    ]
    return mixed + [encoded(BLUE)] * 9


def test_results_are_those_of_the_classifier(guarded, colour_model, sources):
    expected = shvit.Classifier(colour_model).predict(sources, top_k=2)
    with shvit.Client(guarded.url, TOKEN) as client:
        assert client.predict(sources, top_k=2) == expected
        assert client.predict(sources[0], top_k=2) == expected[:1]
        assert client.predict([]) == []
        assert [each["name"] for each in client.models()] == ["colours"]

    async def ask() -> list[shvit.Result]:
        async with shvit.AsyncClient(guarded.url, TOKEN, model="colours") as client:
            assert [each["name"] for each in await client.models()] == ["colours"]
            return await client.predict(sources, top_k=2)

    assert in_a_loop(ask()) == expected


def test_refusals_are_one_line(guarded):
    with shvit.Client(guarded.url) as client, pytest.raises(ServerError, match=r"401: the token is missing or wrong$"):
        client.predict(encoded(RED))
    with shvit.Client(guarded.url, TOKEN, "none") as client, pytest.raises(ServerError, match="404: model: expected"):
        client.predict(encoded(RED))
    with shvit.Client("http://127.0.0.1:1") as client, pytest.raises(ServerError, match=r"http://127\.0\.0\.1:1: "):
        client.models()
    with pytest.raises(ValueError, match="retries"):
        shvit.Client(guarded.url, retries=-1)


@pytest.fixture
def busy() -> Iterator[tuple[str, list[float]]]:
    """A server that is too busy twice, says for how long, and then answers; with when it was asked."""
    asked: list[float] = []

    class Busy(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            asked.append(time.monotonic())
            refused = len(asked) < 3
            body = b'{"error": "full"}' if refused else b'{"model": "m", "results": [{"source": "", "error": "bad"}]}'
            self.send_response(503 if refused else 422)
            self.send_header("Content-Length", str(len(body)))
            if refused:
                self.send_header("Retry-After", "0.2")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Busy) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join(10)


def test_a_busy_server_is_asked_again_when_it_says(busy):
    url, asked = busy
    with shvit.Client(url) as client:
        assert client.predict(b"picture") == [shvit.Result("<7 bytes>", error="bad")]
    assert all(later - earlier >= 0.2 for earlier, later in itertools.pairwise(asked))


def test_patience_ends(busy):
    url, asked = busy

    async def ask() -> None:
        async with shvit.AsyncClient(url, retries=1) as client:
            await client.predict(b"picture")

    with pytest.raises(ServerError, match="503: full"):
        in_a_loop(ask())
    assert len(asked) == 2
