"""The command as a user runs it: a real process on real files."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from shvit._version import __version__
from shvit.card import ClassInfo
from shvit.cli.main import COMMANDS, main
from shvit.install import install_command

from ..conftest import AS_ANYBODY, PATIENCE, SAMPLES, colour_card, write_colour_model


def shvit(
    *arguments: object,
    stdin: str | None = None,
    cwd: Path | None = None,
    before: tuple[str, ...] = (),
    environment: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    command = [*before, sys.executable, "-m", "shvit", *map(str, arguments)]
    return subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=PATIENCE, cwd=cwd, env=environment
    )


@pytest.fixture
def pictures(tmp_path) -> Path:
    folder = tmp_path / "pictures"
    for name, colour in (("a/red.png", (200, 0, 0)), ("b/red.png", (220, 10, 10)), ("blue.jpg", (0, 0, 200))):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 40), colour).save(folder / name)
    return folder


def test_json_lines_are_as_documented(pictures, colour_model):
    done = shvit("predict", pictures, "--model", colour_model, "--format", "jsonl", "--top-k", 1)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["source"], line["predictions"][0]["label"]) for line in lines] == [
        (str(pictures / "blue.jpg"), "blue"),
        (str(pictures / "a/red.png"), "red"),
        (str(pictures / "b/red.png"), "red"),
    ]
    assert set(lines[0]["predictions"][0]) == {"label", "class_id", "wnid", "score"}
    assert done.stderr == ""


def test_nothing_is_told_to_the_engines_makers(pictures, colour_model, tmp_path):
    """ONNX Runtime's telemetry keeps an identifier in the home folder; in CI it is off by itself."""
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")}
    home = {name: str(tmp_path / "home") for name in ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME")}
    (tmp_path / "home").mkdir()
    done = shvit("predict", pictures, "--model", colour_model, environment={**kept, **home})
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "home").iterdir()) == []


def test_csv_opens_as_csv(pictures, colour_model, tmp_path):
    output = tmp_path / "labels.csv"
    done = shvit("predict", pictures, "--model", colour_model, "--format", "csv", "--output", output, "--top-k", 2)
    assert (done.returncode, done.stdout) == (0, "")
    rows = list(csv.DictReader(io.StringIO(output.read_text())))
    assert len(rows) == 6
    assert rows[0]["label"] == "blue"
    assert float(rows[0]["score"]) > 0.9


def test_a_failed_input_is_one_failed_result(pictures, colour_model, tmp_path):
    (pictures / "c.jpg").write_bytes(b"%PDF-1.4 not a picture")
    (pictures / "d.jpg").touch()
    (tmp_path / "none").mkdir()
    done = shvit(
        "predict", pictures, tmp_path / "none", tmp_path / "gone.png", "--model", colour_model, "--format", "jsonl"
    )
    lines = {Path(line["source"]).name: line for line in map(json.loads, done.stdout.splitlines())}
    assert done.returncode == 1
    assert lines["c.jpg"] == {
        "source": str(pictures / "c.jpg"),
        "error": "not an image, or of a format that is not known",
    }
    assert lines["d.jpg"]["error"] == "the file is empty"
    assert lines["none"]["error"] == "no images in this folder"
    assert lines["gone.png"]["error"] == "No such file or directory"
    assert lines["blue.jpg"]["predictions"][0]["label"] == "blue"
    assert done.stderr == "4 of 7 inputs failed\n"


def test_a_file_that_may_not_be_read(pictures, colour_model):
    (pictures / "blue.jpg").chmod(0)
    done = shvit("predict", pictures, "--model", colour_model, "--format", "jsonl", before=AS_ANYBODY)
    assert done.returncode == 1
    assert json.loads(done.stdout.splitlines()[0])["error"] == "Permission denied"


def test_a_file_that_vanishes_while_the_run_goes_on(pictures, colour_model, monkeypatch, capsys):
    from shvit.images import decoding

    decode = decoding.decode

    def slow(source):
        (pictures / "b/red.png").unlink(missing_ok=True)
        return decode(source)

    monkeypatch.setattr(decoding, "decode", slow)
    assert main(["predict", str(pictures), "--model", str(colour_model), "--format", "jsonl"]) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line.get("error") for line in lines] == [None, None, "No such file or directory"]


def test_paths_on_stdin(pictures, colour_model):
    done = shvit("predict", "-", "--model", colour_model, "--format", "jsonl", stdin="blue.jpg\n", cwd=pictures)
    assert json.loads(done.stdout)["source"] == "blue.jpg"


