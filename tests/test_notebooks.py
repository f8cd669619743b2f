"""The notebooks in docs/, run from top to bottom."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import onnx
import pytest
from PIL import Image

from .conftest import PATIENCE, ROOT

NOTEBOOKS = ROOT / "docs" / "notebooks"


EXECUTE = """
import sys
import nbformat
from nbclient import NotebookClient

source, folder, executed = sys.argv[1:]
notebook = nbformat.read(source, as_version=4)
NotebookClient(notebook, timeout=300, resources={"metadata": {"path": folder}}).execute()
nbformat.write(notebook, executed)
"""
"""In a process of its own: it would wait for ever where a browser's test has left an event loop running."""


def run(name: str, tmp_path: Path) -> list[str]:
    """Runs a notebook in a kernel of its own, whose temporary files are in ``tmp_path``; what its cells printed."""
    variables = {"TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1", "IPYTHONDIR": str(tmp_path / "i")}
    executed = tmp_path / name
    program = [sys.executable, "-c", EXECUTE, NOTEBOOKS / name, NOTEBOOKS, executed]
    done = subprocess.run(
        program, capture_output=True, text=True, timeout=2 * PATIENCE, env={**os.environ, **variables}
    )
    assert done.returncode == 0, done.stderr
    notebook = nbformat.read(executed, as_version=4)
    outputs = [each for cell in notebook.cells for each in cell.get("outputs", ())]
    assert all(each.get("name") != "stderr" or "Warning: " in each["text"] for each in outputs)
    return ["".join(each["text"] for each in cell.get("outputs", ()) if "text" in each) for cell in notebook.cells]


def test_own_photographs(tmp_path):
    printed = run("own_photographs.ipynb", tmp_path)
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
    assert [line[0] for line in lines] == ["coffee", "rocket", "viaduct"]
    assert sum(line[1].startswith(line[0]) for line in lines) >= 2, lines


@pytest.mark.parametrize("file", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda file: file.name)
def test_outputs_are_not_kept(file):
    cells = nbformat.read(file, as_version=4).cells
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
