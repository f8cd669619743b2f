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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx2
import pytest
from PIL import Image

from ..conftest import PATIENCE, wait_until

TOKEN = "a-long-secret"

HELD = """
import os, time
from pathlib import Path
from shvit.predicting.classifier import Classifier
from shvit.serve.explain import ModelExplainer
gate = Path(os.environ["SHVIT_TEST_GATE"])
def held(work):
    def wait(*arguments):
        while gate.exists():
            time.sleep(0.01)
        return work(*arguments)
    return wait
Classifier.preprocess, ModelExplainer.draw = held(Classifier.preprocess), held(ModelExplainer.draw)
"""
"""Run before a server, so that a test can hold up its decoders."""


@dataclass
class RunningServer:
    url: str
    process: subprocess.Popen[str]
    log: IO[str]
    """What it wrote on stderr."""
    announced: str
    gate: Path

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Its decoders, if it was started after ``HELD``, wait until the block is left."""
        self.gate.touch()
        try:
            yield
        finally:
            self.gate.unlink()

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

    def wait_for_metric(self, name: str, value: float, **labels: str) -> None:
        wait_until(lambda: self.metric(name, **labels) == value, f"{name} {labels} is {value}")


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
    with tempfile.TemporaryFile("w+") as log, tempfile.TemporaryDirectory() as folder:
        gate = Path(folder, "gate")
        variables = {**os.environ, "SHVIT_TEST_GATE": str(gate), **(environment or {})}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=variables)
        limit = threading.Timer(PATIENCE, process.kill)
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
            yield RunningServer(announced.split()[2], process, log, announced, gate)
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


@pytest.fixture(scope="module")
def server(colour_model: Path) -> Iterator[RunningServer]:
    """Two models, one decoder that can be held up, and small limits, so that each can be met."""
    options = ("--threads", 1, "--queue", 3, "--max-body", 500_000, "--decode-timeout", 10 * PATIENCE)
    models = ("--model", colour_model, "--model", "shipped=shvit_s1_tiny_imagenet")
    with running(*models, *options, before=HELD) as started:
        yield started
