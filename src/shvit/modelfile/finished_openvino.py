"""A finished OpenVINO IR with another head, or with a second output: a program after the head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from shvit.errors import MissingDependencyError, ModelFileError
from shvit.install import install_command
from shvit.modelfile.head import LinearHead
from shvit.modelfile.program import FEATURES, LOGITS, Program

try:
    import openvino as ov
    from openvino import opset13 as ops
except ImportError as error:
    raise MissingDependencyError(f"OpenVINO is not installed: {install_command('openvino')}") from error

_OPERATORS: dict[str, Any] = {
    "matmul": lambda x, y: ops.matmul(x, y, False, False),
    "add": ops.add,
    "subtract": ops.subtract,
    "multiply": ops.multiply,
    "sum": lambda x: ops.reduce_sum(x, np.array([1]), True),
    "max": lambda x: ops.reduce_max(x, np.array([1]), True),
    "exp": ops.exp,
    "log": ops.log,
    "sqrt": ops.sqrt,
    "relu": ops.relu,
}


def set_output(model: ov.Model, name: str, program: Program | None, path: Path) -> None:
    """Puts a program into a graph, as the ONNX file's ``set_output`` does.

    Raises:
        ModelFileError: the graph has no head that features could be read before.
    """
    for result in [each for each in model.get_results() if name in each.output(0).get_names()]:
        model.remove_result(result)
    if program is None:
        return
    logits = model.output(0).get_node().input_value(0)
    features = _features(logits, path)
    values: dict[str, Any] = {FEATURES: features, LOGITS: logits}
    for constant, array in program.constants.items():
        stored = ops.constant(array)
        values[constant] = ops.convert(stored, "f32") if array.dtype == np.float16 else stored
    for step in program.steps:
        values[step.name] = _OPERATORS[step.kind](*(values[each] for each in step.inputs))
    last = values[program.steps[-1].name]
    last.set_friendly_name(name)
    last.output(0).get_tensor().set_names({name})
    model.add_results([ops.result(last)])
    model.validate_nodes_and_infer_types()


def set_head(model: ov.Model, head: LinearHead, path: Path) -> None:
    """Puts another head in place of the graph's own, in ``float32``; a second output has to be set after it.

    Raises:
        ModelFileError: the graph has no head that features could be read before.
    """
    result = model.get_results()[0]
    before, names = result.input_value(0), result.output(0).get_names()
    products = ops.matmul(_features(before, path), ops.constant(head.weight.astype(np.float32)), False, True)
    logits = ops.add(products, ops.constant(head.bias.astype(np.float32)[None]))
    before.get_tensor().set_names(set())
    logits.output(0).get_tensor().set_names(names or {LOGITS})
    result.input(0).replace_source_output(logits.output(0))
    model.validate_nodes_and_infer_types()


def read(path: Path) -> ov.Model:
    """Raises: ModelFileError: it is no OpenVINO IR."""
    try:
        core = ov.Core()
        core.set_property({"ENABLE_MMAP": False})  # the file may be written over while the model is held
        return core.read_model(path)
    except Exception as error:  # the engine's own
        raise ModelFileError(
            f"{path}: not a model that openvino can load: {' '.join(str(error).split())[:200]}"
        ) from None


def save(model: ov.Model, path: Path) -> None:
    """Weights stay in the precision that they are in."""
    ov.save_model(model, path, compress_to_fp16=False)


def add_features(model: ov.Model, name: str, path: Path) -> None:
    """The pooled features as a further output of that name.

    Raises:
        ModelFileError: the graph has no head that features could be read before.
    """
    features = _features(model.output(0).get_node().input_value(0), path)
    features.get_tensor().add_names({name})
    model.add_results([ops.result(features)])


def _features(logits: Any, path: Path) -> Any:
    """What the head reads: a product of rows and a matrix, scaled, and a bias added."""
    node = logits.get_node()
    while node.get_type_name() in ("Add", "Multiply"):
        node = node.input_value(0).get_node()
    if node.get_type_name() != "MatMul":
        raise ModelFileError(f"{path}: no head that features could be read before; expected what shvit export made")
    return node.input_value(0)
