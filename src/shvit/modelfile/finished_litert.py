"""A finished TFLite file with another head, or with a second output: a program after the head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from shvit.errors import MissingDependencyError, ModelFileError
from shvit.install import install_command
from shvit.modelfile.head import LinearHead
from shvit.modelfile.program import FEATURES, LOGITS, Program, Step

try:
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils
except ImportError as error:
    raise MissingDependencyError(
        f"a .tflite file is changed with LiteRT's own description of it, which is not installed; install it with: "
        f"{install_command('litert')}"
    ) from error

_OPERATORS = {
    "matmul": "FULLY_CONNECTED",
    "add": "ADD",
    "subtract": "SUB",
    "multiply": "MUL",
    "sum": "SUM",
    "max": "REDUCE_MAX",
    "exp": "EXP",
    "log": "LOG",
    "sqrt": "SQRT",
    "relu": "RELU",
}
_OPTIONS = {
    "matmul": "FullyConnectedOptions",
    "add": "AddOptions",
    "subtract": "SubOptions",
    "multiply": "MulOptions",
    "sum": "ReducerOptions",
    "max": "ReducerOptions",
    "exp": "ExpOptions",
}


def set_output(graph: bytes, name: str, program: Program | None, path: Path) -> bytes:
    """The graph with a program as its second output, ``float32 (N, 1)``; ``None`` only takes an earlier one out.

    Args:
        graph: a TFLite file's flatbuffer.
        name: of the output; tensors are called so with a suffix.

    Raises:
        ModelFileError: it has no head that features could be read before.
    """
    model, subgraph = _read(graph, path)
    _remove(model, subgraph, name, path)
    if program is not None:
        _Writer(model, subgraph, name, path).write(program)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def set_head(graph: bytes, head: LinearHead, path: Path) -> bytes:
    """The graph with another head in place of its own, in ``float32``; a second output has to be set after it.

    Raises:
        ModelFileError: it has no head that features could be read before, or one in 8 bits.
    """
    model, subgraph = _read(graph, path)
    _Writer(model, subgraph, "head", path).replace_head(head)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def with_features(graph: bytes, name: str, path: Path) -> bytes:
    """The graph with the pooled features as a further output of that name.

    Raises:
        ModelFileError: it has no head that features could be read before.
    """
    model, subgraph = _read(graph, path)
    features = _Writer(model, subgraph, name, path).features
    subgraph.tensors[features].name = name
    subgraph.outputs = [*subgraph.outputs, features]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _read(graph: bytes, path: Path) -> tuple[Any, Any]:
    try:
        model = flatbuffer_utils.read_model_from_bytearray(bytearray(graph))
        (subgraph,) = model.subgraphs
    except Exception as error:  # whatever a damaged file makes of the reader
        raise ModelFileError(f"{path}: not a TFLite file: {' '.join(str(error).split())[:200]}") from None
    return model, subgraph


class _Writer:
    """Adds a program's tensors and operators to a graph."""

    def __init__(self, model: Any, subgraph: Any, name: str, path: Path) -> None:
        self._model, self._graph, self._name = model, subgraph, name
        head = next((each for each in subgraph.operators if subgraph.outputs[0] in each.outputs), None)
        if head is None or self._kind(head) != "FULLY_CONNECTED":
            raise ModelFileError(f"{path}: no head that features could be read before; expected what shvit export made")
        self._path, self._head = path, head
        self._indices = {FEATURES: int(head.inputs[0]), LOGITS: int(head.outputs[0])}
        self._rows = int(subgraph.tensors[head.outputs[0]].shape[0])
        self._columns = {each: int(subgraph.tensors[place].shape[-1]) for each, place in self._indices.items()}

    @property
    def features(self) -> int:
        """Place of the pooled features among the tensors."""
        return self._indices[FEATURES]

    def _kind(self, operator: Any) -> str:
        return flatbuffer_utils.opcode_to_name(self._model, operator.opcodeIndex) or ""

    def replace_head(self, head: LinearHead) -> None:
        logits = self._graph.tensors[self._indices[LOGITS]]
        if any(self._graph.tensors[each].type != schema.TensorType.FLOAT32 for each in self._indices.values()):
            raise ModelFileError(f"{self._path}: its head is in 8 bits, and is not replaced; teach the ONNX file")
        weight, bias = (
            self._constant(name, values.astype(np.float32))
            for name, values in (("weight", head.weight), ("bias", head.bias))
        )
        self._head.inputs = np.array([self._indices[FEATURES], weight, bias], np.int32)
        logits.shape = np.array([self._rows, len(head.bias)], np.int32)
        if logits.shapeSignature is not None:
            logits.shapeSignature = np.array([logits.shapeSignature[0], len(head.bias)], np.int32)

    def write(self, program: Program) -> None:
        matrices = {step.inputs[1] for step in program.steps if step.kind == "matmul"}
        for constant, values in program.constants.items():
            self._indices[constant] = self._constant(constant, values.T if constant in matrices else values)
            self._columns[constant] = values.shape[-1]
        for step in program.steps:
            self._step(step, step is program.steps[-1])
        last = self._indices[program.steps[-1].name]
        self._graph.outputs = [*self._graph.outputs, last]
        for signature in self._model.signatureDefs or ():
            described = schema.TensorMapT()
            described.name, described.tensorIndex = self._name, last
            signature.outputs = [*signature.outputs, described]

    def _step(self, step: Step, is_last: bool) -> None:
        columns = [self._columns[each] for each in step.inputs]
        reduces = step.kind in ("sum", "max")
        self._columns[step.name] = width = columns[1] if step.kind == "matmul" else 1 if reduces else max(columns)
        inputs = [self._indices[each] for each in step.inputs]
        if reduces:
            inputs.append(self._constant(f"{step.name}.columns", np.array([1], np.int32)))
        if step.kind == "matmul":
            inputs.append(-1)  # no bias
        name = self._name if is_last else f"{self._name}.{step.name}"
        self._indices[step.name] = output = self._tensor(name, (self._rows, width), schema.TensorType.FLOAT32)
        options = None
        if kind := _OPTIONS.get(step.kind):
            options = getattr(schema, f"{kind}T")()
            if reduces:
                options.keepDims = True
        self._operator(_OPERATORS[step.kind], inputs, output, kind, options)

    def _constant(self, name: str, values: np.ndarray) -> int:
        kinds = {"float32": "FLOAT32", "float16": "FLOAT16", "int32": "INT32"}
        element = getattr(schema.TensorType, kinds[values.dtype.name])
        name = f"{self._name}.{name}"
        if values.dtype != np.float16:
            return self._tensor(name, values.shape, element, values)
        # Half precision is how it is stored; kernels take the whole one, which is made once when the file is loaded.
        stored = self._tensor(f"{name}.float16", values.shape, element, values)
        whole = self._tensor(name, values.shape, schema.TensorType.FLOAT32)
        self._operator("DEQUANTIZE", [stored], whole, "DequantizeOptions", schema.DequantizeOptionsT())
        return whole

    def _tensor(self, name: str, shape: tuple[int, ...], element: int, values: np.ndarray | None = None) -> int:
        buffer = schema.BufferT()
        if values is not None:
            buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
        self._model.buffers.append(buffer)
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type = name, np.array(shape, np.int32), element
        tensor.buffer = len(self._model.buffers) - 1
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def _operator(self, name: str, inputs: list[int], output: int, kind: str | None, options: Any) -> None:
        operator = schema.OperatorT()
        operator.opcodeIndex = self._opcode(getattr(schema.BuiltinOperator, name))
        operator.inputs, operator.outputs = np.array(inputs, np.int32), np.array([output], np.int32)
        if kind is not None:
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
            operator.builtinOptions = options
        self._graph.operators.append(operator)

    def _opcode(self, code: int) -> int:
        for place, each in enumerate(self._model.operatorCodes):
            if each.builtinCode == code:
                return place
        added = schema.OperatorCodeT()
        added.builtinCode, added.deprecatedBuiltinCode, added.version = code, min(code, 127), 1
        if code == schema.BuiltinOperator.DEQUANTIZE:
            added.version = 3  # the first that takes float16
        self._model.operatorCodes.append(added)
        return len(self._model.operatorCodes) - 1


def _remove(model: Any, subgraph: Any, name: str, path: Path) -> None:
    """Takes an earlier program out: its tensors are the last ones, and their operators too."""

    def is_program(place: int) -> bool:
        found = bytes(subgraph.tensors[place].name or b"").decode(errors="replace")
        return found == name or found.startswith(f"{name}.")

    own = {place for place in range(len(subgraph.tensors)) if is_program(place)}
    if not own:
        return
    first = min(own)
    if own != set(range(first, len(subgraph.tensors))):
        raise ModelFileError(f"{path}: tensors called {name} are not the last ones; export the file anew")
    subgraph.operators = [each for each in subgraph.operators if not own & set(map(int, each.outputs))]
    subgraph.outputs = [each for each in subgraph.outputs if int(each) not in own]
    for signature in model.signatureDefs or ():
        signature.outputs = [each for each in signature.outputs if each.tensorIndex not in own]
    for place in own:
        if subgraph.tensors[place].buffer:  # 0 is the empty one, which many share
            model.buffers[subgraph.tensors[place].buffer].data = None
    del subgraph.tensors[first:]
