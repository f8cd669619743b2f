"""A finished ONNX file with another head, or with a second output: a program after the head."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from shvit.engines.onnx_graph import check_file, pooled_features
from shvit.errors import ModelFileError
from shvit.modelfile.head import LinearHead
from shvit.modelfile.program import FEATURES, LOGITS, Program

OLDEST_OPSET = 18
"""Of ONNX, in which what reduces takes its axes as an input."""

_OPERATORS = {
    "matmul": "MatMul",
    "add": "Add",
    "subtract": "Sub",
    "multiply": "Mul",
    "sum": "ReduceSum",
    "max": "ReduceMax",
    "exp": "Exp",
    "log": "Log",
    "sqrt": "Sqrt",
    "relu": "Relu",
}


def read(path: Path) -> tuple[onnx.ModelProto, str | None]:
    """A model file's graph, and the name of its pooled features, if it has any.

    Raises:
        ModelFileError: it is no ONNX file, or keeps its weights elsewhere.
    """
    try:
        check_file(path)
        data = path.read_bytes()
        return onnx.load_model_from_string(data), pooled_features(data)
    except ModelFileError:
        raise
    except Exception as error:  # protobuf has several
        raise ModelFileError(f"{path}: not an ONNX file: {' '.join(str(error).split())[:200]}") from None


def set_output(proto: onnx.ModelProto, name: str, program: Program | None, features: str | None, path: Path) -> None:
    """Puts a program into a graph, in place of an earlier one of that name; ``None`` only takes that out.

    Args:
        name: of the output, ``float32 (N, 1)``; nodes and constants are called so with a suffix.
        features: the tensor of pooled features, from ``pooled_features``.

    Raises:
        ModelFileError: the graph has no head that features could be read before, or is of too old a version.
    """
    if proto.graph.output[0].name == name:
        raise ModelFileError(f"{path}: its first output is called {name}, as the second would be; export it anew")
    _remove(proto, name)
    if program is None:
        return
    graph = proto.graph
    opset = max((each.version for each in proto.opset_import if each.domain in ("", "ai.onnx")), default=0)
    if features is None:
        raise ModelFileError(f"{path}: no head that features could be read before; expected ONNX of shvit export")
    if opset < OLDEST_OPSET:
        raise ModelFileError(f"{path}: is of ONNX opset {opset}, at least {OLDEST_OPSET} is needed; export it anew")
    names = {FEATURES: features, LOGITS: LOGITS}
    for constant, values in program.constants.items():
        names[constant] = f"{name}.{constant}"
        stored = numpy_helper.from_array(values, names[constant])
        if values.dtype == np.float16:  # engines fold the cast when they load the file
            stored.name = f"{names[constant]}.float16"
            graph.node.append(_node("Cast", [stored.name], names[constant], to=TensorProto.FLOAT))
        graph.initializer.append(stored)
    for step in program.steps:
        last = step is program.steps[-1]
        names[step.name] = name if last else f"{name}.{step.name}"
        inputs = [names[each] for each in step.inputs]
        if step.kind in ("sum", "max"):
            axes = f"{name}.columns"
            if all(each.name != axes for each in graph.initializer):
                graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), axes))
            inputs.append(axes)
        graph.node.append(_node(_OPERATORS[step.kind], inputs, names[step.name]))
    batch = graph.output[0].type.tensor_type.shape.dim[0]
    graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch.dim_param or batch.dim_value, 1]))


def set_head(proto: onnx.ModelProto, head: LinearHead, path: Path) -> None:
    """Puts another head in place of the graph's own, in ``float32`` whatever the rest is in; it may have other classes.

    Raises:
        ModelFileError: the graph's first output is not that of a head as ``shvit export`` writes it.
    """
    graph = proto.graph
    own = next((each for each in graph.node if each.op_type == "Gemm" and list(each.output) == [LOGITS]), None)
    if own is None or graph.output[0].name != LOGITS or len(own.input) != 3:
        raise ModelFileError(f"{path}: no head that could be replaced; expected ONNX of shvit export")
    replaced = set(own.input[1:])
    casts = [each for each in graph.node if each.op_type == "Cast" and each.output[0] in replaced]
    replaced |= {name for each in casts for name in each.input}
    _keep(graph.node, lambda each: each not in casts)
    _keep(graph.initializer, lambda each: each.name not in replaced)
    _keep(graph.value_info, lambda each: each.name != LOGITS and each.name not in replaced)
    names = ("head.weight", "head.bias")
    for name, values in zip(names, (head.weight, head.bias), strict=True):
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values, np.float32), name))
    del own.input[1:], own.attribute[:]
    own.input.extend(names)
    own.attribute.append(helper.make_attribute("transB", 1))
    graph.output[0].type.tensor_type.shape.dim[1].dim_value = len(head.bias)


def _keep(values: Any, wanted: Callable[[Any], bool]) -> None:
    kept = [each for each in values if wanted(each)]
    del values[:]
    values.extend(kept)


def _node(kind: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, [output], name=output, **attributes)


def _remove(proto: onnx.ModelProto, name: str) -> None:
    def is_others(each: Any) -> bool:
        made = each.output[0] if isinstance(each, onnx.NodeProto) and each.output else each.name
        return made != name and not made.startswith(f"{name}.")

    for values in (proto.graph.node, proto.graph.initializer, proto.graph.output):
        _keep(values, is_others)
