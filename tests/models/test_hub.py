"""Weights from a hub: a real HTTP server on loopback that speaks as much of its protocol as the client asks for."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from shvit.models import create_model, save_checkpoint

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    def __init__(self, file: Path) -> None:
        body = file.read_bytes()
        self.requests: list[str] = []
        self.status = 200
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self, with_body: bool) -> None:
                hub.requests.append(f"{self.command} {self.path}")
                found = self.path == "/timm/shvit_s1.in1k/resolve/main/model.safetensors"
                status = hub.status if found else 404
                self.send_response(status)
                self.send_header("Content-Length", str(len(body) if status == 200 else 0))
                if status == 200:
                    self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
                    self.send_header("X-Repo-Commit", COMMIT)
                elif status == 404:
                    self.send_header("X-Error-Code", "RepoNotFound")
                self.end_headers()
                if with_body and status == 200:
                    self.wfile.write(body)

            def do_HEAD(self) -> None:
                self.answer(with_body=False)

            def do_GET(self) -> None:
                self.answer(with_body=True)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def weights(tmp_path) -> Path:
    torch.manual_seed(3)
    file = tmp_path / "weights.safetensors"
    save_checkpoint(create_model("shvit_s1"), file, names="timm")
    return file


@pytest.fixture
def hub(weights):
    hub = Hub(weights)
    yield hub
    hub.stop()


def fetch(endpoint: str, cache: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the hub's client reads its settings when it is imported."""
    code = (
        "from shvit import create_model\n"
        "from shvit.errors import ShvitError\n"
        "try: print(create_model('shvit_s1', pretrained=True).head.linear.weight.double().sum().item())\n"
        "except ShvitError as error: print('error:', error)\n"
    )
    variables = {"HF_ENDPOINT": endpoint, "HF_HUB_CACHE": str(cache), "HF_HUB_DISABLE_TELEMETRY": "1", **environment}
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **variables}, capture_output=True, text=True, timeout=120
    )


def test_pretrained_by_name_comes_from_the_hub_then_from_its_cache(tmp_path, hub, weights):
    expected = create_model("shvit_s1", pretrained=weights).head.linear.weight.double().sum().item()
    first = fetch(hub.endpoint, tmp_path / "cache")
    assert float(first.stdout) == expected, first.stderr
    assert any(request.startswith("GET") for request in hub.requests)
    hub.stop()
    offline = fetch(hub.endpoint, tmp_path / "cache", HF_HUB_OFFLINE="1")
    assert float(offline.stdout) == expected, offline.stderr


def test_offline_without_a_cache_says_what_to_do(tmp_path):
    answer = fetch("http://127.0.0.1:9", tmp_path / "cache", HF_HUB_OFFLINE="1").stdout
    assert answer.startswith("error: timm/shvit_s1.in1k: weights cannot be fetched: ")
    assert "pretrained=PATH" in answer
    assert len(answer.splitlines()) == 1


@pytest.mark.parametrize("status", [401, 404])
def test_a_hub_that_refuses_is_one_line(tmp_path, hub, status):
    hub.status = status
    answer = fetch(hub.endpoint, tmp_path / "cache").stdout
    assert answer.startswith("error: timm/shvit_s1.in1k: weights cannot be fetched: ")
    assert len(answer.splitlines()) == 1
