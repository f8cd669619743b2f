"""Another head and a second output in finished files: every engine computes what they say."""

from __future__ import annotations

import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from shvit import Classifier
from shvit.calibration.calibrate import calibrate
from shvit.calibration.fitting import CalibrationOptions
from shvit.calibration.outputs import Outputs
from shvit.calibration.unknown import UnknownScore
from shvit.card import Card, ClassInfo, Decision, Unknown
from shvit.engines import load_engine
from shvit.engines.onnx_graph import UNKNOWN, backbone_digest
from shvit.errors import ModelFileError
from shvit.exporting import FileOptions, export_model
from shvit.modelfile.features import load_with_features
from shvit.modelfile.finished import MAX_ATTACHED_BYTES, check_suffix, open_finished
from shvit.modelfile.head import LinearHead
from shvit.modelfile.program import Program, Step
from shvit.modelfile.verify import photograph_crops
from shvit.shipped import DEFAULT_MODEL, resolve_model

from ..calibration.conftest import write_labelled

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "litert": ".tflite"}
NEEDS = {"onnx": "onnx", "openvino": "openvino", "litert": "ai_edge_litert"}


@pytest.fixture(scope="module")
def exported(tmp_path_factory, tiny, tiny_card):
    """A file of a format, made once; tests must not change it."""
    folder, made = tmp_path_factory.mktemp("exported"), {}

    def export(format: str) -> Path:
        pytest.importorskip(NEEDS[format])
        if format == "litert":
            pytest.importorskip("litert_torch", reason="needs pip install 'shvit[litert-export]'")
        if format not in made:
            path = folder / f"tiny{SUFFIXES[format]}"
            export_model(tiny, path, tiny_card, FileOptions(format, "fp32"))
            made[format] = path
        return made[format]

    return export


@pytest.fixture
def crops(tiny_card) -> np.ndarray:
    return photograph_crops(tiny_card.preprocessing)[:9]


def features_of(path: Path, batch: np.ndarray) -> Outputs:
    engine, (features,) = load_with_features(open_finished(path).engine, path, 1)
    found = engine.run(batch)
    return Outputs(found[engine.outputs[0]], found[features])


def random_score(channels: int, seed: int = 0) -> UnknownScore:
    rng = np.random.default_rng(seed)
    return UnknownScore(rng.normal(0, 1, (channels + 2, 2)), rng.normal(0, 1, 2), 0.5)


def with_limit(card: Card) -> Card:
    return replace(card, decision=Decision("fp32", "photos", 90, unknown=Unknown("random", 0.5, 0.95)))


ALL_KINDS = Program(
    (
        Step("low", "matmul", ("features", "matrix")),
        Step("positive", "relu", ("low",)),
        Step("squares", "multiply", ("positive", "positive")),
        Step("length", "sum", ("squares",)),
        Step("more", "add", ("length", "one")),
        Step("root", "sqrt", ("more",)),
        Step("logarithm", "log", ("root",)),
        Step("largest", "max", ("logits",)),
        Step("rest", "subtract", ("logarithm", "largest")),
        Step("power", "exp", ("rest",)),
        Step("score", "multiply", ("power", "one")),
    ),
    {
        "matrix": np.random.default_rng(0).normal(0, 0.3, (32, 5)).astype(np.float16),
        "one": np.ones(1, np.float32),
    },
)


@pytest.mark.parametrize("format", list(SUFFIXES))
def test_the_file_computes_what_the_score_is(exported, tmp_path, crops, tiny_card, format):
    path = exported(format)
    before = features_of(path, crops)
    assert before.features.shape == (9, 32)
    score = random_score(32)
    target = tmp_path / path.name
    open_finished(path).write(target, "unknown", score.program(), with_limit(tiny_card))
    classifier = Classifier(target, threads=1)
    scores, unknown = classifier.judge_batch(crops)
    np.testing.assert_allclose(scores, Classifier(path, threads=1).predict_batch(crops), atol=1e-6)
    np.testing.assert_allclose(unknown, score.of(before), rtol=1e-3, atol=1e-3)
    assert classifier.card == with_limit(tiny_card)
    judged = classifier.judge_batch(np.stack([classifier.preprocess(each) for each in crops]))[1]
    assert [each.known for each in classifier.predict(list(crops))] == (judged <= 0.5).tolist()


