from __future__ import annotations

import argparse
import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from shvit.cli import runs
from shvit.errors import DataError

from ..conftest import AS_ANYBODY, PATIENCE


def write_run(
    folder: Path, top1: tuple[float, ...] = (0.1, 0.2), outcome: str | None = "finished", **recipe: object
) -> None:
    """A run folder as ``RunLog`` leaves it: ten steps an epoch."""
    folder.mkdir(parents=True)
    values = {"model": "shvit_s1", "image_size": 64, "epochs": 3, "seed": 0, "optimizer": {"lr": 0.1}, **recipe}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    session = {"outcome": outcome, "steps_per_epoch": 10}
    (folder / "environment.json").write_text(json.dumps({"sessions": [{"outcome": "stopped"}, session]}))
    lines = ["epoch,step,loss,lr,images_per_second,val_top1,val_top5,val_loss,seconds"]
    for epoch, value in enumerate(top1, start=1):
        lines.append(f"{epoch - 1},{epoch * 10 - 5},{3 / epoch},0.1,{100 * epoch},,,,{60 * epoch}")
        lines.append(f"{epoch},{epoch * 10},,,,{value},{value * 2},{2 / epoch},{60 * epoch + 5}")
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")


def command(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    runs.add_arguments(parser)
    return runs.run(parser.parse_args([str(each) for each in arguments]))


@pytest.fixture
def folder(tmp_path) -> Path:
    write_run(tmp_path / "a", (0.1, 0.3, 0.25), seed=4)
    write_run(tmp_path / "b", (0.4,), None, model="shvit_s2", distillation={"teacher": None, "logits": "runs/teacher"})
    write_run(tmp_path / "c", (), "failed: TrainingError: the loss is nan", optimizer={"lr": 9.0}, mixup=0.2)
    (tmp_path / "teacher").mkdir()  # no run: it is left out
    (tmp_path / "teacher" / "logits.json").write_text("{}")
    return tmp_path


def test_a_run_is_summed_up(folder, capsys):
    assert command(folder, "--format", "json") == 0
    a, b, c = json.loads(capsys.readouterr().out)
    assert a == {
        "name": str(folder / "a"),
        "state": "finished",
        "model": "shvit_s1",
        "image_size": 64,
        "epochs_done": 3.0,
        "epochs": 3,
        "best_top1": 0.3,
        "best_map": None,
        "last_loss": 1.0,
        "seconds": 185.0,
        "images_per_second": 200.0,
        "teacher": None,
        "seed": 4,
    }
    assert (b["state"], b["teacher"], b["epochs_done"]) == ("running or killed", "runs/teacher", 1)
    assert (c["state"], c["best_top1"], c["epochs_done"]) == ("failed: TrainingError: the loss is nan", None, 0)


def test_the_best_is_that_of_the_file(tmp_path, capsys):
    """By the smallest loss where validation images are few: here the last, of 25 %, though the second has 30 %."""
    for name, images, best in (("few", 20, 0.25), ("many", 5000, 0.3)):
        write_run(tmp_path / name, (0.1, 0.3, 0.25))
        file = tmp_path / name / "environment.json"
        sessions = json.loads(file.read_text())
        sessions["sessions"][-1]["validation_images"] = images
        file.write_text(json.dumps(sessions))
        assert command(tmp_path / name, "--format", "json") == 0
        assert json.loads(capsys.readouterr().out)[0]["best_top1"] == best


def test_a_table_and_csv(folder, capsys):
    assert command(folder) == 0
    header, a, *_ = capsys.readouterr().out.splitlines()
    assert " ".join(header.split()) == "name model px epochs top-1 last loss time images/s seed teacher state"
    assert a.split() == [
        str(folder / "a"),
        "shvit_s1",
        "64",
        "3/3",
        "30.0%",
        "1.000",
        "0:03:05",
        "200",
        "4",
        "finished",
    ]
    assert command(folder / "c") == 0
    assert capsys.readouterr().out.endswith(f"\n{folder / 'c'}: failed: TrainingError: the loss is nan\n")
    assert command(folder, "--format", "csv") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["best_top1"] for row in rows] == ["0.3", "0.4", ""]


@pytest.mark.parametrize(
    ("flags", "order"),
    [
        ([], "abc"),
        (["--reverse"], "cba"),
        (["--sort", "best_top1"], "bac"),
        (["--sort", "best_top1", "--reverse"], "abc"),
        (["--sort", "model"], "acb"),
    ],
)
def test_sorting_puts_what_is_unknown_last(folder, capsys, flags, order):
    assert command(folder, "--format", "json", *flags) == 0
    assert "".join(Path(row["name"]).name for row in json.loads(capsys.readouterr().out)) == order


