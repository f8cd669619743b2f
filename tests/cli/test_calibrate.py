"""``shvit calibrate`` and what follows it, as a user runs them."""

from __future__ import annotations

import csv
import json
import re
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from shvit import Classifier
from shvit.card import Card
from shvit.cli.main import main

from ..calibration.conftest import _few_made_pictures, labelled, strange, tiny, tiny_file
from ..conftest import PATIENCE, colour_card, write_colour_model

__all__ = ["_few_made_pictures", "labelled", "strange", "tiny", "tiny_file"]


def calibrate(*arguments: object) -> int:
    return main(["calibrate", "--workers", "0", "--threads", "1", *map(str, arguments)])


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory, tiny_file, labelled, strange) -> Path:
    path = tmp_path_factory.mktemp("calibrated") / "mine.onnx"
    more = ("--unknown", strange, "--target-precision", 0.6, "--per-class")
    assert calibrate("--model", tiny_file, "--data", labelled, "--output", path, *more) == 0
    return path


def test_what_it_tells(tmp_path, tiny_file, labelled, strange, capsys):
    path = tmp_path / "mine.onnx"
    path.write_bytes(tiny_file.read_bytes())
    more = ("--unknown", strange, "--target-precision", "0.6")
    assert calibrate("--model", path, "--data", labelled, "--output", path, *more) == 0
    told = capsys.readouterr()
    assert told.err == ""
    lines = [each.strip() for each in told.out.splitlines()]
    assert lines[0] == f"{path} on 90 images of {labelled}"
    decision = Classifier(path).card.decision
    assert any(each.startswith(f"temperature {decision.temperature:.2f}: calibration error ") for each in lines)
    assert any(each.startswith(f"answers from score {decision.min_score:.3f} or more: right ") for each in lines)
    assert any(each.startswith("unknown: ") and each.endswith("of its own classes stay known") for each in lines)
    assert any(each.startswith("of 40 unknown pictures ") for each in lines)
    assert lines[-1] == f"written: {path}"
    assert calibrate("--model", path, "--data", labelled, "--output", path, *more, "--format", "json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["decision"]["temperature"] == pytest.approx(decision.temperature)
    assert found["decision"]["unknown"]["pictures"] == 40


def test_info_tells_the_decision(calibrated, capsys):
    assert main(["info", str(calibrated)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    decision = Classifier(calibrated).card.decision
    assert f"temperature {decision.temperature:.3g}: calibration error" in told
    assert "classes by thresholds of their own" in told
    assert f"unknown above {decision.unknown.limit:.3f}: the larger of two" in told
    assert re.search(r"of 40 other unknown pictures \d+% noticed, AUROC 0\.\d{3}", told)
    assert main(["info", str(calibrated), "--format", "json"]) == 0
    card = json.loads(capsys.readouterr().out)
    assert Card.from_json(json.dumps(card)).decision == decision


@pytest.mark.parametrize("changes", [{"calibration_error": None}, {"calibration_error_before": None}])
def test_info_of_a_decision_that_somebody_else_wrote(tmp_path, deciding_model, changes, capsys):
    card = Classifier(deciding_model).card
    errors = {"calibration_error": 0.1, "calibration_error_before": 0.2, **changes}
    decision = replace(card.decision, temperature=2.0, unknown=None, **errors)
    path = write_colour_model(tmp_path / "a.onnx", colour_card(decision=decision).to_json())
    assert main(["info", str(path)]) == 0
    assert "temperature 2; fitted on 90 images of colours" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--target-precision", "2"], "--target-precision: expected more than 0 and less than 1, got 2"),
        (["--per-class"], "--per-class: thresholds are for a target; give --target-precision too, such as 0.95"),
        (["--keep", "1"], "--keep: expected more than 0 and less than 1, got 1"),
        (["--output", "other.tflite"], "other.tflite: the format stays that of tiny.onnx; name it other.onnx"),
        (["--data", "missing"], "missing: No such file or directory"),
        (["--unknown", "missing"], "--unknown missing: no such folder; give a folder of pictures of none"),
        (["--model", "nothing.onnx"], "nothing.onnx: no such model file, nor the name of a shipped model"),
        (["--workers", "-1"], "--workers: expected 0 or more, got -1"),
    ],
)
def test_wrong_usage(tmp_path, monkeypatch, tiny_file, labelled, more, expected, capsys):
    monkeypatch.chdir(tmp_path)
    assert calibrate("--model", tiny_file, "--data", labelled, "--output", "out.onnx", *more) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert expected in told.err
    assert list(tmp_path.iterdir()) == []


def test_some_images_that_cannot_be_read(tmp_path, tiny_file, labelled, capsys):
    data = tmp_path / "photos"
    for place, each in enumerate(sorted(labelled.rglob("*.png"))[:60]):
        path = data / each.relative_to(labelled)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(each.read_bytes() if place else b"nothing")
    assert calibrate("--model", tiny_file, "--data", data, "--output", tmp_path / "out.onnx") == 1
    told = capsys.readouterr()
    assert "on 59 images" in told.out
    assert "1 images could not be read" in told.err


def test_a_killed_command_leaves_the_old_file(tmp_path, tiny_file, labelled):
    path = tmp_path / "mine.onnx"
    path.write_bytes(tiny_file.read_bytes())
    hold = (
        "import sys, time, shvit.modelfile.finished as finished\n"
        "write = finished._ONNXFile.write\n"
        "def slow(self, target, *rest):\n"
        "    write(self, target, *rest)\n"
        "    print('written aside', flush=True)\n"
        "    time.sleep(1000)\n"
        "finished._ONNXFile.write = slow\n"
        "from shvit.cli.main import main\n"
        "sys.exit(main())"
    )
    arguments = ["calibrate", "--model", path, "--data", labelled, "--output", path, "--limit", "9", "--workers", "0"]
    for number in (signal.SIGINT, signal.SIGKILL):
        assert [each.name for each in tmp_path.iterdir()] == ["mine.onnx"]
        command = [sys.executable, "-c", hold, *map(str, arguments)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "written aside\n"
            process.send_signal(number)
            assert process.wait(PATIENCE) != 0
        finally:
            process.kill()
            process.communicate()
        assert path.read_bytes() == tiny_file.read_bytes()
    assert calibrate("--model", path, "--data", labelled, "--output", path, "--limit", "9") == 0
    assert path.read_bytes() != tiny_file.read_bytes()


COLOURS = {"red": (200, 20, 20), "orange": (200, 190, 20), "grey": (120, 120, 120)}


@pytest.fixture
def pictures(tmp_path) -> list[Path]:
    """One that the model that decides is sure of, one that it is not, and one that it calls unknown."""
    paths = [tmp_path / f"{place}.png" for place in range(3)]
    for path, colour in zip(paths, COLOURS.values(), strict=True):
        Image.new("RGB", (48, 32), colour).save(path)
    return paths


def test_predict_says_what_is_decided(deciding_model, pictures, capsys):
    arguments = ["predict", *map(str, pictures), "--model", str(deciding_model), "--top-k", "2", "--threads", "1"]

    def printed(*more: str) -> str:
        assert main([*arguments, *more]) == 0
        return capsys.readouterr().out

    table = printed()
    assert table.count("  unknown (nearest: red)\n") == table.count("  unsure (best: red)\n") == 1
    assert "unknown" not in printed("--no-unknown")
    rows = list(csv.DictReader(printed("--format", "csv").splitlines()))
    assert [each["decision"] for each in rows] == ["answer"] * 2 + ["unsure"] * 2 + ["unknown"] * 2
    assert [each["accepted"] for each in rows] == ["1", "", "0", "", "0", ""]
    assert [float(each["unknown_score"]) for each in rows[::2]] == pytest.approx([-180, -180, 0], abs=1)
    lines = [json.loads(each) for each in printed("--format", "jsonl").splitlines()]
    assert [each["known"] for each in lines] == [True, True, False]
    plain = printed("--format", "jsonl", "--no-unknown", "--min-score", "0.3")
    assert [json.loads(each)["decision"] for each in plain.splitlines()] == ["answer"] * 3
    assert "known" not in json.loads(plain.splitlines()[2])
    for wrong in ("1.5", "nan", "-1"):
        with suppress(SystemExit):
            assert main([*arguments, f"--min-score={wrong}"]) == 2
        assert "min-score" in capsys.readouterr().err.replace("_", "-")


def test_eval_measures_unknown_pictures_of_a_calibrated_file(calibrated, tiny_file, labelled, strange, capsys):
    arguments = ["eval", "--data", str(labelled), "--workers", "0", "--threads", "1", "--unknown", str(strange)]
    assert main([*arguments, "--model", str(tiny_file)]) == 2
    assert (
        f"--unknown: {tiny_file} has no unknown score; give it one with: shvit calibrate --model {tiny_file} "
        "--data DATA --output FILE" in capsys.readouterr().err
    )
    assert main([*arguments, "--model", str(calibrated), "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)["unknown"]
    assert found["pictures"] == 40
    assert all(0 <= found[each] <= 1 for each in ("noticed", "known_kept", "auroc", "fpr_at_95_recall"))


def test_eval_tells_of_unknown_pictures_that_cannot_be_read(calibrated, labelled, strange, tmp_path, capsys):
    arguments = ["eval", "--data", str(labelled), "--workers", "0", "--threads", "1", "--model", str(calibrated)]
    (tmp_path / "broken.png").write_bytes(b"nothing")
    assert main([*arguments, "--unknown", str(tmp_path)]) == 2
    assert f"--unknown {tmp_path}: none of the 1 pictures can be read: " in capsys.readouterr().err
    (tmp_path / "0.png").write_bytes((strange / "0.png").read_bytes())
    assert main([*arguments, "--unknown", str(tmp_path)]) == 1
    told = capsys.readouterr()
    assert f"of 1 pictures of {tmp_path} are noticed" in " ".join(told.out.split())
    assert "broken.png: not an image" in told.err
    assert told.err.endswith("1 unknown pictures could not be read\n")


def test_a_name_of_no_network(tmp_path, labelled, capsys):
    assert calibrate("--model", "shvit_s9", "--data", labelled, "--output", tmp_path / "out.onnx") == 2
    assert "shvit_s9: " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
