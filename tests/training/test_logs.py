from __future__ import annotations

import io
import json
import math
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning_fabric import Fabric
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from shvit.errors import DataError, MissingDependencyError
from shvit.install import install_command
from shvit.runs.logs import RunLog, git_revision
from shvit.runs.metrics import MetricsFile, read_metrics
from shvit.runs.progress import Progress
from shvit.training import Recipe

STEPS = 10
"""In an epoch."""


def job(folder: Path, epoch: int = 0, step: int = 0) -> SimpleNamespace:
    """As much of a ``Run`` as its log looks at."""
    folder.mkdir(parents=True, exist_ok=True)
    return SimpleNamespace(
        folder=folder,
        recipe=Recipe(epochs=4, seed=3, image_size=64),
        steps_per_epoch=STEPS,
        val=range(20),
        progress=Progress(epoch, step),
        fabric=Fabric(accelerator="cpu", devices=1),
    )


def train(log: RunLog, first: int, last: int) -> None:
    """Reports steps as ``fit`` does; counted from the run's start, both ends included."""
    for step in range(first, last + 1):
        epoch, inside = divmod(step - 1, STEPS)
        log(Progress(epoch, inside + 1), {"loss": 1 / step, "lr": 0.1, "images_per_second": 50})
        if inside + 1 == STEPS:
            log(Progress(epoch + 1, 0), {"val_top1": step / 100, "val_top5": step / 50, "val_loss": 2.0})


def places(folder: Path) -> list[tuple[float, float]]:
    return [(row["epoch"], row["step"]) for row in read_metrics(folder / "metrics.csv")]


def sessions(folder: Path) -> list[dict]:
    return json.loads((folder / "environment.json").read_text())["sessions"]


def test_a_run_folder_tells_what_was_done_where_and_with_what(tmp_path):
    with RunLog(job(tmp_path / "run"), every=5) as log:
        train(log, 1, 20)
    assert yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())["epochs"] == 4
    (session,) = sessions(tmp_path / "run")
    assert session["packages"]["torch"] == version("torch")
    assert set(session["packages"]) >= {"torchvision", "timm", "lightning-fabric", "numpy", "pillow", "shvit"}
    assert (session["seed"], session["device"], session["outcome"]) == (3, "cpu", "finished")
    assert session["started"] <= session["ended"]
    assert session["command"] == sys.argv
    assert places(tmp_path / "run") == [(0, 5), (0, 10), (1, 10), (1, 15), (1, 20), (2, 20)]
    rows = read_metrics(tmp_path / "run" / "metrics.csv")
    assert rows[0]["loss"] == 1 / 5
    assert rows[2]["val_top1"] == 0.1
    assert "loss" not in rows[2]
    assert 20 < rows[0]["memory_mib"] < 100_000
    curves = Image.open(tmp_path / "run" / "curves.png").convert("RGB")
    colours = {colour for _, colour in curves.getcolors(2**20)}
    assert {(31, 119, 180), (255, 127, 14)} <= colours, "matplotlib's first two line colours are not in the picture"


def test_short_epochs_are_logged_too(tmp_path):
    with RunLog(job(tmp_path)) as log:
        train(log, 1, 10)
    assert places(tmp_path) == [(0, 2), (0, 4), (0, 6), (0, 8), (0, 10), (1, 10)]


