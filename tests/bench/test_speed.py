from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from shvit.bench import measure, networks
from shvit.bench.measure import Configuration, interleave
from shvit.bench.networks import Session, calibration_crops, model_files, precision_of
from shvit.cli.main import main
from shvit.install import install_command
from shvit.models import SHViT, SHViTConfig, save_checkpoint
from shvit.shipped import DEFAULT_MODEL, SHIPPED_MODELS

from ..conftest import children

SMALL = SHViTConfig(widths=(32, 48, 64), depths=(1, 1, 1), partial_dims=(8, 16, 16), num_classes=4, image_size=64)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "small.safetensors"
    save_checkpoint(SHViT(SMALL), path)
    return path


def configuration(file: Path, engine: str = "onnxruntime", threads: int = 1, batch_size: int = 1) -> Configuration:
    return Configuration("m", file, "int8", engine, threads, batch_size)


def test_the_json_has_every_combination_and_its_figures(checkpoint, capsys):
    command = ["bench", "speed", "--model", str(checkpoint), DEFAULT_MODEL, "--engine", "onnxruntime", "openvino"]
    command += ["--precision", "fp32", "int8", "--threads", "1", "--batch-size", "1", "3"]
    assert main([*command, "--image-size", "64", "--seconds", "0.02", "--rounds", "2", "--format", "json"]) == 0
    captured = capsys.readouterr()
    printed = json.loads(captured.out)
    assert printed["machine"]["packages"]["onnxruntime"]
    results = printed["results"]
    names = {(each["model"], each["engine"], each["precision"], each["batch_size"]) for each in results}
    small = {(str(checkpoint), engine, precision, batch) for engine in ("onnxruntime", "openvino")
             for precision in ("fp32", "int8") for batch in (1, 3)}  # fmt: skip
    shipped = {(DEFAULT_MODEL, engine, "int8", batch) for engine in ("onnxruntime", "openvino") for batch in (1, 3)}
    assert names == small | shipped
    assert len(results) == len(names)
    for each in results:
        latency = each["latency_ms"]
        assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"]
        assert each["images_per_second"] == pytest.approx(1000 * each["batch_size"] / latency["p50"])
        spread = each["images_per_second_of_rounds"]
        assert spread["min"] <= spread["median"] <= spread["max"]
        assert 20 < each["peak_memory_mb"] < 2000
        assert each["runs"] >= 2
        assert each["threads"] == 1
        assert each["error"] is None
        assert each["image_size"] == ([64, 64] if each["model"] == str(checkpoint) else [128, 128])
        assert each["weights"] == ("small.safetensors" if each["model"] == str(checkpoint) else "in the file")
        assert (each["calibration"] is not None) == (each["model"] == str(checkpoint) and each["precision"] == "int8")
    assert "int8 is calibrated on random crops of the package's photographs" in captured.err


def test_one_thread_is_one_thread():
    """Of a batch that would take longer on one: both engines keep to it."""
    file = SHIPPED_MODELS[DEFAULT_MODEL]
    found = interleave([configuration(file, each, 1, 16) for each in ("onnxruntime", "openvino")], 0.4, rounds=2)
    for each in found:
        assert each.error is None
        assert max(each.cores_used) < 1.1


def test_as_many_threads_are_started_as_are_asked_for():
    """Counted, since a busy machine may give them less than a processor together."""
    threads: dict[int, int] = {}

    def count(_) -> None:
        for pid, line in children(os.getpid()):
            if "shvit.bench.worker" in line:
                threads[pid] = psutil.Process(pid).num_threads()

    file = SHIPPED_MODELS[DEFAULT_MODEL]
    interleave([configuration(file, threads=each, batch_size=16) for each in (1, 2, 4)], 0.03, 1, count)
    one, two, four = (threads[pid] for pid in sorted(threads))
    assert (two - one, four - one) == (1, 3)


def test_rounds_alternate_forwards_and_backwards():
    turns = []
    file = SHIPPED_MODELS[DEFAULT_MODEL]
    found = interleave([configuration(file, batch_size=each) for each in (1, 2)], 0.03, 3, turns.append)
    assert turns == [1] * 8  # loading, and three rounds, of two
    assert [len(each.rounds) for each in found] == [3, 3]
    with pytest.raises(ValueError, match="positive"):
        interleave([], 0, 1)


