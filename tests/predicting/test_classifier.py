from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from shvit import Classifier
from shvit.card import ClassInfo, Preprocessing
from shvit.engines import load_engine
from shvit.errors import ImageTypeError, ModelFileError
from shvit.install import install_command

from ..conftest import PATIENCE, SAMPLES, colour_card, write_colour_model

RED, BLUE = (220, 30, 10), (10, 30, 220)


@pytest.fixture(params=["onnxruntime", "openvino"])
def classifier(request, colour_model) -> Classifier:
    return Classifier(colour_model, engine=request.param, threads=1)


def test_labels_and_scores(classifier):
    result = classifier.predict(Image.new("RGB", (50, 40), RED))[0]
    assert [each.label for each in result.predictions] == ["red", "green", "blue"]
    logits = np.array(RED) / 16
    expected = np.exp(logits) / np.exp(logits).sum()
    assert [each.score for each in result.predictions] == pytest.approx(sorted(expected, reverse=True), rel=1e-5)
    assert result.predictions[0].class_id == 0


def test_one_or_many_of_any_kind_in_order(tmp_path, classifier):
    red = Image.new("RGB", (50, 40), RED)
    red.save(tmp_path / "red.png")
    blue = np.full((60, 60, 3), BLUE, np.uint8)
    results = classifier.predict([tmp_path / "red.png", blue, (tmp_path / "red.png").read_bytes(), red], top_k=1)
    assert [each.predictions[0].label for each in results] == ["red", "blue", "red", "red"]
    assert results[0].source == str(tmp_path / "red.png")
    assert len(classifier.predict(str(tmp_path / "red.png"))) == 1


def test_bytes_of_any_kind_and_several_in_any_order_kept(tmp_path, classifier):
    path = tmp_path / "red.png"
    Image.new("RGB", (50, 40), RED).save(path)
    data = path.read_bytes()
    expected = classifier.predict(data)
    for same in (bytearray(data), memoryview(data), memoryview(b"\0".join([b""] + [bytes([x]) for x in data]))[1::2]):
        assert classifier.predict(same) == expected
        assert classifier.predict([same]) == list(classifier.stream(same)) == expected
    blue = Image.new("RGB", (9, 9), BLUE)
    for several in ((path, blue), iter([path, blue]), (each for each in (path, blue)), {0: path, 1: blue}.values()):
        assert [each.predictions[0].label for each in classifier.predict(several)] == ["red", "blue"]
    assert [each.source for each in classifier.stream(str(path))] == [str(path)]
    assert classifier.predict([]) == classifier.predict(iter(())) == []


class Tensor:
    """As other libraries have them: an array, that gives its rows one by one."""

    def __array__(self) -> np.ndarray:
        return np.zeros((2, 2, 3), np.uint8)

    def __iter__(self):
        return iter(np.zeros((2, 2, 3), np.uint8))


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (None, "None"),
        ({"a.jpg", "b.jpg"}, "a set"),
        ({"a.jpg": 1}, "a dict"),
        (3, "a int"),
        (io.BytesIO(b"picture"), "a BytesIO"),
        (Tensor(), "a Tensor"),
    ],
)
def test_what_is_no_image_nor_several_is_refused_as_a_call(classifier, given, named):
    says = f"images: expected a path, encoded bytes, a PIL image or an array .*, or a list.*, got {named}$"
    with pytest.raises(ImageTypeError, match=says) as caught:
        classifier.predict(given)
    assert isinstance(caught.value, TypeError)
    with pytest.raises(ImageTypeError, match=says):
        list(classifier.stream(given))


@pytest.mark.parametrize("decoding", ["exact", "fast"])
def test_among_several_what_is_no_image_is_one_failed_result(colour_model, decoding):
    classifier = Classifier(colour_model, threads=1, decoding=decoding)
    several = [None, {"a.jpg"}, np.zeros((2, 9, 9, 3), np.uint8), "no\0name.jpg", Image.new("RGB", (9, 9), BLUE)]
    *failed, blue = classifier.predict(several)
    assert [each.source for each in failed] == ["<NoneType>", "<set>", "<array (2, 9, 9, 3)>", "no\0name.jpg"]
    assert failed[0].error == "expected a path, encoded bytes, a PIL image or an array uint8 (H, W, 3), got None"
    assert failed[1].error.endswith("got a set")
    assert failed[2].error.endswith("got uint8 (2, 9, 9, 3); several images are given as a list")
    assert failed[3].error.startswith("embedded null")
    assert blue.predictions[0].label == "blue"


def test_a_failed_image_is_one_failed_result(classifier):
    results = classifier.predict([b"not an image", Image.new("RGB", (9, 9), BLUE)])
    assert results[0].error == "not an image, or of a format that is not known"
    assert results[0].to_dict() == {"source": "<12 bytes>", "error": results[0].error}
    assert results[1].predictions[0].label == "blue"


def test_batches_of_any_size_give_what_one_by_one_gives(classifier):
    rng = np.random.default_rng(0)
    batch = rng.integers(0, 256, (7, 32, 48, 3), dtype=np.uint8)
    together = classifier.predict_batch(batch)
    assert together.dtype == np.float32
    np.testing.assert_allclose(together.sum(axis=1), 1, rtol=1e-5)
    single = np.concatenate([classifier.predict_batch(batch[i : i + 1]) for i in range(7)])
    np.testing.assert_allclose(together, single, rtol=1e-5)


