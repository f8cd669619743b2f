"""``shvit serve`` as its clients meet it."""

from __future__ import annotations

import base64
import http.client
import io
import json
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest
from PIL import Image

import shvit

from ..conftest import COLOURS, PATIENCE, SAMPLES, colour_card, wait_until, write_colour_model
from .conftest import BLUE, GREEN, HELD, RED, TOKEN, RunningServer, encoded, head, running


def predict(server: RunningServer, image: bytes, **params: object) -> httpx2.Response:
    headers = {"Content-Type": "image/png"}
    return httpx2.post(f"{server.url}/v1/predict", content=image, headers=headers, params=params, timeout=PATIENCE)


def labels(response: httpx2.Response) -> list[str]:
    return [
        each["predictions"][0]["label"] if "predictions" in each else each["error"]
        for each in response.json()["results"]
    ]


def test_says_what_it_serves(server):
    assert server.announced.startswith("serving on http://127.0.0.1:")
    assert "model colours: onnxruntime, 1 thread" in server.announced
    assert "model shipped: onnxruntime" in server.announced
    assert "token: none" in server.announced
    assert "CORS: off" in server.announced


def test_bytes_as_they_are(server):
    response = predict(server, encoded(RED), top_k=2)
    assert response.status_code == 200
    (result,) = response.json()["results"]
    assert result["predictions"][0]["label"] == "red"
    assert len(result["predictions"]) == 2
    assert set(result["predictions"][0]) == {"label", "class_id", "wnid", "score"}
    assert response.json()["model"] == "colours"


def test_a_form_of_files_in_order_with_bad_ones_among_them(server):
    files = [
        ("images", ("a.png", encoded(RED))),
        ("images", ("b.txt", b"not a picture")),
        ("picture", ("ü.jpg", encoded(BLUE, "JPEG"))),
    ]
    response = httpx2.post(f"{server.url}/v1/predict", files=files, data={"comment": "passed over"})
    assert response.status_code == 200
    assert [each["source"] for each in response.json()["results"]] == ["a.png", "b.txt", "ü.jpg"]
    assert labels(response) == ["red", "not an image, or of a format that is not known", "blue"]


def test_base64_in_json(server):
    images = [
        {"data": base64.b64encode(encoded(GREEN)).decode(), "name": "g"},
        {"data": "no base64!"},
        {"data": base64.b64encode(encoded(BLUE)).decode()},
    ]
    response = httpx2.post(f"{server.url}/v1/predict", json={"images": images})
    assert response.status_code == 200
    wrong = "not base64; expected a file's bytes in base64, or data:image/...;base64,..."
    assert labels(response) == ["green", wrong, "blue"]
    assert response.json()["results"][0]["source"] == "g"


def test_answers_are_those_of_the_classifier(server):
    paths = sorted(SAMPLES.glob("*.jpg"))[:3]
    expected = shvit.Classifier(threads=1).predict([path.read_bytes() for path in paths], top_k=4)
    parts = [("images", (path.name, path.read_bytes())) for path in paths]
    together = httpx2.post(f"{server.url}/v1/predict", params={"model": "shipped", "top_k": 4}, files=parts).json()
    for path, ours, theirs in zip(paths, together["results"], expected, strict=True):
        alone = predict(server, path.read_bytes(), model="shipped", top_k=4).json()["results"][0]
        assert alone["source"] == theirs.source
        for answer in (ours["predictions"], alone["predictions"]):
            assert [each["label"] for each in answer] == [each.label for each in theirs.predictions]
            scores = [each.score for each in theirs.predictions]
            assert [each["score"] for each in answer] == pytest.approx(scores, abs=1e-5)


