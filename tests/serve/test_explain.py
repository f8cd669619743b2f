"""The route that draws what a model looked at, of a real server."""

from __future__ import annotations

import base64
import http.client
import io
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from shvit import Explainer
from shvit.media.overlay import attention_map, class_activation_map, draw_map

from ..conftest import SAMPLES

COFFEE = (SAMPLES / "coffee.jpg").read_bytes()


@contextmanager
def server(*options: object) -> Iterator[int]:
    """A server on a free port; yields the port."""
    command = [sys.executable, "-m", "shvit", "serve", "--port", "0", "--threads", "2", *map(str, options)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield int(process.stdout.readline().rpartition(":")[2])
        finally:
            process.terminate()
            process.wait(timeout=20)


@pytest.fixture(scope="module")
def port(colour_model) -> Iterator[int]:
    with server("--model", "shvit_s1_tiny_imagenet", "--model", colour_model) as port:
        yield port


def ask(
    port: int, query: str = "", body: bytes = COFFEE, kind: str = "image/jpeg"
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", f"/v1/explain?{query}", body, {"Content-Type": kind})
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


@pytest.mark.parametrize("kind", ["attention", "cam"])
def test_the_answer_is_the_librarys_picture(port, kind):
    status, headers, body = ask(port, f"kind={kind}")
    assert (status, headers["content-type"]) == (200, "image/png")
    explanation = Explainer().explain(COFFEE)
    shown = attention_map(explanation, 2) if kind == "attention" else class_activation_map(explanation)
    expected = draw_map(explanation.image, explanation.region, shown)
    # Within a level or two: the engine's threads are not as many, so sums are rounded elsewhere.
    difference = np.asarray(Image.open(io.BytesIO(body))).astype(int) - np.asarray(expected)
    assert np.abs(difference).max() <= 2


def test_a_sheet_is_what_comes_unless_it_is_said(port):
    sheet = Image.open(io.BytesIO(ask(port)[2]))
    assert sheet.format == "PNG" and sheet.width > 4 * 240


def test_a_token_is_chosen_by_a_pixel(port):
    pictures = {ask(port, f"kind=attention&stage=2&x={x}&y=100")[2] for x in (150, 350)}
    assert len(pictures | {ask(port, "kind=attention")[2]}) == 3


def test_a_large_picture_is_answered_smaller(port):
    large = io.BytesIO()
    Image.new("RGB", (4000, 3000), "red").save(large, "JPEG")
    assert Image.open(io.BytesIO(ask(port, "kind=cam", large.getvalue())[2])).size == (1024, 768)


FORM = "multipart/form-data; boundary=b"
PART = b'--b\r\nContent-Disposition: form-data; name="images"; filename="a.jpg"\r\n\r\n%b\r\n'


@pytest.mark.parametrize(
    ("query", "body", "kind", "status", "message"),
    [
        ("stage=1&kind=attention", COFFEE, "image/jpeg", 422, "stage 1: has no attention"),
        ("block=9&kind=attention", COFFEE, "image/jpeg", 422, "block 9: stage 2 has attention"),
        ("class_id=200&kind=cam", COFFEE, "image/jpeg", 422, "classes 0 to 199"),
        ("class_id=-1&kind=cam", COFFEE, "image/jpeg", 422, "classes 0 to 199"),
        ("x=0&y=0&kind=attention", COFFEE, "image/jpeg", 422, "outside of what the network sees"),
        ("x=nan&y=0&kind=attention", COFFEE, "image/jpeg", 422, "outside of what the network sees"),
        ("x=3", COFFEE, "image/jpeg", 422, "expected both or none"),
        ("kind=other", COFFEE, "image/jpeg", 422, "kind: "),
        ("model=other", COFFEE, "image/jpeg", 404, "expected one of shvit_s1_tiny_imagenet, colours"),
        ("model=colours", COFFEE, "image/jpeg", 422, "model colours: the graph does not name what explanations need"),
        ("", b"no image", "image/jpeg", 422, "<8 bytes>: not an image"),
        ("", b"", "image/jpeg", 422, "empty"),
        ("", COFFEE, "text/plain", 415, "Content-Type"),
        ("", (PART % COFFEE) * 2 + b"--b--\r\n", FORM, 413, "2 images; one is explained in a request"),
        ("", PART % b"no image" + b"--b--\r\n", FORM, 422, "a.jpg: not an image"),
    ],
)
def test_refusals_are_one_line_of_json(port, query, body, kind, status, message):
    found, headers, answer = ask(port, query, body, kind)
    error = json.loads(answer)["error"]
    assert (found, headers["content-type"]) == (status, "application/json")
    assert message in error and "\n" not in error and ".onnx" not in error


def test_a_form_and_base64_carry_the_image_as_well(port):
    plain = ask(port, "kind=cam")[2]
    assert ask(port, "kind=cam", PART % COFFEE + b"--b--\r\n", FORM)[2] == plain
    body = json.dumps({"images": [{"data": base64.b64encode(COFFEE).decode()}]}).encode()
    assert ask(port, "kind=cam", body, "application/json")[2] == plain


def test_a_full_queue_is_answered_at_once():
    with server("--queue", 1) as port, ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda _: ask(port), range(16)))
        assert {status for status, _, _ in answers} == {200, 503}
        assert all(headers["retry-after"] == "1" for status, headers, _ in answers if status == 503)
        assert ask(port)[0] == 200


def test_clients_that_go_away_leave_nothing_behind():
    with server("--queue", 4) as port:
        for _ in range(12):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request("POST", "/v1/explain", COFFEE, {"Content-Type": "image/jpeg"})
            connection.close()
        deadline = time.monotonic() + 20
        while (status := ask(port)[0]) == 503 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert status == 200
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/metrics")
        assert "\nshvit_queue_images 0.0\n" in connection.getresponse().read().decode()
        connection.close()


def test_the_reference_lists_it(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/openapi.json")
    route = json.load(connection.getresponse())["paths"]["/v1/explain"]["post"]
    connection.close()
    assert "image/png" in route["responses"]["200"]["content"]
    assert {each["name"] for each in route["parameters"]} >= {"kind", "stage", "x", "y", "class_id", "model"}
