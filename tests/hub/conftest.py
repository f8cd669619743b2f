"""Commands and code that run against the hub on loopback, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from ..conftest import PATIENCE

FETCH = """
import dataclasses, json, sys, time
from shvit.errors import HubError
from shvit.hub.fetch import fetch
from shvit.hub.names import parse_reference
name, wanted, update = sys.argv[1:]
began = time.monotonic()
try:
    found = fetch(parse_reference(name), wanted=wanted, update=update == "True")
    told = {**dataclasses.asdict(found), "file": str(found.file), "licence": found.licence, "error": None}
except HubError as error:
    told = {"error": str(error)}
client = any(each.split(".")[0] in ("huggingface_hub", "httpx2", "torch") for each in sys.modules)
print(json.dumps({**told, "seconds": time.monotonic() - began, "client": client}))
"""
"""Prints what was fetched, or the error; how long that took; and whether the hub's client was imported."""

NAME = "shvit_s1"
REPOSITORY = "timm/shvit_s1.in1k"


@pytest.fixture
def weights() -> bytes:
    """In place of weights, for what does not read them: large enough to break off, small enough to send again."""
    return bytes(range(256)) * 4000


@pytest.fixture
def published(hub, weights) -> str:
    """A small repository under the name of S1's; its commit."""
    readme = "---\nlicense: mit\ntags:\n- image-classification\n---\n# A model\n"
    files = {"model.safetensors": weights, "config.json": b'{"architecture": "shvit_s1"}', "README.md": readme.encode()}
    return hub.publish(REPOSITORY, {**files, "other.txt": b"not needed", "onnx/model.onnx": b"for others"})


@pytest.fixture
def fetch(hub, tmp_path) -> Callable[..., SimpleNamespace]:
    """Fetches in a process of its own, after other code."""

    def run(
        name: str = NAME, wanted: str = "any", update: bool = False, before: str = "", **changes: str
    ) -> SimpleNamespace:
        command = [sys.executable, "-c", before + FETCH, name, wanted, str(update)]
        done = run_process(hub, tmp_path, command, **changes)
        assert done.returncode == 0 and done.stderr == "", done.stderr
        return SimpleNamespace(**json.loads(done.stdout))

    return run


def run_process(hub, home: Path, command: list[str], **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=hub.environment(home, **changes), capture_output=True, text=True, timeout=PATIENCE
    )


def snapshots(home: Path) -> list[str]:
    """Names of all files that are there under their final names."""
    return sorted(each.name for each in (home / "hf" / "hub").glob("models--*/snapshots/*/**/*") if each.is_file())