def test_saved_images_never_collide(pictures, colour_model, tmp_path):
    out = tmp_path / "out"
    assert shvit("predict", pictures, "--model", colour_model, "--save-images", out).returncode == 0
    assert sorted(path.name for path in out.iterdir()) == ["blue.jpg", "red-2.jpg", "red.jpg"]
    with Image.open(out / "blue.jpg") as drawn:
        assert drawn.convert("RGB").getpixel((drawn.width - 1, drawn.height - 1))[2] > 150


def test_the_table_is_plain_when_piped_and_has_a_bar_for_each_label(colour_model, pictures):
    done = shvit("predict", pictures / "blue.jpg", "--model", colour_model)
    assert done.stdout.splitlines()[0] == str(pictures / "blue.jpg")
    assert "█" * 20 in done.stdout
    assert "\033" not in done.stdout


def test_people_see_the_first_synonym_and_programs_all(pictures, tmp_path, capsys):
    rickshaw = "jinrikisha, ricksha, rickshaw"
    classes = (ClassInfo(0, rickshaw, "n03599486"), ClassInfo(1, "green, unripe"), ClassInfo(2, "ox", "n02403003"))
    model = str(write_colour_model(tmp_path / "m.onnx", colour_card(classes=classes).to_json()))
    picture = str(pictures / "a" / "red.png")

    def printed(*arguments: str) -> str:
        assert main([*arguments]) == 0
        return capsys.readouterr().out

    table = printed("predict", picture, "--model", model)
    assert [line.split("% ")[-1].strip("█ ") for line in table.splitlines()[1:]] == [
        "jinrikisha",
        "green, unripe",
        "ox",
    ]
    assert "jinrikisha, green, unripe, ox" in printed("info", model)
    for_programs = (
        printed("predict", picture, "--model", model, "--format", "jsonl"),
        printed("predict", picture, "--model", model, "--format", "csv"),
        printed("info", model, "--format", "json"),
    )
    assert all(rickshaw in each for each in for_programs)
    assert list(json.loads(for_programs[0])["predictions"][0]) == ["label", "class_id", "wnid", "score"]


def test_a_terminal_sees_colour_and_progress(pictures, colour_model):
    many = [str(pictures / "blue.jpg")] * 40
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "shvit", "predict", *many, "--model", str(colour_model)],
        stdout=child,
        stderr=child,
        env={**os.environ, "TERM": "xterm-256color"},
    )
    os.close(child)
    seen = b""
    while True:
        try:
            chunk = os.read(parent, 65536)
        except OSError:
            break
        if not chunk:
            break
        seen += chunk
    assert process.wait(timeout=PATIENCE) == 0
    assert b"\033[1m" in seen
    assert b"classifying" in seen


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--top-k", "0"], "expected a positive number"),
        (["--threads", "-1"], "expected a positive number"),
        (["--engine", "abacus"], "invalid choice: 'abacus'"),
        (["--model", "nothing.onnx"], "nothing.onnx: no such model file"),
        (["--output", "no/such/folder/out.txt"], "--output no/such/folder/out.txt: No such file or directory"),
        (["--colour"], "unrecognized arguments: --colour"),
    ],
)
def test_wrong_usage_is_exit_2_and_no_traceback(arguments, expected):
    done = shvit("predict", SAMPLES / "coffee.jpg", *arguments)
    assert done.returncode == 2
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


def test_a_model_file_without_a_card_is_exit_2(tmp_path):
    model = write_colour_model(tmp_path / "bare.onnx", None)
    done = shvit("predict", SAMPLES / "coffee.jpg", "--model", model)
    assert done.returncode == 2
    assert done.stderr.startswith(f"shvit predict: error: {model}: the file has no card")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_has_examples(command):
    done = shvit(command, "--help")
    assert done.returncode == 0, done.stderr
    assert f"shvit {command}" in done.stdout.split("examples:")[1]


def test_version_and_help():
    assert shvit("--version").stdout == f"shvit {__version__}\n"
    listed = shvit("--help").stdout
    assert all(re.search(rf"^ +{name}\b", listed, re.MULTILINE) for name in COMMANDS)
    assert shvit().returncode == 2


def test_info_and_models(colour_model):
    text = shvit("info", colour_model).stdout
    assert "uint8 (N, 32, 48, 3)" in text
    assert "red, green, blue" in text
    assert json.loads(shvit("info", colour_model, "--format", "json").stdout)["name"] == "colours"
    listed = {each["name"]: each for each in json.loads(shvit("models", "--format", "json").stdout)}
    assert listed["shvit_s4"]["top1"] == 79.362
    assert listed["shvit_s1_tiny_imagenet"]["parameters"] > 6_000_000
    assert "shvit_s1_tiny_imagenet" in shvit("models").stdout


