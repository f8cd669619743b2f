"""Real servers on loopback, each in a process of its own."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx2
import pytest
from PIL import Image

TOKEN = "a-long-secret"
START_LIMIT = 30


@dataclass
class RunningServer:
    url: str
    process: subprocess.Popen[str]
    log: IO[str]
    """What it wrote on stderr."""
    announced: str
    seconds: float
    """From its start until it said that it serves."""

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def metric(self, name: str, **labels: str) -> float:
        """A metric's value; 0 where there is none yet."""
        text = httpx2.get(f"{self.url}/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).text
        wanted = "".join(f'(?=[^}}]*{key}="{value}")' for key, value in labels.items())
        pattern = rf"^{name}{{{wanted}[^}}]*}} (.+)$" if labels else rf"^{name} (.+)$"
        found = re.search(pattern, text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def wait_for_metric(self, name: str, value: float, limit: float = 60, **labels: str) -> None:
        until = time.monotonic() + limit
        while (found := self.metric(name, **labels)) != value:
            assert time.monotonic() < until, f"{name} {labels} is {found}, expected {value}"
            time.sleep(0.02)


@contextmanager
def running(*arguments: object, environment: dict[str, str] | None = None, before: str = "") -> Iterator[RunningServer]:
    """``shvit serve`` with these arguments on a free port, ended when the block is left.

    Args:
        before: Python that its process runs first.
    """
    program = (
        ["-c", f"{before}\nimport sys\nfrom shvit.cli.main import main\nsys.exit(main())"]
        if before
        else ["-m", "shvit"]
    )
    command = [sys.executable, *program, "serve", "--port", "0", *map(str, arguments)]
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ, **(environment or {})}
        )
        limit = threading.Timer(START_LIMIT, process.kill)
        limit.start()
        try:
            assert process.stdout is not None
            announced = ""
            while "CORS" not in announced:
                line = process.stdout.readline()
                if not line:
                    log.seek(0)
                    raise AssertionError(f"did not start: {announced}{log.read()}")
                announced += line
            limit.cancel()
            yield RunningServer(announced.split()[2], process, log, announced, time.monotonic() - began)
        finally:
            limit.cancel()
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            assert process.stdout is not None
            process.stdout.close()


def encoded(colour: tuple[int, int, int], form: str = "PNG", size: tuple[int, int] = (60, 40)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, form)
    return buffer.getvalue()


def head(length: int) -> bytes:
    """What comes before a picture of this many bytes."""
    return (
        b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n"
        % length
    )


RED, GREEN, BLUE = ((200, 0, 0), (0, 200, 0), (0, 0, 200))


@pytest.fixture(scope="session")
def slow_image() -> bytes:
    """A red picture that takes some tenths of a second to decode."""
    return encoded(RED, size=(5000, 5000))


@pytest.fixture(scope="module")
def server(colour_model: Path) -> Iterator[RunningServer]:
    """Two models, one decoder and small limits, so that each can be met."""
    options = ("--threads", 1, "--queue", 3, "--timeout", 1.5, "--max-body", 500_000)
    with running("--model", colour_model, "--model", "shipped=shvit_s1_tiny_imagenet", *options) as started:
        yield started
