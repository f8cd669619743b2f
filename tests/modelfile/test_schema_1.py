"""A file of the last card schema: written by the commit before schema 2 (88b4fb9), its network random, of 4 classes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx
import pytest

from shvit import Classifier
from shvit.calibration.calibrate import calibrate
from shvit.calibration.fitting import CalibrationOptions
from shvit.card import METADATA_KEY
from shvit.cli.main import main

from ..calibration.conftest import write_labelled
from ..conftest import SAMPLES

FILE = Path(__file__).parent / "data" / "schema_1.onnx"

SAID = {
    "coffee.jpg": {"bee": 0.265455, "apple": 0.263756, "dog": 0.243633, "cat": 0.227156},
    "rocket.jpg": {"apple": 0.25734, "bee": 0.255596, "dog": 0.248333, "cat": 0.238732},
}
"""What that commit's ``Classifier`` said of these photographs."""


def test_it_is_of_schema_1():
    (card,) = [json.loads(each.value) for each in onnx.load(FILE).metadata_props if each.key == METADATA_KEY]
    assert card["schema_version"] == 1
    assert "decision" not in card


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_it_says_what_it_said(engine):
    classifier = Classifier(FILE, engine=engine, threads=1)
    for name, said in SAID.items():
        (result,) = classifier.predict(SAMPLES / name)
        assert {each.label: each.score for each in result.predictions} == pytest.approx(said, abs=1e-4)
        assert set(result.to_dict()) == {"source", "predictions"}
        assert set(result.to_dict()["predictions"][0]) == {"label", "class_id", "wnid", "score"}


def test_commands_take_it(capsys):
    assert main(["info", str(FILE)]) == 0
    told = capsys.readouterr().out
    assert "schema-1" in told
    assert "unknown" not in told
    assert main(["predict", str(SAMPLES / "rocket.jpg"), "--model", str(FILE), "--format", "csv"]) == 0
    assert capsys.readouterr().out.splitlines()[1].endswith(",,,,")


def test_it_can_be_calibrated(tmp_path, monkeypatch):
    monkeypatch.setattr("shvit.calibration.calibrate.KINDS", {"mosaics": None})
    path = Path(shutil.copy(FILE, tmp_path / "mine.onnx"))
    data = write_labelled(tmp_path / "photos", path, 60)
    report = calibrate(path, data, path, CalibrationOptions(workers=0, threads=1))
    assert report.decision.unknown is not None
    (card,) = [json.loads(each.value) for each in onnx.load(path).metadata_props if each.key == METADATA_KEY]
    assert card["schema_version"] == 2
    assert Classifier(path).predict(SAMPLES / "rocket.jpg")[0].known in (True, False)
