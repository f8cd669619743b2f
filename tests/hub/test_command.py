"""``shvit models``, and what else is given a name, as people run them."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from shvit.hub.cached import repository_folder
from shvit.hub.names import PUBLISHED, parse_reference
from shvit.hub.removal import remove
from shvit.shipped import DEFAULT_MODEL

from ..conftest import wait_until
from .conftest import REPOSITORY, run_process, snapshots


def shvit(hub, home: Path, *arguments: str, **changes: str):
    return run_process(hub, home, [sys.executable, "-m", "shvit", *arguments], **changes)


def listed(hub, home: Path) -> dict[str, dict]:
    return {each["name"]: each for each in json.loads(shvit(hub, home, "models", "--format", "json").stdout)}


def test_the_list_has_what_is_published_shipped_and_here(fetch, hub, tmp_path, published, weights):
    before = listed(hub, tmp_path)
    assert [*before] == [*PUBLISHED, DEFAULT_MODEL]
    assert (before["shvit_s4"]["top1"], before["shvit_s4"]["top1_by"]) == (79.362, "timm")
    assert all(each["commit"] is None for each in before.values())
    commit = hub.publish("me/mine", {"model.safetensors": weights})
    fetch()
    fetch("hf://me/mine")
    hub.requests.clear()
    after = listed(hub, tmp_path)
    assert (after["shvit_s1"]["commit"], after["hf://me/mine"]["commit"]) == (published, commit)
    assert after["hf://me/mine"]["bytes"] == len(weights)
    table = shvit(hub, tmp_path, "models").stdout
    assert hub.requests == []
    assert all(each in table for each in (*PUBLISHED, DEFAULT_MODEL, "hf://me/mine", published[:7], "79.4", "66.7 MB"))


def test_update_fetches_what_is_newer(hub, tmp_path, published, weights):
    first = shvit(hub, tmp_path, "models", "--update", "shvit_s1").stdout
    assert first == f"shvit_s1: fetched commit {published[:7]} of {REPOSITORY} (1.0 MB)\n"
    assert "is up to date" in shvit(hub, tmp_path, "models", "--update", "shvit_s1").stdout
    newer = hub.publish(REPOSITORY, {"model.safetensors": weights[::-1]})
    assert f"commit {newer[:7]} of {REPOSITORY}, was {published[:7]}" in (
        shvit(hub, tmp_path, "models", "--update", "shvit_s1").stdout
    )


def test_remove_frees_all_of_it_and_nothing_else(fetch, hub, tmp_path, published, weights):
    hub.publish("timm/shvit_s1.in1k-more", {"model.safetensors": weights[1:]})
    fetch("hf://timm/shvit_s1.in1k-more")
    fetch()
    hub.publish(REPOSITORY, {"model.safetensors": weights[::-1]})
    fetch(update=True)
    fetch(f"shvit_s1@{published}")
    assert "shvit_s1: removed, 2.0 MB are free" in shvit(hub, tmp_path, "models", "--remove", "shvit_s1").stdout
    assert snapshots(tmp_path) == ["model.safetensors"]
    assert len(list((tmp_path / "shvit" / "hub").iterdir())) == 1
    assert "nothing was here" in shvit(hub, tmp_path, "models", "--remove", "shvit_s1").stdout
    assert fetch("hf://timm/shvit_s1.in1k-more", HF_HUB_OFFLINE="1").error is None


def test_what_was_made_of_it_and_what_a_killed_download_left_go_too(tmp_path, monkeypatch):
    monkeypatch.setenv("SHVIT_CACHE", str(tmp_path / "shvit"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    reference = parse_reference("shvit_s2")
    left = repository_folder(reference) / "blobs" / "a.incomplete"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"12345")
    made = tmp_path / "made.onnx"
    made.write_bytes(b"123")
    assert remove(reference, [made, tmp_path / "gone"]) == 8
    assert not made.exists() and not repository_folder(reference).exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--remove", "s4"), "did you mean shvit_s4?"),
        (("--remove", DEFAULT_MODEL), "comes inside this package; expected shvit_s1"),
        (("--update", "resnet50"), "is no network's name; expected shvit_s1"),
        (("--update", "hf://a/b/c"), "names more than a repository"),
        (("--update", "shvit_s3"), "timm/shvit_s3.in1k: cannot be fetched: there is no such repository"),
    ],
)
def test_other_names_are_errors_of_one_line(hub, tmp_path, arguments, said):
    done = shvit(hub, tmp_path, "models", *arguments)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1 and not done.stdout


def test_a_bar_is_shown_where_somebody_watches(hub, tmp_path, published):
    with hub.fault("GET /lfs", cut_after=0, times=1):  # a second in which it is seen
        master, slave = pty.openpty()
        os.set_blocking(master, False)
        shown = bytearray()
        code = "import os, sys; os.dup2(int(sys.argv[1]), 2); os.execv(sys.argv[2], sys.argv[2:])"
        command = [
            sys.executable,
            "-c",
            code,
            str(slave),
            sys.executable,
            "-m",
            "shvit",
            "models",
            "--update",
            "shvit_s1",
        ]
        environment = {**hub.environment(tmp_path), "TERM": "xterm", "COLUMNS": "100"}
        process = subprocess.Popen(command, env=environment, pass_fds=[slave], stdout=subprocess.PIPE, text=True)

        def ended() -> bool:
            try:
                shown.extend(os.read(master, 65536))
            except BlockingIOError:
                return process.poll() is not None
            return False

        wait_until(ended)
        os.close(master)
        os.close(slave)
    assert process.stdout.read().startswith("shvit_s1: fetched commit")
    assert "shvit_s1: model.safetensors" in shown.decode() and "MB" in shown.decode()
    assert "Error while downloading" not in shown.decode()
