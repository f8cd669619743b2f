"""Names of files that are no UTF-8, and outputs that cannot show or take what is printed: no command ends by them."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shvit.card import ClassInfo
from shvit.cli.main import main

from ..conftest import PATIENCE, colour_card, write_colour_model

NAME, SHOWN, ESCAPED = "caf\udce9", r"caf\xe9", r"caf\udce9"
MODEL = f"{NAME}.onnx"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("names")
    names = (SHOWN, "green", "blue")
    try:
        write_colour_model(
            root / MODEL, colour_card(classes=tuple(ClassInfo(i, name) for i, name in enumerate(names))).to_json()
        )
    except OSError:
        pytest.skip("names are text on this system")
    (root / "photos").mkdir()
    Image.new("RGB", (60, 40), (200, 0, 0)).save(root / "photos" / f"{NAME}.png")
    Image.new("RGB", (60, 40), (0, 0, 200)).save(root / "photos" / "猫é.png")
    for place, name in enumerate((NAME, "green", "blue")):
        for split in ("train", "val"):
            for number in range(2):
                inside = root / "data" / split / name
                inside.mkdir(parents=True, exist_ok=True)
                pixels = np.random.default_rng(place * 4 + number * 2 + (split == "val")).integers(0, 90, (24, 20, 3))
                pixels[..., place] += 120
                Image.fromarray(pixels.astype(np.uint8)).save(inside / f"{number}{NAME}.png")
    (root / "data" / "val" / "blue" / f"broken{NAME}.png").write_bytes(b"nothing")
    return root


def shvit(folder: Path, *arguments: str, encoding: str = "utf-8", **options) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "COLUMNS": "300"}
    environment.pop("PYTHONUNBUFFERED", None)
    command = [sys.executable, "-m", "shvit", *arguments]
    where = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.run(command, cwd=folder, timeout=PATIENCE, env=environment, **where)


def test_predictions_of_such_names(folder, tmp_path):
    common = ("predict", "photos", "--model", MODEL, "--top-k", "1")
    table = shvit(folder, *common, "--save-images", str(tmp_path / NAME))
    assert (table.returncode, table.stderr) == (0, b"")
    assert f"photos/{SHOWN}.png" in table.stdout.decode()
    assert {each.name for each in (tmp_path / NAME).iterdir()} == {f"{NAME}.jpg", "猫é.jpg"}
    lines = shvit(folder, *common, "--format", "jsonl").stdout.decode()
    assert ESCAPED in lines
    assert json.loads(lines.splitlines()[0])["source"] == f"photos/{NAME}.png"
    printed = shvit(folder, *common, "--format", "csv")
    assert shvit(folder, *common, "--format", "csv", "--output", str(tmp_path / "labels.csv")).returncode == 0
    assert (tmp_path / "labels.csv").read_bytes() == printed.stdout
    assert b"photos/caf\xe9.png," in printed.stdout
    listed = shvit(folder, "predict", "-", "--model", MODEL, "--format", "csv", input=b"photos/caf\xe9.png\r\n")
    assert listed.stdout.splitlines()[1].startswith(b"photos/caf\xe9.png,1,")


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-16"])
def test_what_an_output_cannot_show_is_replaced(folder, encoding):
    common = ("predict", "photos", "--model", MODEL, "--top-k", "1")
    table = shvit(folder, *common, encoding=encoding)
    assert (table.returncode, table.stderr) == (0, b"")
    text = table.stdout.decode(encoding)
    shown = {"cp1252": r"\u732bé", "ascii": r"\u732b\u00e9", "utf-16": "猫é"}[encoding]
    assert f"photos/{shown}.png" in text
    assert ("#" * 18 in text) == (encoding != "utf-16")
    lines = shvit(folder, *common, "--format", "jsonl", encoding=encoding).stdout.decode(encoding).splitlines()
    assert [json.loads(each)["source"] for each in lines] == [f"photos/{NAME}.png", "photos/猫é.png"]
    assert f"photos/{shown}.png" in shvit(folder, *common, "--format", "csv", encoding=encoding).stdout.decode(
        encoding, "surrogateescape"
    )
    assert shvit(folder, "models", encoding=encoding).returncode == 0


def test_a_dataset_with_such_classes_is_checked_and_measured(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    report = tmp_path / NAME
    assert main(["data", "check", "data", "--workers", "1", "--output", str(report)]) == 1
    contents = json.loads((report / "report.json").read_text(encoding="utf-8"))
    assert contents["broken"][0]["source"] == f"data/val/blue/broken{NAME}.png"
    evaluation = ["eval", "--model", MODEL, "--data", "data", "--workers", "0", "--output", str(report)]
    assert main(evaluation) == 1
    printed = capsys.readouterr()
    assert rf"data/val/blue/broken{SHOWN}.png" in printed.out + printed.err
    page = (report / "report.html").read_text(encoding="utf-8")
    assert f"data/val/blue/broken{SHOWN}.png" in page
    results = json.loads((report / "results.json").read_text(encoding="utf-8"))
    assert (results["model"], results["per_class"][0]["label"]) == (MODEL, SHOWN)
    with (report / "predictions.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as rows:
        first = next(csv.DictReader(rows))
    assert (first["source"], first["label"]) == (f"data/val/blue/0{NAME}.png", "blue")
    assert main(["info", MODEL]) == 0
    assert SHOWN in capsys.readouterr().out


def test_videos_of_such_names(folder, tmp_path):
    pytest.importorskip("av", reason="needs shvit[video]")
    from ..video.clips import coloured, write_clip

    plain, clip = write_clip(tmp_path / "plain.mp4", coloured(("red", 50))), tmp_path / f"{NAME}.mp4"
    plain.rename(clip)
    outputs = {name: str(tmp_path / f"{NAME}{name}") for name in (".jsonl", ".parquet", ".html")}
    common = ("video", str(clip), "--model", MODEL)
    done = shvit(
        folder, *common, "--format", "jsonl", "--output", outputs[".jsonl"], "--report", outputs[".html"],
        "--frames", outputs[".parquet"], "--save-video", str(tmp_path / "drawn"),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(Path(outputs[".jsonl"]).read_text().splitlines()[-1])["source"] == str(clip)
    assert f"{SHOWN}.mp4" in Path(outputs[".html"]).read_text(encoding="utf-8")
    import pyarrow.parquet as pq

    with Path(outputs[".parquet"]).open("rb") as rows:
        assert pq.read_table(rows)["source"][0].as_py().endswith(f"/{SHOWN}.mp4")
    frames = tmp_path / "frames.jsonl"
    assert shvit(folder, *common, "--frames", str(frames)).returncode == 0
    assert json.loads(frames.read_text(encoding="utf-8").splitlines()[0])["source"] == str(clip)


def test_a_batch_of_such_names_goes_on(folder, tmp_path):
    pq = pytest.importorskip("pyarrow.parquet", reason="needs shvit[ray]")
    command = ("batch", "photos", "--output", str(tmp_path / NAME), "--model", MODEL, "--workers", "1")
    for _ in range(2):
        done = shvit(folder, *command)
        assert done.returncode == 0, done.stderr
    with (tmp_path / NAME / "part-00000000.parquet").open("rb") as part:
        rows = pq.read_table(part)
    assert [Path(each).name for each in rows["source"].to_pylist()] == [f"{SHOWN}.png", "猫é.png"]
    assert rows["labels"].to_pylist()[0][0] == SHOWN


def test_training_on_and_into_such_names(folder, tmp_path):
    pytest.importorskip("torch", reason="needs the lab")
    run = tmp_path / NAME
    done = shvit(
        folder, "train", "data", "--output", str(run), "--epochs", "1", "--batch_size", "2", "--image_size", "64",
        "--workers", "0", "--device", "cpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"nothing is logged for TensorBoard" in done.stderr
    assert (run / "curves.png").is_file()
    written = tmp_path / f"{NAME}.onnx"
    done = shvit(folder, "export", "--model", str(run / "best.safetensors"), "--output", str(written))
    assert done.returncode == 0, done.stderr
    card = json.loads(shvit(folder, "info", str(written), "--format", "json").stdout)
    assert (card["name"], [each["label"] for each in card["classes"]]) == (SHOWN, ["blue", SHOWN, "green"])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device here")
@pytest.mark.parametrize(
    ("command", "label"),
    [
        (("models",), "standard output"),
        (("models", "--format", "json"), "standard output"),
        (("--version",), "standard output"),
        (("predict", "--help"), "standard output"),
        (("predict", "photos", "--model", MODEL), "standard output"),
        (("predict", "photos", "--model", MODEL, "--format", "csv"), "standard output"),
        (("predict", "photos", "--model", MODEL, "--output", "/dev/full"), "/dev/full"),
    ],
)
def test_what_cannot_be_written_is_named(folder, command, label):
    with Path("/dev/full").open("wb") as full:
        done = shvit(folder, *command, stdout=full)
    assert done.returncode == 2
    (line,) = done.stderr.decode().splitlines()
    assert line.endswith(f": error: {label}: cannot be written: No space left on device")


@pytest.mark.parametrize("command", [("models",), ("models", "--format", "json"), ("info", MODEL), ("--help",)])
def test_a_reader_that_is_gone_is_no_error(folder, command):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = shvit(folder, *command, stdout=writer)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_messages_that_cannot_be_written_end_nothing(folder):
    command = ("predict", "photos", "gone.png", "--model", MODEL, "--format", "jsonl")
    closed = ["bash", "-c", '"$@" 2>&-', "-", sys.executable, "-m", "shvit", *command]
    done = subprocess.run(closed, cwd=folder, timeout=PATIENCE, capture_output=True)
    assert done.returncode == 1
    assert len([json.loads(line) for line in done.stdout.splitlines()]) == 3
