"""Labels, names of files and cards that steer a terminal are shown as escapes by every command."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from shvit.card import ClassInfo, Metric
from shvit.cli.main import main

from ..conftest import colour_card, write_colour_model

STEERING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
HOSTILE = "\x1b]0;owned\x07\n  99.9% fake\x9b2J\u202e[bold]x[link=y] :smile:"
SHOWN = r"\x1b]0;owned\x07\n  99.9% fake\x9b2J\u202e[bold]x[link=y] :smile:"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("hostile")
    classes = tuple(ClassInfo(i, f"{name}{HOSTILE}", None) for i, name in enumerate(("red", "green", "blue")))
    card = colour_card(
        name=HOSTILE,
        classes=classes,
        notes=HOSTILE,
        licence=HOSTILE,
        training_data=HOSTILE,
        metrics=(Metric(HOSTILE, 0.5, HOSTILE, command=HOSTILE),),
    )
    write_colour_model(root / "m.onnx", card.to_json())
    (root / "photos").mkdir()
    Image.new("RGB", (60, 40), (200, 0, 0)).save(root / "photos" / f"{HOSTILE}.png")
    (root / "photos" / f"broken{HOSTILE}.png").write_bytes(b"nothing")
    (root / "photos" / "caf\udce9.png").write_bytes(b"nothing")
    for split in ("train", "val"):
        for place, each in enumerate(classes):
            inside = root / "data" / split / each.label
            inside.mkdir(parents=True)
            for number in range(2):
                seed = np.random.default_rng(place * 4 + number * 2 + (split == "val"))
                pixels = seed.integers(0, 90, (24, 20, 3), np.uint8)
                pixels[..., place] += 120
                Image.fromarray(pixels).save(inside / f"{number}{HOSTILE}.png")
    (root / "data" / "val" / classes[0].label / f"broken{HOSTILE}.png").write_bytes(b"nothing")
    for name, outcome in (("a", "finished"), ("b", f"failed: {HOSTILE}")):
        run = root / "runs" / f"{name}{HOSTILE}"
        run.mkdir(parents=True)
        (run / "recipe.yaml").write_text(yaml.safe_dump({"model": f"{name}{HOSTILE}", "epochs": 1}))
        (run / "environment.json").write_text(json.dumps({"sessions": [{"outcome": outcome, "steps_per_epoch": 1}]}))
        (run / "metrics.csv").write_text("epoch,step\n")
    (root / "runs" / f"c{HOSTILE}").mkdir()
    (root / "runs" / f"c{HOSTILE}" / "recipe.yaml").write_text("- damaged")
    return root


@pytest.mark.parametrize(
    ("command", "status", "shown"),
    [
        (("predict", "photos", "--model", "m.onnx"), 1, 5),
        (("predict", "photos", "--model", "m.onnx", "--format", "jsonl"), 1, 0),
        (("predict", "photos", "--model", "m.onnx", "--top-k", "1", "--save-images", "labelled"), 1, 3),
        (("predict", "photos", "--model", f"gone{HOSTILE}"), 2, 1),
        (("predict", "photos", f"--gone{HOSTILE}".replace(" ", "")), 2, 0),
        (("predict", "photos", "--model", "m.onnx", "--output", f"gone{HOSTILE}/x"), 2, 1),
        (("explain", "photos", "--kind", "cam"), 1, 2),
        (("info", "m.onnx"), 0, 8),
        (("info", "m.onnx", "--format", "json"), 0, 0),
        (("info", f"photos/{HOSTILE}.png"), 2, 1),
        (("data", "check", "data", "--workers", "1"), 1, 1),
        (("data", "check", "data", "--workers", "1", "--format", "json"), 1, 0),
        (("data", "check", f"data{HOSTILE}"), 2, 1),
        (("eval", "--model", "m.onnx", "--data", "data", "--workers", "0"), 1, 4),
        (("eval", "--model", "m.onnx", "--data", "data", "--workers", "0", "--format", "json"), 1, 1),
        (("runs", "runs"), 0, 7),
        (("runs", "runs", "--format", "json"), 0, 0),
        (("runs", "runs", "--diff"), 0, 3),
        (("video", f"photos/broken{HOSTILE}.png", "--model", "m.onnx"), 1, 1),
        (("video", f"photos/broken{HOSTILE}.png", "--model", "m.onnx", "--format", "jsonl"), 1, 0),
        (("export", "--model", f"gone{HOSTILE}", "--output", "x.onnx"), 2, 1),
        (("train", f"gone{HOSTILE}"), 2, 1),
    ],
)
def test_only_escapes_are_shown(folder, monkeypatch, capsys, command, status, shown):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "2000")
    if command[0] == "video":
        pytest.importorskip("av", reason="needs shvit[video]")
    try:
        code = main(command)
    except SystemExit as ended:  # of argparse
        code = ended.code
    output = capsys.readouterr()
    printed = output.out + output.err
    assert code == status, printed
    assert STEERING.findall(printed) == []
    assert not re.search(r"^  99\.9% fake", printed, re.MULTILINE)
    assert printed.count(SHOWN) >= shown, printed


def test_formulas_in_tables_are_marked_where_asked(folder, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    classes = tuple(ClassInfo(i, f"=HYPERLINK({i})", None) for i in range(3))
    write_colour_model(tmp_path / "m.onnx", colour_card(classes=classes).to_json())
    for place in range(3):
        for name in ("-a.png", "b.png"):
            inside = tmp_path / "data" / classes[place].label
            inside.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (48, 32), tuple(200 if each == place else 0 for each in range(3))).save(inside / name)
    picture = f"./data/{classes[0].label}/b.png"
    for more, label in (((), "=HYPERLINK(0)"), (["--csv-safe"], "'=HYPERLINK(0)")):
        assert main(["predict", picture, "--model", "m.onnx", "--format", "csv", "--top-k", "1", *more]) == 0
        assert capsys.readouterr().out.splitlines()[1].split(",")[2] == label
        assert main(["runs", str(folder / "runs"), "--format", "csv", *more]) == 0
        assert HOSTILE in capsys.readouterr().out
    out = ["--workers", "0", "--output", "report", "--csv-safe"]
    assert main(["eval", "--model", "m.onnx", "--data", "data", *out]) == 0
    assert (tmp_path / "report" / "per_class.csv").read_text().splitlines()[1].split(",")[1] == "'=HYPERLINK(0)"


def test_a_progress_bar_shows_a_name_as_it_is(capfd):
    from rich.progress import Progress, TextColumn

    from shvit.display import printable, terminal

    column = TextColumn("{task.description}", markup=False)
    with Progress(column, console=terminal(stderr=True), disable=False) as bar:
        bar.add_task(printable(HOSTILE))
    assert SHOWN in capfd.readouterr().err