@pytest.mark.parametrize(
    ("headers", "body", "params", "status", "says"),
    [
        ({"Content-Type": "text/plain"}, b"x", "", 415, "Content-Type: expected image/*"),
        ({}, b"x", "", 415, "Content-Type: expected image/*"),
        ({"Content-Type": "image/png"}, b"", "", 422, "empty"),
        ({"Content-Type": "image/png"}, b"GIF89a", "", 422, "<6 bytes>: "),
        ({"Content-Type": "application/json"}, b"{", "", 400, "JSON"),
        ({"Content-Type": "application/json"}, b'{"images": []}', "", 422, "images"),
        ({"Content-Type": "application/json"}, b'{"images": [{"data": 3}]}', "", 422, "images.0.data"),
        ({"Content-Type": "multipart/form-data"}, b"x", "", 400, "boundary"),
        ({"Content-Type": "multipart/form-data; boundary=b"}, b"x", "", 400, "multipart"),
        ({"Content-Type": "multipart/form-data; boundary=b"}, b"--b\r\n\r\nx", "", 400, "end is missing"),
        ({"Content-Type": "multipart/form-data; boundary=b"}, b"--b--\r\n", "", 422, "no files"),
        ({"Content-Type": "image/png"}, encoded(RED), "?top_k=0", 422, "top_k"),
        ({"Content-Type": "image/png"}, encoded(RED), "?top_k=many", 422, "top_k"),
        ({"Content-Type": "image/png"}, encoded(RED), "?model=none", 404, "colours, shipped"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(server, headers, body, params, status, says):
    response = httpx2.post(f"{server.url}/v1/predict{params}", content=body, headers=headers)
    assert response.status_code == status
    assert says in response.json()["error"]
    assert "\n" not in response.json()["error"]


def test_other_paths_and_methods(server):
    assert httpx2.get(f"{server.url}/nothing").json() == {"error": "Not Found"}
    assert httpx2.get(f"{server.url}/v1/predict").status_code == 405
    assert httpx2.get(f"{server.url}/v1/models/none").status_code == 404


def test_bombs_are_refused_before_they_are_decoded(server):
    buffer = io.BytesIO()
    Image.new("1", (16000, 16000)).save(buffer, "PNG")
    assert len(buffer.getvalue()) < 100_000
    before = server.metric("process_resident_memory_bytes")
    response = predict(server, buffer.getvalue())
    assert response.status_code == 422
    assert "megapixels" in response.json()["results"][0]["error"]
    assert server.metric("process_resident_memory_bytes") < before + 50e6


def test_large_bodies_are_refused_with_and_without_a_length(server):
    def chunks():
        for _ in range(20):
            yield bytes(50_000)

    for content in (bytes(600_000), chunks()):
        response = httpx2.post(f"{server.url}/v1/predict", content=content, headers={"Content-Type": "image/png"})
        assert response.status_code == 413
        assert "500,000 bytes" in response.json()["error"]
        assert response.headers["connection"] == "close"


def test_a_length_alone_is_enough_to_be_refused(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as client:
        client.sendall(head(99999999))
        assert client.recv(100).startswith(b"HTTP/1.1 413")


def test_more_images_than_the_queue_holds(server):
    files = [("images", (f"{number}.png", encoded(RED))) for number in range(4)]
    response = httpx2.post(f"{server.url}/v1/predict", files=files)
    assert response.status_code == 413
    assert "4 images; at most 3" in response.json()["error"]


def test_slow_uploads_time_out(colour_model):
    with (
        running("--model", colour_model, "--timeout", 1.5) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as client,
    ):
        began = time.monotonic()
        client.sendall(head(1000))
        for _ in range(999):  # a byte now and then does not buy more time
            client.sendall(b"x")
            if select.select([client], [], [], 0.1)[0]:
                break
        assert client.recv(100).startswith(b"HTTP/1.1 408")
        assert time.monotonic() - began > 1
        assert server.metric("shvit_rejections_total", reason="too_slow") == 1


def test_a_full_queue_answers_at_once(server):
    refused_before = server.metric("shvit_rejections_total", reason="queue_full")
    with ThreadPoolExecutor(3) as pool, server.holding():
        accepted = [pool.submit(predict, server, encoded(RED)) for _ in range(3)]
        server.wait_for_metric("shvit_queue_images", 3)
        # The body is announced and never sent: the answer does not wait for it.
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as client:
            client.sendall(head(1000))
            answer = client.recv(1000)
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 1" in answer.lower()
        # What is no request for labels is answered as ever, and what would be too large at any time is told so.
        statuses = [httpx2.get(f"{server.url}{path}").status_code for path in ("/readyz", "/v1/models", "/v1/predict")]
        assert statuses == [200, 200, 405]
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as client:
            client.sendall(
                b"POST /v1/predict HTTP/1.1\r\nContent-Type: image/png\r\nContent-Length: 1000000000000\r\n\r\n"
            )
            assert client.recv(1000).startswith(b"HTTP/1.1 413")
        assert not any(each.done() for each in accepted)
    assert [each.result().status_code for each in accepted] == [200] * 3
    assert server.metric("shvit_rejections_total", reason="queue_full") == refused_before + 1
    assert server.metric("shvit_queue_images") == 0
    assert predict(server, encoded(BLUE)).status_code == 200


def test_a_client_that_goes_away_is_not_worked_for(server):
    dropped = server.metric("shvit_images_total", model="colours", outcome="dropped")
    classified = server.metric("shvit_images_total", model="colours", outcome="classified")
    picture = encoded(GREEN)
    with ThreadPoolExecutor(1) as pool, server.holding():
        first = pool.submit(predict, server, picture)
        server.wait_for_metric("shvit_queue_images", 1)
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as client:
            client.sendall(head(len(picture)) + picture)
            server.wait_for_metric("shvit_queue_images", 2)
        server.wait_for_metric("shvit_images_total", dropped + 1, model="colours", outcome="dropped")
    assert first.result().status_code == 200
    assert predict(server, encoded(RED)).status_code == 200
    assert server.metric("shvit_images_total", model="colours", outcome="classified") == classified + 2


def test_metrics_follow_what_is_done(server):
    names = ("shvit_batch_size_sum", "shvit_batch_size_count")
    before = [server.metric(name, model="colours") for name in names]
    phases = {
        phase: server.metric("shvit_phase_seconds_count", model="colours", phase=phase)
        for phase in ("queue", "decode", "infer")
    }
    answered = server.metric("shvit_requests_total", code="200")
    files = [("images", (f"{number}.png", encoded(RED))) for number in range(3)]
    assert httpx2.post(f"{server.url}/v1/predict", files=files).status_code == 200
    after = [server.metric(name, model="colours") for name in names]
    assert after[0] == before[0] + 3
    assert before[1] < after[1] <= before[1] + 3
    assert server.metric("shvit_requests_total", code="200") == answered + 1
    for phase, count in phases.items():
        assert server.metric("shvit_phase_seconds_count", model="colours", phase=phase) == count + 3
    assert server.metric("shvit_engine_info", model="colours", engine="onnxruntime") == 1


def test_models_are_described_by_their_cards(server):
    models = httpx2.get(f"{server.url}/v1/models").json()["models"]
    assert [(each["name"], each["default"]) for each in models] == [("colours", True), ("shipped", False)]
    assert models[1]["card"]["architecture"] == "shvit_s1"
    assert models[1]["number_of_classes"] == 200
    one = httpx2.get(f"{server.url}/v1/models/colours").json()
    assert [each["label"] for each in one["classes"]] == list(COLOURS)


def test_the_reference_loads_nothing_from_elsewhere(server):
    page = httpx2.get(f"{server.url}/docs").text
    assert "/v1/predict" in page and "503" in page
    assert "http" not in page.replace("http-equiv", "")
    assert "<script" not in page
    schema = httpx2.get(f"{server.url}/openapi.json").json()
    content = schema["paths"]["/v1/predict"]["post"]["requestBody"]["content"]
    assert set(content) == {"image/*", "application/octet-stream", "multipart/form-data", "application/json"}
    assert "Base64Image" in schema["components"]["schemas"]
    assert httpx2.get(f"{server.url}/redoc").status_code == 404


def test_many_at_once_get_their_own_answers(server):
    pictures = [encoded(colour, size=(40 + number, 40)) for number in range(8) for colour in (RED, GREEN, BLUE)]

    def ask(image: bytes) -> str:
        answers: list[httpx2.Response] = []

        def accepted() -> bool:
            answers.append(predict(server, image))
            return answers[-1].status_code != 503

        wait_until(accepted)
        return labels(answers[-1])[0]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, pictures)) == list(COLOURS) * 8


def refuses_connections(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.parametrize("when", ["decoding", "uploading"])
def test_sigterm_finishes_what_was_accepted(colour_model, when):
    picture = encoded(RED)
    options = ("--threads", 1, "--timeout", PATIENCE, "--decode-timeout", 10 * PATIENCE)
    with running("--model", colour_model, *options, before=HELD) as server, ExitStack() as held:
        assert httpx2.get(f"{server.url}/readyz").json() == {"status": "ready"}
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
        client.putrequest("POST", "/v1/predict")
        client.putheader("Content-Type", "image/png")
        client.putheader("Content-Length", str(len(picture)))
        client.putheader("Expect", "100-continue")
        client.endheaders()
        # It says so when it begins to read the body: from then on the request is one that it has accepted.
        assert client.sock.recv(100).startswith(b"HTTP/1.1 100")
        client.send(picture[:-10])
        if when == "decoding":
            held.enter_context(server.holding())
            client.send(picture[-10:])
            server.wait_for_metric("shvit_queue_images", 1)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: refuses_connections(server.port))
        held.close()
        if when == "uploading":
            client.send(picture[-10:])
        response = client.getresponse()
        assert response.status == 200
        assert json.load(response)["results"][0]["predictions"][0]["label"] == "red"
        assert server.process.wait(PATIENCE) == 0
        server.log.seek(0)
        log = server.log.read()
        assert 'POST /v1/predict HTTP/1.1" 200' in log
        assert "Traceback" not in log


def test_token_and_cross_origin(colour_model, tmp_path):
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    pages = tmp_path / "pages"
    pages.mkdir()
    (pages / "index.html").write_text("<p>a page</p>")
    options = ("--token-file", tmp_path / "token", "--cors-origin", "https://example.org", "--pages", pages)
    with running("--model", colour_model, *options, "--no-access-log") as server:
        assert "token: required" in server.announced
        assert TOKEN not in server.announced
        headers = {"Content-Type": "image/png"}
        for token in (None, "Bearer", f"Bearer {TOKEN}x", TOKEN, "Bearer ä"):
            sent = headers if token is None else {**headers, "Authorization": token.encode()}
            refused = httpx2.post(f"{server.url}/v1/predict", content=encoded(RED), headers=sent)
            assert refused.status_code == 401, token
            assert refused.headers["www-authenticate"] == "Bearer"
        assert httpx2.get(f"{server.url}/v1/models").status_code == 401
        assert httpx2.get(f"{server.url}/metrics").status_code == 401
        assert httpx2.get(f"{server.url}/healthz").status_code == 200
        assert httpx2.get(f"{server.url}/").text == "<p>a page</p>"
        headers |= {"Authorization": f"Bearer {TOKEN}", "Origin": "https://example.org"}
        answer = httpx2.post(f"{server.url}/v1/predict", content=encoded(RED), headers=headers)
        assert labels(answer) == ["red"]
        assert answer.headers["access-control-allow-origin"] == "https://example.org"
        answer = httpx2.get(f"{server.url}/healthz", headers={"Origin": "https://elsewhere.org"})
        assert "access-control-allow-origin" not in answer.headers


def test_a_token_holds_behind_a_proxy_too(colour_model):
    with running("--model", colour_model, "--root-path", "/behind", environment={"SHVIT_TOKEN": TOKEN}) as server:
        origin = server.url.removesuffix("/behind")
        for path in ("/v1/models", "/behind/v1/models", "/metrics", "/%76%31/models", "/v1/../v1/models"):
            assert httpx2.get(origin + path).status_code in (401, 404), path
        assert httpx2.get(f"{origin}/v1/models").status_code == 401
        answer = httpx2.get(f"{origin}/v1/models", headers={"Authorization": f"Bearer {TOKEN}"})
        assert answer.status_code == 200


def test_tls(colour_model, tmp_path):
    certificate, key = self_signed(tmp_path)
    with running("--model", colour_model, "--ssl-certfile", certificate, "--ssl-keyfile", key) as server:
        assert server.url.startswith("https://")
        url = server.url.replace("127.0.0.1", "localhost")
        import ssl

        trusted = ssl.create_default_context(cafile=str(certificate))
        response = httpx2.post(
            f"{url}/v1/predict", content=encoded(RED), headers={"Content-Type": "image/png"}, verify=trusted
        )
        assert labels(response) == ["red"]


def self_signed(folder: Path) -> tuple[Path, Path]:
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(private)
    return folder / "cert.pem", folder / "key.pem"


@pytest.mark.parametrize(
    ("arguments", "environment", "says"),
    [
        (("--model", "none.onnx"), {}, "none.onnx: no such model file"),
        (("--port", "1", "--host", "192.0.2.1"), {}, "Cannot assign"),
        ((), {"SHVIT_TOKEN": ""}, "SHVIT_TOKEN: expected a token"),
        (("--max-delay-ms", "-1"), {}, "max_delay_ms: expected 0 or more"),
        (("--pages", "/nowhere"), {}, "no such folder"),
        (("--model", "shvit_s1_tiny_imagenet", "--model", "shvit_s1_tiny_imagenet"), {}, "give this one another"),
        (("--ssl-certfile", "/nowhere.pem"), {}, "nowhere.pem"),
    ],
)
def test_wrong_usage_is_one_line(arguments, environment, says):
    import os

    command = [sys.executable, "-m", "shvit", "serve", "--port", "0", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env={**os.environ, **environment})
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr


def test_is_small_and_without_pytorch():
    """The bound is generous; benchmarks/serving.py measures, how soon it starts as well."""
    with running() as server:
        for path in sorted(SAMPLES.glob("*.jpg")):
            assert predict(server, path.read_bytes()).status_code == 200
        assert server.metric("process_resident_memory_bytes") < 300e6
        assert "libtorch" not in Path(f"/proc/{server.process.pid}/maps").read_text()


def test_images_of_gone_clients_do_not_stay_in_memory(server):
    """Thirty clients that send half of a body and leave."""
    for _ in range(30):
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as client:
            client.sendall(head(400000))
            client.sendall(bytes(200_000))
    threads = [threading.Thread(target=predict, args=(server, encoded(RED))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert server.metric("shvit_queue_images") == 0
    assert predict(server, encoded(GREEN)).status_code == 200


def test_a_second_card_of_the_same_name_needs_another(colour_model, tmp_path):
    other = write_colour_model(tmp_path / "other.onnx", colour_card(notes="another").to_json())
    with running("--model", colour_model, "--model", f"other={other}") as server:
        assert predict(server, encoded(BLUE), model="other").json()["model"] == "other"


@pytest.fixture(scope="module")
def deciding(deciding_model) -> Iterator[RunningServer]:
    with running("--model", deciding_model, "--threads", 1) as server:
        yield server


GREY, ORANGE = (120, 120, 120), (200, 190, 20)


def test_what_is_decided(deciding):
    (red,), (grey,), (orange,) = (predict(deciding, encoded(each)).json()["results"] for each in (RED, GREY, ORANGE))
    assert (red["decision"], red["known"], red["predictions"][0]["accepted"]) == ("answer", True, True)
    assert (grey["decision"], grey["known"], grey["unknown_score"]) == ("unknown", False, 0)
    assert (orange["decision"], orange["known"]) == ("unsure", True)
    (plain,) = predict(deciding, encoded(GREY), unknown="false").json()["results"]
    assert (plain["decision"], plain.get("known"), plain.get("unknown_score")) == ("unsure", None, None)
    (sure,) = predict(deciding, encoded(ORANGE), min_score=0.5).json()["results"]
    assert sure["decision"] == "answer"
    classifier = shvit.Classifier(deciding_path(deciding), threads=1)
    for colour in (RED, GREY, ORANGE):
        (found,) = predict(deciding, encoded(colour)).json()["results"]
        (expected,) = classifier.predict(encoded(colour))
        assert {each: found[each] for each in ("decision", "known", "unknown_score")} == {
            each: pytest.approx(expected.to_dict()[each]) for each in ("decision", "known", "unknown_score")
        }


def deciding_path(server: RunningServer) -> Path:
    return Path(server.process.args[server.process.args.index("--model") + 1])  # type: ignore[union-attr,index]


@pytest.mark.parametrize(
    "params",
    [
        {"min_score": "1.1"}, {"min_score": "-0.1"}, {"min_score": "nan"}, {"min_score": ""}, {"min_score": "9e-0"},
        {"min_score": "0." + "1" * 200}, {"unknown": "perhaps"}, {"unknown": ""},
    ],
    ids=str,
)  # fmt: skip
def test_wrong_ways_to_decide(deciding, params):
    response = predict(deciding, encoded(RED), **params)
    assert response.status_code == 422
    (name,) = params
    assert f"{name}: expected " in response.text


@pytest.mark.parametrize("value", ["0", "1", "0.5", ".5", "1.0", "0.0", "0.30000000000000004", "1e-3", "1.5e-05"])
def test_numbers_as_they_may_be_written(deciding, value):
    assert predict(deciding, encoded(RED), min_score=value).status_code == 200


def test_the_reference_has_decisions(deciding):
    described = httpx2.get(f"{deciding.url}/openapi.json").json()
    schemas = described["components"]["schemas"]
    assert "accepted" in schemas["PredictionAnswer"]["properties"]
    (answer,) = [each["properties"] for each in schemas.values() if "unknown_score" in each.get("properties", {})]
    assert {"decision", "known", "unknown_score"} <= set(answer)
    parameters = {each["name"] for each in described["paths"]["/v1/predict"]["post"]["parameters"]}
    assert {"top_k", "min_score", "unknown", "model"} <= parameters


def test_the_client_carries_decisions(deciding):
    classifier = shvit.Classifier(deciding_path(deciding), threads=1)
    pictures = [encoded(each) for each in (RED, GREY, ORANGE)]
    with shvit.Client(deciding.url) as client:
        for options in ({}, {"unknown": False}, {"min_score": 0.5}, {"min_score": 0.9999999999}):
            found, expected = (each.predict(pictures, **options) for each in (client, classifier))
            assert [(each.decision, each.known, each.headline) for each in found] == [
                (each.decision, each.known, each.headline) for each in expected
            ]
            assert [each.accepted for one in found for each in one.predictions] == [
                each.accepted for one in expected for each in one.predictions
            ]
        with pytest.raises(ValueError, match="min_score: expected 0 to 1, got 2"):
            client.predict(pictures, min_score=2)
