"""Fetching from a hub on loopback: what comes, what is asked, and every way in which it fails."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from shvit.card import METADATA_KEY

from ..conftest import AS_ANYBODY, PATIENCE, wait_until
from .conftest import FETCH, NAME, REPOSITORY, run_process, snapshots

SOON = 5
"""Seconds within which is told that there is no network."""

FOLDER = "models--timm--shvit_s1.in1k"


def test_what_comes_is_the_file_and_what_the_repository_says(fetch, hub, published, weights):
    found = fetch()
    assert Path(found.file).read_bytes() == weights and found.sha256 == hashlib.sha256(weights).hexdigest()
    assert (found.kind, found.commit, found.licence) == ("weights", published, "mit")
    assert found.config == {"architecture": "shvit_s1"}
    assert found.metadata == {"license": "mit", "tags": ["image-classification"]}
    fetched = {each.rpartition("/")[2] for each in hub.requests if each.startswith("GET") and "resolve" in each}
    assert fetched == {"config.json", "README.md"}  # and the weights from where the hub keeps large files
    assert sum(each.startswith("GET /lfs/") for each in hub.requests) == 1


def test_what_is_here_is_used_without_the_network_or_the_client(fetch, hub, published):
    first = fetch()
    hub.requests.clear()
    again = fetch()
    assert again.sha256 == first.sha256 and again.licence == "mit" and not again.client
    assert fetch(HF_HUB_OFFLINE="1").file == first.file
    assert hub.requests == []


def test_what_other_programs_fetched_is_used(fetch, hub, tmp_path, published):
    """Of their cache alone, as one that was copied from another machine."""
    code = f"from huggingface_hub import hf_hub_download as f; f({REPOSITORY!r}, 'model.safetensors')"
    assert run_process(hub, tmp_path, [sys.executable, "-c", code]).returncode == 0
    hub.requests.clear()
    found = fetch(HF_HUB_OFFLINE="1")
    assert (found.commit, found.config, found.licence, found.client) == (published, {}, None, False)
    assert hub.requests == []


def test_and_other_programs_use_what_was_fetched(fetch, hub, tmp_path, published):
    file = fetch().file
    code = f"from huggingface_hub import hf_hub_download as f; print(f({REPOSITORY!r}, 'model.safetensors'))"
    assert run_process(hub, tmp_path, [sys.executable, "-c", code], HF_HUB_OFFLINE="1").stdout.strip() == file


def test_newer_weights_come_only_when_they_are_asked_for(fetch, hub, published, weights):
    fetch()
    newer = hub.publish(REPOSITORY, {"model.safetensors": weights[::-1]})
    assert fetch().commit == published
    updated = fetch(update=True)
    assert updated.commit == newer and Path(updated.file).read_bytes() == weights[::-1] and updated.licence is None
    assert fetch().commit == newer
    hub.requests.clear()
    assert fetch(update=True).commit == newer
    assert not any(each.startswith("GET /lfs/") for each in hub.requests)
    assert fetch("shvit_s1@" + published, HF_HUB_OFFLINE="1").commit == published


def test_an_update_that_fails_leaves_what_was_there(fetch, hub, published, weights):
    fetch()
    hub.publish(REPOSITORY, {"model.safetensors": weights[::-1]})
    with hub.fault("GET /lfs", status=404):
        assert "cannot be fetched" in fetch(update=True).error
    assert fetch().commit == published


def test_a_revision_is_one_of_its_own(fetch, hub, published, weights):
    other = hub.publish(REPOSITORY, {"model.safetensors": weights[:1000]}, revision="refs/pr/1")
    assert fetch("shvit_s1@refs/pr/1").commit == other and fetch().commit == published
    assert "it has no revision v9; give a branch, a tag or a commit of it after the @" in fetch("shvit_s1@v9").error


@pytest.mark.parametrize("token", ["HF_TOKEN", "stored"])
def test_private_repositories_take_the_token_that_all_tools_use(fetch, hub, tmp_path, weights, token):
    hub.publish("me/mine", {"model.safetensors": weights})
    hub.tokens["me/mine"] = "hf_right"
    error = fetch("hf://me/mine").error
    assert "there is no such repository, or it is private; check the name; for a private one sign in" in error
    if token == "stored":
        (tmp_path / "hf").mkdir(exist_ok=True)
        (tmp_path / "hf" / "token").write_text("hf_right")
        assert fetch("hf://me/mine").error is None  # the storage refuses requests that bring it
    else:
        assert fetch("hf://me/mine", HF_TOKEN="hf_right").error is None
    assert fetch("hf://me/mine").error is None  # it is here


def test_a_token_that_is_refused_and_access_that_is_not_granted(fetch, hub, published):
    assert "the token of HF_TOKEN or `hf auth login` is refused" in fetch(HF_TOKEN="hf_wrong").error
    hub.gated.add(REPOSITORY)
    error = fetch().error
    page = f"{hub.endpoint}/{REPOSITORY}"
    assert error.startswith(f"{REPOSITORY}: cannot be fetched: access to it has to be granted; ask for it on {page},")
    assert "HF_TOKEN" in error


def ours(path: Path, card: str | None = "{}") -> bytes:
    model = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], []))
    if card is not None:
        onnx.helper.set_model_props(model, {METADATA_KEY: card})
    return model.SerializeToString()


def test_a_model_file_of_ours_goes_before_weights(fetch, hub, tmp_path, weights):
    model = ours(tmp_path)
    hub.publish("me/mine", {"mine.onnx": model, "model.safetensors": weights, "onnx/model.onnx": b"for others"})
    found = fetch("hf://me/mine")
    assert found.kind == "model" and Path(found.file).read_bytes() == model
    assert fetch("hf://me/mine", "weights").kind == "weights"
    assert fetch("hf://me/mine", HF_HUB_OFFLINE="1").kind == "model"


def test_a_model_file_of_others_is_passed_over(fetch, hub, tmp_path, weights):
    for number, foreign in enumerate((ours(tmp_path, None), b"no message at all", b"")):
        files = {"model.onnx": foreign, "pytorch_model.bin": weights}
        hub.publish(f"me/foreign{number}", files)
        found = fetch(f"hf://me/foreign{number}")
        assert found.kind == "weights" and found.file.endswith("pytorch_model.bin")
        assert fetch(f"hf://me/foreign{number}", HF_HUB_OFFLINE="1").file == found.file
    hub.publish("me/foreign", {"model.onnx": ours(tmp_path, None)})
    assert "model.onnx is no model file of shvit: it has no card" in fetch("hf://me/foreign").error
    assert "HF_HUB_OFFLINE" in fetch("hf://me/foreign", HF_HUB_OFFLINE="1").error


def test_a_repository_without_either_says_what_it_holds(fetch, hub):
    hub.publish("me/notes", {"README.md": b"# Notes", "notes.txt": b"x"})
    error = fetch("hf://me/notes").error
    assert "it has no model file and no weights" in error and "it holds README.md, notes.txt" in error
    hub.publish("me/many", {"a.onnx": b"x", "b.onnx": b"x"})
    assert "one .onnx file that shvit export wrote; it holds a.onnx, b.onnx" in fetch("hf://me/many").error


def blackhole():
    """A server that accepts and never answers: what a firewall or a hotel's network may do."""
    return socket.create_server(("127.0.0.1", 0), backlog=8)


