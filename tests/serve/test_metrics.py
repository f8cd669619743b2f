"""Every answer is counted, and every refusal with its reason: once, whatever route or layer it comes from."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ..conftest import PATIENCE
from .conftest import RED, TOKEN, RunningServer, encoded, head, running

PNG = {"Content-Type": "image/png"}
FORM = {"Content-Type": "multipart/form-data; boundary=b"}
PART = b'--b\r\nContent-Disposition: form-data; name="i"; filename="i"\r\n\r\n\r\n'


def counts(server: RunningServer) -> dict[str, float]:
    """Answers by status and refusals by reason."""
    text = httpx2.get(f"{server.url}/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).text
    return {
        next(iter(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name in ("shvit_requests_total", "shvit_rejections_total")
    }


def more(server: RunningServer, before: dict[str, float]) -> dict[str, float]:
    return {name: value - before.get(name, 0) for name, value in counts(server).items() if value != before.get(name, 0)}


@pytest.mark.parametrize("route", ["predict", "explain"])
@pytest.mark.parametrize(
    ("headers", "body", "query", "status", "reason"),
    [
        (PNG, bytes(600_000), "", 413, "too_large"),
        (FORM, PART * 4 + b"--b--", "", 413, "too_many"),
        ({"Content-Type": "text/plain"}, b"x", "", 415, "unsupported"),
        (FORM, b"x", "", 400, "malformed"),
        (PNG, b"", "", 422, "no_image"),
        (PNG, encoded(RED), "model=none", 404, "no_model"),
        ({**PNG, "Host": "elsewhere.org"}, b"x", "", 421, "foreign_host"),
        ({**PNG, "Origin": "https://elsewhere.org"}, b"x", "", 403, "foreign_origin"),
    ],
)
def test_a_refusal_is_counted_once_with_its_reason(server, route, headers, body, query, status, reason):
    before = counts(server)
    answer = httpx2.post(f"{server.url}/v1/{route}?{query}", content=body, headers=headers)
    assert answer.status_code == status
    assert more(server, before) == {str(status): 1, reason: 1}


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("POST", "predict?top_k=0", {"422": 1, "parameter": 1}),
        ("POST", "explain?x=1", {"422": 1, "parameter": 1}),
        ("POST", "explain?stage=0", {"422": 1, "parameter": 1}),
        ("POST", "explain?kind=none", {"422": 1, "parameter": 1}),
        ("POST", "explain", {"422": 1, "not_explained": 1}),  # its graph is none that can be
        ("POST", "predict", {"200": 1}),
        ("POST", "explain?model=shipped", {"200": 1}),
        ("GET", "models", {"200": 1}),
        ("GET", "models/none", {"404": 1, "no_model": 1}),
        ("GET", "predict", {"405": 1}),
        ("GET", "nothing", {"404": 1}),
        ("GET", "../healthz", {}),
    ],
)
def test_every_route_s_answers_are_counted_once(server, method, path, expected):
    before = counts(server)
    httpx2.request(method, f"{server.url}/v1/{path}", content=encoded(RED) if method == "POST" else None, headers=PNG)
    assert more(server, before) == expected


def test_a_full_queue_is_counted_once_for_either_route(server):
    with ThreadPoolExecutor(3) as pool, server.holding():
        waiting = [
            pool.submit(httpx2.post, f"{server.url}/v1/predict", content=encoded(RED), headers=PNG, timeout=PATIENCE)
            for _ in range(3)
        ]
        server.wait_for_metric("shvit_queue_images", 3)
        before = counts(server)
        for route in ("predict", "explain"):
            httpx2.post(f"{server.url}/v1/{route}", content=b"x", headers=PNG)
        assert more(server, before) == {"503": 2, "queue_full": 2}
    assert [each.result().status_code for each in waiting] == [200] * 3


@pytest.mark.parametrize(
    ("sent", "status", "reason"),
    [
        (b"no HTTP at all\r\n\r\n", "400", "malformed"),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n", "414", "too_long"),
        (b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 101 + b"\r\n", "431", "too_long"),
        (head(1000).replace(b"Content-Length: 1000", b"Transfer-Encoding: chunked") + b"x\r\n", "400", "malformed"),
    ],
)
def test_what_is_no_request_for_the_application_is_counted_once(server, sent, status, reason):
    before = counts(server)
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as client:
        client.sendall(sent)
        assert client.recv(100).startswith(b"HTTP/1.1 " + status.encode())
    assert more(server, before) == {status: 1, reason: 1}


def test_a_missing_token_is_counted_once(colour_model):
    with running("--model", colour_model, environment={"SHVIT_TOKEN": TOKEN}) as server:
        before = counts(server)
        for route in ("predict", "explain"):
            assert httpx2.post(f"{server.url}/v1/{route}", content=b"x", headers=PNG).status_code == 401
        assert more(server, before) == {"401": 2, "unauthorized": 2}
