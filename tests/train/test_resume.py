"""Runs that are killed, disks that fill up, checkpoints that are damaged."""

from __future__ import annotations

import random
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from shvit.data import Augmentation, open_dataset
from shvit.errors import CheckpointError
from shvit.train import Execution, Optimizer, Recipe, fit, resume, setup
from shvit.train.checkpoint import checkpoints

from ..conftest import PATIENCE
from .conftest import drive, losses
from .driver import small_shvit

OPTIONS = {
    "image_size": 64,
    "epochs": 3,
    "batch_size": 8,
    "mixup": 0.2,
    "cutmix": 1.0,
    "ema_decay": 0.5,
    "augmentation": {"color_jitter": 0.3, "erase_probability": 0.5},
    "execution": {"checkpoint_every_steps": 2},
}
RECIPE = Recipe(image_size=64, epochs=1, batch_size=8, optimizer=Optimizer(lr=2e-2))


def prepare(colours, folder, recipe=RECIPE, **execution):
    torch.set_num_threads(1)
    execution = Execution(device="cpu", workers=0, **execution)
    train, val = open_dataset(colours, "train"), open_dataset(colours, "val")
    return setup(recipe, train, val, folder, execution, small_shvit())


def same_weights(first, second) -> bool:
    first, second = load_file(first), load_file(second)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_killed_at_three_random_steps_it_ends_with_the_same_bits(colours, tmp_path):
    whole, part = tmp_path / "whole", tmp_path / "part"
    assert drive(colours, whole, OPTIONS).wait(120) == 0
    for step in sorted(random.Random(7).sample(range(3, 18), 3)):
        assert drive(colours, part, {**OPTIONS, "kill_at": step}).wait(120) == -signal.SIGKILL
        saved = checkpoints(part)
        assert saved[-1].name == f"step-{step - step % 2:08d}.pt"  # in mid-epoch: an epoch has 6 steps
        assert len(saved) <= 2
    assert drive(colours, part, OPTIONS).wait(120) == 0
    assert same_weights(whole / "last.safetensors", part / "last.safetensors")
    assert same_weights(whole / "best.safetensors", part / "best.safetensors")
    assert losses(whole) == losses(part)


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_mixed_precision_is_resumed_with_its_loss_scale(colours, tmp_path, precision):
    recipe = replace(RECIPE, epochs=2, precision=precision)
    run = prepare(colours, tmp_path / "whole", recipe)
    fit(run)
    part = prepare(colours, tmp_path / "part", recipe, checkpoint_every_steps=1)

    def stop(progress, figures):
        if (progress.epoch, progress.step) == (1, 3):
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fit(part, stop)
    rest = prepare(colours, tmp_path / "part", recipe)
    assert resume(rest)
    assert (rest.progress.epoch, rest.progress.step) == (1, 2)
    fit(rest)
    assert rest.fabric.strategy.precision.state_dict() == run.fabric.strategy.precision.state_dict()
    assert same_weights(tmp_path / "whole/last.safetensors", tmp_path / "part/last.safetensors")


def test_killed_at_any_moment_the_run_folder_is_whole(colours, tmp_path):
    """By the clock, so also while files are being written."""
    options = {**OPTIONS, "epochs": 1000, "execution": {"checkpoint_every_steps": 1}}
    process = drive(colours, tmp_path, options)
    deadline = time.monotonic() + 90
    while len(checkpoints(tmp_path)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(random.Random().uniform(0, 1))
    process.kill()
    process.wait()
    recipe = Recipe(
        **{
            **{k: v for k, v in options.items() if k != "execution"},
            "augmentation": Augmentation(**OPTIONS["augmentation"]),
        }
    )
    run = prepare(colours, tmp_path, recipe)
    assert resume(run)
    assert run.global_step >= 2


def test_another_recipe_is_not_resumed(colours, tmp_path):
    run = prepare(colours, tmp_path)
    assert not resume(run)
    fit(run)
    with pytest.raises(CheckpointError, match="the run had another recipe; changed: epochs, mixup"):
        resume(prepare(colours, tmp_path, replace(RECIPE, epochs=3, mixup=0.5)))


def test_a_truncated_checkpoint_is_named_with_the_one_before_it(colours, tmp_path):
    fit(prepare(colours, tmp_path, checkpoint_every_steps=3))
    older, newest = checkpoints(tmp_path)
    newest.write_bytes(newest.read_bytes()[:5000])
    with pytest.raises(
        CheckpointError, match=rf"{newest.name}: cannot be read .*; go on from {older.name} by deleting"
    ):
        resume(prepare(colours, tmp_path))
    newest.unlink()
    run = prepare(colours, tmp_path)
    assert resume(run)
    assert run.progress.step == 3


def test_a_full_disk_leaves_the_earlier_checkpoint_whole(colours, tmp_path):
    run = prepare(colours, tmp_path, checkpoint_every_steps=3)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def fill(progress, figures):
        if progress.step == 4:  # from now on no file may grow past 64 kB
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limit[1]))

    try:
        with pytest.raises(CheckpointError, match=r"cannot be written: .*"):
            fit(run, fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.rglob("*.partial"))
    rest = prepare(colours, tmp_path)
    assert resume(rest)
    assert rest.progress.step == 3


def test_a_folder_that_holds_a_run_is_not_overwritten(colours, tmp_path):
    fit(prepare(colours, tmp_path))
    command = [sys.executable, "-m", "shvit", "train", str(colours), "--output", str(tmp_path), "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 2
    assert "holds a run already; add --resume auto" in done.stderr
