from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile

import pytest

from shvit.card import Card
from shvit.errors import MissingDependencyError
from shvit.exporting import FileOptions, export_model

from ..conftest import PATIENCE


def test_a_program_for_pytorch_alone(tmp_path, tiny, tiny_card):
    file = tmp_path / "tiny.pt2"
    report = export_model(tiny, file, tiny_card, FileOptions("torch"))
    assert report.max_difference < 1e-5
    assert report.top1_agreement == 1
    code = (
        "import sys, torch\n"
        "sys.modules['shvit'] = None\n"
        "found = {'shvit.card': ''}\n"
        f"module = torch.export.load({str(file)!r}, extra_files=found).module()\n"
        "print(tuple(module(torch.zeros(5, 128, 192, 3, dtype=torch.uint8)).shape))\n"
        "print(found['shvit.card'])\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    shape, card = answer.stdout.splitlines()
    assert shape == "(5, 4)"
    assert Card.from_json(card) == report.card


@pytest.mark.skipif(shutil.which("g++") is None, reason="AOTInductor needs a C++ compiler")
def test_a_package_of_machine_code(tmp_path, tiny, tiny_card):
    file = tmp_path / "tiny.pt2"
    report = export_model(tiny, file, tiny_card, FileOptions("aotinductor"))
    assert report.max_difference < 1e-4
    assert report.top1_agreement == 1
    with zipfile.ZipFile(file) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith("/extra/shvit.card"))
        assert Card.from_json(archive.read(name).decode()) == report.card


def test_a_missing_compiler_is_told(tmp_path, tiny, tiny_card, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"C\+\+ compiler: apt install g\+\+"):
        export_model(tiny, tmp_path / "a.pt2", tiny_card, FileOptions("aotinductor"))
    assert list(tmp_path.iterdir()) == []
