from __future__ import annotations

import re
import sys

import numpy as np
import pytest

from shvit.card import Card
from shvit.errors import MissingDependencyError
from shvit.exporting import FileOptions, export_model
from shvit.exporting.executorch import load_program
from shvit.install import install_command
from shvit.modelfile.source import Source
from shvit.modelfile.verify import photograph_crops
from shvit.models.reparam import folded_network


def test_the_file_runs_as_the_network_does(tmp_path, tiny, tiny_card):
    pytest.importorskip("executorch", reason="needs pip install 'shvit[executorch]'")
    file = tmp_path / "tiny.pte"
    report = export_model(tiny, file, tiny_card, FileOptions("executorch", batch_size=2))
    assert report.max_difference < 1e-4
    assert report.top1_agreement == 1
    assert sorted(each.name for each in tmp_path.iterdir()) == ["tiny.card.json", "tiny.pte"]
    assert Card.from_json((tmp_path / "tiny.card.json").read_text()) == report.card
    images = photograph_crops(tiny_card.preprocessing)[:3]
    expected = Source(folded_network(tiny), file, tiny_card, "fp32").logits(images)
    np.testing.assert_allclose(load_program(file, batch_size=2)(images), expected, rtol=1e-3, atol=1e-4)


def test_a_missing_converter_is_told_with_its_command(tmp_path, tiny, tiny_card, monkeypatch):
    for name in [each for each in sys.modules if each.split(".")[0] == "executorch"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "executorch", None)
    with pytest.raises(MissingDependencyError, match=re.escape(install_command("executorch"))):
        export_model(tiny, tmp_path / "a.pte", tiny_card, FileOptions("executorch"))
    assert list(tmp_path.iterdir()) == []
