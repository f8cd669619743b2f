"""Embeddings over HTTP are those of the embedder."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import httpx2
import numpy as np
import pytest

import shvit
from shvit import Embedder, EmbeddingOptions
from shvit.errors import ArgumentError, ServerError
from shvit.shipped import DEFAULT_MODEL

from .conftest import BLUE, GREEN, RED, TOKEN, RunningServer, encoded, running
from .test_client import in_a_loop


@pytest.fixture(scope="module")
def server(colour_model) -> Iterator[RunningServer]:
    arguments = ("--model", DEFAULT_MODEL, "--model", colour_model, "--engine", "onnxruntime")
    with running(*arguments, environment={"SHVIT_TOKEN": TOKEN}) as server:
        yield server


def post(server: RunningServer, query: str = "", **body) -> httpx2.Response:
    headers = {"Authorization": f"Bearer {TOKEN}", **body.pop("headers", {})}
    return httpx2.post(f"{server.url}/v1/embed{query}", headers=headers, **body)


@pytest.mark.parametrize(("normalize", "flip"), [(False, False), (True, False), (True, True), (False, True)])
def test_one_image_as_the_body(server, normalize, flip):
    embedder = Embedder(options=EmbeddingOptions(normalize, flip), engine="onnxruntime")
    picture = encoded(RED, "JPEG", (90, 120))
    query = f"?normalize={str(normalize).lower()}&flip={str(flip).lower()}"
    response = post(server, query, content=picture, headers={"Content-Type": "image/jpeg"})
    assert response.status_code == 200, response.text
    answer = response.json()
    np.testing.assert_allclose(answer.pop("embedding"), embedder.embed(picture)[0].values, rtol=1e-4, atol=1e-5)
    assert answer == {
        "model": embedder.info.model,
        "backbone": embedder.info.backbone,
        "values": embedder.values,
        "normalized": normalize,
        "flip": flip,
    }


def test_several_images(server):
    pictures = [encoded(RED), b"no picture", encoded(BLUE)]
    files = [("images", (f"{place}.png", data)) for place, data in enumerate(pictures)]
    texts = [{"data": base64.b64encode(each).decode()} for each in pictures]
    expected = [each.values for each in Embedder(engine="onnxruntime").embed(pictures)]
    for query in ("", "?flip=true"):
        for body in ({"files": files}, {"json": {"images": texts}}):
            answer = post(server, query, **body).json()
            assert [("embedding" in each, "error" in each) for each in answer["results"]] == [
                (True, False),
                (False, True),
                (True, False),
            ]
            if not query:
                np.testing.assert_allclose(answer["results"][2]["embedding"], expected[2], rtol=1e-4, atol=1e-5)


def test_what_is_refused(server):
    picture = {"content": encoded(RED), "headers": {"Content-Type": "image/png"}}
    for query, said in (
        ("?normalise=true", "'normalise': expected one of normalize, flip, model"),
        ("?normalize=perhaps", "normalize: "),
        ("?model=colours", "model colours: no head that embeddings could be taken before"),
    ):
        response = post(server, query, **picture)
        assert response.status_code == 422 and said in response.json()["error"]
    assert post(server, "?model=other", **picture).status_code == 404
    response = post(server, content=b"no picture", headers={"Content-Type": "image/png"})
    assert response.status_code == 422 and response.json()["error"].endswith("a format that is not known")
    assert httpx2.post(f"{server.url}/v1/embed", content=encoded(RED)).status_code == 401
    assert post(server, content=b"", headers={"Content-Type": "image/png"}).status_code == 422


def test_predictions_are_the_same_beside(server):
    with shvit.Client(server.url, TOKEN) as client:
        pictures = [encoded(RED), encoded(GREEN)]
        found = client.predict(pictures)
    assert found == shvit.Classifier(engine="onnxruntime").predict(pictures)
    with shvit.Client(server.url, TOKEN, "colours") as client:
        assert client.predict(encoded(RED))[0].predictions[0].label == "red"


def test_the_client_gives_what_the_embedder_gives(server, tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(GREEN))
    sources = [tmp_path / "a.png", encoded(RED), tmp_path / "missing.png", b"no picture", *[encoded(BLUE)] * 9]
    options = EmbeddingOptions(normalize=True, dtype="float16")
    expected = Embedder(options=options, engine="onnxruntime").embed(sources)
    with shvit.Client(server.url, TOKEN) as client:
        found = client.embed(sources, options)
        assert [each.sha256 for each in client.embed(sources[0])] == [expected[0].sha256]
        with pytest.raises(ArgumentError, match="stages: a server gives embeddings of the last stage"):
            client.embed(sources[0], EmbeddingOptions(stages=2))
    with shvit.Client(server.url, TOKEN, "colours") as client, pytest.raises(ServerError, match="422: model colours"):
        client.embed(sources[0])

    async def ask() -> list[shvit.Embedding]:
        async with shvit.AsyncClient(server.url, TOKEN) as client:
            return await client.embed(sources, options)

    for answers in (found, in_a_loop(ask())):
        for mine, its in zip(answers, expected, strict=True):
            assert (mine.source, mine.sha256, mine.error) == (its.source, its.sha256, its.error)
            if its.values is not None:
                assert mine.values.dtype == np.float16
                np.testing.assert_allclose(mine.values, its.values, rtol=1e-2, atol=1e-3)


def test_it_is_in_the_reference(server):
    schema = httpx2.get(f"{server.url}/openapi.json").json()
    described = schema["paths"]["/v1/embed"]["post"]
    assert [each["name"] for each in described["parameters"]] == ["normalize", "flip", "model"]
    assert "image/*" in described["requestBody"]["content"]


def test_a_full_queue_takes_mirror_images_into_account():
    with running("--model", DEFAULT_MODEL, "--queue", "3") as server:
        files = [("images", (f"{place}.png", encoded(RED))) for place in range(2)]
        assert httpx2.post(f"{server.url}/v1/embed", files=files).status_code == 200
        answer = httpx2.post(f"{server.url}/v1/embed?flip=true", files=files)
        assert answer.status_code == 413  # trying again would not help
        assert "at most 1 are accepted" in answer.json()["error"]
        found = shvit.Client(server.url, retries=0).embed([encoded(RED)] * 3, EmbeddingOptions(flip=True))
        assert [each.error for each in found] == [None] * 3


def test_no_mirror_image_fits_into_a_queue_of_one():
    with running("--model", DEFAULT_MODEL, "--queue", "1") as server:
        headers = {"Content-Type": "image/png"}
        answer = httpx2.post(f"{server.url}/v1/embed?flip=true", content=encoded(RED), headers=headers)
        assert (answer.status_code, answer.json()["error"]) == (413, "an image takes 2 places of 1")
