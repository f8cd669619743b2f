"""ONNX Runtime, the default engine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

# Since 1.29 the library tells its makers of every model that is loaded, unless this is set before it is.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort

from shvit.engines.base import Engine, check_input, check_output, check_signature, check_version
from shvit.engines.onnx_graph import check_file, with_outputs
from shvit.reading import utf8_path

check_version("onnxruntime", ort.__version__, "1.20")


class ONNXRuntimeEngine(Engine):
    """Also gives tensors from within the graph.

    Args:
        extra_outputs: names of ``float32`` tensors of the graph that ``run`` returns too.
    """

    name: ClassVar[str] = "onnxruntime"

    def __init__(self, path: Path, threads: int, extra_outputs: Sequence[str] = ()) -> None:
        check_file(path)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Threads that wait for work in a loop gain a little on an idle machine and halve the speed of a busy one:
        # of another predictor, and of the threads that decode the next batch.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4  # errors are raised; the library need not print them too
        with utf8_path(path) as file:
            model = with_outputs(path.read_bytes(), extra_outputs) if extra_outputs else str(file)
            self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        check_signature(path, len(inputs), len(outputs))
        self.input_shape, self.output_shape = (
            tuple(side if isinstance(side, int) else None for side in each.shape) for each in (inputs[0], outputs[0])
        )
        check_input(path, _element(inputs[0]), self.input_shape)
        check_output(path, _element(outputs[0]))
        self._input, self.outputs = inputs[0].name, tuple(each.name for each in outputs)
        self.metadata = dict(self._session.get_modelmeta().custom_metadata_map)

    def infer(self, batch: np.ndarray) -> np.ndarray:
        return self._session.run([self.outputs[0]], {self._input: batch})[0]

    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(self.outputs, self._session.run(self.outputs, {self._input: batch}), strict=True))


def _element(tensor: ort.NodeArg) -> str:
    """NumPy's name of its type, or ONNX's own where NumPy has none: ``tensor(float)`` is ``float32``."""
    name = tensor.type.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(name, name)
