"""A static folder that classifies in the browser: the page, a model file, ONNX Runtime Web, a service worker."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from shvit.atomic import atomic_folder
from shvit.card import Card
from shvit.drawing import overlay
from shvit.engines.onnx_graph import outputs_message
from shvit.errors import ExportError, ModelFileError
from shvit.hub.resolve import resolve_model
from shvit.predicting.classifier import Classifier
from shvit.predicting.explain import find_tensors
from shvit.web import MODEL, PAGE, SAMPLES
from shvit.web.onnxruntime_web import VERSION, write_runtime

CARD = "card.json"
CONFIG = "config.json"
VERSION_FILE = "version.js"
"""The last file written, by which a folder is known to be of this kind."""

LATER = (MODEL, "ort/")
"""What a visit loads when it gets there, and not before the page shows: most of the size, and not all of it."""


def write_site(model: str | Path, path: str | Path) -> Card:
    """Packs a model file into a folder for a host of static files; needs no PyTorch.

    Args:
        model: an ONNX model file, or the name of a shipped one.
        path: the folder; an earlier one of this kind is replaced.

    Returns:
        The file's card.

    Raises:
        ModelFileError: the file cannot be used.
        ExportError: the folder cannot be written, or has other things in it.
        MissingDependencyError: npm, which fetches ONNX Runtime Web, is not installed.
    """
    path = Path(path)
    check_replaceable(path)
    source = resolve_model(model)
    if source.suffix.lower() != ".onnx":
        raise ExportError(f"{source}: browsers run .onnx files; export one from the checkpoint")
    card = Classifier(source, engine="onnxruntime", threads=1).card
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(path) as aside:
            aside.mkdir()
            shutil.copyfile(source, aside / MODEL)
            complete_site(aside, card)
    except OSError as error:
        raise ExportError(f"{path}: cannot be written: {error.strerror or error}") from None
    return card


def check_replaceable(path: Path) -> None:
    """Refuses a folder whose files are not an earlier export.

    Raises:
        ExportError: it is such a one, or has no name of its own.
    """
    if not path.name:
        raise ExportError(f"{path}: expected the name of a folder that may be replaced, such as site")
    if path.exists() and not path.is_dir():
        raise ExportError(f"{path}: is no folder; expected the name of a new one, or an earlier export")
    if path.is_dir() and any(path.iterdir()) and not (path / VERSION_FILE).is_file():
        raise ExportError(f"{path}: is a folder with other things in it; give a new one, or an earlier export")


def complete_site(folder: Path, card: Card) -> None:
    """Puts everything else beside ``model.onnx`` in a folder; again with another card after the file has changed."""
    devices = ("wasm",) if _is_quantized(folder / MODEL) else ("webgpu", "wasm")
    shutil.copytree(PAGE, folder, dirs_exist_ok=True)
    samples = json.loads((PAGE / CONFIG).read_text(encoding="utf-8"))["samples"]
    (folder / "samples").mkdir(exist_ok=True)
    for name in samples:
        shutil.copyfile(SAMPLES / name, folder / "samples" / name)
    if not (folder / "ort").is_dir():
        write_runtime(folder / "ort", devices)
    (folder / CARD).write_text(card.to_json(), encoding="utf-8")
    config = {
        "predictor": "browser",
        "runtime": {"folder": "ort/", "version": VERSION},
        "models": [
            {
                "name": card.name,
                "file": MODEL,
                "card": CARD,
                "bytes": (folder / MODEL).stat().st_size,
                "devices": devices,
                "explain": _explanations(folder / MODEL),
            }
        ],
        "samples": samples,
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False), encoding="utf-8")
    _write_version(folder)


def _explanations(model: Path) -> dict[str, Any] | None:
    """What a page needs for maps of what the network looked at; ``None`` where the graph does not name the tensors."""
    try:
        tensors = find_tensors(model)
    except ModelFileError:
        return None
    if not tensors.attention:
        return None
    stage = min(stage for stage, _ in tensors.attention)
    block = max(block for at, block in tensors.attention if at == stage)
    names = {
        "attention": tensors.attention[stage, block],
        "features": tensors.features,
        "class_weights": tensors.class_weights,
    }
    return {
        "tensors": names,
        "appended": base64.b64encode(outputs_message(tuple(names.values()))).decode(),
        "colours": overlay.colour_table().tobytes().hex(),
        "alpha": overlay.ALPHA,
        "outside": overlay.OUTSIDE,
        "max_side": overlay.MAX_SIDE,
    }


def _is_quantized(model: Path) -> bool:
    """Whether a graph has 8-bit layers: those gain on a processor, and a page without WebGPU is half the size."""
    return b"DequantizeLinear" in model.read_bytes()


def _write_version(folder: Path) -> None:
    """What the service worker keeps files by: other content, another version."""
    names = sorted(
        each.relative_to(folder).as_posix()
        for each in folder.rglob("*")
        if each.is_file() and each.name != VERSION_FILE
    )
    digest = hashlib.sha256()
    for name in names:
        content = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        digest.update(f"{name} {content}\n".encode())
    shell = ["./", *(name for name in names if not name.startswith(LATER) and name != "sw.js")]
    text = f"self.VERSION = {json.dumps(digest.hexdigest()[:16])};\nself.SHELL = {json.dumps(shell, indent=2)};\n"
    (folder / VERSION_FILE).write_text(text, encoding="utf-8")