@pytest.mark.parametrize("kind", ["refused", "no name", "silent", "drips", "offline"])
def test_without_a_network_one_message_says_what_to_do_soon(fetch, hub, kind):
    with blackhole() as silent:
        port = silent.getsockname()[1]
        endpoints = {"refused": "http://127.0.0.1:9", "no name": "http://nowhere.invalid"}
        changes = {"HF_ENDPOINT": endpoints.get(kind, f"http://127.0.0.1:{port}")}
        if kind == "offline":
            changes["HF_HUB_OFFLINE"] = "1"
        if kind == "drips":  # each read is answered, and the answer has no end
            process = subprocess.Popen([sys.executable, "-c", DRIP], stdout=subprocess.PIPE, text=True)
            changes["HF_ENDPOINT"] = process.stdout.readline().strip()
        try:
            found = fetch(**changes)
        finally:
            if kind == "drips":
                process.kill()
                process.wait()
    assert found.error.startswith(f"{REPOSITORY}: cannot be fetched: ") and "\n" not in found.error
    for remedy in ("HF_ENDPOINT", "HF_HUB_CACHE", "give a file instead", "shvit_s1_tiny_imagenet"):
        assert remedy in found.error
    assert found.seconds < SOON


DRIP = """
import socket, time
with socket.create_server(("127.0.0.1", 0)) as server:
    print(f"http://127.0.0.1:{server.getsockname()[1]}", flush=True)
    client, _ = server.accept()
    client.recv(9999)
    client.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 9999\\r\\n\\r\\n")
    while True:
        client.sendall(b" ")
        time.sleep(0.2)
"""