@pytest.mark.parametrize("format", list(SUFFIXES))
def test_every_operator_and_half_precision(exported, tmp_path, crops, tiny_card, format):
    path = exported(format)
    before = features_of(path, crops)
    target = tmp_path / path.name
    open_finished(path).write(target, "unknown", ALL_KINDS, tiny_card)
    found = load_engine(open_finished(path).engine, target, 1).run(crops)
    assert list(found)[1:] == ["unknown"]
    np.testing.assert_allclose(
        list(found.values())[1][:, 0], ALL_KINDS.run(before.features, before.logits), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("format", list(SUFFIXES))
def test_one_takes_anothers_place_and_can_be_taken_out(exported, tmp_path, crops, tiny_card, format):
    path = exported(format)
    target = tmp_path / path.name
    open_finished(path).write(target, "unknown", ALL_KINDS, tiny_card)
    sizes = []
    for seed in range(3):
        open_finished(target).write(target, "unknown", random_score(32, seed).program(), with_limit(tiny_card))
        sizes.append(target.stat().st_size)
    assert sizes[1] == sizes[2]
    assert abs(sizes[0] - sizes[1]) < 100
    expected = random_score(32, 2).of(features_of(path, crops))
    np.testing.assert_allclose(Classifier(target).judge_batch(crops)[1], expected, rtol=1e-3, atol=1e-3)
    open_finished(target).write(target, "unknown", None, tiny_card)
    engine = load_engine(open_finished(target).engine, target, 1)
    assert len(engine.outputs) == 1
    np.testing.assert_allclose(engine.infer(crops), load_engine(engine.name, path, 1).infer(crops), atol=1e-6)
    with pytest.raises(
        ModelFileError, match="the card has a limit for unknown pictures, the graph gives no unknown score"
    ):
        open_finished(target).write(target, "unknown", None, with_limit(tiny_card))
        Classifier(target)


def test_a_tflite_file_keeps_its_other_files(exported, tmp_path, tiny_card):
    path = exported("litert")
    target = tmp_path / "tiny.tflite"
    for _ in range(2):
        open_finished(target if target.exists() else path).write(
            target, "unknown", random_score(32).program(), with_limit(tiny_card)
        )
        with zipfile.ZipFile(path) as before, zipfile.ZipFile(target) as after:
            assert sorted(after.namelist()) == sorted(before.namelist())
            for name in set(before.namelist()) - {"shvit.card.json"}:
                assert after.read(name) == before.read(name)


def encrypted(file: bytes) -> bytes:
    """What the directory says of the first entry."""
    entry = bytearray(file)
    entry[file.index(b"PK\x01\x02") + 8] |= 1
    return bytes(entry)


def elsewhere(file: bytes) -> bytes:
    """The first entry's contents lie behind the file's end."""
    entry, place = bytearray(file), file.index(b"PK\x01\x02") + 42
    entry[place : place + 4] = (2**31 - 1).to_bytes(4, "little")
    return bytes(entry)


@pytest.mark.parametrize("damage", [encrypted, elsewhere])
def test_damaged_files_at_a_tflite_files_end(exported, tmp_path, damage):
    path = tmp_path / "damaged.tflite"
    path.write_bytes(damage(exported("litert").read_bytes()))
    with pytest.raises(ModelFileError, match=r"damaged\.tflite: what is attached to it cannot be read: "):
        open_finished(path)


def test_more_than_is_attached_to_a_tflite_file_is_not_unpacked(exported, tmp_path, monkeypatch):
    path = tmp_path / "large.tflite"
    shutil.copy(exported("litert"), path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(MAX_ATTACHED_BYTES))
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("it was unpacked"))
    with pytest.raises(ModelFileError, match=r"large\.tflite: [\d,]+ bytes of files are attached; expected at most"):
        open_finished(path)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_an_openvino_file_keeps_its_precision(tmp_path, tiny, tiny_card, crops, precision):
    pytest.importorskip("openvino", reason="needs pip install 'shvit[openvino]'")
    calibration = photograph_crops(tiny_card.preprocessing)[:64]
    report = export_model(
        tiny, tmp_path / "half.xml", tiny_card, FileOptions("openvino", precision), calibration=calibration
    )
    card = replace(report.card, decision=Decision(precision, "photos", 90, unknown=Unknown("random", 0.5, 0.95)))
    target = tmp_path / "out" / "half.xml"
    target.parent.mkdir()
    open_finished(report.path).write(target, "unknown", random_score(32).program(), card)
    sizes = [each.with_suffix(".bin").stat().st_size for each in (report.path, target)]
    assert 0 <= sizes[1] - sizes[0] < 2000
    engines = [load_engine("openvino", each, 1) for each in (report.path, target)]
    np.testing.assert_allclose(engines[0].infer(crops), engines[1].infer(crops), atol=1e-2)


