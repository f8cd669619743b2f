"""What one client can make the server do is bounded while it is read."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import anyio
import httpx2
import pytest

from shvit.serve import bodies
from shvit.serve.batching import _from_base64
from shvit.serve.bodies import JSON, MULTIPART, Held, RefusedError, Upload, images_in, media_parameter
from shvit.serve.protocol import MAX_CHUNKS, MAX_CONNECTIONS, MAX_PIPELINED

from ..conftest import PATIENCE
from .conftest import RED, RunningServer, encoded, head, running

FORM = f"{MULTIPART}; boundary=b"
PART = b'--b\r\nContent-Disposition: form-data; name="i"; filename="%b"\r\n\r\n%b\r\n'
SIZE = 2 * 2**20


def in_a_loop(coroutine):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


def refused(body: bytes, kind: str, content_type: str = "", limit: int = 8) -> tuple[int, str]:
    with pytest.raises(RefusedError) as error:
        images_in(body, kind, content_type, limit)
    return error.value.status, str(error.value)


def test_images_of_a_json_body_are_counted_before_they_are_made(monkeypatch):
    monkeypatch.setattr(bodies.Base64Images, "model_validate_json", lambda _: pytest.fail("it was read"))
    many = b'{"images":[' + b'{"data":""},' * 100_000 + b'{"data":""}]}'
    assert refused(many, JSON) == (413, "at least 9 images; at most 8 are accepted in a request")
    for values in (b"1,", b'"",', b"[],", b"{},"):
        assert refused(b'{"images":[' + values * 100_000 + b"1]}", JSON)[0] == 413
    assert refused(b'{"a":[' + b'{"b":""},' * 100_000 + b"1]}", JSON)[0] == 413
    for hostile in (
        b"[" * SIZE,
        b'{"images":[{"data":' + b" " * SIZE + b'""}]}',
        b'{"images":[{"data":' + b"9" * SIZE + b"}]}",
        b'{"images":[{"data":"' + b"\\" * SIZE + b'"}]}',
        b'{"images":[{"data":"' + b"A" * SIZE,
    ):
        assert refused(hostile, JSON)[0] == 400
    assert refused(b'{"images":[{"data":"' + b'\\"' * SIZE + b'"}]}', JSON)[0] == 413


@pytest.mark.parametrize("size", [3, 3000, 30_000])
def test_a_json_body_is_what_the_json_reader_makes_of_it(size):
    data = base64.b64encode(bytes(range(256)) * (size // 256 + 1)).decode()
    names = ['a "b" \\', "{[,:]}", "ü\u2028", "x" * 1024, None, ""]
    images = [{"data": data[: 4 * (place + 1)] + data, "name": name, "more": [{}]} for place, name in enumerate(names)]
    for text in (json.dumps({"images": images}), json.dumps({"z": "y" * size, "images": images}, indent=4)):
        found = images_in(text.encode(), JSON, "", 8)
        assert found == [Upload(image["data"], image["name"]) for image in images]


def test_base64_with_escapes_is_read():
    raw = bytes(range(256)) * 40
    text = base64.b64encode(raw).decode()
    for escaped in (text.replace("/", "\\/"), text.replace("+", "\\u002B").replace("=", "\\u003d")):
        (upload,) = images_in(f'{{"images":[{{"data":"{escaped}"}}]}}'.encode(), JSON, "", 1)
        assert _from_base64(upload.data) == raw


@pytest.mark.parametrize("size", [30, 31, 32, 40_000])
def test_base64_as_programs_write_it_is_read(size):
    raw = (bytes([0xFB, 0xEF, 0xFF, 0xFE]) * size)[:size]  # with + and /
    text = base64.b64encode(raw).decode()
    lines = base64.encodebytes(raw).decode()
    for written in (
        text,
        text.rstrip("="),
        base64.urlsafe_b64encode(raw).decode(),
        base64.urlsafe_b64encode(raw).decode().rstrip("="),
        lines,
        lines.replace("\n", "\r\n"),
        f"data:image/jpeg;base64,{text}",
        f"DATA:image/svg+xml;charset=utf-8;BASE64,{lines}",
        f"data:;base64,{text}",
    ):
        (upload,) = images_in(json.dumps({"images": [{"data": written}]}).encode(), JSON, "", 1)
        assert _from_base64(upload.data) == raw


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("QUJD!", "not base64; expected"),
        ("QUJDR", "not base64; expected"),
        ("QU JD", "not base64; expected"),
        ("QUI", "it has letters of both alphabets"),
        ("Qü==", "not base64; expected"),
        ("https://example.org/a.jpg", "not base64; expected"),
        ("data:image/png,abc", "a data URI, but not of an image in base64; expected"),
        ("data:text/html;base64,QUJD", "a data URI, but not of an image in base64; expected"),
        ("data:" + ";a=b" * 100_000, "a data URI, but not of an image in base64; expected"),
    ],
)
def test_other_text_is_refused_with_what_was_expected(text, why):
    with pytest.raises(ValueError, match=why):
        _from_base64("+-" + text if "both" in why else text)


def test_long_names_and_strings_that_are_no_base64():
    long = b"x" * 100_000
    assert refused(b'{"images":[{"data":"","name":"%b"}]}' % long, JSON)[0] == 422
    (upload,) = images_in(b'{"images":[{"data":"%b"}]}' % ("ü".encode() * 10_000), JSON, "", 1)
    with pytest.raises(ValueError, match="not base64"):
        _from_base64(upload.data)


def test_parts_of_a_form_are_counted_before_they_are_read():
    assert refused(PART % (b"a", b"") * 100_000 + b"--b--", MULTIPART, FORM)[0] == 413
    assert refused(b"--b\r\n\r\n\r\n" * 100_000 + b"--b--", MULTIPART, FORM)[0] == 413
    assert refused(b"--b\r\nX: " + b"a" * SIZE, MULTIPART, FORM) == (
        400,
        "not a multipart body: a part's header is longer than 4096 bytes",
    )
    assert refused(PART % (b"a" * 5000, b"") + b"--b--", MULTIPART, FORM)[0] == 400
    assert refused(b"--b--", MULTIPART, f"{MULTIPART}; boundary={'b' * 300}")[0] == 400


@pytest.mark.parametrize("data", [b"", b"x", b"\r\n", b"\r\n--", b"--b", b"\r\n-" * 200_000, bytes(300_000)])
def test_parts_of_a_form_are_as_they_were_sent(data):
    body = (
        b"before\r\n" + PART % (b"a", data) + b"--b \t\r\n\r\nno file\r\n" + PART % ("ü".encode(), b"2") + b"--b--after"
    )
    assert images_in(body, MULTIPART, FORM, 8) == [Upload(data, "a"), Upload(b"2", "ü")]


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ('form-data; filename="a;b\\"c.jpg"; name=x', 'a;b"c.jpg'),
        ('form-data; name="filename=x"; filename=plain.jpg', "plain.jpg"),
        ("form-data;;; FileName = x ; name=a", "x"),
        ('form-data; name="a"', None),
        ("form-data" + ";" * 4000, None),
    ],
)
def test_parameters_of_headers(value, name):
    assert media_parameter(value, "filename") == name


def test_file_names_that_are_encoded():
    header = b"--b\r\ncontent-disposition: form-data; filename=x; filename*=UTF-8''%e2%82%ac%20rates\r\n\r\n1\r\n--b--"
    assert images_in(header, MULTIPART, FORM, 1) == [Upload(b"1", "€ rates")]


class Body:
    """An upload, as ASGI gives it, that sends what a test says and when."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[dict] = asyncio.Queue()

    def send(self, count: int, more: bool = True) -> None:
        self.messages.put_nowait({"type": "http.request", "body": bytes(count), "more_body": more})

    def read(self, held: Held) -> asyncio.Task[bytes]:
        return asyncio.ensure_future(held.read_body(self.messages.get, None, 2**20, 30))


