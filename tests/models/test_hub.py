"""Weights from a hub by name, and networks to it."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from shvit.models import SHViT, create_model
from shvit.models.create import weights_file

from ..conftest import PATIENCE
from ..hub_server import HubServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class TakingHub:
    """A hub that networks are pushed to."""

    def __init__(self) -> None:
        self.pushed: dict[str, bytes] = {}
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
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
def taking_hub():
    hub = TakingHub()
    yield hub
    hub.stop()


FETCH = """
import sys
from shvit import create_model
from shvit.errors import ShvitError
for pretrained in (True, "shvit_s1", "hf://timm/shvit_s1.in1k@main"):
    try: print(create_model('shvit_s1', pretrained=pretrained).head.linear.weight.double().sum().item())
    except ShvitError as error: print(type(error).__name__, error)
"""
PUSH = """
import torch
from shvit.models import SHViT, SHViTConfig
torch.manual_seed(0)
model = SHViT(SHViTConfig(widths=(16, 24, 32), depths=(1, 1, 1), partial_dims=(4, 8, 12), num_classes=5))
print(model.push_to_hub('someone/net', token='hf_none'))
"""


def run(hub: HubServer, home: Path, *command: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the hub's client reads its settings when it is imported."""
    return subprocess.run(
        [sys.executable, *command],
        env=hub.environment(home, **changes),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def test_pretrained_by_name_comes_from_the_hub_then_from_its_cache(tmp_path, hub, timm_repository):
    folder = timm_repository("shvit_s1")
    hub.publish("timm/shvit_s1.in1k", folder)
    expected = (
        create_model("shvit_s1", pretrained=folder / "model.safetensors").head.linear.weight.double().sum().item()
    )
    first = run(hub, tmp_path, "-c", FETCH)
    assert [*map(float, first.stdout.split())] == [expected] * 3, first.stderr
    assert sum(each.startswith("GET /lfs/") for each in hub.requests) == 1
    hub.stop()
    offline = run(hub, tmp_path, "-c", FETCH)
    assert [*map(float, offline.stdout.split())] == [expected] * 3, offline.stderr


@pytest.mark.parametrize(
    "command",
    [
        "export --model shvit_s1 --output out.onnx",
        "train data --pretrained hf://timm/shvit_s1.in1k --batch-size 2 --output out",
    ],
)
def test_without_a_network_commands_end_with_one_line(tmp_path, monkeypatch, hub, command):
    monkeypatch.chdir(tmp_path)
    for place, name in enumerate(("a/0.png", "a/1.png", "a/2.png", "b/0.png", "b/1.png", "b/2.png")):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64), (place * 40, 0, 0)).save(path)
    done = run(hub, tmp_path, "-m", "shvit", *command.split(), HF_HUB_OFFLINE="1")
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert "error: timm/shvit_s1.in1k: cannot be fetched: HF_HUB_OFFLINE is set" in last
    for remedy in ("give a file", "HF_ENDPOINT", "HF_HUB_CACHE", "shvit_s1_tiny_imagenet"):
        assert remedy in last


def test_paths_are_left_as_they_are(tmp_path):
    assert weights_file(tmp_path / "w.pth") == tmp_path / "w.pth"


def test_push_to_hub_sends_what_from_pretrained_reads(tmp_path, hub, taking_hub):
    answer = run(hub, tmp_path, "-c", PUSH, HF_ENDPOINT=taking_hub.endpoint)
    assert answer.stdout.strip().endswith(f"/someone/net/commit/{COMMIT}"), answer.stderr
    assert set(taking_hub.pushed) == {"README.md", "config.json", "model.safetensors"}
    for name, content in taking_hub.pushed.items():
        (tmp_path / name).write_bytes(content)
    assert SHViT.from_pretrained(tmp_path).config.widths == (16, 24, 32)
