"""Inference engines behind one small interface."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from shvit.errors import ModelFileError, ShvitError
from shvit.runtime.engines.base import Engine, available_threads

EngineName = Literal["auto", "onnxruntime", "openvino", "litert"]
ENGINES: tuple[str, ...] = get_args(EngineName)

FILE_ENGINES = {".tflite": "litert", ".xml": "openvino"}
"""Files that are of one engine, by suffix; the others are ONNX, which the other engines load."""

__all__ = ["ENGINES", "Engine", "EngineName", "available_threads", "load_engine"]


def load_engine(engine: str, path: str | Path, threads: int | None = None) -> Engine:
    """Loads a model file.

    Args:
        engine: ``onnxruntime``, ``openvino``, ``litert`` (both extras), or ``auto``: the one that a file is of by its
            suffix (``.tflite``, ``.xml``), ``onnxruntime`` otherwise.
        path: the model file.
        threads: how many threads one inference may use; all that this process may run on when not given.

    Raises:
        ModelFileError: the file is missing, or not a model that takes ``uint8`` images.
        MissingDependencyError: the engine is not installed.
        ValueError: there is no such engine, or ``threads`` is not positive.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine: expected one of {', '.join(ENGINES)}, got {engine!r}")
    if threads is not None and threads < 1:
        raise ValueError(f"threads: expected a positive number, got {threads}")
    path = Path(path)
    if not path.is_file():
        raise ModelFileError(f"{path}: no such model file")
    engine = _engine_of(engine, path)
    loader: type[Engine]
    if engine == "litert":
        from shvit.runtime.engines.litert import LiteRTEngine as loader
    elif engine == "openvino":
        from shvit.runtime.engines.openvino import OpenVINOEngine as loader
    else:
        from shvit.runtime.engines.onnxruntime import ONNXRuntimeEngine as loader
    try:
        return loader(path, threads or available_threads())
    except (ShvitError, MemoryError):
        raise
    except Exception as error:  # each engine has its own; all mean the file
        reason = " ".join(str(error).split())
        raise ModelFileError(f"{path}: not a model that {loader.name} can load: {reason[:200]}") from None


def _engine_of(engine: str, path: Path) -> str:
    """The engine asked for, or the one that the file is of.

    Raises:
        ModelFileError: the engine does not load such files.
    """
    own = FILE_ENGINES.get(path.suffix.lower())
    if own is None and engine == "litert":
        raise ModelFileError(f"{path}: the engine litert loads .tflite files; make one with: shvit export")
    if own is not None and engine not in ("auto", own):
        raise ModelFileError(f"{path}: only the engine {own} loads {path.suffix} files, not {engine}")
    return own or engine
