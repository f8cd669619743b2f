"""The few bytes of an ONNX file that matter beside its engine: its nodes' names, and more outputs for its graph.

An ONNX file is one protobuf message. Its fields come with their lengths, so weights are skipped, not read; and messages
that stand one after the other are merged by whoever parses them, so that a graph gets outputs by appending a small
message that holds nothing else. That needs no package, and leaves the file as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

# Field numbers of onnx.proto.
MODEL_GRAPH = 7
GRAPH_NODE, GRAPH_OUTPUT = 1, 12
NODE_INPUT, NODE_OUTPUT, NODE_KIND = 1, 2, 4
VALUE_NAME, VALUE_TYPE = 1, 2
TYPE_TENSOR, TENSOR_ELEMENT, FLOAT = 1, 1, 1

# How a field is written.
VARINT, EIGHT_BYTES, BYTES, FOUR_BYTES = 0, 1, 2, 5


@dataclass(frozen=True)
class Node:
    """One operation of a graph."""

    kind: str
    """Such as Conv."""
    inputs: tuple[str, ...] = field(default=())
    outputs: tuple[str, ...] = field(default=())


def read_nodes(model: bytes) -> list[Node]:
    """The nodes of a model file's graph, in order.

    Raises:
        ValueError: the bytes are no protobuf message.
    """
    return [
        _node(node)
        for number, graph in _fields(memoryview(model))
        if number == MODEL_GRAPH
        for inner, node in _fields(graph)
        if inner == GRAPH_NODE
    ]


def with_outputs(model: bytes, names: Sequence[str]) -> bytes:
    """The same model, whose graph returns these ``float32`` tensors after its own outputs."""
    return model + outputs_message(names)


def outputs_message(names: Sequence[str]) -> bytes:
    """What to append to a model's bytes for that."""
    element = bytes([TENSOR_ELEMENT << 3 | VARINT, FLOAT])
    kind = _bytes_field(VALUE_TYPE, _bytes_field(TYPE_TENSOR, element))
    outputs = (_bytes_field(GRAPH_OUTPUT, _bytes_field(VALUE_NAME, name.encode()) + kind) for name in names)
    return _bytes_field(MODEL_GRAPH, b"".join(outputs))


def pooled_features(model: bytes) -> str | None:
    """Of a graph that ``shvit export`` wrote, the tensor of pooled features, ``float32 (N, channels)``.

    Quantising keeps the head in float32, so what it reads is that in every precision. ``None`` in other graphs.
    """
    heads = (node for node in read_nodes(model) if node.kind == "Gemm" and node.outputs == ("logits",))
    return next((head.inputs[0] for head in heads), None)


def _node(data: memoryview) -> Node:
    texts: dict[int, list[str]] = {NODE_INPUT: [], NODE_OUTPUT: [], NODE_KIND: []}
    for number, value in _fields(data):
        if number in texts:
            texts[number].append(str(value, "utf-8"))
    return Node("".join(texts[NODE_KIND][-1:]), tuple(texts[NODE_INPUT]), tuple(texts[NODE_OUTPUT]))


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """A message's fields by number; of those that are numbers, nothing."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        written = key & 7
        if written == VARINT:
            length, (_, place) = 0, _varint(data, place)
        elif written == BYTES:
            length, place = _varint(data, place)
        elif written in (EIGHT_BYTES, FOUR_BYTES):
            length = 8 if written == EIGHT_BYTES else 4
        else:
            raise ValueError("not an ONNX file: a field of an unknown kind")
        if length > len(data) - place:
            raise ValueError("not an ONNX file: it ends in the middle of a field")
        yield key >> 3, data[place : place + length]
        place += length


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    """A number of seven bits a byte, the last byte below 128, and the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        if place == len(data):
            break
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    raise ValueError("not an ONNX file: a number without an end")


def _bytes_field(number: int, value: bytes) -> bytes:
    length = len(value)
    size = bytearray()
    while length > 127:
        size.append(length & 127 | 128)
        length >>= 7
    return bytes([number << 3 | BYTES, *size, length]) + value