def test_a_resumed_run_goes_on_and_has_no_row_twice(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(KeyError), RunLog(job(folder), every=1) as log:
        train(log, 1, 17)
        raise KeyError("gone\nwrong")
    before = read_metrics(folder / "metrics.csv")
    with (folder / "metrics.csv").open("a") as file:
        file.write("1,18,0.0")  # as a kill in the middle of a write leaves it
    with RunLog(job(folder, epoch=1, step=3), every=1) as log:  # the last checkpoint was older
        assert read_metrics(folder / "metrics.csv") == before[:14]
        train(log, 14, 40)
    done = read_metrics(folder / "metrics.csv")
    assert done[:14] == before[:14]
    assert places(folder) == sorted(set(places(folder)))
    assert len(done) == 44
    seconds = [row["seconds"] for row in done]
    assert seconds == sorted(seconds)
    assert [each["outcome"] for each in sessions(folder)] == ["failed: KeyError: 'gone\\nwrong'", "finished"]
    assert sessions(folder)[1]["start"] == {"epoch": 1, "step": 3}

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == list(range(1, 41))


def test_a_checkpoint_before_a_validation_has_it_logged_once(tmp_path):
    """The step before the validation and the validation are at the same step of the run."""
    for epoch, step, kept in ((0, STEPS, 10), (1, 0, 11)):
        folder = tmp_path / str(kept)
        with RunLog(job(folder), every=1) as log:
            train(log, 1, 12)
        with RunLog(job(folder, epoch, step), every=1):
            assert len(places(folder)) == kept


def test_a_killed_or_interrupted_run_is_told_from_a_finished_one(tmp_path):
    with pytest.raises(KeyboardInterrupt), RunLog(job(tmp_path / "a")):
        assert sessions(tmp_path / "a")[0]["outcome"] is None  # what kill -9 leaves
        raise KeyboardInterrupt
    assert sessions(tmp_path / "a")[0]["outcome"] == "stopped"


def test_figures_that_come_later_get_a_column(tmp_path):
    with RunLog(job(tmp_path), every=1) as log:
        log(Progress(0, 1), {"loss": 2.0, "lr": 0.1})
        log(Progress(0, 2), {"loss": math.nan, "lr": 0.1, "skipped": 1})
        log(Progress(0, 3), {"lr": 0.1})
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert lines[0].startswith("epoch,step,loss,lr,")
    assert lines[0].endswith(",skipped")
    rows = read_metrics(tmp_path / "metrics.csv")
    assert [row.get("skipped") for row in rows] == [None, 1, None]
    assert [row.get("loss", -1) for row in rows] == pytest.approx([2, math.nan, -1], nan_ok=True)


@settings(max_examples=50)  # each row may be a file written anew
@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["loss", "lr", "val_top1", 'odd, "name"']),
            st.floats(width=64) | st.integers(-(2**40), 2**40),
        )
    )
)
def test_metrics_are_read_as_they_were_written(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("metrics") / "metrics.csv"
    file = MetricsFile(path)
    for step, row in enumerate(rows):
        file.append({"epoch": 0, "step": step, **row})
    for _ in range(2):
        read = read_metrics(path)
        assert len(read) == len(rows)
        for step, (row, written) in enumerate(zip(read, rows, strict=True)):
            assert row == pytest.approx({"epoch": 0, "step": step, **written}, rel=0, abs=0, nan_ok=True)
        MetricsFile(path, 0, len(rows))  # reads and writes all of them


def test_a_damaged_log_is_named(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,step,loss\n0,1,2.5\n0,many,2\n0,3,1\n")
    with pytest.raises(DataError, match=r"metrics\.csv: line 3 is not 3 numbers"), RunLog(job(tmp_path)):
        pass
    (tmp_path / "metrics.csv").write_text("a,b\n")
    with pytest.raises(DataError, match=r"expected a header with epoch and step"):
        read_metrics(tmp_path / "metrics.csv")


def test_only_the_first_process_logs(tmp_path):
    run = job(tmp_path)
    run.fabric = SimpleNamespace(is_global_zero=False)
    with RunLog(run):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_terminal_shows_a_bar_and_a_file_gets_lines(tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    for stream, wanted in (
        (Terminal(), ("epoch 1 of 4", "epoch 2 of 4", "12/40", "it/s", "loss 0.083", "lr 0.1", "top-1 10.0%", " MiB")),
        (io.StringIO(), ("epoch 1 of 4  step 5  loss 0.2  lr 0.1", "epoch 1 of 4  step 10  val_top1 0.1")),
    ):
        monkeypatch.setattr(sys, "stderr", stream)
        with RunLog(job(tmp_path / type(stream).__name__), every=5) as log:
            train(log, 1, 12)
            log.bar.refresh()
        for text in wanted:
            assert text in stream.getvalue()


def test_no_epoch_is_shown_beyond_the_last(tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    for stream in (Terminal(), io.StringIO()):
        monkeypatch.setattr(sys, "stderr", stream)
        with RunLog(job(tmp_path / type(stream).__name__), every=5) as log:
            train(log, 1, 4 * STEPS)
            log.bar.refresh()
        assert set(re.findall(r"epoch (\d+) of (\d+)", stream.getvalue())) == {(str(n), "4") for n in range(1, 5)}


def test_the_revision_of_a_checkout_and_whether_it_was_changed(tmp_path):
    if shutil.which("git") is None:
        pytest.skip("needs git")
    assert git_revision(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]
    (tmp_path / "file").write_text("first")
    for command in (["init", "-q"], ["add", "file"], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *command], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert git_revision(tmp_path) == {"revision": head, "dirty": False}
    (tmp_path / "file").write_text("second")
    assert git_revision(tmp_path) == {"revision": head, "dirty": True}


def test_weights_and_biases_is_asked_for_and_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(
        MissingDependencyError,
        match=re.escape(f"needs wandb, which is not installed; install it with: {install_command('wandb')}"),
    ):
        RunLog(job(tmp_path), wandb=True)
    assert list(tmp_path.iterdir()) == []


def test_weights_and_biases_gets_the_figures_and_one_run_over_all_sessions(tmp_path, monkeypatch):
    """A stand-in for the package that notes what is asked of it; the next test has the real one."""
    started, logged = [], []

    def init(**settings):
        started.append(settings)
        return SimpleNamespace(
            id=settings["id"] or "fresh",
            log=lambda figures, step: logged.append((step, figures)),
            finish=lambda exit_code: logged.append(("finished", exit_code)),
        )

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    with RunLog(job(tmp_path / "run"), every=1, wandb=True) as log:
        train(log, 1, 2)
    with RunLog(job(tmp_path / "run", step=2), every=1, wandb=True) as log:
        train(log, 3, 3)
    assert [(each["id"], each["resume"], each["name"]) for each in started] == [
        (None, "allow", "run"),
        ("fresh", "allow", "run"),
    ]
    assert started[0]["config"]["seed"] == 3
    assert [step for step, _ in logged] == [1, 2, "finished", 3, "finished"]
    assert logged[0][1]["loss"] == 1.0


def test_weights_and_biases_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="needs wandb, which is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with RunLog(job(tmp_path / "run"), every=1, wandb=True) as log:
        train(log, 1, 3)
    (written,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    assert b"images_per_second" in written.read_bytes()
    assert sessions(tmp_path / "run")[0]["wandb"] in written.name
