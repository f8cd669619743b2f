"""``shvit train`` as a user runs it: recipes from flags and files, and a fine-tuning from a folder to a prediction."""

from __future__ import annotations

import csv
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from shvit.cli.main import main
from shvit.cli.train import parse_recipe
from shvit.training import Optimizer, Recipe

REPOSITORY = Path(__file__).parents[2]
WEIGHTS = REPOSITORY / "weights" / "shvit_s1_tiny_imagenet.safetensors"


@pytest.fixture
def photographs(tmp_path) -> Path:
    """One level of classes, to be split, in grey: two patterns that fine-tuning tells apart at once."""
    rng = np.random.default_rng(0)
    for name, step in (("fine", 2), ("coarse", 16)):
        for number in range(20):
            rows = np.arange(64) // step % 2 * 200
            pixels = np.tile(rows[:, None], (1, 64)) + rng.integers(0, 50, (64, 64))
            file = tmp_path / "photographs" / name / f"{number}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8), "L").save(file)
    return tmp_path / "photographs"


def shvit(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    command = [sys.executable, "-m", "shvit", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


def test_from_a_folder_of_photographs_to_predictions(photographs, tmp_path):
    """Fine-tune with one command, then run the commands that it prints."""
    run = tmp_path / "run"
    (photographs / "fine" / "broken.jpg").write_bytes(b"not an image")
    flags = [
        "--broken-share",
        0.1,
        "--image-size",
        64,
        "--epochs",
        2,
        "--batch-size",
        8,
        "--workers",
        0,
        "--device",
        "cpu",
    ]
    done = shvit("train", photographs, "--pretrained", WEIGHTS, "--output", run, *flags, "--checkpoint-every-steps", 2)
    assert done.returncode == 0, done.stderr
    assert "no validation split: 10 % of each class held out (4 images), seed 0" in done.stderr
    assert "shvit_s1: 37 training and 4 validation images, 2 classes" in done.stderr
    assert "fine-tuning: 2 epochs of 4 steps of 8 images, learning rate up to 0.001; chosen for 37" in done.stderr
    assert "unreadable images, left out: 1\n" in done.stdout
    assert "fine/broken.jpg: not an image" in done.stdout
    names = {path.name for path in run.iterdir()}
    assert {"best.safetensors", "last.safetensors", "checkpoints", "recipe.yaml", "metrics.csv", "curves.png"} <= names
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    assert (recipe["epochs"], recipe["optimizer"]["layer_decay"]) == (2, 0.85)
    with (run / "metrics.csv").open() as file:
        assert "val_top1" in next(csv.reader(file))
    again = shvit(
        "train", photographs, "--pretrained", WEIGHTS, "--output", run, *flags, "--resume", "auto", "--workers", 0
    )
    assert again.returncode == 0, again.stderr
    assert "finished already, after epoch 2 of 2: nothing is left to train" in again.stderr
    assert "epoch 3" not in again.stderr
    assert "the head is fresh" in done.stderr and "the head is fresh" not in again.stderr
    steps = [line.split("next:")[-1].strip() for line in done.stdout.splitlines() if "shvit " in line]
    assert [step.split()[1] for step in steps] == ["eval", "export", "predict"]
    for step in steps:
        arguments = shlex.split(step.replace("IMAGE", str(photographs / "coarse" / "0.jpg")))[1:]
        result = shvit(*arguments)
        assert result.returncode == 0, result.stderr
        if step.split()[1] == "eval":
            measured = json.loads((run / "report" / "results.json").read_text())
            assert measured["images"] == 4  # those that were held out, and no others
            assert f"best top-1 {measured['top1']:.2%}" in done.stdout
    assert "coarse" in result.stdout and "fine" in result.stdout


def test_a_recipe_file_and_flags_after_it(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text("epochs: 7\noptimizer:\n  lr: 0.5\ndistillation:\n  alpha: 0.1\n")
    arguments = [
        "--config",
        str(file),
        "--batch-size",
        "32",
        "--optimizer.weight_decay=0.1",
        "--checkpoint-every-steps=9",
    ]
    recipe, execution = parse_recipe(arguments, images=300)
    assert (recipe.epochs, recipe.batch_size, recipe.distillation.alpha) == (7, 32, 0.1)
    assert recipe.optimizer == Optimizer(lr=0.5, weight_decay=0.1)
    assert execution.checkpoint_every_steps == 9


def test_defaults_suit_the_task_and_the_number_of_images():
    small, _ = parse_recipe([], images=300)
    assert (small.pretrained, small.batch_size) == (None, 8)
    large, _ = parse_recipe([], images=1_000_000)
    assert large.epochs < small.epochs
    assert large.batch_size == 128
    tuned, _ = parse_recipe(["--pretrained", "--lr", "1e-3"], images=3000)
    assert (tuned.pretrained, tuned.optimizer.lr, tuned.optimizer.layer_decay) == ("hub", 1e-3, 0.85)
    assert tuned.epochs < small.epochs
    assert parse_recipe(["--pretrained", str(WEIGHTS)], images=3000)[0].image_size == 128  # what its card says
    assert parse_recipe(["--pretrained"], images=100)[0].freeze_norm
    assert parse_recipe(["--pretrained", "--sync-norm", "true"], images=100)[0].sync_norm  # no freezing in its way


def test_a_resumed_run_keeps_the_defaults_that_it_began_with(tmp_path):
    """Those of a later version, or of a folder that has grown, may be others."""
    begun = tmp_path / "recipe.yaml"
    begun.write_text("epochs: 7\nbatch_size: 16\noptimizer:\n  lr: 0.003\n  lr_batch_size: 512\n")
    recipe, _ = parse_recipe([], 300, begun)
    assert (recipe.epochs, recipe.batch_size, recipe.optimizer) == (7, 16, Optimizer(lr=0.003))
    assert parse_recipe(["--epochs", "9"], 300, begun)[0].epochs == 9  # which resuming then refuses
    file = tmp_path / "mine.yaml"
    file.write_text("batch_size: 32\n")
    recipe, _ = parse_recipe([f"--config={file}"], 300, begun)
    assert (recipe.batch_size, recipe.epochs) == (32, Recipe.epochs)
    assert parse_recipe([], 300, tmp_path / "none.yaml") == parse_recipe([], 300)


@pytest.mark.parametrize("file", sorted((REPOSITORY / "recipes").glob("*.yaml")), ids=lambda file: file.name)
def test_recipes_that_come_along(file):
    recipe, _ = parse_recipe(["--config", str(file)])
    written = yaml.safe_load(file.read_text())
    assert {key: getattr(recipe, key) for key in ("model", "epochs", "batch_size")} == {
        key: written[key] for key in ("model", "epochs", "batch_size")
    }


def test_the_reference_recipe_is_complete():
    recipe, _ = parse_recipe(["--config", str(REPOSITORY / "recipes" / "imagenet_s3.yaml")])
    plan, pictures = recipe.optimizer, recipe.augmentation
    assert (plan.lr, plan.lr_batch_size, plan.weight_decay, plan.warmup_lr, plan.min_lr) == (
        1e-3,
        512,
        0.035,
        1e-6,
        1e-5,
    )
    assert (plan.warmup_epochs, plan.clip_grad, plan.clip_mode, recipe.epochs, recipe.batch_size) == (
        5,
        0.02,
        "agc",
        300,
        2048,
    )
    assert (pictures.rand_augment, pictures.erase_probability, pictures.erase_mode) == (
        "rand-m9-mstd0.5-inc1", 0.25, "pixel",
    )  # fmt: skip
    assert (recipe.repeats, recipe.mixup, recipe.cutmix, recipe.label_smoothing) == (3, 0.8, 1.0, 0.1)
    assert recipe.ema_decay == 0.99996


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--epochs", "many"], "epochs: expected a whole number, got many"),
        (["--class_weights", "maybe"], "class_weights: expected true or false, got maybe"),
        (["--batch-size", "1"], "batch_size: 1; batch normalisation needs two images or more: give --batch-size 2"),
        (["--model", "S4"], "did you mean shvit_s4?"),
        (["--epoch_count", "3"], "unrecognized arguments: --epoch_count 3; did you mean --epochs?"),
        (["--optimizer.lrr", "3"], "did you mean --optimizer.lr?"),
        (["--image-sise", "64"], "did you mean --image-size?"),
        (["--optimizer.lr=-1"], "optimizer.lr: expected 0 or more, got -1.0"),
        (["--precision", "8-bit"], "precision: expected one of 32-true, bf16-mixed, 16-mixed, got 8-bit"),
        (["--workers", "-1"], "workers: expected 0 or more, got -1"),
        (["--freeze-norm", "true"], "freeze_norm: needs pretrained"),
        (["--distillation.two_heads=true"], "two_heads: the second head learns from a teacher"),
    ],
)
def test_a_mistaken_flag_is_one_line_that_names_it(arguments, said, photographs, tmp_path, capsys):
    assert main(["train", str(photographs), "--output", str(tmp_path / "run"), *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("optimiser:\n  lr: 1\n", "Option 'optimiser.lr' is not accepted; did you mean optimizer.lr?"),
        ("optimizer:\n  lrr: 1\n", "did you mean optimizer.lr?"),
        ("epochs: [3\n", "Problems parsing config"),
        ("epochs: three\n", "epochs: expected a whole number, got three"),
        ("epochs: 3 # \udcff\n", "can't decode byte 0xff"),
    ],
)
def test_a_mistaken_recipe_file_is_named(text, said, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError) as error:
        parse_recipe(["--config", str(file)])
    assert str(error.value).startswith(f"{file}: ")
    assert said in str(error.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA, and this one has it")
def test_a_device_that_is_not_there_is_one_line(photographs, tmp_path, capsys):
    flags = ["--device", "cuda", "--batch-size", "8", "--output", str(tmp_path / "run")]
    assert main(["train", str(photographs), *flags]) == 2
    assert capsys.readouterr().err == (
        "shvit train: error: device cuda: this machine has none, or this PyTorch cannot use it\n"
    )


def test_print_config_shows_the_whole_recipe_that_would_run(photographs):
    done = shvit("train", photographs, "--pretrained", WEIGHTS, "--epochs", 3, "--print_config")
    assert done.returncode == 0, done.stderr
    shown = yaml.safe_load(done.stdout)
    assert (shown["epochs"], shown["optimizer"]["layer_decay"], shown["batch_size"]) == (3, 0.85, 8)
    assert {"augmentation", "distillation", "precision", "device", "workers"} <= set(shown)


def test_data_that_cannot_be_trained_on_is_one_line(photographs, tmp_path, capsys):
    (photographs / "empty").mkdir()
    assert main(["train", str(photographs), "--output", str(tmp_path / "run")]) == 2
    assert "empty" in capsys.readouterr().err
    assert main(["train", str(tmp_path / "nowhere"), "--output", str(tmp_path / "run")]) == 2
    assert f"{tmp_path / 'nowhere'}: No such file" in capsys.readouterr().err


def test_an_interrupted_run_says_how_to_go_on(photographs, tmp_path, capsys, monkeypatch):
    """Once there is something to go on from."""
    run = tmp_path / "run"

    def interrupted(plan, progress):
        if stopped_late:
            (run / "checkpoints").mkdir(parents=True)
            (run / "checkpoints" / "step-00000009.pt").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr("shvit.training.train.carry_out", interrupted)
    for stopped_late in (False, True):
        assert main(["train", str(photographs), "--output", str(run)]) == 130
        said = capsys.readouterr().err
        assert said.endswith("interrupted\n")
        assert ("the same command with --resume auto goes on with this run" in said) == stopped_late
