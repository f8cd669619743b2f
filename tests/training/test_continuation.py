"""Going on in training from what ``shvit teach`` wrote."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
import yaml

import shvit
from shvit.card import METADATA_KEY, Card, ClassInfo, Preprocessing, Weights
from shvit.cli.main import main
from shvit.data import open_dataset
from shvit.errors import CheckpointError, ModelFileError
from shvit.exporting import FileOptions, export_model
from shvit.models import save_checkpoint
from shvit.models.checkpoints import load_model
from shvit.teaching.teach import TeachOptions, teach
from shvit.training.continuation import continue_from

from ..conftest import PATIENCE

SIZE = (64, 96)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "body.safetensors"
    save_checkpoint(shvit.create_model("shvit_s1", num_classes=4), path)
    return path


@pytest.fixture(scope="module")
def taught(colours, weights, tmp_path_factory) -> Path:
    """A file whose graph is of those weights, taught the three colours; tests must not change it."""
    folder = tmp_path_factory.mktemp("taught")
    classes = tuple(ClassInfo(i, label) for i, label in enumerate("abcd"))
    card = Card("body", "shvit_s1", classes, Preprocessing(SIZE, resize_mode="squash"))
    export_model(load_model(weights)[0], folder / "body.onnx", card, FileOptions("onnx", "fp32"))
    teach(colours, folder / "body.onnx", folder / "mine.onnx", TeachOptions(threads=1))
    return folder / "mine.onnx"


def with_card(path: Path, target: Path, **changes) -> Path:
    """The same file whose card says something else."""
    model = onnx.load(path)
    texts = {each.key: each.value for each in model.metadata_props}
    card = Card.from_json(texts[METADATA_KEY])
    onnx.helper.set_model_props(model, {**texts, METADATA_KEY: replace(card, **changes).to_json()})
    onnx.save(model, target)
    return target


def test_a_run_goes_on_from_the_weights_at_the_size_of_the_file(colours, weights, taught, tmp_path, capsys):
    run = tmp_path / "run"
    flags = ["--from", taught, "--pretrained", weights, "--epochs", 1, "--batch-size", 8, "--workers", 0]
    flags += ["--device", "cpu", "--output", run]
    assert main(["train", str(colours), *map(str, flags)]) == 0
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    kept = {name: recipe[name] for name in ("model", "pretrained", "image_size", "resize_mode", "epochs")}
    assert kept == {
        "model": "shvit_s1", "pretrained": str(weights), "image_size": "64x96", "resize_mode": "squash", "epochs": 1,
    }  # fmt: skip
    assert (run / "best.safetensors").exists()
    assert "head_top1" in capsys.readouterr().err
    taught_again = [str(each) if each != taught else str(tmp_path / "gone.onnx") for each in flags]
    assert main(["train", str(colours), *taught_again, "--resume", "auto"]) == 0  # the recipe says all by now
    assert "nothing is left to train" in capsys.readouterr().err


def test_what_follows_from_a_file_does_not_override_flags(taught, weights, colours, capsys):
    flags = ["--from", str(taught), "--pretrained", str(weights), "--image-size", "128", "--print_config"]
    with pytest.raises(SystemExit):
        main(["train", str(colours), *flags])
    recipe = yaml.safe_load(capsys.readouterr().out)
    assert (str(recipe["image_size"]), recipe["resize_mode"]) == ("128", "squash")


def test_other_weights_are_refused(taught, weights, tmp_path):
    torch.manual_seed(1)
    save_checkpoint(shvit.create_model("shvit_s1", num_classes=4), tmp_path / "others.safetensors")
    save_checkpoint(shvit.create_model("shvit_s3", num_classes=4), tmp_path / "wider.safetensors")
    assert continue_from(taught, str(weights)).values["pretrained"] == str(weights)
    with pytest.raises(CheckpointError, match=r"not the weights .* features differ by .*give those that 'body'"):
        continue_from(taught, str(tmp_path / "others.safetensors"))
    with pytest.raises(CheckpointError, match="it has 320 features, they give 448"):
        continue_from(taught, str(tmp_path / "wider.safetensors"))


def test_classes_that_are_lost_are_named(taught, weights, colours):
    classes = open_dataset(colours, "train").classes
    start = continue_from(taught, str(weights))
    assert start.describe_lost(classes) is None
    assert start.describe_lost(classes[1:]) == (
        f"note: no pictures of {classes[0].label}, which the taught file tells: not learnt"
    )
    many = replace(start, labels=(*start.labels, *"abcdefg"))
    assert "no pictures of a, b, c, d, e and 2 more" in many.describe_lost(classes)


def test_files_that_say_too_little_are_refused(taught, tmp_path):
    with pytest.raises(CheckpointError, match=r"taught on 'body'.*names none on the hub; .*--pretrained FILE"):
        continue_from(taught)
    with pytest.raises(ModelFileError, match=r"no taught file.*shvit teach"):
        continue_from(taught.with_name("body.onnx"))
    with pytest.raises(ModelFileError):
        continue_from(tmp_path / "gone.onnx")


def test_published_weights_are_found_by_the_card(hub, timm_repository, taught, colours, tmp_path):
    """As a new user: taught on a network by its name, then trained on."""
    commit = hub.publish("timm/shvit_s1.in1k", timm_repository())
    environment = {**os.environ, **hub.environment(tmp_path / "home"), "OMP_NUM_THREADS": "1"}

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE)

    mine = tmp_path / "mine.onnx"
    teaching = "import sys; from shvit.teaching.teach import teach; teach(sys.argv[1], 'shvit_s1', sys.argv[2])"
    told = run("-c", teaching, colours, mine)
    assert told.returncode == 0, told.stderr
    flags = ["--epochs", 0, "--batch-size", 8, "--workers", 0, "--device", "cpu"]
    told = run("-m", "shvit", "train", colours, "--from", mine, *flags, "--output", tmp_path / "run")
    assert told.returncode == 0, told.stderr
    recipe = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert recipe["pretrained"] == f"hf://timm/shvit_s1.in1k@{commit}"
    assert recipe["image_size"] == 224


def test_in_python_a_taught_file_is_what_to_start_from(colours, weights, taught, tmp_path, monkeypatch):
    origin = Weights("user/body", "0" * 40, "model.safetensors", "0" * 64)
    file = with_card(taught, tmp_path / "published.onnx", weights=origin)
    monkeypatch.setattr("shvit.training.continuation.weights_file", lambda name: weights)
    recipe = shvit.recipe_for(colours, pretrained=file)
    assert (recipe.model, recipe.pretrained) == ("shvit_s1", f"hf://user/body@{'0' * 40}")
    assert (recipe.sides, recipe.resize_mode) == (SIZE, "squash")
    assert (recipe.head_start, recipe.optimizer.lr) == ("linear", 3e-4)
