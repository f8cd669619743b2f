"""Teaching with what would be lost, what is not there, and what cannot be kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import shvit.teaching.teach
from shvit import Classifier
from shvit.calibration.outputs import Network, Outputs
from shvit.errors import ArgumentError, DataError, ModelFileError
from shvit.teaching.kept import kept_path
from shvit.teaching.report import TeachOptions
from shvit.teaching.teach import teach

from .test_teach import copied


def test_the_model_itself_is_not_written_over(photos, tiny_file, tmp_path):
    model = Path(shutil.copy(tiny_file, tmp_path / "tiny.onnx"))
    with pytest.raises(ArgumentError, match="is the model itself, which would be lost"):
        teach(photos, model, model)
    assert model.read_bytes() == tiny_file.read_bytes()
    assert [each.name for each in tmp_path.iterdir()] == ["tiny.onnx"]


def test_unknown_pictures_that_are_not_there_are_missed_at_once(photos, tiny_file, tmp_path, monkeypatch):
    monkeypatch.setattr("shvit.teaching.teach.look_at", lambda *_: pytest.fail("pictures were looked at"))
    with pytest.raises(DataError, match="no such folder"):
        teach(photos, tiny_file, tmp_path / "mine.onnx", TeachOptions(unknown=tmp_path / "nothing"))


def test_features_that_half_precision_cannot_hold_are_told_of(photos, tiny_file, tmp_path, monkeypatch):
    run = Network.run

    def larger(self: Network, batch: np.ndarray) -> Outputs:
        found = run(self, batch)
        return Outputs(found.logits, found.features * np.float32(1e6))

    monkeypatch.setattr(Network, "run", larger)
    with pytest.raises(DataError, match=r"tiny\.onnx: gives features above 65,504"):
        teach(photos, tiny_file, tmp_path / "mine.onnx")
    assert not list(tmp_path.iterdir())


def test_so_are_kept_ones_of_anybody(taught, tmp_path):
    model = copied(taught, tmp_path / "there")
    path, found = kept_path(model), pq.read_table(kept_path(model))
    info = json.loads(found.schema.metadata[b"shvit.embeddings"])
    numbers = pa.array(np.full(len(found) * info["values"], 1e10, np.float32))
    place = found.schema.get_field_index("embedding")
    found = found.set_column(place, "embedding", pa.FixedSizeListArray.from_arrays(numbers, info["values"]))
    about = {"shvit.embeddings": json.dumps({**info, "dtype": "float32"})}
    pq.write_table(found.replace_schema_metadata(about), path)
    with pytest.raises(DataError, match=r"mine\.embeddings\.parquet: gives features above 65,504"):
        teach(None, model, forget=["red"])


def test_a_link_to_itself_is_one_broken_picture(photos, tiny_file, tmp_path):
    folder = Path(shutil.copytree(photos, tmp_path / "photos"))
    (folder / "red/loop.png").symlink_to("loop.png")
    (folder / "loop.png").symlink_to("loop.png")
    report = teach(folder, tiny_file, tmp_path / "mine.onnx")
    assert len(report.broken) == 1 and "red/loop.png" in report.broken[0]


def test_what_another_command_wrote_meanwhile_is_not_lost(taught, tmp_path, monkeypatch):
    model = copied(taught, tmp_path / "there")

    def learn(*given):
        lesson = real(*given)
        monkeypatch.setattr("shvit.teaching.teach.learn", real)
        teach(None, model, forget="red")
        return lesson

    real = shvit.teaching.teach.learn
    monkeypatch.setattr("shvit.teaching.teach.learn", learn)
    with pytest.raises(ModelFileError, match="was changed meanwhile, and nothing was written; run this again"):
        teach(None, model, forget="green")
    assert [each.label for each in Classifier(model).classes] == ["blue", "green"]


def test_a_class_that_became_another_one_is_to_be_forgotten(taught, photos, tmp_path):
    model, renamed = copied(taught, tmp_path / "there"), tmp_path / "photos" / "crimson"
    shutil.copytree(photos / "red", renamed)
    with pytest.raises(DataError, match=r"'red' has none left \(take it out: --forget red\)"):
        teach(renamed.parent, model, add=True)
    report = teach(renamed.parent, model, add=True, forget="red")
    assert report.counts == {"blue": 24, "green": 24, "crimson": 24}
