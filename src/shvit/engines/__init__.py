"""Inference engines behind one small interface."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from shvit.engines.auto import EngineChoice, choose, measure
from shvit.engines.base import FILE_ENGINES, Engine, as_model_file_error
from shvit.errors import ArgumentError, ModelFileError, check_positive
from shvit.machine import available_threads

EngineName = Literal["auto", "onnxruntime", "openvino", "litert"]
ENGINES: tuple[str, ...] = get_args(EngineName)

__all__ = [
    "ENGINES",
    "Engine",
    "EngineChoice",
    "EngineName",
    "available_threads",
    "check_engine",
    "choose",
    "load_engine",
    "measure",
]

BATCH_SIZE = 16
"""Images run together unless something else is asked for."""


def check_engine(engine: str, threads: int | None) -> None:
    """Raises: ValueError: there is no such engine, or ``threads`` is not positive."""
    if engine not in ENGINES:
        raise ArgumentError(f"engine: expected one of {', '.join(ENGINES)}, got {engine!r}")
    if threads is not None:
        check_positive("threads", threads)


def load_engine(engine: str, path: str | Path, threads: int | None = None, extra_outputs: Sequence[str] = ()) -> Engine:
    """Loads a model file.

    Args:
        engine: ``onnxruntime``, ``openvino``, ``litert`` (both extras), or ``auto``: the only one that loads such a
            file (``.tflite``, ``.xml``), else the one measured fastest here for batches of ``BATCH_SIZE`` images, else
            ``onnxruntime``.
        path: the model file.
        threads: how many threads one inference may use; all that this process may run on when not given.
        extra_outputs: of an ONNX file, names of ``float32`` tensors of its graph that ``run`` returns too.

    Raises:
        ModelFileError: the file is missing, or not a model that takes ``uint8`` images.
        MissingDependencyError: the engine is not installed.
        ValueError: there is no such engine, or ``threads`` is not positive.
    """
    check_engine(engine, threads)
    path = Path(path)
    if not path.is_file():
        raise ModelFileError(f"{path}: no such model file")
    threads = threads or available_threads()
    _check_file(engine, path)
    if engine == "auto":
        engine = choose(path, threads, BATCH_SIZE).engine
    loader: Any
    if engine == "litert":
        from shvit.engines.litert import LiteRTEngine as loader
    elif engine == "openvino":
        from shvit.engines.openvino import OpenVINOEngine as loader
    else:
        from shvit.engines.onnxruntime import ONNXRuntimeEngine as loader
    with as_model_file_error(path, loader.name):
        return loader(path, threads, extra_outputs) if extra_outputs else loader(path, threads)


def _check_file(engine: str, path: Path) -> None:
    """Raises: ModelFileError: the engine does not load such files."""
    own = FILE_ENGINES.get(path.suffix.lower())
    if own is None and engine == "litert":
        raise ModelFileError(f"{path}: the engine litert loads .tflite files; make one with: shvit export")
    if own is not None and engine not in ("auto", own):
        raise ModelFileError(f"{path}: only the engine {own} loads {path.suffix} files, not {engine}")
