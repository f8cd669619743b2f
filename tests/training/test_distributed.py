"""Several processes on this machine, joined by gloo as several machines would be."""

from __future__ import annotations

import json
import signal

import pytest

from shvit.training.checkpoint import checkpoints

from ..conftest import PATIENCE, free_port
from .conftest import drive, losses

OPTIONS = {
    "image_size": 64,
    "epochs": 2,
    "batch_size": 8,  # 3 processes take 3, 3 and 2 images of it
    "ema_decay": 0.5,
    "sync_norm": True,
    "optimizer": {"lr": 2e-3, "warmup_epochs": 0.2},
}


def torchrun(processes: int, restarts: int = 0) -> tuple[str, ...]:
    return (
        "-m",
        "torch.distributed.run",
        f"--nproc-per-node={processes}",
        f"--max-restarts={restarts}",
        "--monitor-interval=0.2",
        "--standalone",
    )


def validations(folder) -> list[dict]:
    rows = [json.loads(line) for line in (folder / "losses.jsonl").read_text().splitlines()]
    return [row for row in rows if "val_top1" in row]


@pytest.fixture(scope="module")
def alone(colours, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    assert drive(colours, folder, OPTIONS).wait(180) == 0
    return folder


@pytest.mark.parametrize("processes", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_several_processes_follow_the_curve_of_one(colours, alone, tmp_path, processes):
    options = {**OPTIONS, "execution": {"devices": processes}}
    process = drive(colours, tmp_path, options, torchrun(processes))
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    one, several = losses(alone), losses(tmp_path)
    assert one.keys() == several.keys() == set(range(1, 13))
    assert [several[step] for step in sorted(several)] == pytest.approx([one[step] for step in sorted(one)], rel=2e-3)
    # 12 validation images on 2 or 3 processes, in batches of 8: each is counted once.
    for own, other in zip(validations(alone), validations(tmp_path), strict=True):
        assert other["val_top1"] == own["val_top1"]
        assert other["val_loss"] == pytest.approx(own["val_loss"], rel=2e-3)


def test_when_one_process_is_killed_the_others_stop_and_say_so(colours, tmp_path):
    """Two processes as on two machines, with nobody to watch over them."""
    port = str(free_port())
    options = {**OPTIONS, "kill_at": 3, "kill_rank": 1, "execution": {"devices": 1, "nodes": 2}}
    both = [
        drive(
            colours, tmp_path, options, MASTER_ADDR="127.0.0.1", MASTER_PORT=port, NODE_RANK=str(rank), LOCAL_RANK="0",
            WORLD_SIZE="2",
        )
        for rank in range(2)
    ]  # fmt: skip
    assert both[1].wait(PATIENCE) == -signal.SIGKILL
    _, errors = both[0].communicate(timeout=PATIENCE)  # far less than the half an hour that collectives wait by default
    assert both[0].returncode == 1
    assert "process 0 of 2 lost the others at epoch 1, step 4" in errors
    assert "--resume auto" in errors


def test_a_restart_by_torchrun_goes_on_from_the_checkpoint(colours, alone, tmp_path):
    options = {**OPTIONS, "kill_at": 9, "kill_rank": 1, "execution": {"devices": 2, "checkpoint_every_steps": 2}}
    process = drive(colours, tmp_path, options, torchrun(2, restarts=1))
    _, errors = process.communicate(timeout=PATIENCE)
    # The second time the killer strikes at step 9 again, having begun at 8; that is one restart too many.
    assert process.returncode != 0, errors
    started = [json.loads(line) for line in (tmp_path / "losses.jsonl").read_text().splitlines() if "started" in line]
    assert started == [{"started": 0, "resumed": False}, {"started": 8, "resumed": True}], errors
    assert checkpoints(tmp_path)[-1].name == "step-00000008.pt"
    del options["kill_at"]
    process = drive(colours, tmp_path, options, torchrun(2))
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    one, several = losses(alone), losses(tmp_path)
    assert [several[step] for step in sorted(several)] == pytest.approx([one[step] for step in sorted(one)], rel=2e-3)