@pytest.mark.parametrize("format", ["openvino", "litert"])
def test_other_formats_are_calibrated_too(exported, tmp_path, monkeypatch, format):
    monkeypatch.setattr("shvit.calibration.calibrate.KINDS", {"mosaics": None})
    path, onnx_file = exported(format), exported("onnx")
    data = write_labelled(tmp_path / "photos", onnx_file, 60)
    target = tmp_path / path.name
    shutil.copy(path, target)
    if format == "openvino":
        shutil.copy(path.with_suffix(".bin"), target.with_suffix(".bin"))
    options = CalibrationOptions(workers=0, threads=1)
    found = calibrate(target, data, target, options).decision
    expected = calibrate(onnx_file, data, tmp_path / "out.onnx", options).decision
    assert found.temperature == pytest.approx(expected.temperature, rel=1e-2)
    assert found.unknown.limit == pytest.approx(expected.unknown.limit, rel=2e-2)
    results = Classifier(target).predict(sorted(data.rglob("*.png"))[:20])
    others = Classifier(tmp_path / "out.onnx").predict(sorted(data.rglob("*.png"))[:20])
    assert [each.decision for each in results] == [each.decision for each in others]


@pytest.mark.parametrize("suffix", list(SUFFIXES.values()))
def test_what_is_no_model_file(tmp_path, suffix):
    if suffix != ".onnx":
        pytest.importorskip({"xml": "openvino", "tflite": "ai_edge_litert"}[suffix[1:]])
    path = tmp_path / f"other{suffix}"
    path.write_bytes(b"this is no model file, whatever its name says")
    with pytest.raises(ModelFileError, match=rf"other\{suffix}: not a") as caught:
        load_with_features(open_finished(path).engine, path)
    assert "\n" not in str(caught.value)


def test_the_format_stays():
    check_suffix(Path("a.onnx"), Path("b.ONNX"))
    with pytest.raises(ModelFileError, match=r"b\.xml: the format stays that of a\.onnx; name it b\.onnx"):
        check_suffix(Path("a.onnx"), Path("b.xml"))


def test_a_program_reads_what_is_there():
    with pytest.raises(ValueError, match="step a: reads nothing, which is no earlier one"):
        Program((Step("a", "max", ("nothing",)),), {})


def test_weights_beside_an_onnx_file_are_refused(exported, tmp_path):
    model = onnx.load(exported("onnx"))
    path = tmp_path / "beside.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    with pytest.raises(ModelFileError, match=r"beside\.onnx: "):
        open_finished(path)


def test_names_that_another_exporter_gave(exported, tmp_path, crops, tiny_card):
    model = onnx.load(exported("onnx"))
    model.graph.node[5].name = "unknown.5"  # a node's name says nothing of who made it; its output's does
    onnx.save(model, tmp_path / "a.onnx")
    open_finished(tmp_path / "a.onnx").write(tmp_path / "b.onnx", "unknown", None, tiny_card)
    found, expected = (
        load_engine("onnxruntime", each, 1).infer(crops) for each in (tmp_path / "b.onnx", exported("onnx"))
    )
    np.testing.assert_array_equal(found, expected)
    (head,) = [each for each in model.graph.node if list(each.output) == ["logits"]]
    head.output[0] = model.graph.output[0].name = "unknown"
    onnx.save(model, tmp_path / "c.onnx")
    with pytest.raises(ModelFileError, match=r"c\.onnx: its first output is called unknown, as the second would be"):
        open_finished(tmp_path / "c.onnx").write(tmp_path / "d.onnx", "unknown", None, tiny_card)