async def until(condition) -> None:
    with anyio.fail_after(PATIENCE):
        while not condition():
            await asyncio.sleep(0.001)


def test_a_stalled_upload_gives_up_its_memory(monkeypatch):
    async def run() -> None:
        held = Held(2_000_000)
        stalled = [Body() for _ in range(2)]
        tasks = [body.read(held) for body in stalled]
        for body in stalled:
            body.send(999_999)
        await until(lambda: held.bytes == 1_999_998)
        monkeypatch.setattr(bodies, "STALLED_SECONDS", 0)
        good = Body()
        good.send(100_000, more=False)
        assert len(await good.read(held)) == 100_000
        with pytest.raises(RefusedError, match="too slowly") as error:
            await tasks[0]
        assert error.value.status == 408
        assert not tasks[1].done()
        held.release(100_000)
        stalled[1].send(1, more=False)
        assert len(await tasks[1]) == 1_000_000
        held.release(1_000_000)
        assert held.bytes == 0

    in_a_loop(run())


def test_what_is_worked_on_is_not_given_up():
    async def run() -> None:
        held = Held(1_000_000)
        whole, late = Body(), Body()
        whole.send(900_000, more=False)
        await whole.read(held)
        late.send(200_000)
        with pytest.raises(RefusedError, match="too many bytes") as error:
            await late.read(held)
        assert error.value.status == 503
        assert held.bytes == 900_000

    in_a_loop(run())


