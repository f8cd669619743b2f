"""OpenVINO, an extra: often faster on Intel processors and with int8 models."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import numpy as np

from shvit.engines.base import FILE_ENGINES, Engine, check_input, check_output, check_signature, check_version
from shvit.engines.onnx_graph import check_file, with_outputs
from shvit.errors import MissingDependencyError
from shvit.install import install_command

try:
    import openvino as ov
except ImportError as error:
    raise MissingDependencyError(
        f"the OpenVINO engine is not installed; install it with: {install_command('openvino')}"
    ) from error

check_version("openvino", ov.__version__, "2025.0")


_NUMPY_NAMES = {"u8": "uint8", "f16": "float16", "f32": "float32", "f64": "float64"}


class _SignalStack(ctypes.Structure):
    """``stack_t`` of Linux."""

    _fields_: ClassVar = [("pointer", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]


@contextmanager
def signal_stack_kept() -> Iterator[None]:
    """Gives the calling thread back its alternate signal stack, or none, after OpenVINO loaded its CPU plugin.

    Each core's plugin puts in one of its own, and unmaps it when the core goes. Of two that do not go in the reverse
    order of their coming, the second puts back the unmapped one of the first, and the next signal that Python handles,
    such as SIGTERM or the end of a child, ends the process (OpenVINO 2026.4 and before). One that it does not find in
    its place, it leaves as it is.
    """
    if sys.platform != "linux":
        yield
        return
    libc, before = ctypes.CDLL(None), _SignalStack()
    libc.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        libc.sigaltstack(ctypes.byref(before), None)


class OpenVINOEngine(Engine):
    """Also gives tensors from within the graph of an ONNX file.

    Args:
        extra_outputs: names of ``float32`` tensors of the graph that ``run`` returns too.
    """

    name: ClassVar[str] = "openvino"

    def __init__(self, path: Path, threads: int, extra_outputs: Sequence[str] = ()) -> None:
        if path.suffix.lower() not in FILE_ENGINES:
            check_file(path)
        core = ov.Core()
        model = core.read_model(with_outputs(path.read_bytes(), extra_outputs) if extra_outputs else path)
        check_signature(path, len(model.inputs), len(model.outputs))
        self.input_shape, self.output_shape = (
            tuple(side.get_length() if side.is_static else None for side in each.partial_shape)
            for each in (model.input(0), model.output(0))
        )
        given, returned = (each.element_type.get_type_name() for each in (model.input(0), model.output(0)))
        self.outputs = tuple(
            each.get_any_name() if each.get_names() else str(place) for place, each in enumerate(model.outputs)
        )
        check_input(path, _NUMPY_NAMES.get(given, given), self.input_shape)
        check_output(path, _NUMPY_NAMES.get(returned, returned))
        # The ONNX front end keeps the file's metadata under this key; a file without any has no such key.
        stored = model.get_rt_info("framework").astype(dict) if model.has_rt_info("framework") else {}
        self.metadata = {key: value.astype(str) for key, value in stored.items()}
        config = {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            # Left alone, it computes in bfloat16 where the processor can, and scores move by whole percents.
            "INFERENCE_PRECISION_HINT": "f32",
        }
        with signal_stack_kept():
            self._compiled = core.compile_model(model, "CPU", config)

    def infer(self, batch: np.ndarray) -> np.ndarray:
        return self._compiled(batch)[0].copy()  # the engine reuses its buffer

    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        found = self._compiled(batch)
        return {name: found[place].copy() for place, name in enumerate(self.outputs)}
