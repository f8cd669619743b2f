"""What docs/deploy/ says, followed literally: its export commands, its Python and its C++."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from shvit import Classifier
from shvit.cli.main import main
from shvit.models import save_checkpoint

from ..conftest import ROOT, SAMPLES, make_debian

DOCS = ROOT / "docs" / "deploy"
NEEDS = {
    "onnx": "onnxruntime",
    "openvino": "openvino",
    "coreml": "coremltools",
    "litert": "litert_torch",
    "executorch": "executorch",
    "torch": "torch",
}


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (DOCS / f"{page}.md").read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture
def here(tmp_path, tiny, tiny_card, monkeypatch) -> Path:
    """A folder with what the pages assume: a checkpoint and a photograph."""
    metadata = {
        "classes": [{"class_id": each.class_id, "label": each.label} for each in tiny_card.classes],
        "preprocessing": {"image_size": tiny_card.preprocessing.image_size},
    }
    save_checkpoint(tiny, tmp_path / "mine.safetensors", metadata=metadata)
    shutil.copy(SAMPLES / "coffee.jpg", tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def follow_exports(page: str) -> None:
    commands = [
        line for block in blocks(page, "bash") for line in block.splitlines() if line.startswith("shvit export")
    ]
    assert commands
    for command in commands:
        assert main(shlex.split(command)[1:]) == 0, command


@pytest.mark.parametrize("page", NEEDS)
def test_the_page(page, here, capsys):
    pytest.importorskip(NEEDS[page], reason=f"needs {NEEDS[page]}")
    if page == "torch" and shutil.which("g++") is None:
        pytest.skip("needs a C++ compiler")
    follow_exports(page)
    code = "\n".join(blocks(page, "python"))
    assert code
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert answer.returncode == 0, answer.stderr
    expected = {"coreml": "not run: Core ML", "torch": "torch.Size([2, 4])"}.get(page)
    last = answer.stdout.strip().splitlines()[-1]
    assert last.startswith(expected) if expected else last in tuple("abcd")


@pytest.mark.skipif(shutil.which("cmake") is None or shutil.which("g++") is None, reason="needs cmake and g++")
def test_openvino_from_cpp(here):
    pytest.importorskip("openvino", reason="needs openvino")
    follow_exports("openvino")
    (source,), (lists,) = blocks("openvino", "cpp"), blocks("openvino", "cmake")
    (here / "classify.cpp").write_text(source)
    (here / "CMakeLists.txt").write_text(lists)
    classifier = Classifier(here / "mine.xml", threads=1)
    pixels = classifier.preprocess("photo.jpg")
    (here / "pixels.raw").write_bytes(pixels.tobytes())
    build = blocks("openvino", "bash")[-1].replace("python -c", f"{shlex.quote(sys.executable)} -c")
    answer = subprocess.run(["bash", "-ec", build], capture_output=True, text=True, timeout=300)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    best = int(classifier.predict_batch(pixels[np.newaxis])[0].argmax())
    assert answer.stdout.strip().splitlines()[-1] == str(best)
    assert classifier.card.to_json() in answer.stderr


@pytest.mark.slow
def test_onnxruntime_from_cpp(here, program, tmp_path):
    """In a Debian that has ONNX Runtime's headers and library as packages."""
    # debootstrap does not find libre2-11, which ONNX Runtime's package names by what it provides.
    root = make_debian(program("debootstrap"), "trixie", "g++,libonnxruntime-dev,libre2-11", tmp_path / "debian")
    follow_exports("onnx")
    classifier = Classifier(here / "mine.onnx", engine="onnxruntime", threads=1)
    pixels = classifier.preprocess("photo.jpg")
    (source,) = blocks("onnx", "cpp")
    (root / "root" / "classify.cpp").write_text(source)
    (root / "root" / "pixels.raw").write_bytes(pixels.tobytes())
    shutil.copy(here / "mine.onnx", root / "root" / "mine.onnx")
    build = f"cd /root\n{blocks('onnx', 'bash')[-1]}"
    answer = subprocess.run(["chroot", root, "bash", "-ec", build], capture_output=True, text=True, timeout=300)
    assert answer.returncode == 0, answer.stderr[-2000:]
    assert answer.stdout.strip() == str(int(classifier.predict_batch(pixels[np.newaxis])[0].argmax()))


def test_the_page_for_browsers(here, program, capsys):
    program("npm")
    follow_exports("web")
    assert (here / "site" / "model.onnx").read_bytes() == (here / "mine.onnx").read_bytes()


def test_every_page_is_in_the_index():
    index = (DOCS / "README.md").read_text()
    assert all(f"({each.name})" in index for each in DOCS.glob("*.md") if each.name != "README.md")
