from __future__ import annotations

import shutil

import numpy as np
import pytest

from shvit import Classifier
from shvit.cli.main import main
from shvit.engines import load_engine
from shvit.errors import ModelFileError
from shvit.exporting import ExportReport, FileOptions, export_model
from shvit.modelfile.source import Source
from shvit.modelfile.verify import TOLERANCE, photograph_crops
from shvit.models.reparam import folded_network
from shvit.tasks import TASKS

from ..conftest import SAMPLES

pytest.importorskip("openvino", reason="needs pip install 'shvit[openvino]'")


@pytest.fixture(scope="module")
def reports(tmp_path_factory, tiny, tiny_card) -> dict[str, ExportReport]:
    folder = tmp_path_factory.mktemp("openvino")
    calibration = photograph_crops(tiny_card.preprocessing)[:64]
    return {
        precision: export_model(
            tiny, folder / f"{precision}.xml", tiny_card, FileOptions("openvino", precision), calibration=calibration
        )
        for precision in ("fp32", "fp16", "int8")
    }


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_file_runs_as_the_network_does(reports, tiny, tiny_card, precision):
    report = reports[precision]
    weights = report.path.with_suffix(".bin")
    assert report.size_bytes == report.path.stat().st_size + weights.stat().st_size
    assert report.max_difference <= TOLERANCE[precision]
    assert report.top1_agreement > (0.9 if precision == "int8" else 0.99)
    classifier = Classifier(report.path)
    assert classifier.engine == "openvino"
    assert classifier.card == report.card
    assert classifier.card.verification.precision == precision
    images = photograph_crops(tiny_card.preprocessing)[5:12]
    expected = TASKS["classification"].scores(
        Source(folded_network(tiny), report.path, tiny_card, "fp32").logits(images)
    )
    np.testing.assert_allclose(classifier.predict_batch(images), expected, atol=2 * TOLERANCE[precision])


def test_half_precision_halves_the_weights(reports):
    sizes = {each: report.path.with_suffix(".bin").stat().st_size for each, report in reports.items()}
    assert 0.45 < sizes["fp16"] / sizes["fp32"] < 0.6
    assert sizes["int8"] < sizes["fp16"]


def test_commands_take_it(reports, capsys):
    file = str(reports["fp16"].path)
    assert main(["predict", str(SAMPLES / "coffee.jpg"), "--model", file]) == 0
    assert main(["info", file]) == 0
    assert "verified  openvino in fp16, run by openvino 20" in capsys.readouterr().out


def test_what_cannot_be_loaded(tmp_path, reports):
    file = tmp_path / "lonely.xml"
    shutil.copy(reports["fp16"].path, file)
    with pytest.raises(ModelFileError, match=r"only the engine openvino loads \.xml files, not onnxruntime"):
        load_engine("onnxruntime", file)
    with pytest.raises(ModelFileError, match=r"lonely\.xml: not a model that openvino can load") as caught:
        load_engine("auto", file)
    assert "\n" not in str(caught.value)
