"""The deployment file, started as its first lines say, with a replica killed while it serves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest

from ..conftest import PATIENCE, ROOT, children, free_port
from .conftest import jpeg

pytest.importorskip("ray", reason="needs shvit[ray]")
yaml = pytest.importorskip("yaml", reason="needs PyYAML, as Ray does")


def replicas(parent: int) -> set[int]:
    return {
        pid for pid, line in children(parent, recursive=True) if line.startswith("ray::ServeReplica:shvit:Predictor")
    }


def predict(port: int) -> dict[str, object]:
    request = Request(f"http://127.0.0.1:{port}/v1/predict", jpeg(4), {"Content-Type": "image/jpeg"})
    with urlopen(request, timeout=20) as response:
        return json.load(response)


def eventually(condition, seconds: float = PATIENCE):
    deadline = time.monotonic() + seconds
    while True:
        try:
            if value := condition():
                return value
        except URLError:
            pass
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.2)


@pytest.mark.slow
def test_two_replicas_serve_and_one_that_is_killed_is_replaced(colour_model, tmp_path):
    port = free_port()
    configuration = yaml.safe_load((ROOT / "deploy/ray_serve.yaml").read_text())
    configuration["http_options"] = {"host": "127.0.0.1", "port": port}
    (application,) = configuration["applications"]
    assert application["args"]["models"] == ["shvit_s1_tiny_imagenet"]
    application["args"]["models"] = [str(colour_model)]
    (deployment,) = application["deployments"]
    assert deployment["num_replicas"] == 2
    deployment["ray_actor_options"]["num_cpus"] = 0.25  # this machine may have one processor
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump(configuration))
    process = subprocess.Popen(
        [Path(sys.executable).with_name("serve"), "run", tmp_path / "serve.yaml"],
        stdout=(tmp_path / "log").open("w"),
        stderr=subprocess.STDOUT,
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
    )
    try:
        answer = eventually(lambda: process.poll() is None and predict(port), 120)
        assert answer["results"][0]["predictions"][0]["label"] == "green"
        before = eventually(lambda: len(found := replicas(process.pid)) == 2 and found)
        os.kill(min(before), signal.SIGKILL)
        for _ in range(5):  # meanwhile the other one answers
            assert eventually(lambda: predict(port)) == answer
        after = eventually(lambda: len(found := replicas(process.pid) - {min(before)}) == 2 and found)
        assert len(after & before) == 1
        assert predict(port) == answer
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(120)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    text = (tmp_path / "log").read_text()
    assert process.returncode == 0, text


def test_an_argument_that_there_is_not_is_named():
    from shvit.errors import ServerError
    from shvit.serve.on_ray import application

    with pytest.raises(ServerError, match="modles: no such argument; expected models"):
        application({"modles": []})
    with pytest.raises(ValueError, match="queue: expected a positive number"):
        application({"queue": 0})
