"""The commands of docs/models-by-name.md, one after the other, as a reader runs them."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys

import pytest

from shvit.predicting.classifier import Classifier

from ..conftest import PATIENCE, ROOT, SAMPLES
from .conftest import NAME, run_process
from .test_named import WITHOUT_LAB, write_photographs

PAGE = (ROOT / "docs" / "models-by-name.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(line, comments=True)[1:]
    for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("shvit ")
]
NEEDS_LAB = "train"
QUICKLY = ["--epochs", "1", "--image-size", "64", "--batch-size", "4", "--output", "run", "--workers", "0"]


@pytest.fixture
def as_reader(hub, timm_repository, tmp_path, monkeypatch):
    """A folder with what the page's commands read, and a hub with S1, under the name of S4 too: it is as good here."""
    for name in (NAME, "shvit_s4"):
        hub.publish(f"timm/{name}.in1k", timm_repository(NAME))
    monkeypatch.chdir(tmp_path)
    shutil.copy(SAMPLES / "coffee.jpg", "photo.jpg")
    write_photographs(tmp_path / "photos", 70)
    for label in ("tench, Tinca tinca", "goldfish, Carassius auratus"):
        (tmp_path / "labelled").mkdir(exist_ok=True)
        write_photographs(tmp_path / "labelled" / label.split(",")[0], 10)
    av = pytest.importorskip("av")
    with av.open("clip.mp4", "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 256, 256, "yuv420p"
        for _ in range(5):
            image = av.VideoFrame.from_image(pytest.importorskip("PIL.Image").open("photos/000.jpg"))
            container.mux(stream.encode(image))
        container.mux(stream.encode())
    return tmp_path


def test_the_pages_commands_run(hub, as_reader):
    assert len(COMMANDS) > 10
    for arguments in COMMANDS:
        lab = arguments[0] == NEEDS_LAB
        command = [sys.executable, *(["-m", "shvit"] if lab else ["-c", WITHOUT_LAB]), *arguments]
        command += QUICKLY if lab else ["--max-loss", "100"] if "int8" in arguments else []
        if arguments[0] == "serve":
            command += ["--port", "0"]
            with subprocess.Popen(command, env=hub.environment(as_reader), stdout=subprocess.PIPE, text=True) as server:
                assert "serving on" in server.stdout.readline()
                server.terminate()
                server.communicate(timeout=PATIENCE)
            continue
        done = run_process(hub, as_reader, command)
        assert done.returncode == 0, (arguments, done.stderr)
    # What was trained says what it began with, and so does what is exported of it.
    export = ["export", "--model", "run/best.safetensors", "--output", "mine.onnx"]
    done = run_process(hub, as_reader, [sys.executable, "-c", WITHOUT_LAB, *export])
    assert done.returncode == 0, done.stderr
    card = Classifier("mine.onnx").card
    assert card.trained_from.repository == f"timm/{NAME}.in1k" and card.weights is None


def test_the_pages_python_runs(hub, as_reader):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    done = run_process(hub, as_reader, [sys.executable, "-c", code])
    assert done.returncode == 0 and done.stdout.strip(), done.stderr
