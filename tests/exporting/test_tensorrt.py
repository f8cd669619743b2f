from __future__ import annotations

import importlib.util

import pytest
import torch

from shvit.errors import ExportError, MissingDependencyError
from shvit.exporting import FileOptions, export_model

PRESENT = importlib.util.find_spec("tensorrt") is not None


@pytest.mark.skipif(not PRESENT or not torch.cuda.is_available(), reason="needs TensorRT and an NVIDIA GPU")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_engine_runs_as_the_network_does(tmp_path, tiny, tiny_card, precision):
    report = export_model(tiny, tmp_path / "tiny.engine", tiny_card, FileOptions("tensorrt", precision, batch_size=4))
    assert report.max_difference < 1e-2
    assert (tmp_path / "tiny.card.json").is_file()


@pytest.mark.skipif(PRESENT and torch.cuda.is_available(), reason="TensorRT and a GPU are there")
def test_what_is_missing_is_told(tmp_path, tiny, tiny_card):
    expected = "PyTorch finds none" if PRESENT else r"-m pip install 'tensorrt>=10,<11'"
    with pytest.raises((ExportError, MissingDependencyError), match=expected):
        export_model(tiny, tmp_path / "a.engine", tiny_card, FileOptions("tensorrt"))
    assert list(tmp_path.iterdir()) == []
