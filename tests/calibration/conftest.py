from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shvit import Classifier
from shvit.calibration.made_pictures import made_pictures
from shvit.card import Card, ClassInfo, Preprocessing
from shvit.exporting import FileOptions, export_model
from shvit.modelfile.verify import photograph_crops

from ..exporting.conftest import tiny, tiny_card

__all__ = ["tiny", "tiny_card"]

CARD = Card("tiny", "shvit", tuple(ClassInfo(i, label) for i, label in enumerate("abcd")), Preprocessing((64, 96), 1.0))


@pytest.fixture(scope="module", autouse=True)
def _few_made_pictures():
    """A sixth of them takes a second, and not six."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shvit.calibration.calibrate.made_pictures", partial(made_pictures, count=40))
        yield


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory, tiny) -> Path:
    """A network of random weights as a model file for rectangular images; tests must not change it."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.onnx"
    export_model(tiny, path, CARD, FileOptions("onnx", "fp32"))
    return path


def write_labelled(folder: Path, model: Path, count: int = 90, right: float = 0.8) -> Path:
    """Parts of photographs, of which the model is right about so many, in a folder for each class."""
    classifier = Classifier(model, engine="onnxruntime", threads=1)
    crops = photograph_crops(classifier.card.preprocessing)[:count]
    best, rng = classifier.predict_batch(crops).argmax(axis=1), np.random.default_rng(0)
    for place, (crop, answer) in enumerate(zip(crops, best, strict=True)):
        label = answer if rng.random() < right else (answer + 1) % len(classifier.classes)
        path = folder / "val" / classifier.classes[label].label / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(crop).save(path)
    return folder


@pytest.fixture(scope="session")
def labelled(tmp_path_factory, tiny_file) -> Path:
    """90 images; tests must not change them."""
    return write_labelled(tmp_path_factory.mktemp("labelled") / "photos", tiny_file)


@pytest.fixture(scope="session")
def strange(tmp_path_factory) -> Path:
    """40 pictures of none of the classes."""
    folder = tmp_path_factory.mktemp("strange") / "other"
    folder.mkdir()
    for place, picture in enumerate(made_pictures("waves", 40)):
        picture.save(folder / f"{place}.png")
    return folder