def test_only_what_differs_in_the_recipes(folder, capsys):
    assert command(folder / "a", folder / "c", "--diff", "--format", "json") == 0
    a, c = str(folder / "a"), str(folder / "c")
    assert json.loads(capsys.readouterr().out) == {
        "seed": {a: 4, c: 0},
        "optimizer.lr": {a: 0.1, c: 9.0},
        "mixup": {a: None, c: 0.2},
    }
    assert command(folder / "a", "--diff") == 0
    assert capsys.readouterr().out == "the recipes of 1 runs are the same\n"


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("recipe.yaml", "model: [", "recipe.yaml: cannot be read"),
        ("recipe.yaml", "just a text", "recipe.yaml: expected a recipe's keys and values"),
        ("recipe.yaml", "image_size: 1.5", "recipe.yaml: image_size: expected int or str, got '1.5'"),
        ("recipe.yaml", "distillation: 3", "recipe.yaml: distillation: expected dict, got '3'"),
        ("recipe.yaml", None, "recipe.yaml: cannot be read: No such file or directory"),
        ("environment.json", '{"sessions": [', "environment.json: cannot be read"),
        ("environment.json", '{"torch": "2.0"}', "environment.json: cannot be read"),
        ("environment.json", '{"sessions": [{"steps_per_epoch": "x"}]}', "environment.json: steps_per_epoch: expected"),
        ("environment.json", None, "environment.json: no such file"),
        ("metrics.csv", "epoch,step\n1,a\n", "metrics.csv: line 2 is not 2 numbers"),
        ("metrics.csv", b"\xff\xfe\x00", "metrics.csv: cannot be read"),
        ("metrics.csv", "", "metrics.csv: expected a header with epoch and step"),
    ],
)
def test_a_damaged_run_is_one_row_with_its_reason(folder, capsys, file, content, reason):
    damaged = folder / "b" / file
    if content is None:
        damaged.unlink()
    else:
        damaged.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert command(folder, "--format", "json") == 0
    a, b, c = json.loads(capsys.readouterr().out)
    assert b["state"].startswith(f"damaged: {reason}")
    assert "\n" not in b["state"]
    assert (a["best_top1"], c["model"]) == (0.3, "shvit_s1")


def test_a_folder_without_permission_is_one_row(folder):
    (folder / "b").chmod(0)
    code = f"""
import argparse
from shvit.cli import runs
parser = argparse.ArgumentParser(); runs.add_arguments(parser)
raise SystemExit(runs.run(parser.parse_args([{str(folder)!r}])))
"""
    done = subprocess.run([*AS_ANYBODY, sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    (folder / "b").chmod(0o700)
    assert done.returncode == 0, done.stderr
    assert "damaged: recipe.yaml: cannot be read: Permission denied" in done.stdout
    assert "30.0%" in done.stdout


def test_no_runs_are_an_error_with_what_was_looked_for(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        command(tmp_path / "gone")
    with pytest.raises(DataError, match=r"no run folder, and none in it \(looked for recipe\.yaml"):
        command(tmp_path)


def test_validation_curves_in_one_picture_and_each_runs_own(folder, capsys):
    (folder / "a").rename(folder / "a$\\frac$")  # a name that a formula's reader would stumble over
    picture = folder / "all.png"
    assert command(folder, "--plot", picture, "--curves") == 0
    blue, orange = (31, 119, 180), (255, 127, 14)
    colours = {colour for _, colour in Image.open(picture).convert("RGB").getcolors(2**20)}
    assert {blue, orange} <= colours, "one line for each of the two runs that have validated"
    assert [(folder / name / "curves.png").is_file() for name in ("a$\\frac$", "b", "c")] == [True] * 3
    with pytest.raises(DataError, match="no run has validated yet"):
        command(folder / "c", "--plot", folder / "none.png")
    assert not (folder / "none.png").exists()


def test_it_needs_no_torch(folder):
    code = f"""
import sys
sys.modules["torch"] = None
import argparse
from shvit.cli import runs
parser = argparse.ArgumentParser(); runs.add_arguments(parser)
raise SystemExit(runs.run(parser.parse_args([{str(folder)!r}, "--plot", {str(folder / "all.png")!r}])))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert "30.0%" in done.stdout
