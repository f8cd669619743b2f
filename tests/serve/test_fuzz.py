"""Requests and images that nobody sends on purpose: no crash, no hang, no 500."""

from __future__ import annotations

import io
import random
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from PIL import Image

from ..conftest import PATIENCE, SAMPLES
from .conftest import BLUE, RunningServer, encoded, running

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF")
SECONDS_AN_IMAGE = 10
"""An image that takes longer counts as a hang; the largest accepted take a few."""


@pytest.fixture(scope="module")
def fuzzed(colour_model) -> Iterator[RunningServer]:
    """Must be alive and answer at the end."""
    with running("--model", colour_model, "--timeout", 5, "--max-body", 2_000_000, "--no-access-log") as server:
        yield server
        assert server.process.poll() is None
        answer = httpx2.post(
            f"{server.url}/v1/predict", content=encoded(BLUE), headers={"Content-Type": "image/png"}, timeout=30
        )
        assert answer.status_code == 200
        server.log.seek(0)
        assert "Traceback" not in server.log.read()


def seeds() -> list[bytes]:
    """Small pictures in every format, of several kinds: progressive, grey, palette, CMYK, with EXIF, of two frames."""
    photograph = Image.open(SAMPLES / "coffee.jpg").resize((96, 72))
    orientation = Image.Exif()
    orientation[0x0112] = 6
    kinds: list[tuple[Image.Image, str, dict]] = [(photograph, form, {}) for form in FORMATS]
    kinds += [
        (photograph, "JPEG", {"progressive": True, "exif": orientation}),
        (photograph.convert("CMYK"), "JPEG", {}),
        (photograph.convert("L"), "PNG", {}),
        (photograph.convert("I;16"), "PNG", {}),
        (photograph.convert("P"), "PNG", {"optimize": True}),
        (photograph, "WEBP", {"lossless": True}),
        (photograph.convert("P"), "GIF", {"save_all": True, "append_images": [photograph.rotate(90).convert("P")]}),
        (photograph, "TIFF", {"compression": "tiff_lzw"}),
        (photograph, "TIFF", {"compression": "tiff_adobe_deflate"}),
        (photograph, "TIFF", {"compression": "jpeg"}),
    ]
    found = []
    for image, form, options in kinds:
        buffer = io.BytesIO()
        image.save(buffer, form, **options)
        found.append(buffer.getvalue())
    return found


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Bits flipped, bytes set, parts cut out, doubled, moved in from elsewhere, or the end cut off; near the start
    more often, because that is where sizes stand."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        if not changed:
            break
        reach = len(changed) if rng.random() < 0.5 else min(len(changed), 200)
        place = rng.randrange(reach)
        length = rng.choice((1, 2, 4, 16, 200))
        match rng.randrange(7):
            case 0:
                changed[place] ^= 1 << rng.randrange(8)
            case 1:
                changed[place] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
            case 2:
                changed[place : place + length] = rng.randbytes(length)
            case 3:
                del changed[place : place + length]
            case 4:
                changed[place:place] = changed[place : place + length]
            case 5:
                changed[place : place + 4] = rng.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"))
            case 6:
                del changed[rng.randrange(len(changed)) :]
    return bytes(changed)


def fuzz_images(server: RunningServer, count: int, seed: int, seconds: float = float("inf")) -> Counter[int]:
    """Sends mutated pictures; gives how often each status was answered."""
    rng = random.Random(seed)
    pictures = seeds()
    statuses: Counter[int] = Counter()
    until = time.monotonic() + seconds
    with httpx2.Client(base_url=server.url, timeout=SECONDS_AN_IMAGE) as client:
        for number in range(count):
            picture = mutated(pictures[number % len(pictures)], rng)
            began = time.monotonic()
            response = client.post("/v1/predict", content=picture, headers={"Content-Type": "image/jpeg"})
            assert time.monotonic() - began < SECONDS_AN_IMAGE
            assert response.status_code in (200, 413, 422), (number, response.text)
            statuses[response.status_code] += 1
            if time.monotonic() > until:
                pytest.fail(f"only {number} of {count} images in {seconds} s")
    return statuses


def test_mutated_images(fuzzed):
    statuses = fuzz_images(fuzzed, 400, seed=0)
    assert statuses[200] > 40 and statuses[422] > 40, statuses  # neither all harmless nor all refused


@pytest.mark.slow
@pytest.mark.parametrize("decoding", ["exact", "fast"])
def test_ten_thousand_mutated_images(colour_model, decoding):
    options = ("--fast-decode",) if decoding == "fast" else ()
    with running("--model", colour_model, "--no-access-log", *options) as server:
        fuzz_images(server, 10_000, seed=1, seconds=1200)
        assert server.process.poll() is None
        assert server.metric("process_resident_memory_bytes") < 1e9
        server.log.seek(0)
        assert "Traceback" not in server.log.read()


CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def schemathesis(server: RunningServer, folder: Path, *options: str, limit: int) -> int:
    """Runs it over the server's own description; gives how many requests it made, all of which passed."""
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json", "--checks", CHECKS]
    command += ["--no-color", "--seed", "1", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit, cwd=folder)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    found = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert found is not None and found[1] == found[2], done.stdout
    return int(found[1])


def test_requests_made_from_the_schema(fuzzed, tmp_path):
    assert schemathesis(fuzzed, tmp_path, "--max-examples", "15", limit=PATIENCE) > 100


@pytest.mark.slow
def test_many_requests_made_from_the_schema(fuzzed, tmp_path):
    assert schemathesis(fuzzed, tmp_path, "--max-examples", "1000", limit=1200) > 2000


def test_bytes_that_are_not_http(fuzzed):
    rng = random.Random(2)
    good = b"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\nContent-Length: 4\r\n\r\nabcd"
    good_form = (
        b"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        b'Content-Length: 76\r\n\r\n--b\r\nContent-Disposition: form-data; name="i"; filename="a"'
        b"\r\n\r\nabcd\r\n--b--\r\n"
    )
    answered: Counter[bytes] = Counter()
    for number in range(300):
        with socket.create_connection(("127.0.0.1", fuzzed.port), timeout=SECONDS_AN_IMAGE) as client:
            client.sendall(mutated(good if number % 2 else good_form, rng))
            client.shutdown(socket.SHUT_WR)
            answer = client.recv(4096)
        answered[answer[9:12]] += 1
        assert answer[9:12] != b"500", answer
    assert len(answered) > 2, answered