def test_dead_name_look_up_is_not_waited_for(fetch):
    """A resolver that never answers is asked for 10 s and more, whatever time-out a request has."""
    before = "import socket, time\nsocket.getaddrinfo = lambda *a, **k: time.sleep(30)\n"
    found = fetch(before=before)
    assert "gives no answer" in found.error and found.seconds < SOON


@pytest.mark.parametrize("where", ["GET /api", "HEAD .*model.safetensors"])
@pytest.mark.parametrize("status", [500, 503, 429])
def test_faults_of_the_hub_are_one_message_at_once(fetch, hub, tmp_path, published, where, status):
    with hub.fault(where, status=status, headers={"Retry-After": "3600"}):
        found = fetch()
    assert f"status {status}" in found.error and found.seconds < SOON
    assert snapshots(tmp_path) == []
    assert fetch().error is None


def test_a_hub_that_falls_silent_after_its_listing(fetch, hub, published):
    with hub.fault("HEAD", silent=True):
        found = fetch(HF_HUB_ETAG_TIMEOUT="1")
    assert "gives no answer" in found.error and found.seconds < SOON


@pytest.mark.parametrize("answer", [b"<html>Please log in</html>", b"[]", b'{"sha": "../../x", "siblings": []}', b"{}"])
def test_what_is_no_hub_is_told(fetch, hub, answer):
    hub.pages["/api/models/timm/shvit_s1.in1k/revision/main"] = answer
    error = fetch().error
    assert "answers otherwise than a hub does" in error and "check HF_ENDPOINT and the proxy" in error


def test_a_download_that_breaks_off_goes_on(fetch, hub, tmp_path, published, weights):
    with hub.fault("GET /lfs", cut_after=100_000, times=2):
        found = fetch()
    assert found.error is None and Path(found.file).read_bytes() == weights
    assert sum(each.startswith("GET /lfs/") for each in hub.requests) == 3


def test_one_that_always_breaks_off_is_given_up(fetch, hub, tmp_path, published):
    with hub.fault("GET /lfs", cut_after=100_000):
        error = fetch().error
    assert "the connection broke off again and again" in error and "try again" in error
    assert "model.safetensors" not in snapshots(tmp_path) and not left_behind(tmp_path)
    assert fetch().error is None


def left_behind(home: Path) -> list[Path]:
    return [*home.rglob("*.incomplete"), *home.rglob("*.partial")]


def test_what_comes_damaged_is_not_kept(fetch, hub, tmp_path, published, weights):
    digest = hashlib.sha256(weights).hexdigest()
    hub.pages[f"/lfs/{digest}"] = weights[::-1]  # of the same size, which is all that the client looks at
    error = fetch().error
    assert f"came with SHA-256 {hashlib.sha256(weights[::-1]).hexdigest()}, the hub lists {digest}" in error
    assert "model.safetensors" not in snapshots(tmp_path)
    hub.pages.clear()
    assert fetch().error is None


