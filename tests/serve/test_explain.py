"""The route that draws what a model looked at, of a real server."""

from __future__ import annotations

import base64
import http.client
import io
import json
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import numpy as np
import pytest
from PIL import Image

from shvit import Explainer
from shvit.drawing.overlay import attention_map, class_activation_map, draw_map

from ..conftest import PATIENCE, SAMPLES
from .conftest import HELD, RunningServer, encoded, running
from .test_fuzz import mutated, seeds

COFFEE = (SAMPLES / "coffee.jpg").read_bytes()
LONG = ("--decode-timeout", 10 * PATIENCE)


@pytest.fixture(scope="module")
def explaining(colour_model) -> Iterator[RunningServer]:
    with running("--model", "shvit_s1_tiny_imagenet", "--model", colour_model, "--threads", 2) as server:
        yield server


def ask(server: RunningServer, query: str = "", body: bytes = COFFEE, kind: str = "image/jpeg") -> httpx2.Response:
    url = f"{server.url}/v1/explain?{query}"
    return httpx2.post(url, content=body, headers={"Content-Type": kind}, timeout=PATIENCE)


def picture(answer: httpx2.Response) -> Image.Image:
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    return Image.open(io.BytesIO(answer.content))


@pytest.mark.parametrize("kind", ["attention", "cam"])
def test_the_answer_is_the_librarys_picture(explaining, kind):
    drawn = picture(ask(explaining, f"kind={kind}"))
    explanation = Explainer().explain(COFFEE)
    shown = attention_map(explanation, 2) if kind == "attention" else class_activation_map(explanation)
    expected = draw_map(explanation.image, explanation.region, shown)
    # Within a level or two: the engine's threads are not as many, so sums are rounded elsewhere.
    assert np.abs(np.asarray(drawn).astype(int) - np.asarray(expected)).max() <= 2


def test_a_sheet_is_what_comes_unless_it_is_said(explaining):
    assert picture(ask(explaining)).width > 4 * 240


def test_a_token_is_chosen_by_a_pixel(explaining):
    pictures = {ask(explaining, f"kind=attention&stage=2&x={x}&y=100").content for x in (150, 350)}
    assert len(pictures | {ask(explaining, "kind=attention").content}) == 3


def test_a_large_picture_is_answered_smaller(explaining):
    large = encoded((200, 0, 0), "JPEG", (4000, 3000))
    assert picture(ask(explaining, "kind=cam", large)).size == (1024, 768)


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
def test_refusals_are_one_line_of_json(explaining, query, body, kind, status, message):
    answer = ask(explaining, query, body, kind)
    error = answer.json()["error"]
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
    assert message in error and "\n" not in error and ".onnx" not in error


def test_a_form_and_base64_carry_the_image_as_well(explaining):
    plain = ask(explaining, "kind=cam").content
    assert ask(explaining, "kind=cam", PART % COFFEE + b"--b--\r\n", FORM).content == plain
    body = json.dumps({"images": [{"data": base64.b64encode(COFFEE).decode()}]}).encode()
    assert ask(explaining, "kind=cam", body, "application/json").content == plain


def test_a_full_queue_is_answered_at_once():
    with running("--queue", 1, "--threads", 2, *LONG, before=HELD) as server, ThreadPoolExecutor(1) as clients:
        with server.holding():
            first = clients.submit(ask, server)
            server.wait_for_metric("shvit_queue_images", 1)
            answers = [ask(server) for _ in range(3)]
        assert [(each.status_code, each.headers["retry-after"]) for each in answers] == [(503, "1")] * 3
        assert first.result().status_code == 200
        assert ask(server).status_code == 200


def test_mutated_images_are_drawn_or_refused(explaining):
    rng, kinds = random.Random(5), ("attention", "cam", "sheet")
    originals = seeds()
    found = {
        ask(explaining, f"kind={rng.choice(kinds)}", mutated(rng.choice(originals), rng)).status_code for _ in range(50)
    }
    assert found == {200, 422}


def test_clients_that_go_away_leave_nothing_behind():
    with running("--queue", 8, "--threads", 1, *LONG, before=HELD) as server:
        with server.holding():
            connections = [http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE) for _ in range(6)]
            for connection in connections:
                connection.request("POST", "/v1/explain", COFFEE, {"Content-Type": "image/jpeg"})
            server.wait_for_metric("shvit_queue_images", 6)
            for connection in connections:
                connection.close()
            server.wait_for_metric("shvit_queue_images", 0)
        assert picture(ask(server)).width > 4 * 240
        assert server.metric("shvit_requests_total", code="500") == 0


def test_the_reference_lists_it(explaining):
    route = httpx2.get(f"{explaining.url}/openapi.json").json()["paths"]["/v1/explain"]["post"]
    assert "image/png" in route["responses"]["200"]["content"]
    assert {each["name"] for each in route["parameters"]} >= {"kind", "stage", "x", "y", "class_id", "model"}


def test_a_fault_of_ours_is_no_refusal():
    """NumPy's ``ValueError`` says nothing of what the client sent."""
    before = (
        "from shvit.serve.explain import ModelExplainer\n"
        "def draw(self, image, wanted): raise ValueError('operands could not be broadcast together')\n"
        "ModelExplainer.draw = draw"
    )
    with running(before=before) as server:
        answer = ask(server)
        assert answer.status_code == 500
        assert "operands" not in answer.json()["error"]
        assert server.metric("shvit_requests_total", code="500") == 1
        server.log.seek(0)
        assert "operands could not be broadcast together" in server.log.read()