def test_what_fails_is_one_failed_row(tmp_path, capsys):
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    command = ["bench", "speed", "--model", str(tmp_path / "broken.onnx"), DEFAULT_MODEL, "--engine", "onnxruntime"]
    assert main([*command, "--seconds", "0.01", "--rounds", "1", "--format", "json"]) == 1
    captured = capsys.readouterr()
    broken, whole = json.loads(captured.out)["results"]
    assert "not a model that onnxruntime can load" in broken["error"]
    assert broken["images_per_second"] is None
    assert broken.keys() == whole.keys()
    assert whole["images_per_second"] > 0
    assert "1 of 2 configurations failed" in captured.err


def test_an_engine_that_is_not_installed_names_the_command(tmp_path, monkeypatch):
    """The worker's own Python meets a package that cannot be imported."""
    (tmp_path / "openvino.py").write_text("raise ImportError('No module named openvino')\n")
    paths = [str(tmp_path), *(path for path in sys.path if path)]
    monkeypatch.setenv("PYTHONPATH", ":".join(paths))
    (found,) = interleave([configuration(SHIPPED_MODELS[DEFAULT_MODEL], "openvino")], 0.01, 1)
    assert found.error is not None
    assert install_command("openvino") in found.error


def test_a_process_that_dies_is_one_failed_row(tmp_path, monkeypatch):
    script = tmp_path / "dies"
    script.write_text("#!/bin/sh\necho out of luck >&2\nexit 3\n")
    script.chmod(0o755)
    monkeypatch.setattr(measure.sys, "executable", str(script))
    (found,) = interleave([configuration(SHIPPED_MODELS[DEFAULT_MODEL])], 0.01, 1)
    assert found.error == "the process that ran it ended with status 3: out of luck"
    script.write_text("#!/bin/sh\nkill -9 $$\n")
    (found,) = interleave([configuration(SHIPPED_MODELS[DEFAULT_MODEL])], 0.01, 1)
    assert "SIGKILL, perhaps for want of memory" in found.error


def test_formats(capsys):
    command = ["bench", "speed", "--engine", "onnxruntime", "--seconds", "0.01", "--rounds", "1", "--format"]
    assert main([*command, "markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| model | engine | precision |")
    assert lines[3].startswith("| --- | --- | --- | ---: |")
    assert lines[4].startswith("| shvit_s1_tiny_imagenet | onnxruntime | int8 | 1 | 1 |")
    assert main([*command, "table"]) == 0
    assert "shvit_s1_tiny_imagenet" in capsys.readouterr().out


@pytest.mark.parametrize(
    "wrong", [["--seconds", "0"], ["--seconds", "nan"], ["--rounds", "0"], ["--precision", "int4"]]
)
def test_wrong_usage(wrong, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["bench", "speed", *wrong])
    assert ended.value.code == 2
    assert wrong[0] in capsys.readouterr().err


def test_no_such_model(capsys):
    assert main(["bench", "speed", "--model", "shvit_s7"]) == 2
    assert "shvit_s7: no such model" in capsys.readouterr().err
    assert main(["bench", "speed", "--model", "none.onnx"]) == 2
    assert "none.onnx: no such model file" in capsys.readouterr().err


def test_random_weights_are_said_and_the_same_each_time(tmp_path, monkeypatch, colour_model):
    monkeypatch.setattr(networks, "cached_weights", lambda variant: None)
    said: list[str] = []
    assert model_files(["shvit_s1"], [], Session(tmp_path, said.append)) == []
    assert said == ["shvit_s1: this machine does not have its weights; random ones are used, which are as fast"]
    first, again = (networks.open_network("shvit_s1", 64).module.state_dict() for _ in range(2))
    assert all(first[name].equal(again[name]) for name in first)
    assert precision_of(colour_model) == "fp32"
    assert precision_of(SHIPPED_MODELS[DEFAULT_MODEL]) == "int8"


def test_calibration_crops():
    crops = calibration_crops((48, 64), 8)
    assert crops.shape == (8, 48, 64, 3)
    assert crops.dtype == np.uint8
    assert np.array_equal(crops, calibration_crops((48, 64), 8))
    assert len({crop.tobytes() for crop in crops}) == 8


def test_a_model_file_needs_no_lab():
    """Nothing of PyTorch's, ONNX's or timm's is imported to time one."""
    script = (
        "import sys\nfrom shvit.cli.main import main\n"
        "status = main(['bench', 'speed', '--engine', 'onnxruntime', '--seconds', '0.01', '--rounds', '1'])\n"
        "sys.exit(status or bool({'torch', 'onnx', 'timm', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
