"""No command writes over what it reads, and none replaces a link, a FIFO or a device."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from shvit.cli.main import main
from shvit.models import SHViT, save_checkpoint
from shvit.models.shvit import SHViTConfig

from ..conftest import COLOURS, PATIENCE, colour_card, write_colour_model
from .test_runs import write_run


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("inputs")
    config = SHViTConfig(widths=(16, 24, 32), depths=(1, 1, 1), partial_dims=(8, 8, 8), num_classes=3, image_size=64)
    save_checkpoint(SHViT(config), root / "w.safetensors")
    return root


@pytest.fixture
def folder(made, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_colour_model(tmp_path / "m.onnx", colour_card().to_json())
    Image.new("RGB", (60, 40), (200, 0, 0)).save("photo.jpg")
    for place, name in enumerate(COLOURS):
        for number in range(4):
            path = tmp_path / "data" / name / ("report.png" if number == 0 else f"{number}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            pixel = tuple(180 + number if each == place else 0 for each in range(3))
            Image.new("RGB", (48, 32), pixel).save(path)
    Path("out").mkdir()
    Path("out/results.json").write_text(json.dumps({"report.png": "red"}))
    write_run(tmp_path / "run")
    for name in ("out/best.safetensors", "out/logits.json", "out/cost.json", "w.bin"):
        Path(name).write_bytes((made / "w.safetensors").read_bytes())
    os.link("out/best.safetensors", "w.safetensors")
    Path("link.onnx").symlink_to("m.onnx")
    os.link("photo.jpg", "hard.txt")
    os.link("w.safetensors", "w.onnx")
    Path("out/recipe.yaml").write_text("epochs: 1\n")
    Path("clip.jsonl").write_bytes(b"no video")
    Path("site").mkdir()
    Path("site/version.js").touch()
    os.link("m.onnx", "site/model.onnx")
    return tmp_path


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("predict photo.jpg --model m.onnx --output photo.jpg", "--output photo.jpg"),
        ("predict photo.jpg --model m.onnx --output hard.txt", "--output hard.txt"),
        ("predict photo.jpg --model m.onnx --output m.onnx", "--output m.onnx"),
        ("predict photo.jpg --model m.onnx --output link.onnx", "--output link.onnx"),
        ("predict . --model m.onnx --output data/red/1.png", "--output data/red/1.png"),
        ("video clip.jsonl --model m.onnx --output clip.jsonl", "--output clip.jsonl"),
        ("video clip.jsonl --model m.onnx --frames clip.jsonl", "--frames clip.jsonl"),
        ("video clip.jsonl --model m.onnx --report link.onnx", "--report link.onnx"),
        ("video clip.jsonl --model m.onnx --frames x.jsonl --output x.jsonl", "--frames x.jsonl"),
        ("export --model w.safetensors --output w.onnx", "--output w.onnx"),
        ("export --model w.bin --format openvino --output w.xml", "--output w.bin"),
        ("export --model site/model.onnx --format web --output site", "--output site"),
        ("eval --model m.onnx --data data --labels out/results.json --output out", "--output out/results.json"),
        ("data check data --output data/red", "--output data/red/report.png"),
        ("runs run --plot run/metrics.csv", "--plot run/metrics.csv"),
        ("train data --pretrained w.safetensors --output out", "--output out/best.safetensors"),
        ("train data --config out/recipe.yaml --output out", "--output out/recipe.yaml"),
        ("distill precompute data --teacher out/logits.json --output out", "--output out/logits.json"),
        ("bench cost --model out/cost.json --no-peaks --output out", "--output out/cost.json"),
    ],
)
def test_an_input_is_not_written_over(folder, capsys, command, option):
    if "cost" in command:
        command = command.replace("--no-peaks ", "")
    if command.startswith("video"):
        pytest.importorskip("av", reason="needs shvit[video]")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert main(command.split()) == 2
    assert f"error: {option}: " in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_fifo_gets_each_line_and_a_link_stays(folder, capsys):
    os.mkfifo("fifo")
    reader = os.open("fifo", os.O_RDWR | os.O_NONBLOCK)
    Path("kept.csv").write_text("old")
    Path("link.csv").symlink_to("kept.csv")
    command = ["predict", "photo.jpg", "--model", "m.onnx", "--top-k", "1", "--format", "csv", "--output"]
    assert main([*command, "fifo"]) == 0
    header = b"source,rank,label,class_id,wnid,score,error,decision,accepted,unknown_score\n"
    assert os.read(reader, 1000).startswith(header + b"photo.jpg,1,red,0,,0.")
    os.close(reader)
    assert stat.S_ISFIFO(os.lstat("fifo").st_mode)
    assert main([*command, "link.csv"]) == 0
    assert Path("link.csv").is_symlink()
    assert Path("kept.csv").read_text().splitlines()[1].startswith("photo.jpg,1,red")
    assert capsys.readouterr().out == ""
    assert main([*command, "-"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("photo.jpg,1,red")
    assert not Path("-").exists()
    assert main([*command, "data"]) == 2
    assert "--output data: is a folder; expected the name of a file" in capsys.readouterr().err


def test_frames_and_events_of_a_video_too(folder, capsys):
    pytest.importorskip("av", reason="needs shvit[video]")
    from ..video.clips import coloured, write_clip

    write_clip(folder / "clip.mp4", coloured(("red", 10)))
    os.mkfifo("fifo.jsonl")
    reader = os.open("fifo.jsonl", os.O_RDWR | os.O_NONBLOCK)
    Path("kept.jsonl").write_text("old")
    Path("link.jsonl").symlink_to("kept.jsonl")
    there = {each.name for each in folder.iterdir()}
    command = ["video", "clip.mp4", "--model", "m.onnx", "--format", "jsonl"]
    assert main([*command, "--output", "fifo.jsonl", "--frames", "link.jsonl"]) == 0
    assert b'"video": {"frames": 10' in os.read(reader, 10_000)
    assert Path("link.jsonl").is_symlink()
    assert len(Path("kept.jsonl").read_text().splitlines()) == 10
    assert main([*command, "--output", "-", "--frames", "fifo.jsonl"]) == 0
    assert os.read(reader, 65_536).count(b"\n") == 10
    os.close(reader)
    assert {each.name for each in folder.iterdir()} == there
    capsys.readouterr()
    assert main([*command, "--output", "fifo.jsonl", "--resume"]) == 2
    assert "--resume: needs --frames or --output with a file" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_stdout_by_its_name(folder):
    """What the shell makes of ``--output /dev/stdout``; that link itself is left alone here."""
    command = [sys.executable, "-m", "shvit", "predict", "photo.jpg", "--model", "m.onnx", "--output"]
    done = subprocess.run([*command, "/proc/self/fd/1"], capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("photo.jpg\n")