@pytest.mark.parametrize(
    "batch",
    [
        np.zeros((1, 32, 48, 3), np.float32),
        np.zeros((32, 48, 3), np.uint8),
        np.zeros((1, 48, 32, 3), np.uint8),
        np.zeros((0, 32, 48, 3), np.uint8),
    ],
)
def test_a_wrong_batch_is_refused_with_what_was_expected(classifier, batch):
    with pytest.raises(ValueError, match=r"expected uint8 \(N, 32, 48, 3\), got"):
        classifier.predict_batch(batch)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_file_without_a_card(tmp_path, engine):
    with pytest.raises(ModelFileError, match=r"bare\.onnx: the file has no card"):
        Classifier(write_colour_model(tmp_path / "bare.onnx", None), engine=engine)


def test_a_file_with_a_newer_card(tmp_path):
    card = colour_card().to_json().replace('"schema_version": 2', '"schema_version": 3')
    with pytest.raises(ModelFileError, match=r"new\.onnx: the card has schema version 3"):
        Classifier(write_colour_model(tmp_path / "new.onnx", card))


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"preprocessing": Preprocessing((64, 64))}, r"the graph's input has the shape \(None, 32, 48, 3\), the card"),
        ({"classes": (ClassInfo(0, "red"),)}, r"the graph's output has the shape \(None, 3\), the card says"),
    ],
)
def test_a_card_of_another_graph(tmp_path, engine, changes, expected):
    file = write_colour_model(tmp_path / "other.onnx", colour_card(**changes).to_json())
    with pytest.raises(ModelFileError, match=expected):
        Classifier(file, engine=engine)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("content", [b"", b"hello", b"\x08\x0a" * 50])
def test_a_file_that_is_not_onnx(tmp_path, engine, content):
    file = tmp_path / "broken.onnx"
    file.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"broken\.onnx: (not a model that \w+ can load|it is empty)") as caught:
        Classifier(file, engine=engine)
    assert "\n" not in str(caught.value)


def test_names_and_values_that_do_not_exist(tmp_path, colour_model):
    with pytest.raises(ModelFileError, match=r"nor the name of a shipped model \(shvit_s1_tiny_imagenet\)"):
        Classifier("shvit_s9")
    with pytest.raises(ModelFileError, match="is a folder"):
        Classifier(tmp_path)
    with pytest.raises(ValueError, match="engine: expected one of auto, onnxruntime, openvino"):
        Classifier(colour_model, engine="tensorflow")
    with pytest.raises(ValueError, match="threads: expected a positive number"):
        Classifier(colour_model, threads=0)
    with pytest.raises(ValueError, match="top_k"):
        Classifier(colour_model).predict(b"", top_k=0)


def test_the_shipped_model_knows_a_cup_of_coffee():
    classifier = Classifier()
    best = classifier.predict(SAMPLES / "coffee.jpg")[0].predictions[0]
    assert best.label == "espresso"
    assert best.wnid == "n07920052"
    assert best.score > 0.5
    assert classifier.card.metrics[0].name == "top1"


def test_engines_agree_on_the_shipped_model():
    batch = np.stack([Classifier().preprocess(path) for path in sorted(SAMPLES.glob("*.jpg"))])
    ort, ov = (Classifier(engine=name).predict_batch(batch) for name in ("onnxruntime", "openvino"))
    # It is an int8 model, which engines round at different places; tests/export has float ones agree to 1e-4.
    assert np.abs(ort - ov).max(axis=1).mean() < 0.05
    second, first = np.sort(ort, axis=1)[:, -2:].T
    clear = first - second > 0.2
    assert clear.sum() > len(batch) / 2 and (ort.argmax(axis=1) == ov.argmax(axis=1))[clear].all()


def test_an_engine_that_is_not_installed_says_how_to_get_it(colour_model):
    code = (
        "import sys; sys.modules['openvino'] = None\n"
        "from shvit.engines import load_engine\n"
        "from shvit.errors import ShvitError\n"
        f"try: load_engine('openvino', {str(colour_model)!r})\n"
        "except ShvitError as error: print(error)\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE).stdout
    assert install_command("openvino") in answer


def test_importing_the_package_loads_no_pytorch_and_no_engine():
    code = (
        "import sys, shvit, shvit.cli.main, shvit.predicting.classifier\n"
        "heavy = {'torch', 'timm', 'onnxruntime', 'openvino', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "shvit.Classifier(); assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE)


def test_a_lab_feature_without_pytorch_says_how_to_get_it():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import shvit\n"
        "try: shvit.create_model('shvit_s1')\n"
        "except ImportError as error: print(error)\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE).stdout
    assert install_command("torch") in answer


def test_metadata_is_read_by_both_engines(colour_model):
    first, second = (load_engine(name, colour_model).metadata for name in ("onnxruntime", "openvino"))
    assert first["shvit.card"] == second["shvit.card"] == colour_card().to_json()
