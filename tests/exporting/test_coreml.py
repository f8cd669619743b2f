from __future__ import annotations

import re
import sys
from dataclasses import replace

import pytest

from shvit.card import Card, ClassInfo
from shvit.errors import ExportError, MissingDependencyError
from shvit.exporting import FileOptions, coreml, export_model
from shvit.install import install_command

ct = pytest.importorskip("coremltools", reason="needs pip install 'shvit[coreml]'")


@pytest.fixture(scope="module")
def package(tmp_path_factory, tiny, tiny_card):
    path = tmp_path_factory.mktemp("coreml") / "tiny.mlpackage"
    card = replace(tiny_card, classes=tuple(ClassInfo(i, label) for i, label in enumerate("aabc")))
    return path, export_model(tiny, path, card, FileOptions("coreml"))


def test_what_the_package_says_of_itself(package):
    path, report = package
    spec = ct.models.MLModel(str(path), skip_model_load=True).get_spec()
    assert spec.specificationVersion == 6  # iOS 15
    assert spec.WhichOneof("Type") == "mlProgram"
    (image,) = spec.description.input
    assert (image.type.imageType.height, image.type.imageType.width) == (128, 192)
    assert image.type.imageType.colorSpace == image.type.imageType.RGB
    assert [each.name for each in spec.description.output] == ["classLabel", "classLabel_probs"]
    card = Card.from_json(spec.description.metadata.userDefined["shvit.card"])
    assert card == report.card
    assert card.verification.engine is None
    assert "not run" in card.verification.notes
    assert report.max_difference is None
    assert report.size_bytes == sum(each.stat().st_size for each in path.rglob("*") if each.is_file())


def test_the_program(package):
    path, _ = package
    spec = ct.models.MLModel(str(path), skip_model_load=True).get_spec()
    (program,) = spec.mlProgram.functions["main"].block_specializations.values()
    kinds = [each.type for each in program.operations if each.type != "const"]
    assert kinds[0] == "cast"
    assert kinds[-3:] == ["softmax", "cast", "classify"]
    assert "batch_norm" not in kinds
    assert "transpose" not in kinds
    labels = program.operations[-1].inputs["classes"].arguments[0].value.immediateValue.list.values
    assert [each.immediateValue.tensor.strings.values[0] for each in labels] == ["a (0)", "a (1)", "b", "c"]


def test_several_labels_are_sigmoids(tmp_path, tiny, tiny_card):
    card = replace(tiny_card, task="multi_label")
    path = tmp_path / "several.mlpackage"
    assert export_model(tiny, path, card, FileOptions("coreml")).card.task == "multi_label"
    spec = ct.models.MLModel(str(path), skip_model_load=True).get_spec()
    (program,) = spec.mlProgram.functions["main"].block_specializations.values()
    kinds = [each.type for each in program.operations if each.type != "const"]
    assert kinds[-3:] == ["sigmoid", "cast", "classify"]
    assert kinds.count("softmax") == sum(tiny.config.attention)  # attention's alone


def test_a_program_that_is_not_what_was_asked_for_is_not_left(tmp_path, tiny, tiny_card, monkeypatch):
    monkeypatch.setattr(coreml, "SPECIFICATION", 5)
    with pytest.raises(ExportError, match="the Core ML program's specification version: expected 5, got 6"):
        export_model(tiny, tmp_path / "a.mlpackage", tiny_card, FileOptions("coreml", "fp32"))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_converter_is_told_with_its_command(tmp_path, tiny, tiny_card, monkeypatch):
    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(MissingDependencyError, match=re.escape(install_command("coreml"))):
        export_model(tiny, tmp_path / "a.mlpackage", tiny_card, FileOptions("coreml"))
    assert list(tmp_path.iterdir()) == []
