"""``shvit.calibrate`` on real files."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import shvit
from shvit import Classifier
from shvit.calibration import calibrate as module
from shvit.calibration.calibrate import calibrate
from shvit.calibration.fitting import CalibrationOptions
from shvit.card import METADATA_KEY, Card, Preprocessing
from shvit.engines import load_engine
from shvit.errors import DataError, ModelFileError
from shvit.exporting import FileOptions, export_model
from shvit.modelfile.finished_onnx import set_output
from shvit.modelfile.verify import photograph_crops

from ..conftest import AS_ANYBODY, PATIENCE, colour_card, write_colour_model
from .conftest import CARD, write_labelled

OPTIONS = CalibrationOptions(threads=1, workers=0)

CROPS = photograph_crops(CARD.preprocessing)[90:120]
"""Images that are none of the labelled ones, prepared."""


def logits_of(path: Path, batch: np.ndarray, engine: str = "onnxruntime") -> np.ndarray:
    return load_engine(engine, path, 1).infer(batch)


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory, tiny_file, labelled) -> Path:
    path = tmp_path_factory.mktemp("calibrated") / "calibrated.onnx"
    calibrate(tiny_file, labelled, path, OPTIONS)
    return path


def rewritten(source: Path, path: Path, change) -> Path:
    """The file with another card: ``change`` gets its JSON."""
    model = onnx.load(source)
    (held,) = [each for each in model.metadata_props if each.key == METADATA_KEY]
    held.value = json.dumps(change(json.loads(held.value)))
    onnx.save(model, path)
    return path


def test_what_is_written(tiny_file, calibrated, labelled):
    card = Classifier(calibrated).card
    before = Classifier(tiny_file).card
    assert replace(card, decision=None) == before
    decision = card.decision
    assert (decision.precision, decision.data, decision.images) == ("fp32", "photos", 90)
    assert decision.calibration_error < decision.calibration_error_before
    assert (decision.min_score, decision.promise) == (None, None)
    assert (decision.unknown.kept, decision.unknown.pictures, decision.unknown.auroc) == (0.95, 0, None)
    assert calibrated.stat().st_size - tiny_file.stat().st_size < 4000
    np.testing.assert_array_equal(logits_of(calibrated, CROPS), logits_of(tiny_file, CROPS))


def test_a_result_says_what_is_decided(calibrated):
    classifier = Classifier(calibrated, threads=1)
    limit = classifier.card.decision.unknown.limit
    results = classifier.predict(list(CROPS))
    assert {each.known for each in results} <= {True, False}
    assert all(each.known == (each.unknown_score <= limit) for each in results)
    assert np.mean([each.known for each in results]) > 0.7
    plain = classifier.predict(list(CROPS), unknown=False)
    assert {(each.known, each.unknown_score, each.decision) for each in plain} == {(None, None, None)}
    assert [each.predictions for each in plain] == [each.predictions for each in results]


def test_both_engines_of_onnx_give_the_same(calibrated):
    pytest.importorskip("openvino", reason="needs pip install 'shvit[openvino]'")
    of_one, of_two = (Classifier(calibrated, engine=each).judge_batch(CROPS) for each in ("onnxruntime", "openvino"))
    np.testing.assert_allclose(of_one[0], of_two[0], atol=1e-3)
    np.testing.assert_allclose(of_one[1], of_two[1], atol=1e-3, rtol=1e-3)


def test_calibrated_again_it_is_the_same_file_with_another_decision(tmp_path, calibrated, labelled, strange):
    path = tmp_path / "again.onnx"
    path.write_bytes(calibrated.read_bytes())
    for _ in range(2):
        report = calibrate(path, labelled, path, OPTIONS, unknown=strange, target_precision=0.5)
        assert abs(path.stat().st_size - calibrated.stat().st_size) < 1000
    assert load_engine("onnxruntime", path).outputs == ("logits", "unknown")
    unknown = report.decision.unknown
    assert unknown.pictures == 40
    assert 0 <= unknown.taken_for_known <= 1 and 0 <= unknown.auroc <= 1
    assert report.decision.min_score is not None
    assert report.decision.promise.low >= 0.5
    assert Classifier(path).card == report.card
    assert [each.name for each in tmp_path.iterdir()] == ["again.onnx"]


def test_the_report_as_json(tmp_path, tiny_file, labelled):
    report = calibrate(tiny_file, labelled, tmp_path / "out.onnx", OPTIONS, target_precision=0.5)
    found = json.loads(json.dumps(report.to_dict()))
    assert (found["images"], found["output"], found["broken"]) == (90, str(tmp_path / "out.onnx"), [])
    assert found["decision"]["promise"]["target_precision"] == 0.5
    assert set(found["coverage"]) == {"0.8", "0.9", "0.95", "0.99"}
    assert "images=90" in repr(report)


def test_a_wrong_decision_is_mended(tmp_path, calibrated, labelled):
    def spoil(card: dict) -> dict:
        return card | {"decision": card["decision"] | {"temperature": 0}}

    path = rewritten(calibrated, tmp_path / "spoilt.onnx", spoil)
    with pytest.raises(ModelFileError, match=r"spoilt\.onnx: card\.decision\.temperature: expected 0\.01 to 100"):
        Classifier(path)
    calibrate(path, labelled, path, OPTIONS)
    assert Classifier(path).card.decision == Classifier(calibrated).card.decision


def test_a_file_of_any_size(tmp_path, tiny, labelled):
    card = replace(CARD, preprocessing=Preprocessing((64, 64), 1.0))
    export_model(tiny, tmp_path / "any.onnx", card, FileOptions("onnx", "fp32", dynamic_size=True))
    data = write_labelled(tmp_path / "photos", tmp_path / "any.onnx", 60)
    calibrate(tmp_path / "any.onnx", data, tmp_path / "any.onnx", OPTIONS)
    for side in (64, 128):
        (result,) = Classifier(tmp_path / "any.onnx", image_size=side).predict(CROPS[0])
        assert result.known is not None


def test_a_file_in_8_bits(tmp_path, monkeypatch, tiny, labelled):
    monkeypatch.setitem(
        shvit.modelfile.verify.TOLERANCE, "int8", 1.0
    )  # random weights have outliers that 8 bits cut off
    calibration = photograph_crops(CARD.preprocessing)[::4]
    export_model(tiny, tmp_path / "8.onnx", CARD, FileOptions("onnx", "int8"), calibration=calibration)
    report = calibrate(tmp_path / "8.onnx", labelled, tmp_path / "8c.onnx", OPTIONS)
    assert report.decision.precision == "int8"
    np.testing.assert_array_equal(logits_of(tmp_path / "8c.onnx", CROPS), logits_of(tmp_path / "8.onnx", CROPS))
    assert {each.known for each in Classifier(tmp_path / "8c.onnx").predict(list(CROPS))} <= {True, False}


def test_a_network_of_one_class(tmp_path, labelled):
    from ..exporting.conftest import TINY
    from ..models.test_reparam import randomized

    network = randomized(replace(TINY, num_classes=1)).float()
    card = replace(CARD, classes=CARD.classes[:1])
    export_model(network, tmp_path / "one.onnx", card, FileOptions("onnx", "fp32"))
    data = write_labelled(tmp_path / "photos", tmp_path / "one.onnx", 60, 1.0)
    report = calibrate(tmp_path / "one.onnx", data, tmp_path / "one.onnx", OPTIONS, target_precision=0.9)
    assert report.decision.temperature == 1
    (result,) = Classifier(tmp_path / "one.onnx").predict(CROPS[0])
    assert result.predictions[0].score == 1
    assert np.isfinite(result.unknown_score)


def test_two_pictures_say_nothing_and_that_is_told(tmp_path, tiny_file):
    data = write_labelled(tmp_path / "photos", tiny_file, 2)
    report = calibrate(tiny_file, data, tmp_path / "out.onnx", OPTIONS, target_precision=0.9)
    found = report.decision
    assert (found.temperature, found.calibration_error, found.promise, found.unknown) == (1, None, None, None)
    assert (report.curve, report.to_dict()["coverage"], report.to_dict()["aurc"]) == (None, None, None)
    told = "\n".join(report.notes)
    for each in (
        "no temperature, and not how much it can answer: 2 images",
        "no threshold: on these 2 images",
        "no unknown score: 2 images",
    ):
        assert each in told
    assert load_engine("onnxruntime", tmp_path / "out.onnx").outputs == ("logits",)


def test_fewer_images_take_the_unknown_score_out_again(tmp_path, calibrated, tiny_file):
    data = write_labelled(tmp_path / "photos", tiny_file, 5)
    calibrate(calibrated, data, tmp_path / "out.onnx", OPTIONS)
    assert load_engine("onnxruntime", tmp_path / "out.onnx").outputs == ("logits",)
    assert Classifier(tmp_path / "out.onnx").predict(CROPS[0])[0].known is None


def test_a_file_of_another_exporter_has_no_unknown_score(tmp_path, colour_model):
    data = tmp_path / "photos"
    for place, (name, colour) in enumerate([("red", (200, 0, 0)), ("green", (0, 200, 0)), ("blue", (0, 0, 200))] * 20):
        path = data / "val" / name / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (48, 32), tuple(each // 4 + place for each in colour)).save(path)
    report = calibrate(colour_model, data, tmp_path / "out.onnx", OPTIONS, target_precision=0.8)
    assert "no unknown score: the file gives no features; export it anew with: shvit export" in report.notes
    assert report.decision.unknown is None
    assert report.decision.promise.precision == 1
    assert Classifier(tmp_path / "out.onnx").predict(Image.new("RGB", (48, 32), (200, 0, 0)))[0].decision == "answer"


def test_probabilities_have_no_temperature(tmp_path, labelled):
    path = write_colour_model(tmp_path / "p.onnx", colour_card(output="probabilities").to_json())
    with pytest.raises(
        ModelFileError, match="the card says probabilities; only logits can be calibrated: export it anew"
    ):
        calibrate(path, labelled, tmp_path / "out.onnx", OPTIONS)
    assert not (tmp_path / "out.onnx").exists()


def test_unknown_pictures_that_are_too_few_or_none(tmp_path, tiny_file, labelled, strange):
    few = tmp_path / "few"
    few.mkdir()
    for each in sorted(strange.iterdir())[:19]:
        (few / each.name).write_bytes(each.read_bytes())
    (few / "broken.png").write_bytes(b"nothing")
    report = calibrate(tiny_file, labelled, tmp_path / "out.onnx", OPTIONS, unknown=few)
    assert any(each.startswith("19 unknown pictures are too few to learn from") for each in report.notes)
    assert (report.decision.unknown.pictures, report.decision.unknown.auroc) == (0, None)
    assert len(report.broken) == 1 and "broken.png: not an image" in report.broken[0]
    for each in few.iterdir():
        each.write_bytes(b"nothing")
    report = calibrate(tiny_file, labelled, tmp_path / "out.onnx", OPTIONS, unknown=few)
    assert any(each.startswith("0 unknown pictures are too few to learn from") for each in report.notes)
    assert len(report.broken) == 20
    for each in few.iterdir():
        each.unlink()
    with pytest.raises(
        DataError, match=r"--unknown .*few: no pictures there; give a folder of pictures that show none"
    ):
        calibrate(tiny_file, labelled, tmp_path / "out.onnx", OPTIONS, unknown=few)


def test_where_few_unknown_pictures_are_noticed_it_says_how_to_notice_more(tmp_path, tiny_file, labelled):
    looks_known = max((labelled / "val").iterdir(), key=lambda folder: len(list(folder.iterdir())))
    report = calibrate(tiny_file, labelled, tmp_path / "out.onnx", OPTIONS, unknown=looks_known)
    noticed = 1 - report.decision.unknown.taken_for_known
    [note] = [each for each in report.notes if each.startswith("few unknown pictures are noticed; with --keep 0.9")]
    shares = [float(share) / 100 for share in re.findall(r"about (\d+)%", note)]
    assert noticed < 0.5 and noticed - 0.01 <= shares[0] < shares[1]
    report = calibrate(tiny_file, labelled, tmp_path / "out.onnx", replace(OPTIONS, keep=0.8), unknown=looks_known)
    assert not [each for each in report.notes if "few unknown" in each]


def test_images_that_cannot_be_read_are_named_and_the_others_used(tmp_path, tiny_file):
    data = write_labelled(tmp_path / "photos", tiny_file, 60)
    broken = sorted(data.rglob("*.png"))[:3]
    for each in broken:
        each.write_bytes(b"\x89PNG no more")
    report = calibrate(tiny_file, data, tmp_path / "out.onnx", OPTIONS)
    assert (report.images, len(report.broken)) == (57, 3)
    assert all(Path(each).name in "".join(report.broken) for each in broken)
    for each in data.rglob("*.png"):
        each.write_bytes(b"")
    with pytest.raises(DataError, match="none of the 60 images can be read"):
        calibrate(tiny_file, data, tmp_path / "out.onnx", OPTIONS)


def test_outputs_that_cannot_be(tmp_path, tiny_file, labelled):
    with pytest.raises(ModelFileError, match=r"out\.tflite: the format stays that of tiny\.onnx; name it .*out\.onnx"):
        calibrate(tiny_file, labelled, tmp_path / "out.tflite", OPTIONS)
    listed = tmp_path / "list.onnx"  # whatever its name is, it is the data
    listed.write_text("path,label\n")
    with pytest.raises(ValueError, match=r"--output .*list\.onnx: is the same file as the input"):
        calibrate(tiny_file, listed, listed, OPTIONS)
    with pytest.raises(DataError):
        calibrate(tiny_file, tmp_path / "missing", tmp_path / "out.onnx", OPTIONS)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["list.onnx"]


def test_what_goes_wrong_while_it_is_written_leaves_the_old_file(tmp_path, monkeypatch, tiny_file, labelled):
    path = tmp_path / "mine.onnx"
    path.write_bytes(tiny_file.read_bytes())
    broken = shvit.modelfile.finished_onnx.set_output

    def other_weights(proto, name, program, *file):
        broken(proto, name, replace(program, constants={k: v + 1 for k, v in program.constants.items()}), *file)

    def other_logits(proto, name, program, *file):
        broken(proto, name, program, *file)
        (head,) = [each for each in proto.graph.node if list(each.output) == ["logits"]]
        (bias,) = [each for each in proto.graph.initializer if each.name == head.input[2]]
        bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 1, bias.name))

    monkeypatch.setattr("shvit.calibration.calibrate.KINDS", {"clouds": None})
    for change, expected in ((other_weights, "gives other unknown scores"), (other_logits, "its logits would differ")):
        monkeypatch.setattr("shvit.modelfile.finished_onnx.set_output", change)
        with pytest.raises(ModelFileError, match=f"mine.onnx: .*{expected}.*nothing was written"):
            calibrate(path, labelled, path, OPTIONS)
        assert path.read_bytes() == tiny_file.read_bytes()
    monkeypatch.undo()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module.FinishedFile.__subclasses__()[0], "write", interrupted)
    monkeypatch.setattr("shvit.calibration.calibrate.KINDS", {})
    with pytest.raises(KeyboardInterrupt):
        calibrate(path, labelled, path, OPTIONS)
    assert [each.name for each in tmp_path.iterdir()] == ["mine.onnx"]
    assert path.read_bytes() == tiny_file.read_bytes()


def test_a_folder_that_may_not_be_written_to(tmp_path, tiny_file, labelled):
    folder = tmp_path / "read-only"
    folder.mkdir()
    (folder / "mine.onnx").write_bytes(tiny_file.read_bytes())
    folder.chmod(0o555)
    command = [*AS_ANYBODY, sys.executable, "-m", "shvit", "calibrate", "--workers", "0", "--threads", "1"]
    command += ["--model", folder / "mine.onnx", "--data", labelled, "--output", folder / "mine.onnx", "--limit", "9"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=PATIENCE)
    folder.chmod(0o755)
    assert done.returncode == 2, done.stderr
    assert "mine.onnx: Permission denied" in done.stderr
    assert "Traceback" not in done.stderr
    assert (folder / "mine.onnx").read_bytes() == tiny_file.read_bytes()


def test_an_earlier_version_of_onnx_is_told(tmp_path, tiny_file, calibrated):
    proto = onnx.load(tiny_file)
    proto.opset_import[0].version = 17
    program = shvit.modelfile.program.Program((shvit.modelfile.program.Step("s", "max", ("logits",)),), {})
    with pytest.raises(ModelFileError, match=r"old\.onnx: is of ONNX opset 17, at least 18 is needed; export it anew"):
        set_output(proto, "unknown", program, "head.flatten", tmp_path / "old.onnx")


def test_a_card_of_other_classes(tmp_path, tiny_file, labelled):
    def rename(card: dict) -> dict:
        return card | {"classes": [each | {"label": f"not {each['label']}"} for each in card["classes"]]}

    path = rewritten(tiny_file, tmp_path / "others.onnx", rename)
    with pytest.raises(DataError):
        calibrate(path, labelled, tmp_path / "out.onnx", OPTIONS)
    assert Card.from_json(json.dumps(rename(json.loads(CARD.to_json()))))
    assert not (tmp_path / "out.onnx").exists()
