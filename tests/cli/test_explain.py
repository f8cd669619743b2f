"""The command as a user runs it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from shvit import Explainer
from shvit.card import ClassInfo
from shvit.cli.explain import find_class
from shvit.cli.main import main
from shvit.drawing.overlay import attention_map, class_activation_map, colour_table, draw_map

from ..conftest import SAMPLES
from .test_predict import shvit

COFFEE = SAMPLES / "coffee.jpg"


def test_a_sheet_for_each_picture_and_one_line_for_each(tmp_path):
    (tmp_path / "a").mkdir()
    for copy in ("a/coffee.jpg", "coffee.jpg"):
        (tmp_path / copy).write_bytes(COFFEE.read_bytes())
    done = shvit("explain", "coffee.jpg", "a", "missing.jpg", cwd=tmp_path)
    assert done.returncode == 1
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["explained/coffee.png", "explained/coffee-2.png"]
    assert done.stdout.count("97.6% espresso") == 2
    assert done.stderr == "error: missing.jpg: No such file or directory\n1 of 3 inputs failed\n"
    sheet = Image.open(tmp_path / "explained" / "coffee.png")
    assert sheet.width > 4 * 240
    assert not list((tmp_path / "explained").glob(".*"))


@pytest.mark.parametrize("kind", ["attention", "cam"])
def test_one_map_lies_on_the_picture_above_its_scale(tmp_path, kind):
    explanation = Explainer().explain(COFFEE)
    shown = attention_map(explanation, 2) if kind == "attention" else class_activation_map(explanation)
    for form in ("jpg", "png"):
        assert main(["explain", str(COFFEE), "--kind", kind, "--format", form, "--output", str(tmp_path)]) == 0
    with Image.open(tmp_path / "coffee.png") as drawn, Image.open(tmp_path / "coffee.jpg") as compressed:
        assert compressed.format == "JPEG" and compressed.size == drawn.size
        pixels = np.asarray(drawn)
    height, width = explanation.image.height, explanation.image.width
    assert pixels.shape[1] == width
    np.testing.assert_array_equal(pixels[:height], draw_map(explanation.image, explanation.region, shown))
    scale = {tuple(each) for each in pixels[height:].reshape(-1, 3)}
    assert len(scale & {tuple(each) for each in colour_table()}) > 200


def test_numbers_are_those_of_the_library(tmp_path):
    explanation = Explainer().explain(COFFEE)
    for form in ("json", "npz"):
        command = ["explain", str(COFFEE), "--format", form, "--output", str(tmp_path), "--class", "teapot"]
        assert main(command) == 0
    teapot = next(each.class_id for each in explanation.classes if each.label == "teapot")
    written = json.loads((tmp_path / "coffee.json").read_text())
    assert written["region"] == list(explanation.region)
    assert written["predictions"][0]["label"] == "espresso"
    stage_two, _, activation = written["maps"]
    np.testing.assert_allclose(np.array(stage_two["values"]) / 16, explanation.attention_map(2), rtol=1e-6)
    np.testing.assert_allclose(activation["values"], explanation.class_activation(teapot), rtol=1e-6)
    with np.load(tmp_path / "coffee.npz", allow_pickle=False) as arrays:
        assert len([name for name in arrays if name.startswith("attention")]) == 9
        np.testing.assert_array_equal(arrays["attention_stage3_block1"], explanation.attention[3, 1])
        np.testing.assert_array_equal(arrays["class_activation"], explanation.class_activation(teapot))
        assert arrays["class_id"] == teapot


def test_a_token_by_its_place_or_by_a_pixel(tmp_path):
    explanation = Explainer().explain(COFFEE)
    x, y = map(round, explanation.center(2, (2, 1)))
    maps = []
    for where in (["--token", "2,1"], ["--point", f"{x},{y}"]):
        options = ["--kind", "attention", "--stage", "2", "--block", "1", "--format", "json"]
        assert main(["explain", str(COFFEE), *options, *where, "--output", str(tmp_path / where[0])]) == 0
        (shown,) = json.loads((tmp_path / where[0] / "coffee.json").read_text())["maps"]
        assert shown["token"] == [2, 1]
        maps.append(np.array(shown["values"]) / 16)
    np.testing.assert_allclose(maps[0], explanation.attention_map(2, 1, (2, 1)), rtol=1e-6)
    assert np.array_equal(*maps)


def test_a_point_that_one_picture_does_not_have_fails_that_picture(tmp_path, capsys):
    Image.new("RGB", (3000, 2000)).save(tmp_path / "large.png")
    options = ["--point", "1500,1000", "--output", str(tmp_path / "out")]
    assert main(["explain", str(tmp_path / "large.png"), str(COFFEE), *options]) == 1
    out, error = capsys.readouterr()
    assert "large.png" in out and "coffee.jpg: point 1500,1000: outside" in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--stage", "1"], "--stage 1: the stages with attention are 2, 3"),
        (["--kind", "cam", "--stage", "2"], "--stage: is for attention"),
        (["--block", "2"], "--block: needs --stage"),
        (["--token", "1,1"], "--token: needs --stage"),
        (["--stage", "2", "--token", "4,0"], "token 4,0: stage 2 has 4×4 tokens"),
        (["--stage", "2", "--block", "7"], "block 7: stage 2 has attention in its blocks 1 to 4"),
        (["--class", "unicorn"], "--class unicorn: the model has no such class"),
        (["--model", "none.onnx"], "none.onnx: no such model file"),
    ],
)
def test_wrong_usage_is_one_line(tmp_path, capsys, options, message):
    assert main(["explain", str(COFFEE), "--output", str(tmp_path), *options]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_classes_are_found_by_number_id_label_or_synonym():
    labels = ("tabby, tabby cat", "crane, wading bird", "crane, lifting machine", "7")
    classes = [ClassInfo(i, label, f"n0{i}") for i, label in enumerate(labels)]
    for text, expected in (("0", 0), ("N03", 3), ("Tabby Cat", 0), ("crane, lifting machine", 2), ("7", 3)):
        assert find_class(text, classes) == expected
    with pytest.raises(ValueError, match=r"several: 1 \(crane, wading bird\), 2"):
        find_class("crane", classes)
    with pytest.raises(ValueError, match="no such class"):
        find_class("4", classes)