def test_a_reader_that_goes_away_is_no_error(pictures, colour_model):
    many = " ".join([str(pictures / "blue.jpg")] * 200)
    command = f"{sys.executable} -m shvit predict {many} --model {colour_model} | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout.strip() == str(pictures / "blue.jpg")
    assert done.stderr == ""


@pytest.mark.parametrize("command", [("train", "data"), ("eval", "--model", "m.pth", "--data", "data")])
def test_the_lab_without_pytorch_says_what_installs_it(command):
    code = "import sys; sys.modules['torch'] = None; from shvit.cli.main import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 2
    assert "torch" in done.stderr
    assert install_command("torch") in done.stderr
    assert "Traceback" not in done.stderr


def test_calibrating_says_which_engine_runs_and_remembers(pictures, colour_model, tmp_path):
    environment = {**os.environ, "SHVIT_CACHE": str(tmp_path / "cache")}
    command = ("predict", pictures, "--model", colour_model, "--format", "jsonl", "--threads", 1)
    done = shvit(*command, "--calibrate", environment=environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("engine: o")
    assert "times as fast as onnxruntime (batch 16, 1 thread)" in done.stderr
    (entry,) = json.loads((tmp_path / "cache" / "engines.json").read_text())["measured"].values()
    assert set(entry) == {"onnxruntime", "openvino"}
    again = shvit(*command, environment=environment)
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout == done.stdout


def test_fast_decoding_gives_the_same_labels(pictures, colour_model):
    pytest.importorskip("kornia_rs", reason="needs shvit[fast]")
    exact, fast = (
        shvit("predict", pictures, "--model", colour_model, "--format", "jsonl", *more)
        for more in ((), ("--fast-decode",))
    )
    assert (fast.returncode, fast.stderr) == (0, "")
    assert fast.stdout == exact.stdout


@pytest.mark.parametrize("command", [("predict", "--save-images"), ("explain", "--output")])
@pytest.mark.parametrize("inside", ["", "deeper"])
def test_pictures_are_not_put_where_they_would_be_read_again(pictures, command, inside, capsys):
    name, option = command
    before = sorted(pictures.rglob("*"))
    assert main([name, str(pictures), option, str(pictures / inside)]) == 2
    assert "the next run would read the results too: name a folder outside of it" in capsys.readouterr().err
    assert sorted(pictures.rglob("*")) == before


def test_no_paths_on_stdin_are_told_of():
    done = shvit("predict", "-", stdin="")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "note: standard input holds no paths\n")


@pytest.mark.parametrize("command", [("predict", "--save-images"), ("explain", "--output")])
def test_no_picture_is_left_cut_short_by_a_full_disk(tmp_path, command):
    name, option = command
    photograph = SAMPLES / "coffee.jpg"
    limited = (sys.executable, "-c", "import os, resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); os.execv(sys.argv[1], sys.argv[1:])")  # fmt: skip
    done = shvit(name, photograph, option, tmp_path / "out", before=limited)
    assert done.returncode in (1, 2)
    assert "File too large" in done.stdout + done.stderr
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.timeout(60)
def test_a_folder_with_pipes_endless_devices_and_postscript_is_done_at_once(pictures, colour_model, capsys):
    os.mkfifo(pictures / "b.jpg")
    (pictures / "c.jpg").symlink_to("/dev/zero")
    with (pictures / "d.jpg").open("wb") as file:
        file.truncate(6 * 2**30)
    (pictures / "e.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n{ } loop\n")
    (pictures / "clip.mov").touch()
    for fast in ((), ("--fast-decode",)):
        arguments = ["predict", str(pictures), "--model", str(colour_model), "--format", "jsonl", "--top-k", "1", *fast]
        assert main(arguments) == 1
        output, complaints = capsys.readouterr()
        outcomes = {Path(line["source"]).name: line.get("error", "") for line in map(json.loads, output.splitlines())}
        assert outcomes["b.jpg"].startswith("is a pipe (FIFO); expected a regular file")
        assert outcomes["c.jpg"] == "is a device; expected a regular file"
        assert outcomes["d.jpg"] == "6,442,450,944 bytes, at most 268,435,456 are accepted"
        assert outcomes["e.jpg"] == "not an image, or of a format that is not known"
        assert outcomes["blue.jpg"] == outcomes["red.png"] == ""
        assert complaints.startswith(f"note: {pictures}: not read: 1 .mov (")
        assert complaints.endswith("\n4 of 7 inputs failed\n")
