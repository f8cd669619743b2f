"""Runs that are killed, disks that fill up, checkpoints that are damaged."""

from __future__ import annotations

import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from shvit.data import Augmentation, open_dataset
from shvit.errors import CheckpointError, TrainingError
from shvit.models import read_checkpoint
from shvit.runs.progress import Progress
from shvit.training import Execution, Optimizer, Recipe, ValidationResult, checkpoint, fit, loop, resume, setup
from shvit.training.checkpoint import checkpoints
from shvit.training.locking import only_writer

from ..conftest import PATIENCE, wait_until
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
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_mixed_precision_is_resumed_with_its_loss_scale(colours, tmp_path, precision, name):
    recipe = replace(RECIPE, epochs=2, precision=precision, optimizer=replace(RECIPE.optimizer, name=name))
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
    wait_until(lambda: len(checkpoints(tmp_path)) >= 2)
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


def test_a_run_of_a_version_that_did_not_know_a_key_goes_on_with_its_default(colours, tmp_path):
    fit(prepare(colours, tmp_path))
    newest = checkpoints(tmp_path)[-1]
    state = torch.load(newest, weights_only=True)
    for key in ("resize_mode", "pad_color"):
        del state["recipe"][key]
    torch.save(state, newest)
    assert resume(prepare(colours, tmp_path, replace(RECIPE, image_size="64x64")))
    with pytest.raises(CheckpointError, match="the run had another recipe; changed: resize_mode;"):
        resume(prepare(colours, tmp_path, replace(RECIPE, resize_mode="pad")))


def test_another_recipe_is_not_resumed(colours, tmp_path):
    run = prepare(colours, tmp_path)
    assert not resume(run)
    fit(run)
    with pytest.raises(CheckpointError, match="the run had another recipe; changed: epochs, mixup"):
        resume(prepare(colours, tmp_path, replace(RECIPE, epochs=3, mixup=0.5)))


@pytest.fixture(scope="module")
def trained(colours, tmp_path_factory):
    """A finished run of one epoch with its checkpoints at steps 3 and 6."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    fit(prepare(colours, folder, checkpoint_every_steps=3))
    assert [path.name for path in checkpoints(folder)] == ["step-00000003.pt", "step-00000006.pt"]
    return folder


def flip(path, share):
    """One bit, at a share of the file's length."""
    content = bytearray(path.read_bytes())
    content[int(len(content) * share)] ^= 0x40
    path.write_bytes(content)


DAMAGES = {
    "a bit in a tensor": lambda path: flip(path, 0.5),
    "a bit in the pickle": lambda path: flip(path, 300 / path.stat().st_size),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:5000]),
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "another type": lambda path: torch.save([1, 2], path),
    "text": lambda path: path.write_text("hello"),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a FIFO": lambda path: (path.unlink(), os.mkfifo(path)),
    "not finite": lambda path: torch.save(
        {**(state := torch.load(path)), "ema": {**state["ema"], "head.linear.bias": torch.tensor([0, 1, math.nan])}},
        path,
    ),
}


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(colours, trained, tmp_path, how):
    shutil.copytree(trained, tmp_path / "run")
    older, newest = checkpoints(tmp_path / "run")
    DAMAGES[how](newest)
    run = prepare(colours, tmp_path / "run")
    with pytest.warns(UserWarning, match=rf"{newest.name}: .*; it is left out .*the run goes on from {older.name}"):
        assert resume(run)
    assert (run.progress.epoch, run.progress.step) == (0, 3)
    assert checkpoints(tmp_path / "run") == [older]
    assert newest.with_name(newest.name + ".damaged").exists()
    if how == "a bit in a tensor":
        fit(run)
        assert same_weights(trained / "last.safetensors", tmp_path / "run" / "last.safetensors")


