"""What is said of what is given in place of a model file, or of weights."""

import pickle
import shlex
import shutil

import pytest

from shvit import shipped
from shvit.errors import ModelFileError
from shvit.hub.names import PUBLISHED
from shvit.shipped import DEFAULT_MODEL, NETWORKS, SHIPPED_MODELS, nearest_network, resolve_model, why_no_weights

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
PAGE = b"\n<!DOCTYPE html>\n<html><body>404</body></html>"
SAFETENSORS = (2).to_bytes(8, "little") + b"{}" + b"\0" * 8
PICKLE = pickle.dumps({"a": 1}, 2)


def refused(model) -> str:
    with pytest.raises(ModelFileError) as told:
        resolve_model(model)
    assert str(told.value).startswith(f"{model}: ")
    return str(told.value)


@pytest.mark.parametrize("name", ["a.onnx", "a.tflite", "a.xml", "a"])
@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "it is empty"), (LFS, "git lfs pull"), (PAGE, "is a web page (HTML), as a failed download leaves it")],
)
def test_what_stands_in_place_of_a_download_is_named(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    assert said in refused(tmp_path / name)
    assert said in why_no_weights(tmp_path / name)
    (tmp_path / "w.pth").write_bytes(content)
    assert said in why_no_weights(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("name", "content", "output"),
    [
        ("my best.safetensors", SAFETENSORS, "my best.onnx"),
        ("w.pth", PICKLE, "w.onnx"),
        ("w.pt", b"PK\x03\x04", "w.onnx"),
        ("w.ckpt", b"anything", "w.onnx"),
        ("renamed.onnx", SAFETENSORS, "renamed-model.onnx"),  # not over the weights
        ("renamed.onnx", PICKLE, "renamed-model.onnx"),
    ],
)
def test_weights_are_told_how_to_become_a_model_file(tmp_path, name, content, output):
    weights = tmp_path / name
    weights.write_bytes(content)
    command = shlex.split(refused(weights).partition("make one with: ")[2])
    assert command == ["shvit", "export", "--model", str(weights), "--output", output]
    assert why_no_weights(weights) is None


def test_model_files_are_models_and_no_weights(tmp_path):
    for name in ("m.onnx", "renamed.pth"):
        path = tmp_path / name
        shutil.copy(SHIPPED_MODELS[DEFAULT_MODEL], path)
        assert "is a finished model file" in why_no_weights(path)
    assert resolve_model(tmp_path / "m.onnx") == tmp_path / "m.onnx"
    (tmp_path / "m.tflite").write_bytes(b"\x1c\0\0\0TFL3")
    assert resolve_model(tmp_path / "m.tflite").is_file()
    assert "is a finished model file" in why_no_weights(tmp_path / "m.tflite")
    assert "is a shipped model file" in why_no_weights(DEFAULT_MODEL)


def test_files_for_elsewhere_are_not_run(tmp_path):
    (tmp_path / "m.pte").write_bytes(b"x")
    assert "is for ExecuTorch and not run here; expected .onnx, .tflite or .xml" in refused(tmp_path / "m.pte")
    (tmp_path / "m.mlpackage").mkdir()
    assert "is for Core ML" in refused(tmp_path / "m.mlpackage")
    (tmp_path / "m.xml").write_bytes(b"<net/>")
    (tmp_path / "m.bin").write_bytes(b"x")
    assert f"give the first: {tmp_path / 'm.xml'}" in refused(tmp_path / "m.bin")


def test_a_folder_is_one_and_that_of_a_run_says_where_its_weights_are(tmp_path):
    assert "is a folder; expected a model file (.onnx, .tflite or .xml)" in refused(tmp_path)
    best = tmp_path / "best.safetensors"
    best.write_bytes(SAFETENSORS)
    assert f"shvit export --model {best} --output best.onnx" in refused(tmp_path)
    assert f"its weights are {best}" in why_no_weights(tmp_path)


@pytest.mark.parametrize("name", ["s4", "S4", "shvit_s4", "SHViT-S4", "shvits4"])
def test_a_network_is_no_file(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "shvit_s4 is a published network's name: give it as a text, not as a path" in refused(name)
    assert "shvit_s4 is a network's name" in why_no_weights(name)


@pytest.mark.parametrize("name", ["shvit_s9", "resnet50", "5", "s4.onnx", ""])
def test_other_names_are_like_none(name):
    assert nearest_network(name) is None


def test_a_name_that_is_nearly_one_is_answered_with_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refused("shvit_s1_tiny_imagnet").endswith(f"; did you mean {DEFAULT_MODEL}?")
    assert "nor the name of a shipped model" in refused("mine.onnx") and "mean" not in refused("mine.onnx")
    assert "did you mean shvit_s" in why_no_weights("shvit_s9")


def test_an_address_is_no_file():
    assert "download it first" in refused("https://host/m.onnx")
    assert "download it first" in why_no_weights("https://host/m.pth")


def test_the_networks_are_those_that_there_are():
    assert tuple(PUBLISHED) == shipped.NETWORKS == NETWORKS
