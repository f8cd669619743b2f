"""What goes to other processes and comes back: by multiprocessing, joblib, Ray's pickle, and copied."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

import shvit
from shvit.errors import ModelFileError

from ..conftest import SAMPLES, colour_card, write_colour_model

RED = np.full((40, 50, 3), (220, 30, 10), np.uint8)


def label(made: shvit.Classifier | shvit.Explainer) -> str:
    """In whichever process this is."""
    if isinstance(made, shvit.Explainer):
        return made.explain(SAMPLES / "coffee.jpg").predictions[0].label
    return made.predict(RED)[0].predictions[0].label


@pytest.fixture
def classifier(colour_model) -> shvit.Classifier:
    return shvit.Classifier(colour_model, "onnxruntime", threads=1, batch_size=3)


def test_a_spawned_process_classifies(classifier):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(label, [classifier, shvit.Explainer(threads=1)]) == ["red", "espresso"]


def test_joblib_s_processes_classify(classifier):
    joblib = pytest.importorskip("joblib", reason="needs joblib")
    with joblib.parallel_config("loky", n_jobs=2):
        assert joblib.Parallel()(joblib.delayed(label)(classifier) for _ in range(2)) == ["red"] * 2


def ray_s_pickle():
    return pytest.importorskip("ray.cloudpickle", reason="needs shvit[ray]")


@pytest.mark.parametrize(
    "again",
    [
        lambda made: pickle.loads(pickle.dumps(made)),
        lambda made: ray_s_pickle().loads(ray_s_pickle().dumps(made)),
        copy.copy,
        copy.deepcopy,
    ],
    ids=["pickle", "ray", "copy", "deepcopy"],
)
def test_a_copy_is_made_with_the_same_file_and_arguments(classifier, again):
    made = again(classifier)
    assert (made.engine, made.threads, made.batch_size, made.card) == ("onnxruntime", 1, 3, classifier.card)
    assert made._engine is not classifier._engine
    assert label(made) == "red"
    explainer = again(shvit.Explainer(threads=1))
    assert label(explainer) == "espresso"
    for value in (classifier.card, classifier.predict(RED)[0], classifier.predict(RED)[0].predictions[0]):
        assert again(value) == value


def test_every_argument_goes_along():
    model = shvit.Classifier(decoding="fast", images=7, embedding=True)
    made = pickle.loads(pickle.dumps(model))
    assert made._arguments == model._arguments
    assert made.decoding == "fast"
    result = pickle.loads(pickle.dumps(made.predict(SAMPLES / "coffee.jpg")[0]))
    assert result.embedding is not None


def test_the_file_is_found_from_another_folder(colour_model, tmp_path, monkeypatch):
    shutil.copy(colour_model, tmp_path / "here.onnx")
    monkeypatch.chdir(tmp_path)
    data = pickle.dumps(shvit.Classifier("here.onnx", threads=1))
    monkeypatch.chdir("/")
    assert label(pickle.loads(data)) == "red"


def test_a_shipped_model_goes_by_its_name():
    assert str(Path(shvit.__file__).parent).encode() not in pickle.dumps(shvit.Classifier(threads=1))


def test_another_file_at_the_same_path_is_refused(tmp_path):
    path = write_colour_model(tmp_path / "model.onnx", colour_card().to_json())
    classifier = shvit.Classifier(path, threads=1)
    data = pickle.dumps(classifier)
    write_colour_model(path, colour_card(notes="another").to_json())
    with pytest.raises(ModelFileError, match=r"model\.onnx: is another file than the one that the Classifier was pick"):
        pickle.loads(data)
    with pytest.raises(ModelFileError, match=r"model\.onnx: was written anew since it was loaded"):
        pickle.dumps(classifier)
    assert label(classifier) == "red"
    path.unlink()
    with pytest.raises(ModelFileError, match=r"model\.onnx: no such model file"):
        pickle.loads(data)


def test_another_file_of_weights_beside_openvinos_is_refused(colour_model, tmp_path):
    openvino = pytest.importorskip("openvino", reason="needs shvit[openvino]")
    openvino.save_model(openvino.Core().read_model(colour_model), tmp_path / "model.xml", compress_to_fp16=False)
    classifier = shvit.Classifier(tmp_path / "model.xml", threads=1)
    data = pickle.dumps(classifier)
    assert label(pickle.loads(data)) == "red"
    weights = (tmp_path / "model.bin").read_bytes()
    (tmp_path / "model.bin").write_bytes(bytes(len(weights)))
    with pytest.raises(ModelFileError, match=r"model\.xml: is another file"):
        pickle.loads(data)
    with pytest.raises(ModelFileError, match=r"model\.xml: was written anew"):
        pickle.dumps(classifier)


@pytest.mark.parametrize("kind", [shvit.Client, shvit.AsyncClient])
def test_a_client_goes_along_with_its_token(kind):
    made = pickle.loads(pickle.dumps(kind("http://127.0.0.1:1/", "secret", "model", timeout=3, retries=2)))
    assert type(made) is kind
    assert (made.url, made.model, made.retries) == ("http://127.0.0.1:1", "model", 2)
    assert made._options["headers"] == {"Authorization": "Bearer secret"}
    assert made._options["timeout"] == 3
