"""What the name of an output promises, and what options take."""

from pathlib import Path

import pytest

from shvit.cli.arguments import check_folder_name, check_format_of, check_written_as
from shvit.cli.main import main
from shvit.errors import ArgumentError

PICTURE = str(Path(__file__).parents[2] / "samples/coffee.jpg")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("video", "clip.mp4", "--report", "clip.pdf"), "--report clip.pdf: HTML is written"),
        (
            ("video", "clip.mp4", "--output", "e.jsonl"),
            "--output e.jsonl: would hold the format table; add --format",
        ),
        (("video", "clip.mp4", "--save-video", "copy.mp4"), "--save-video copy.mp4: a folder is written"),
        (("predict", PICTURE, "--output", "l.csv"), "--output l.csv: would hold the format table; add --format csv"),
        (("predict", PICTURE, "--format", "csv", "--output", "l.jsonl"), "--output l.jsonl: would hold the format csv"),
        (("predict", PICTURE, "--save-images", "a.jpg"), "--save-images a.jpg: a folder is written"),
        (
            ("explain", PICTURE, "--output", "a.png"),
            "--output a.png: a folder is written; give the name of one",
        ),
        (("eval", "--model", "m", "--data", "d", "--output", "r.html"), "--output r.html: a folder is written"),
        (("batch", ".", "--output", "labels.parquet"), "--output labels.parquet: a folder is written"),
        (("data", "check", ".", "--output", "report.json"), "--output report.json: a folder is written"),
        (
            ("export", "--model", "m.onnx", "--format", "web", "--output", "s.html"),
            "--output s.html: a folder is",
        ),
        (("runs", "--plot", "all.pdf"), "--plot all.pdf: a PNG is written, and named .png, such as all.png"),
    ],
)
def test_a_name_that_promises_another_format_is_refused(arguments, said, tmp_path, monkeypatch, capsys):
    pytest.importorskip("av") if arguments[0] == "video" else None
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_name_that_promises_nothing_or_the_right_thing_is_taken(tmp_path):
    for name in ("page", "page.html", "page.HTM", "/dev/stdout"):
        check_written_as("--report", Path(name), "HTML", (".html", ".htm"))
    for name in ("labels", "labels.txt", "labels.csv", "-"):
        check_format_of("--output", Path(name), "csv", {".csv": "csv", ".jsonl": "jsonl"})
    for name in ("out", "v1.0", "s3://bucket/labels"):
        check_folder_name("--output", name)
    (tmp_path / "odd.html").mkdir()
    check_folder_name("--output", tmp_path / "odd.html")
    with pytest.raises(ArgumentError):
        check_folder_name("--output", "out.html")


@pytest.mark.parametrize("port", ["80000", "-1", "65536"])
def test_a_port_that_cannot_be_is_wrong_usage(port, capsys):
    pytest.importorskip("uvicorn")
    with pytest.raises(SystemExit) as ended:
        main(["serve", f"--port={port}"])
    assert ended.value.code == 2
    assert f"argument --port: expected 0 to 65535, got {port}" in capsys.readouterr().err


def test_what_is_no_picture_says_which_command_takes_it(tmp_path, capsys):
    films = {"a.mp4": b"\0\0\0\x20ftypisom", "a.mkv": b"\x1aE\xdf\xa3", "a.avi": b"RIFF\0\0\0\0AVI LIST"}
    for name, begin in films.items():
        (tmp_path / name).write_bytes(begin + b"\0" * 200)
    assert main(["predict", *(str(tmp_path / each) for each in films), "https://host/a.jpg"]) == 1
    shown = capsys.readouterr().out
    assert shown.count("is a video, not an image; classify it with: shvit video") == 3
    assert "is an address; only files are read: download it first" in shown


def test_a_camera_is_named_by_its_device(tmp_path, monkeypatch, capsys):
    pytest.importorskip("av")
    monkeypatch.chdir(tmp_path)
    assert main(["video", "0"]) == 1
    assert "a camera is named by its device: /dev/video0" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command",
    [
        ("predict", PICTURE),
        ("eval", "--model", "m.onnx", "--data", "d"),
        ("export", "--model", "m.safetensors", "--output", "m.onnx"),
        ("bench", "speed"),
        ("bench", "cost"),
        ("bench", "studies"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("size", ["160x", "0x320", "160x320x3", "2049", "64x4096", "0", "wide"])
def test_a_size_that_is_none_is_named(command, size, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--image-size", size])
    assert stopped.value.code == 2
    expected = "a side of 1 to 2048 pixels, such as 224, or height and width, such as 160x320"
    assert f"--image-size: expected {expected}, got '{size}'" in " ".join(capsys.readouterr().err.split())
