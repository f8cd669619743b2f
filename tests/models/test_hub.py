"""Weights from a hub and to it: a real HTTP server on loopback, speaking as much of its protocol as is asked for."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from shvit.models import SHViT, create_model, save_checkpoint

from ..conftest import PATIENCE

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    def __init__(self, file: Path) -> None:
        body = file.read_bytes()
        self.requests: list[str] = []
        self.status = 200
        self.cut = False  # hang up in the middle of the file
        self.pushed: dict[str, bytes] = {}
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
                    self.wfile.write(body[:1000] if hub.cut else body)
                    self.close_connection = hub.cut

            def do_HEAD(self) -> None:
                self.answer(with_body=False)

            def do_GET(self) -> None:
                self.answer(with_body=True)

            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                hub.requests.append(f"{self.command} {self.path}")
                answers = {
                    "/api/repos/create": {"url": f"{hub.endpoint}/someone/net"},
                    "/api/validate-yaml": {"errors": [], "warnings": []},
                    "/api/models/someone/net/commit/main": {
                        "commitUrl": f"{hub.endpoint}/someone/net/commit/{COMMIT}",
                        "commitOid": COMMIT,
                    },
                }
                if self.path == "/api/models/someone/net/preupload/main":
                    files = [
                        {**each, "uploadMode": "regular", "shouldIgnore": False}
                        for each in json.loads(content)["files"]
                    ]
                    answer = {"files": files}
                else:
                    answer = answers[self.path]
                if "/commit/" in self.path:
                    for line in map(json.loads, content.splitlines()):
                        if line["key"] == "file":
                            hub.pushed[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

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


FETCH = """
from shvit import create_model
from shvit.errors import ShvitError
try: print(create_model('shvit_s1', pretrained=True).head.linear.weight.double().sum().item())
except ShvitError as error: print('error:', error)
"""
PUSH = """
import torch
from shvit.models import SHViT, SHViTConfig
torch.manual_seed(0)
model = SHViT(SHViTConfig(widths=(16, 24, 32), depths=(1, 1, 1), partial_dims=(4, 8, 12), num_classes=5))
print(model.push_to_hub('someone/net', token='hf_none'))
"""


def fetch(endpoint: str, cache: Path, code: str = FETCH, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the hub's client reads its settings when it is imported."""
    variables = {
        "HF_ENDPOINT": endpoint,
        "HF_HUB_CACHE": str(cache),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        **environment,
    }
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **variables}, capture_output=True, text=True, timeout=PATIENCE
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
    for remedy in ("pretrained=PATH", "HF_ENDPOINT", "HF_HUB_CACHE", "shvit.Classifier()"):
        assert remedy in answer
    assert len(answer.splitlines()) == 1


@pytest.mark.parametrize("status", [401, 404])
def test_a_hub_that_refuses_is_one_line(tmp_path, hub, status):
    hub.status = status
    answer = fetch(hub.endpoint, tmp_path / "cache").stdout
    assert answer.startswith("error: timm/shvit_s1.in1k: weights cannot be fetched: ")
    assert len(answer.splitlines()) == 1


def test_a_download_that_breaks_off_is_one_line_and_is_not_kept(tmp_path, hub, weights):
    hub.cut = True
    answer = fetch(hub.endpoint, tmp_path / "cache").stdout
    assert answer.startswith("error: timm/shvit_s1.in1k: weights cannot be fetched: ")
    assert len(answer.splitlines()) == 1
    assert not list((tmp_path / "cache").glob("**/snapshots/**/model.safetensors"))


def test_push_to_hub_sends_what_from_pretrained_reads(tmp_path, hub):
    answer = fetch(hub.endpoint, tmp_path / "cache", PUSH)
    assert answer.stdout.strip().endswith(f"/someone/net/commit/{COMMIT}"), answer.stderr
    assert set(hub.pushed) == {"README.md", "config.json", "model.safetensors"}
    for name, content in hub.pushed.items():
        (tmp_path / name).write_bytes(content)
    assert SHViT.from_pretrained(tmp_path).config.widths == (16, 24, 32)
