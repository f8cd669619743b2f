"""Folders pushed to a hub on loopback, and what was pushed loaded by name."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shvit.exporting.options import HUB_FILES
from shvit.models import SHViTConfig, save_checkpoint

from ..conftest import SAMPLES
from ..hub_uploads import READ_ONLY, UploadHub
from ..models.test_reparam import randomized
from .conftest import run_process
from .test_named import WITHOUT_LAB

CONFIG = SHViTConfig(widths=(16, 24, 32), depths=(1, 1, 1), partial_dims=(8, 8, 16), num_classes=3)
LABELS = ("cup", "bird: a small one", "rocket")
PHOTOGRAPH = str(SAMPLES / "coffee.jpg")

LOAD = """
import json, sys
import timm
from PIL import Image
from transformers import pipeline
name, photograph = sys.argv[1:]
model = timm.create_model(f"hf-hub:{name}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_data_config(model=model))
scores = model(transform(Image.open(photograph).convert("RGB"))[None]).softmax(-1)[0]
best = int(scores.argmax())
found = pipeline("image-classification", model=name)(photograph, top_k=1)[0]
print(json.dumps([[model.pretrained_cfg["label_names"][best], scores[best].item()], [found["label"], found["score"]]]))
"""


@pytest.fixture
def hub() -> Iterator[UploadHub]:
    server = UploadHub()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("push") / "birds.safetensors"
    classes = [{"class_id": place, "label": label} for place, label in enumerate(LABELS)]
    metadata = {"classes": classes, "preprocessing": {"image_size": [64, 64]}, "licence": "MIT"}
    save_checkpoint(randomized(CONFIG).float(), path, metadata=metadata)
    return path


def push(hub, home: Path, checkpoint: Path, *options: str, **changes: str) -> subprocess.CompletedProcess[str]:
    command = ["export", "--model", str(checkpoint), "--format", "hub", "--output", str(home / "birds"), *options]
    return run_process(hub, home, [sys.executable, "-c", WITHOUT_LAB, *command], **changes)


def test_what_was_pushed_loads_by_name_everywhere(hub, tmp_path, checkpoint):
    done = push(hub, tmp_path, checkpoint, "--push", "me/birds", "--private")
    assert done.returncode == 0, done.stderr
    assert f"pushed: {hub.endpoint}/me/birds" in done.stdout
    assert "try it: shvit predict IMAGE --model hf://me/birds" in done.stdout
    written = sorted(each for each in HUB_FILES if "quantized" not in each)
    assert hub.commits == [("me/birds", written, [])]
    assert hub.private == {"me/birds"}
    files = hub.files("me/birds")
    assert {name: files[name] for name in written} == {
        name: (tmp_path / "birds" / name).read_bytes() for name in written
    }
    assert b'"hf-hub:me/birds"' in files["README.md"]
    command = ["predict", PHOTOGRAPH, "--model", "hf://me/birds", "--format", "jsonl"]
    ours = run_process(hub, tmp_path, [sys.executable, "-c", WITHOUT_LAB, *command])
    assert ours.returncode == 0, ours.stderr
    first = json.loads(ours.stdout)["predictions"][0]
    theirs = run_process(hub, tmp_path, [sys.executable, "-c", LOAD, "me/birds", PHOTOGRAPH])
    assert theirs.returncode == 0, theirs.stderr
    for label, score in json.loads(theirs.stdout.splitlines()[-1]):
        assert label == first["label"]
        assert score == pytest.approx(first["score"], abs=2e-3)


def test_a_later_push_replaces_an_earlier_one_and_nothing_else(hub, tmp_path, checkpoint):
    hub.publish("me/birds", {"shvit.onnx": b"old", "onnx/model_quantized.onnx": b"old", "LICENSE": b"mine"})
    hub.publish("me/other", {".gitattributes": b"", "train.py": b"", "model.bin": b""})
    done = push(hub, tmp_path, checkpoint, "--push", "hf://me/birds")
    assert done.returncode == 0, done.stderr
    ((_, added, removed),) = hub.commits
    assert "shvit.onnx" in added and removed == ["onnx/model_quantized.onnx"]
    assert hub.files("me/birds")["LICENSE"] == b"mine"
    done = push(hub, tmp_path, checkpoint, "--push", "me/other")
    assert done.returncode == 2
    assert "me/other: cannot be pushed: it is a repository with other things in it (model.bin, train.py)" in done.stderr
    done = push(hub, tmp_path, checkpoint, "--push", "me/birds", "--private")
    assert (done.returncode, len(hub.commits)) == (2, 1)
    assert "it is there, and seen by all; make it private in its settings first" in done.stderr


def test_what_breaks_off_leaves_the_repository_as_it_was(hub, tmp_path, checkpoint):
    earlier = hub.publish("me/birds", {"shvit.onnx": b"old"})
    for where, status, reason in (
        ("commit/main", 412, "it changed meanwhile"),
        ("objects/batch", 400, "the hub answers with status 400"),
    ):
        with hub.fault(where, status=status):
            done = push(hub, tmp_path, checkpoint, "--push", "me/birds")
        assert done.returncode == 2
        assert f"me/birds: cannot be pushed: {reason}" in " ".join(done.stderr.split())
        assert hub.files("me/birds") == {"shvit.onnx": b"old"}, earlier
    assert (tmp_path / "birds" / "shvit.onnx").is_file()


@pytest.mark.parametrize(
    ("changes", "reason", "is_written"),
    [
        ({"HF_TOKEN": ""}, "there is no token to sign in with", False),
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set", False),
        ({"HF_TOKEN": READ_ONLY}, "the token that is used may not write there", True),
        ({"HF_TOKEN": "hf_unknown"}, "the token of HF_TOKEN or `hf auth login` is refused", True),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "http://127.0.0.1:9 cannot be reached", True),
    ],
)
def test_who_may_not_or_cannot_is_told_in_one_line(changes, reason, is_written, hub, tmp_path, checkpoint):
    done = push(hub, tmp_path, checkpoint, "--push", "me/birds", **changes)
    assert done.returncode == 2
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith(f"shvit export: error: me/birds: cannot be pushed: {reason}")
    assert ("is written: hf upload me/birds" in line) == (tmp_path / "birds").is_dir() == is_written
    assert hub.commits == []


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--push", "birds"], "hf://birds: is no repository's name"),
        (["--push", "me/birds@v1"], "expected user/name, without a revision"),
        (["--push", "me/birds", "--format", "web"], "give --format hub"),
        (["--private"], "--private: says who may see what is pushed"),
    ],
)
def test_wrong_names_and_options_are_refused_before_all_work(options, reason, hub, tmp_path, checkpoint):
    done = push(hub, tmp_path, checkpoint, *options)
    assert done.returncode == 2 and reason in done.stderr
    assert not (tmp_path / "birds").exists()
    assert hub.requests == []
