"""Model files: those shipped inside the package, by name, and what is given by mistake where one is wanted."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from shvit.errors import ModelFileError

ASSETS = Path(__file__).parent / "assets"
DEFAULT_MODEL = "shvit_s1_tiny_imagenet"
SHIPPED_MODELS = {DEFAULT_MODEL: ASSETS / f"{DEFAULT_MODEL}.onnx"}

NETWORKS = ("shvit_s1", "shvit_s2", "shvit_s3", "shvit_s4")
"""Names that are trained and exported; behind them is no file. Written down: the variants are of a room above."""

MODEL_SUFFIXES = (".onnx", ".tflite", ".xml")
WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt")
FOR_ELSEWHERE = {".pte": "ExecuTorch", ".pt2": "PyTorch", ".engine": "TensorRT", ".mlpackage": "Core ML"}
"""What ``shvit export`` writes for others to run."""


def resolve_model(model: str | Path) -> Path:
    """The file behind a shipped model's name or a path.

    Raises:
        ModelFileError: it is neither, or something else than a model file; the message says what to give instead.
    """
    if isinstance(model, str) and model in SHIPPED_MODELS:
        return SHIPPED_MODELS[model]
    path = Path(model)
    reason = _why_no_model(path) if path.is_file() else _what_instead(str(model), "model file")
    if reason is not None:
        raise ModelFileError(f"{model}: {reason}")
    return path


def why_no_weights(given: str | Path) -> str | None:
    """Why no weights can be read from what was given for a checkpoint, and what to give; ``None`` where they may be."""
    path = Path(given)
    if not path.is_file():
        return _what_instead(str(given), "checkpoint")
    start = _start(path)
    if _is_finished(path, start):
        return (
            "is a finished model file, from which no weights are read; give the checkpoint that it was exported from "
            f"({' or '.join(WEIGHT_SUFFIXES[:2])})"
        )
    return _no_download(path, start)


def nearest_network(name: str) -> str | None:
    """The network that a name such as ``s4`` or ``SHViT-S4`` means; ``None`` if it is like none."""
    short = re.fullmatch(r"(?:shvit)?[-_ ]?s?([1-4])", name.lower())
    return f"shvit_s{short[1]}" if short else None


def verification_images() -> list[Path]:
    """Photographs in the package that every exported file is run on."""
    return sorted((ASSETS / "photographs").glob("*.jpg"))


def _why_no_model(path: Path) -> str | None:
    start, suffix = _start(path), path.suffix.lower()
    if suffix in FOR_ELSEWHERE:
        return f"is for {FOR_ELSEWHERE[suffix]} and not run here; expected {_one_of(MODEL_SUFFIXES)}"
    beside = path.with_suffix(".xml")
    if suffix == ".bin" and beside.is_file():
        return f"is the second file of an OpenVINO model; give the first: {beside}"
    if reason := _no_download(path, start):
        return reason
    if start.startswith((b"\xff\xd8\xff", b"\x89PNG")):
        return f"is a picture; expected a model file ({_one_of(MODEL_SUFFIXES)})"
    if suffix in WEIGHT_SUFFIXES or _is_weights(path, start):
        return f"holds weights, not a model that can be run; make one with: {_export_command(path)}"
    return None


def _what_instead(given: str, wanted: str) -> str:
    """What to give, where nothing of that name is a file."""
    path, weights = Path(given), wanted == "checkpoint"
    if re.match(r"[a-z][a-z0-9+.-]+:/", given):
        return "is an address; only files are read: download it first, as with curl -O"
    if path.is_dir():
        best = path / "best.safetensors"
        if best.is_file():
            advice = f"its weights are {best}" if weights else f"make a model file with: {_export_command(best)}"
            return f"is the folder of a training run; {advice}"
        if path.suffix.lower() in FOR_ELSEWHERE:
            return f"is for {FOR_ELSEWHERE[path.suffix.lower()]}; expected a {wanted}"
        return f"is a folder; expected a {wanted} ({_one_of(WEIGHT_SUFFIXES[:2] if weights else MODEL_SUFFIXES)})"
    if path.exists():
        return "not a file"
    if weights and given in SHIPPED_MODELS:
        return "is a shipped model file, from which no weights are read; give a checkpoint"
    network = given if given in NETWORKS else nearest_network(given)
    if network is None:
        known = f"a network ({', '.join(NETWORKS)})" if weights else f"a shipped model ({', '.join(SHIPPED_MODELS)})"
        return f"no such {wanted}, nor the name of {known}{_did_you_mean(given, weights)}"
    if weights:
        return (
            f"no such {wanted}; {network} is a network's name, as in: shvit export --model {network}, or in "
            f"shvit train DATA --model {network} --pretrained"
        )
    return f"no such {wanted}; {network} is a published network's name: give it as a text, not as a path"


def _did_you_mean(given: str, weights: bool) -> str:
    from difflib import get_close_matches  # here, because only errors need it

    close = get_close_matches(given.lower(), NETWORKS if weights else SHIPPED_MODELS, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _start(path: Path) -> bytes:
    """A file's first bytes; none where it cannot be read, as whoever reads it says."""
    try:
        with path.open("rb") as file:
            return file.read(512)
    except OSError:
        return b""


def _no_download(path: Path, start: bytes) -> str | None:
    """What is there in place of a file, as a download or a clone may leave it."""
    if not start:
        return "it is empty" if path.stat().st_size == 0 else None
    if start.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS in place of the file; fetch the file with: git lfs pull"
    if re.match(rb"(\xef\xbb\xbf)?\s*<(!doctype html|html)", start, re.IGNORECASE):
        return "is a web page (HTML), as a failed download leaves it; download the file again"
    return None


def _is_weights(path: Path, start: bytes) -> bool:
    """Whether a file, whatever it is called, begins as safetensors, or as PyTorch writes: a ZIP archive, a pickle."""
    header = int.from_bytes(start[:8], "little")
    safetensors = start[8:9] == b"{" and header < path.stat().st_size
    return safetensors or start.startswith((b"PK\x03\x04", b"\x80\x02"))


def _is_finished(path: Path, start: bytes) -> bool:
    """Whether a file is a model file by its name, or begins as one of ONNX or LiteRT."""
    if _no_download(path, start) or _is_weights(path, start):
        return False  # whatever it is called
    begins = re.match(rb"\x08[\x01-\x20]\x12|.{4}TFL3", start, re.DOTALL)
    return begins is not None or path.suffix.lower() in (*MODEL_SUFFIXES, *FOR_ELSEWHERE)


def _export_command(weights: Path) -> str:
    name = f"{weights.stem}-model" if weights.suffix == ".onnx" else weights.stem  # weights under a model file's name
    return shlex.join(["shvit", "export", "--model", str(weights), "--output", f"{name}.onnx"])


def _one_of(suffixes: tuple[str, ...]) -> str:
    return f"{', '.join(suffixes[:-1])} or {suffixes[-1]}"