def random_head(classes: int, channels: int) -> LinearHead:
    rng = np.random.default_rng(classes)
    return LinearHead(
        rng.normal(0, 0.1, (classes, channels)).astype(np.float32), rng.normal(0, 1, classes).astype("f4")
    )


def card_of(path: Path, classes: int) -> Card:
    card = Classifier(path, engine=open_finished(path).engine, threads=1).card
    return replace(card, classes=tuple(ClassInfo(place, f"taught {place}") for place in range(classes)), decision=None)


@pytest.mark.parametrize("classes", [2, 7, 40])
@pytest.mark.parametrize("format", SUFFIXES)
def test_a_head_gives_its_logits(exported, crops, tmp_path, format, classes):
    path = exported(format)
    outputs = features_of(path, crops)
    head = random_head(classes, outputs.features.shape[1])
    written = tmp_path / f"taught{path.suffix}"
    open_finished(path).write(written, UNKNOWN, None, card_of(path, classes), head)
    engine = load_engine(open_finished(written).engine, written, 1)
    assert np.abs(engine.infer(crops) - head.logits(outputs.features)).max() < 1e-4
    classifier = Classifier(written, threads=1, engine=engine.name)
    assert [each.label for each in classifier.classes] == [f"taught {place}" for place in range(classes)]
    assert classifier.predict(crops[0], top_k=1)[0].predictions[0].label.startswith("taught")


@pytest.mark.parametrize("format", SUFFIXES)
def test_a_second_output_reads_the_new_head(exported, crops, tmp_path, format):
    """Twice: where a head and a second output are there already, both are replaced."""
    path, outputs = exported(format), features_of(exported(format), crops)
    written = tmp_path / f"taught{path.suffix}"
    for classes in (3, 5):
        head, score = random_head(classes, outputs.features.shape[1]), random_score(outputs.features.shape[1], classes)
        card = with_limit(card_of(path, classes))
        open_finished(path).write(written, UNKNOWN, score.program(), card, head)
        path = written
        engine = load_engine(open_finished(written).engine, written, 1)
        found = engine.run(crops)
        logits = head.logits(outputs.features)
        assert np.abs(next(iter(found.values())) - logits).max() < 1e-4
        expected = score.program().run(outputs.features, logits)
        assert np.allclose(found[UNKNOWN][:, 0], expected, rtol=1e-3, atol=1e-3)


def test_eight_bits_stay_and_the_head_is_whole(tmp_path):
    path = resolve_model(DEFAULT_MODEL)
    before = onnx.load(path)
    written = tmp_path / "taught.onnx"
    open_finished(path).write(written, UNKNOWN, None, card_of(path, 4), random_head(4, 320))
    after = onnx.load(written)
    onnx.checker.check_model(after)
    assert backbone_digest(written.read_bytes()) == backbone_digest(path.read_bytes())
    head = {each.name: each for each in after.graph.initializer if each.name.startswith("head.")}
    assert {each.data_type for name, each in head.items() if name in ("head.weight", "head.bias")} == {1}
    kept = {each.name: each.raw_data for each in after.graph.initializer}
    for each in before.graph.initializer:
        if not each.name.startswith((UNKNOWN, "head.weight", "head.bias")):
            assert kept[each.name] == each.raw_data


def test_a_graph_without_our_head_is_refused(tmp_path):
    weight = numpy_helper.from_array(np.zeros((3, 4), np.float32), "weight")
    node = helper.make_node("MatMul", ["images", "weight"], ["logits"])
    values = [helper.make_tensor_value_info(name, 1, ["n", size]) for name, size in (("images", 3), ("logits", 4))]
    path = tmp_path / "other.onnx"
    onnx.save(helper.make_model(helper.make_graph([node], "other", values[:1], values[1:], [weight])), path)
    card = Card(
        "other", "other", (ClassInfo(0, "a"), ClassInfo(1, "b")), card_of(resolve_model(DEFAULT_MODEL), 2).preprocessing
    )
    with pytest.raises(
        ModelFileError, match=r"other\.onnx: no head that could be replaced; expected ONNX of shvit export"
    ):
        open_finished(path).write(tmp_path / "new.onnx", UNKNOWN, None, card, random_head(2, 3))
    assert not (tmp_path / "new.onnx").exists()
