from __future__ import annotations

import re
import sys
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from shvit import Classifier
from shvit.card import Card, Preprocessing
from shvit.cli.main import main
from shvit.engines import load_engine
from shvit.errors import ExportError, MissingDependencyError, ModelFileError
from shvit.exporting import ExportReport, FileOptions, export_model
from shvit.install import install_command
from shvit.modelfile.source import Source
from shvit.modelfile.verify import TOLERANCE, photograph_crops
from shvit.models.reparam import folded_network
from shvit.tasks import TASKS

from ..conftest import SAMPLES

pytest.importorskip("ai_edge_litert", reason="needs pip install 'shvit[litert]'")


@pytest.fixture(scope="module")
def reports(tmp_path_factory, tiny, tiny_card) -> dict[str, ExportReport]:
    """A file of each precision; the converter takes seconds. The float32 one takes three images at once."""
    pytest.importorskip("litert_torch", reason="needs pip install 'shvit[litert-export]'")
    folder = tmp_path_factory.mktemp("litert")
    calibration = photograph_crops(tiny_card.preprocessing)[::4]
    return {
        precision: export_model(
            tiny,
            folder / f"{precision}.tflite",
            tiny_card,
            FileOptions("litert", precision, batch),
            calibration=calibration,
        )
        for precision, batch in (("fp32", 3), ("fp16", None), ("int8", None))
    }


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_file_runs_as_the_network_does(reports, tiny, tiny_card, precision):
    report = reports[precision]
    assert report.max_difference <= TOLERANCE[precision]
    assert report.top1_agreement > (0.9 if precision == "int8" else 0.99)
    classifier = Classifier(report.path)
    assert classifier.engine == "litert"
    assert classifier.card == report.card
    images = photograph_crops(tiny_card.preprocessing)[5:12]  # seven, which is not a multiple of three
    expected = TASKS["classification"].scores(
        Source(folded_network(tiny), report.path, tiny_card, "fp32").logits(images)
    )
    np.testing.assert_allclose(classifier.predict_batch(images), expected, atol=2 * TOLERANCE[precision])


@pytest.mark.parametrize(("size", "height"), [((64, 65), 65), ((10, 192), 65)])
def test_a_single_row_of_tokens_is_refused_before_the_converter_fails_on_it(tmp_path, tiny, tiny_card, size, height):
    pytest.importorskip("litert_torch", reason="needs pip install 'shvit[litert-export]'")
    card = replace(tiny_card, preprocessing=Preprocessing(size))
    expected = f"of {size[0]}x{size[1]} pixels one stage has a single row of tokens.* a height of {height} or more"
    with pytest.raises(ExportError, match=expected):
        export_model(tiny, tmp_path / "row.tflite", card, FileOptions("litert", "fp32"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [(192, 64), (64, 64), (65, 129)], ids=str)
def test_a_single_column_or_token_is_converted(tmp_path, tiny, tiny_card, size):
    pytest.importorskip("litert_torch", reason="needs pip install 'shvit[litert-export]'")
    card = replace(tiny_card, preprocessing=Preprocessing(size, resize_mode="pad"))
    report = export_model(tiny, tmp_path / "column.tflite", card, FileOptions("litert", "fp32"))
    assert report.max_difference <= TOLERANCE["fp32"]
    assert Classifier(report.path).card.preprocessing == card.preprocessing


def test_sizes(reports):
    sizes = {precision: report.size_bytes for precision, report in reports.items()}
    assert sizes["fp16"] < 0.8 * sizes["fp32"]
    assert sizes["int8"] < 0.8 * sizes["fp32"]  # so small a network is mostly what describes it


def test_convolutions_are_computed_in_8_bits(reports):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(reports["int8"].path))
    kinds = {each["index"]: each["dtype"] for each in interpreter.get_tensor_details()}
    convolutions = [each for each in interpreter._get_ops_details() if "CONV_2D" in each["op_name"]]
    assert len(convolutions) > 10
    assert all(kinds[each["inputs"][place]] is np.int8 for each in convolutions for place in (0, 1))
    (images,) = interpreter.get_input_details()
    assert images["dtype"] is np.uint8


def test_card_and_labels_are_where_readers_of_tflite_metadata_look(reports, tiny_card):
    with zipfile.ZipFile(reports["fp16"].path) as archive:
        assert archive.namelist() == ["shvit.card.json", "labels.txt"]
        assert archive.read("labels.txt").decode().splitlines() == ["a", "b", "c", "d"]
        assert Card.from_json(archive.read("shvit.card.json").decode()) == reports["fp16"].card


def test_commands_take_it(reports, capsys):
    file = str(reports["fp16"].path)
    assert main(["predict", str(SAMPLES / "coffee.jpg"), "--model", file]) == 0
    assert main(["info", file]) == 0
    assert "litert in fp16" in capsys.readouterr().out
    assert main(["predict", str(SAMPLES / "coffee.jpg"), "--model", file, "--engine", "openvino"]) == 2
    assert "only the engine litert loads .tflite files, not openvino" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"hello", b"\x1c\0\0\0TFL3" + b"\xff" * 400])
def test_a_file_that_is_not_tflite(tmp_path, content):
    (tmp_path / "a.tflite").write_bytes(content)
    with pytest.raises(ModelFileError, match=r"a\.tflite: not a model that litert can load") as caught:
        load_engine("auto", tmp_path / "a.tflite")
    assert "\n" not in str(caught.value)


def test_a_file_without_a_card_and_one_of_another_engine(tmp_path, reports, colour_model):
    data = reports["fp16"].path.read_bytes()
    (tmp_path / "bare.tflite").write_bytes(data[: data.rindex(b"PK\x03\x04", 0, data.rindex(b"PK\x03\x04"))])
    with pytest.raises(ModelFileError, match=r"bare\.tflite: the file has no card"):
        Classifier(tmp_path / "bare.tflite")
    with pytest.raises(ModelFileError, match=r"the engine litert loads \.tflite files"):
        load_engine("litert", colour_model)


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        (b" " * (2**24 + 1), "the card is longer than 16 MiB"),
        (b"\xff{}", "not a model that litert can load: 'utf-8' codec"),
        (b"[" * 100_000, "the card is nested too deep"),
    ],
    ids=["long", "not UTF-8", "deep"],
)
def test_a_hostile_card_in_its_archive_is_refused(tmp_path, reports, card, expected):
    data = reports["fp16"].path.read_bytes()
    file = tmp_path / "a.tflite"
    file.write_bytes(data[: data.rindex(b"PK\x03\x04", 0, data.rindex(b"PK\x03\x04"))])
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("shvit.card.json", card)
    with pytest.raises(ModelFileError, match=rf"a\.tflite: {expected}"):
        Classifier(file)


def test_a_missing_converter_is_told_with_its_command(tmp_path, tiny, tiny_card, monkeypatch):
    monkeypatch.setitem(sys.modules, "litert_torch", None)
    with pytest.raises(MissingDependencyError, match=re.escape(install_command("litert-export"))):
        export_model(tiny, tmp_path / "a.tflite", tiny_card, FileOptions("litert"))
    assert list(tmp_path.iterdir()) == []
