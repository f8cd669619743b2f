"""The notebooks in docs/, run from top to bottom."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import onnx
import pytest
from nbclient import NotebookClient
from PIL import Image

from .conftest import PATIENCE, ROOT

NOTEBOOKS = ROOT / "docs" / "notebooks"


def run(name: str, monkeypatch, tmp_path: Path) -> list[str]:
    """Runs a notebook in a kernel of its own, whose temporary files are in ``tmp_path``; what its cells printed."""
    for variable, value in (("TMPDIR", str(tmp_path)), ("OMP_NUM_THREADS", "1"), ("IPYTHONDIR", str(tmp_path / "i"))):
        monkeypatch.setenv(variable, value)
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    NotebookClient(notebook, timeout=2 * PATIENCE, resources={"metadata": {"path": NOTEBOOKS}}).execute()
    outputs = [each for cell in notebook.cells for each in cell.get("outputs", ())]
    assert all(each.get("name") != "stderr" or "Warning: " in each["text"] for each in outputs)
    return ["".join(each["text"] for each in cell.get("outputs", ()) if "text" in each) for cell in notebook.cells]


def test_own_photographs(monkeypatch, tmp_path):
    printed = run("own_photographs.ipynb", monkeypatch, tmp_path)
    (work,) = tmp_path.glob("shvit-*")
    metrics = (work / "run" / "metrics.csv").read_text()
    assert len(metrics.splitlines()) > 4
    results = json.loads((work / "report" / "results.json").read_text())
    assert (results["images"], results["command"][:15]) == (6, "shvit.evaluate(")
    assert results["top1"] >= 0.5  # by chance 0.33
    onnx.checker.check_model(onnx.load(work / "mine.onnx"))
    assert "same first label on" in "".join(printed)
    labelled, original = Image.open(work / "coffee.jpg"), Image.open(ROOT / "samples" / "coffee.jpg")
    assert labelled.size == original.size
    lines = [line.split("  ") for line in printed[-1].splitlines()]
    assert [line[0] for line in lines] == ["coffee", "motorcycle", "rocket"]
    assert sum(line[1].startswith(line[0]) for line in lines) >= 2, lines


@pytest.mark.parametrize("file", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda file: file.name)
def test_outputs_are_not_kept(file):
    cells = nbformat.read(file, as_version=4).cells
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
