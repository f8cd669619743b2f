"""What commands print where there are 60 columns: all of it, and nothing broken in the middle."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from shvit.card import ClassInfo, Metric
from shvit.cli.main import main

from ..conftest import colour_card, write_colour_model
from .test_runs import write_run

NAMES = ("red and round, as tomatoes are when they are ripe", "green-leaved", "blue")


@pytest.fixture
def model(tmp_path) -> Path:
    classes = tuple(ClassInfo(place, name) for place, name in enumerate(NAMES))
    metric = Metric("top1", 0.9876543, "photographs of 12,345,678 tomatoes and other plants of gardens", "shvit eval x")
    notes = "Made for the tests of narrow terminals; 1,234,567.89 of 9,876,543 sentences are as long as this one."
    return write_colour_model(
        tmp_path / "m.onnx", colour_card(classes=classes, metrics=(metric,), notes=notes).to_json()
    )


@pytest.fixture
def data(tmp_path) -> Path:
    """More of each class than of the one before; one picture is broken, one is there twice."""
    for split in ("train", "val"):
        for place, name in enumerate(NAMES):
            for number in range(2 + place):
                path = tmp_path / "data" / split / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                colour = [20 + number] * 3
                colour[place] = 200 + 3 * len(split)
                Image.new("RGB", (60 + 7 * number, 1040), tuple(colour)).save(path)
    broken = tmp_path / "data" / "train" / "blue" / "0.png"
    broken.write_bytes(broken.read_bytes()[:60])
    twice = tmp_path / "data" / "train" / "blue" / "1.png"
    (tmp_path / "data" / "val" / "blue" / "9.png").write_bytes(twice.read_bytes())
    return tmp_path / "data"


@pytest.fixture
def runs(tmp_path) -> Path:
    for name, size in (("short", 64), ("a-much-longer-name-of-a-run", 128), ("another", 192), ("damaged", 224)):
        write_run(tmp_path / "runs" / name, image_size=size, distillation={"teacher": None, "logits": "runs/t"})
    (tmp_path / "runs" / "damaged" / "metrics.csv").write_text("epoch,step\n1,a\n")
    return tmp_path / "runs"


@pytest.mark.parametrize(
    "command",
    [
        ("models",),
        ("info", "MODEL"),
        ("predict", "DATA/val", "--model", "MODEL"),
        ("eval", "--model", "MODEL", "--data", "DATA", "--workers", "0", "--split", "val"),
        ("data", "check", "DATA", "--workers", "1"),
        ("runs", "RUNS"),
        ("runs", "RUNS", "--diff"),
    ],
    ids=lambda command: command[0],
)
def test_all_of_it_is_there_in_60_columns(command, model, data, runs, monkeypatch, capsys):
    places = {"MODEL": str(model), "DATA": str(data), "DATA/val": str(data / "val"), "RUNS": str(runs)}
    arguments = [places.get(each, each) for each in command]
    printed = {}
    for columns in (None, "60"):
        monkeypatch.delenv("COLUMNS", raising=False) if columns is None else monkeypatch.setenv("COLUMNS", columns)
        main(arguments)
        printed[columns] = capsys.readouterr().out
    if command[0] != "eval":  # which measures times
        wide, narrow = (set(text.replace("-", "- ").split()) for text in printed.values())
        assert wide - {"name", "key"} <= narrow  # which a row's heading does not need
    assert "…" not in printed["60"]
    for line in printed["60"].splitlines():
        copied = line.startswith(str(data)) or "measured by: " in line
        assert len(line.rstrip()) <= 60 or " " not in line.strip() or copied, line
    longest = max(map(len, printed[None].splitlines()))
    assert longest > 60  # there was something to fold
