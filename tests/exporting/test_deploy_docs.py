"""What docs/deploy/ says, followed literally: its export commands, its Python and its C++."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from shvit import Classifier
from shvit.card import Preprocessing
from shvit.cli.main import main
from shvit.images.preprocess import decode, preprocess
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
    (tmp_path / "prepare.py").write_text("".join(blocks("README", "python")))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def follow_exports(page: str) -> None:
    commands = [
        line for block in blocks(page, "bash") for line in block.splitlines() if line.startswith("shvit export")
    ]
    assert commands
    for command in commands:
        assert main(shlex.split(command)[1:]) == 0, command


def unlike_photographs(folder: Path) -> list[str]:
    """Wide, tall, turned by EXIF, small, grey and transparent ones, whose edges differ from their middles."""
    generator = np.random.default_rng(5)
    names = []
    for place, (width, height) in enumerate([(320, 90), (90, 320), (300, 200), (47, 61), (640, 427), (333, 250)]):
        coarse = Image.fromarray(generator.integers(0, 256, (9, 9, 3), np.uint8)).resize((width, height))
        if place == 3:
            coarse = coarse.convert("L")
        if place == 4:
            coarse.putalpha(90)
        exif = Image.Exif()
        if place == 2:
            exif[ExifTags.Base.Orientation] = 6
        names.append(f"unlike{place}.png")
        coarse.save(folder / names[-1], exif=exif)
    return names


# Runs a page's Python on each photograph, and keeps what its network was given.
ON_EACH = """
import sys
from pathlib import Path
import numpy as np
code, *names = sys.argv[1:]
for name in names:
    scope = {}
    exec(code.replace("photo.jpg", name), scope)
    np.save(Path(name).with_suffix(".npy"), scope["pixels"])
"""


@pytest.mark.parametrize("resize_mode", ["crop", "squash", "pad"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos"])
@pytest.mark.parametrize(("image_size", "crop_ratio"), [((64, 64), 0.875), ((48, 96), 0.9), ((65, 33), 1.0)])
def test_the_pixels_are_the_runtimes(resize_mode, interpolation, image_size, crop_ratio, tmp_path):
    scope: dict = {}
    exec("".join(blocks("README", "python")), scope)
    preprocessing = Preprocessing(image_size, crop_ratio, resize_mode, interpolation)
    for name in unlike_photographs(tmp_path):
        expected = preprocess(decode(tmp_path / name), preprocessing)
        assert np.array_equal(scope["prepare"](tmp_path / name, asdict(preprocessing)), expected), name


@pytest.mark.parametrize("page", NEEDS)
def test_the_page(page, here, capsys):
    pytest.importorskip(NEEDS[page], reason=f"needs {NEEDS[page]}")
    if page == "torch" and shutil.which("g++") is None:
        pytest.skip("needs a C++ compiler")
    follow_exports(page)
    code = "\n".join(blocks(page, "python"))
    assert code
    if page == "coreml":
        answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
        assert answer.returncode == 0, answer.stderr
        assert answer.stdout.startswith("not run: Core ML")
        return
    names = unlike_photographs(here)
    command = [sys.executable, "-c", ON_EACH, code, *names]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=240, env={**os.environ, "PYTHONPATH": "."})
    assert answer.returncode == 0, answer.stderr
    printed = answer.stdout.strip().splitlines()
    if page == "torch":
        assert printed[1::2] == ["torch.Size([2, 4])"] * len(names)  # AOTInductor's
        printed = printed[::2]
    assert main(["export", "--model", "mine.safetensors", "--output", "beside.onnx"]) == 0
    classifier = Classifier("beside.onnx", engine="onnxruntime", threads=1)
    for name, label, result in zip(names, printed, classifier.predict(names), strict=True):
        assert np.array_equal(np.load(Path(name).with_suffix(".npy")), classifier.preprocess(name)), name
        assert label == result.predictions[0].label, name


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
