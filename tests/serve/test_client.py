"""The client asks a real server; both are asked what the classifier is asked."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TypeVar

import numpy as np
import pytest
from PIL import Image

import shvit
from shvit.errors import ImageTypeError, ServerError

from ..conftest import PATIENCE
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
        bytearray(encoded(RED)),
        memoryview(encoded(GREEN)),
        None,
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


class Recorded(BaseHTTPRequestHandler):
    """A server of which a test tells what it answers; it keeps what it was asked."""

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def _answer(self, body: bytes) -> None:
        status, answer, headers = self.server.answer(self.command, self.path, body)
        self.send_response(status)
        for name, value in {"Content-Length": len(answer), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def recorded(answer: Callable[[str, str, bytes], tuple[int, bytes, dict[str, str]]]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Recorded) as server:
        server.answer = answer
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join(PATIENCE)


def asked_by(kind: type, url: str, images: object, calls: int = 1) -> list[shvit.Result]:
    """What the last call answers."""
    if kind is shvit.Client:
        with shvit.Client(url) as client:
            return [client.predict(images) for _ in range(calls)][-1]

    async def ask() -> list[shvit.Result]:
        async with shvit.AsyncClient(url) as client:
            return [await client.predict(images) for _ in range(calls)][-1]

    return in_a_loop(ask())


BOTH = pytest.mark.parametrize("kind", [shvit.Client, shvit.AsyncClient])


def padded(colour: tuple[int, int, int], size: int) -> bytes:
    """A picture of so many bytes: what comes after its end is passed over."""
    picture = encoded(colour)
    return picture + b"\xff" * (size - len(picture))


@BOTH
def test_large_pictures_are_sent_in_requests_that_the_server_takes(colour_model, kind):
    with running("--model", colour_model, "--threads", 1, "--max-body", 500_000, "--queue", 5) as server:
        for images, requests in (
            ([padded(RED, 200_000)] * 5 + [padded(BLUE, 500_000), padded(GREEN, 1000)], 5),  # 2, 2, 1, 1, 1
            ([padded(GREEN, 249_000)] * 2, 1),
            ([padded(GREEN, 250_000)] * 2, 2),  # which is too much with the form around them
            ([padded(GREEN, 1000)] * 6, 2),  # more than the queue holds
        ):
            before = server.metric("shvit_requests_total", code="200")
            results = asked_by(kind, server.url, images)
            assert [each.error for each in results] == [None] * len(images)
            # One of the answers is that to the question of how much it takes.
            answered = server.metric("shvit_requests_total", code="200") - before - 1
            assert answered == requests
        assert server.metric("shvit_requests_total", code="413") == 0
        images = [padded(RED, 1000), padded(RED, 500_001), padded(BLUE, 1000)]
        red, failed, blue = asked_by(kind, server.url, images)
        assert (red.predictions[0].label, blue.predictions[0].label) == ("red", "blue")
        assert failed == shvit.Result(
            "<500001 bytes>", error="has 500,001 bytes as it is sent, more than the 500,000 that the server takes"
        )


@BOTH
def test_limits_are_asked_for_once(kind):
    asked = []

    def answer(method: str, path: str, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        asked.append((method, path.partition("?")[0]))
        if method == "GET":
            return 200, b'{"models": [], "limits": {"images": 8, "bytes": 1000}}', {}
        return 200, b'{"results": [{"source": "", "error": "bad"}]}', {}

    with recorded(answer) as url:
        assert asked_by(kind, url, b"picture", calls=3) == [shvit.Result("<7 bytes>", error="bad")]
        assert asked == [("GET", "/v1/models")] + [("POST", "/v1/predict")] * 3
        assert asked_by(kind, url, []) == []
        with pytest.raises(ImageTypeError, match="got None"):
            asked_by(kind, url, None)
    assert len(asked) == 4


@BOTH
@pytest.mark.parametrize(
    "models",
    [
        (200, b'{"models": []}'),
        (200, b'{"models": [], "limits": {"images": true, "bytes": -1}}'),
        (200, b"[]"),
        (404, b"nothing here"),
    ],
)
def test_of_a_server_that_states_no_limits_what_is_refused_is_halved(kind, models):
    """A proxy before it takes 3000 bytes, and says so on a page of its own."""
    sizes = []

    def answer(method: str, path: str, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        if method == "GET":
            return *models, {}
        sizes.append(len(body))
        if len(body) > 3000:
            return 413, b"<h1>413 Request Entity Too Large</h1>", {"Content-Type": "text/html"}
        results = [{"source": "", "error": "taken"}] * max(body.count(b"Content-Disposition"), 1)
        return 200, json.dumps({"results": results}).encode(), {}

    with recorded(answer) as url:
        small, large = bytes(1000), bytes(4000)
        results = asked_by(kind, url, [small, small, large, small])
        refused = "has 4,000 bytes as it is sent, more than the server, or a proxy, takes"
        assert [each.error for each in results] == ["taken", "taken", refused, "taken"]
        assert sorted(size // 1000 for size in sizes) == [1, 2, 4, 5, 7]
        sizes.clear()
        asked_by(kind, url, [bytes(9 * 2**20)] * 2)
        assert sizes == [9 * 2**20] * 2  # more together than any server takes that was told nothing


@pytest.fixture
def busy() -> Iterator[tuple[str, list[float]]]:
    """A server that is too busy twice, says for how long, and then answers; with when it was asked."""
    asked: list[float] = []

    def answer(method: str, path: str, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        if method == "GET":
            return 404, b"", {}
        asked.append(time.monotonic())
        if len(asked) < 3:
            return 503, b'{"error": "full"}', {"Retry-After": "0.2"}
        return 422, b'{"model": "m", "results": [{"source": "", "error": "bad"}]}', {}

    with recorded(answer) as url:
        yield url, asked


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


TAKEN = {"label": "red", "class_id": 0, "wnid": None, "score": 1.0}


@BOTH
@pytest.mark.parametrize(
    "answer",
    [
        b"[" * 100_000,
        b'{"results": null}',
        b'{"results": [{"error": "one"}]}',
        b'{"results": [{}, {}]}',
        b'{"results": [null, null]}',
        b'{"results": [{"predictions": [{}]}, {"predictions": 5}]}',
    ],
)
def test_an_answer_that_is_not_as_ours_is_the_server_s_error(kind, answer):
    with recorded(lambda *asked: (200, answer, {})) as url, pytest.raises(ServerError, match=f"{url}: 200"):
        asked_by(kind, url, [b"one", b"two"])


@BOTH
def test_what_a_newer_server_says_besides_is_passed_over(kind):
    answer = json.dumps({"results": [{"predictions": [{**TAKEN, "more": 1}], "more": 2}], "more": 3}).encode()
    with recorded(lambda *asked: (200, answer, {})) as url:
        assert asked_by(kind, url, [b"one"]) == [shvit.Result("<3 bytes>", (shvit.Prediction(**TAKEN),))]


@BOTH
@pytest.mark.parametrize("after", ["nan", "-1", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_whatever_a_busy_server_says_of_when_is_no_error(kind, after):
    asked = []

    def answer(method: str, path: str, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        asked.append(method)
        if asked.count("POST") == 1:
            return 503, b'{"error": "full"}', {"Retry-After": after}
        return 200, json.dumps({"results": [{"predictions": [TAKEN]}]}).encode(), {}

    with recorded(answer) as url:
        assert asked_by(kind, url, [b"one"])[0].predictions