def test_no_whole_checkpoint_is_an_error_that_names_each(colours, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    for path in checkpoints(tmp_path / "run"):
        flip(path, 0.5)
    expected = (
        r"no checkpoint can be used: step-00000006\.pt \(damaged: Bad CRC.*\); step-00000003\.pt \(damaged.*put a copy"
    )
    with pytest.raises(CheckpointError, match=expected):
        resume(prepare(colours, tmp_path / "run"))
    assert len(checkpoints(tmp_path / "run")) == 2


def test_any_bit_of_a_checkpoint_is_found_or_does_not_matter(trained, tmp_path):
    path, state = tmp_path / "step-00000006.pt", torch.load(checkpoints(trained)[-1])
    whole = checkpoints(trained)[-1].read_bytes()
    draw = random.Random(3)
    found = 0
    # Its end is the archive's table of contents, where a bit may name another place.
    for place in [*draw.sample(range(len(whole)), 60), *draw.sample(range(len(whole) - 12_000, len(whole)), 140)]:
        content = bytearray(whole)
        content[place] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
        try:
            read = checkpoint._read(path)
        except ValueError:
            found += 1
            continue
        for part in ("model", "ema"):
            assert all(torch.equal(read[part][name], tensor) for name, tensor in state[part].items()), place
        assert read["progress"] == state["progress"]
    assert found > 60


def test_a_checkpoint_of_before_the_validation_loss_was_kept_is_resumed(colours, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    newest = checkpoints(tmp_path / "run")[-1]
    state = torch.load(newest)
    del state["progress"]["best_loss"]
    torch.save(state, newest)
    run = prepare(colours, tmp_path / "run")
    assert resume(run)
    assert (run.progress.epoch, run.progress.best_loss) == (1, None)


@pytest.mark.parametrize("keep", range(1, 7))
def test_so_many_of_the_newest_checkpoints_stay_and_nothing_else_goes(tmp_path, keep):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    foreign = {"step-best.pt", "step-00000002 (copy).pt", "step-1.pt", "step-00000003.pt.damaged", "notes.txt"}
    for name in foreign:
        (folder / name).write_text("mine")
    (folder / "step-00000090.pt").write_text("of a course of the run that was given up")
    network = torch.nn.Linear(1, 1)
    for step in range(1, 9):
        run = SimpleNamespace(
            folder=tmp_path,
            network=network,
            ema=None,
            optimizer=torch.optim.SGD(network.parameters()),
            fabric=SimpleNamespace(strategy=SimpleNamespace(precision=SimpleNamespace(state_dict=dict))),
            progress=Progress(step=step),
            recipe=RECIPE,
            execution=Execution(keep_checkpoints=keep),
            global_step=step,
        )
        checkpoint.save(run)
        wanted = {f"step-{each:08d}.pt" for each in range(max(1, step - keep + 1), step + 1)}
        assert {path.name for path in folder.iterdir()} == wanted | foreign | {"step-00000090.pt"}


def test_a_validation_loss_that_is_not_finite_stops_the_run(colours, tmp_path):
    for skip in ("stop", "skip"):
        folder = tmp_path / skip
        run = prepare(colours, folder, replace(RECIPE, epochs=3, non_finite=skip))

        def spoil(progress, figures, run=run):
            if progress.epoch == 1 and progress.step == 6:  # the last step of the second epoch
                run.ema.module.head.linear.bias.data[0] = math.nan

        expected = (
            rf"validation loss is nan after epoch 2, .*last good checkpoint is {folder}/checkpoints/step-00000006\.pt"
        )
        with pytest.raises(TrainingError, match=expected):
            fit(run, spoil)
        assert read_checkpoint(folder / "last.safetensors").metadata["epoch"] == 1


def test_a_run_whose_validation_is_all_wrong_has_a_best(colours, tmp_path, monkeypatch):
    losses = iter([2.0, 1.5, 1.75])
    monkeypatch.setattr(loop, "evaluate", lambda *_: ValidationResult(0.0, 0.0, next(losses), 12))
    progress = fit(prepare(colours, tmp_path, replace(RECIPE, epochs=3)))
    assert (progress.best_epoch, progress.best_score, progress.best_loss) == (2, 0.0, 1.5)
    assert read_checkpoint(tmp_path / "best.safetensors").metadata["epoch"] == 2


def test_two_runs_into_one_folder_at_the_same_time(colours, tmp_path):
    """The second is refused and changes nothing; once the first is killed, the folder is free."""
    first = drive(colours, tmp_path, {**OPTIONS, "epochs": 1000})
    wait_until(lambda: checkpoints(tmp_path))
    command = [sys.executable, "-m", "shvit", "train", str(colours), "--output", str(tmp_path), "--device", "cpu"]
    second = subprocess.run([*command, "--resume", "auto"], capture_output=True, text=True, timeout=PATIENCE)
    first.kill()
    first.wait()
    assert second.returncode == 2
    assert f"{tmp_path}: process {first.pid} on" in second.stderr
    assert not (tmp_path / "environment.json").exists()
    with only_writer(tmp_path), only_writer(tmp_path):
        assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} on ")
        child = os.fork()
        if not child:
            time.sleep(PATIENCE)  # as a loader's process that outlives its parent for a moment
    try:
        with only_writer(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert not (tmp_path / ".lock").exists()


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