def test_what_was_damaged_here_is_noticed(fetch, hub, tmp_path, published):
    Path(fetch().file).resolve().write_bytes(b"short")
    error = fetch().error
    assert "is not the file that was fetched" in error and error.endswith("shvit models --remove shvit_s1")


def test_a_file_of_gigabytes_is_not_fetched(fetch, hub, published):
    files = [{"rfilename": "model.safetensors", "size": 3 * 2**30}]
    listing = {"id": REPOSITORY, "sha": published, "siblings": files}
    hub.pages["/api/models/timm/shvit_s1.in1k/revision/main"] = json.dumps(listing).encode()
    assert "model.safetensors has 3.0 GiB, at most 2 GiB are accepted" in fetch().error
    assert not any("lfs" in each for each in hub.requests)


def test_a_readme_and_a_config_that_are_too_large_are_left_out(fetch, hub, weights):
    files = {"model.safetensors": weights, "config.json": b"[" * (5 * 2**20), "README.md": b"---\n" * 2**19}
    hub.publish(REPOSITORY, files)
    found = fetch()
    assert found.error is None and (found.config, found.metadata) == ({}, {})
    assert not any("README" in each or "config" in each for each in hub.requests)


LIMIT = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"


def test_a_full_disk(fetch, tmp_path, published):
    error = fetch(before=LIMIT).error
    assert f"no room is left for it in {tmp_path / 'hf' / 'hub'}; free some" in error and "HF_HUB_CACHE" in error
    assert "model.safetensors" not in snapshots(tmp_path) and not left_behind(tmp_path)


def test_a_cache_that_cannot_be_written_to(hub, tmp_path, published):
    cache = tmp_path / "hf" / "hub"
    cache.mkdir(parents=True)
    cache.chmod(0o555)
    command = [*AS_ANYBODY, sys.executable, "-c", FETCH, NAME, "any", "False"]
    done = run_process(hub, tmp_path, command)
    cache.chmod(0o755)
    assert str(cache) in done.stdout and "Permission denied; name a folder that can be written to" in done.stdout
    assert not done.stderr


def test_a_cache_that_can_only_be_read_is_read(fetch, hub, tmp_path, published):
    file = fetch().file
    shutil.rmtree(tmp_path / "shvit")
    (tmp_path / "shvit").mkdir()
    (tmp_path / "shvit").chmod(0o555)
    command = [*AS_ANYBODY, sys.executable, "-c", FETCH, NAME, "any", "False"]
    done = run_process(hub, tmp_path, command)
    (tmp_path / "shvit").chmod(0o755)
    assert file in done.stdout and not done.stderr


def test_two_processes_that_ask_at_once_leave_one_file(hub, tmp_path, published, weights):
    command = [sys.executable, "-c", FETCH, NAME, "any", "False"]
    environment = hub.environment(tmp_path)
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [each.communicate(timeout=PATIENCE)[0] for each in both]
    assert all('"error": null' in each for each in answers)
    blobs = tmp_path / "hf" / "hub" / FOLDER / "blobs"
    assert (blobs / hashlib.sha256(weights).hexdigest()).read_bytes() == weights
    assert len(list(blobs.iterdir())) == 3 and not left_behind(tmp_path)


def test_a_kill_leaves_nothing_under_a_final_name(fetch, hub, tmp_path, published, weights):
    with hub.fault("GET /lfs", cut_after=100_000, silent=True):
        command = [sys.executable, "-c", FETCH, NAME, "any", "False"]
        process = subprocess.Popen(command, env=hub.environment(tmp_path), stdout=subprocess.DEVNULL)
        wait_until(lambda: any(each.startswith("GET /lfs/") for each in hub.requests))
        process.kill()
        process.wait()
    assert "model.safetensors" not in snapshots(tmp_path)
    assert fetch().error is None