@pytest.fixture(scope="module")
def bounded(colour_model) -> Iterator[RunningServer]:
    with running("--model", colour_model, "--timeout", 2, "--no-access-log") as server:
        yield server
        assert server.process.poll() is None
        server.log.seek(0)
        assert "Traceback" not in server.log.read()


def exchange(server: RunningServer, *pieces: bytes) -> bytes:
    """All that the server answers until it closes the connection; it may do so before all is sent."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as client:
        answer = b""
        sender = threading.Thread(target=_send, args=(client, pieces))
        sender.start()
        try:
            while piece := client.recv(65536):
                answer += piece
        except ConnectionResetError:
            pass
        client.close()
        sender.join()
    return answer


def _send(client: socket.socket, pieces: tuple[bytes, ...]) -> None:
    try:
        for piece in pieces:
            client.sendall(piece)
    except OSError:
        pass


START = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
CHUNKED = START + b"Transfer-Encoding: chunked\r\n\r\n"
MEGABYTE = b"a" * 2**20


@pytest.mark.parametrize(
    ("pieces", "status", "says"),
    [
        ((START + b"X: ", *[MEGABYTE] * 10), b"431", b"32,768 bytes"),
        ((START, b"X: a\r\n" * 101 + b"\r\n"), b"431", b"100 lines"),
        ((b"POST /", *[MEGABYTE] * 10), b"414", b"URL"),
        ((b"GET /v1/models?" + b"a&" * 5000 + b" HTTP/1.1\r\n\r\n",), b"414", b"URL"),
        ((CHUNKED, b"1;", *[MEGABYTE] * 10), b"431", b"32,768 bytes"),
        ((CHUNKED, b"0\r\nX: ", *[MEGABYTE] * 10), b"431", b"32,768 bytes"),
        ((CHUNKED, b"1\r\na\r\n" * MAX_CHUNKS * 20), b"400", b"chunks of a few bytes"),
        ((b"\r\n" * 2**20,), b"431", b"32,768 bytes"),
        ((b"nothing like it\r\n\r\n",), b"400", b"not an HTTP request"),
        ((START + b"X: ",), b"408", b"header did not arrive within 2 s"),
    ],
)
def test_what_is_not_body_is_bounded(bounded, pieces, status, says):
    before = bounded.metric("process_resident_memory_bytes")
    answer = exchange(bounded, *pieces)
    assert answer.startswith(b"HTTP/1.1 " + status), answer
    header, _, body = answer.partition(b"\r\n\r\n")
    assert says in body and "error" in json.loads(body)
    assert b"x-content-type-options: nosniff" in header.lower()
    assert bounded.metric("process_resident_memory_bytes") < before + 30e6


def test_many_requests_at_once_on_a_connection_are_not_taken(bounded):
    request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    last = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    few = exchange(bounded, request * (MAX_PIPELINED - 1) + last)
    assert few.count(b"HTTP/1.1 200") == MAX_PIPELINED
    assert exchange(bounded, request * 10_000).count(b"HTTP/1.1 200") <= MAX_PIPELINED + 1


def test_compressed_bodies_are_not_opened(bounded):
    headers = {"Content-Type": "image/png", "Content-Encoding": "gzip"}
    answer = httpx2.post(f"{bounded.url}/v1/predict", content=b"x", headers=headers)
    assert answer.status_code == 415 and "Content-Encoding" in answer.json()["error"]


def test_connections_that_say_nothing_make_place_for_others(bounded):
    silent = [
        socket.create_connection(("127.0.0.1", bounded.port), timeout=PATIENCE) for _ in range(MAX_CONNECTIONS + 50)
    ]
    try:
        answer = httpx2.post(
            f"{bounded.url}/v1/predict", content=encoded(RED), headers={"Content-Type": "image/png"}, timeout=PATIENCE
        )
        assert answer.status_code == 200
        # Those that are left are closed when they have said nothing for --timeout seconds.
        assert silent[-1].recv(1) == b""
    finally:
        for each in silent:
            each.close()


def test_uploads_that_stop_before_their_end_do_not_take_all_memory(colour_model):
    size = 16 * 2**20
    with running("--model", colour_model, "--no-access-log") as server:
        stalled = []
        try:
            for _ in range(17):
                client = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)
                stalled.append(client)
                client.sendall(head(size) + bytes(size - 1))
            statuses = [
                httpx2.post(
                    f"{server.url}/v1/predict",
                    content=encoded(RED),
                    headers={"Content-Type": "image/png"},
                    timeout=PATIENCE,
                ).status_code
                for _ in range(5)
            ]
            assert statuses == [200] * 5
        finally:
            for client in stalled:
                client.close()
