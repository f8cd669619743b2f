"""The few bytes of an ONNX file that matter beside its engine: its nodes' names, and more outputs for its graph.

An ONNX file is one protobuf message. Its fields come with their lengths, so weights are skipped, not read; and messages
that stand one after the other are merged by whoever parses them, so that a graph gets outputs by appending a small
message that holds nothing else. That needs no package, and leaves the file as it is.
"""

from __future__ import annotations

import hashlib
import mmap
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shvit.errors import ModelFileError

MAX_BYTES = 2**31 - 1
"""Of an ONNX file: protobuf reads no longer message."""

# Field numbers of onnx.proto.
MODEL_GRAPH, MODEL_METADATA = 7, 14
METADATA_KEY, METADATA_VALUE = 1, 2
GRAPH_NODE, GRAPH_CONSTANT, GRAPH_OUTPUT = 1, 5, 12
CONSTANT_NAME = 8
NODE_INPUT, NODE_OUTPUT, NODE_KIND = 1, 2, 4
VALUE_NAME, VALUE_TYPE = 1, 2
TYPE_TENSOR, TENSOR_ELEMENT, FLOAT = 1, 1, 1

UNKNOWN = "unknown"
"""A graph's second output: how far a picture is from those of its classes. Its nodes and constants are called so too,
with a suffix."""

EXTERNAL_DATA = 13
_HOLDERS = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
"""Messages that hold tensors, or others that do: field number to what it holds."""

_DEEPEST = 100
"""Messages in one another, as protobuf reads them by default."""

_DOWNSAMPLE = re.compile(r"stages\.\d+\.downsample\.local_in")

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
    return [_node(value) for number, value in _graph_fields(model) if number == GRAPH_NODE]


def _graph_fields(model: bytes) -> Iterator[tuple[int, memoryview]]:
    """The fields of a model file's graph by number, in order."""
    for number, graph in _fields(memoryview(model)):
        if number == MODEL_GRAPH:
            yield from _fields(graph)


def check_file(path: Path) -> None:
    """Refuses a file that cannot be ONNX by its size, or whose weights are in other files.

    A graph may name any file of the machine as a tensor's data, ``../../etc/passwd`` as well as a device.

    Raises:
        ModelFileError: it is such a file.
        ValueError: it is no protobuf message.
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    if not size:
        raise ValueError("it is empty")
    if size > MAX_BYTES:
        raise ModelFileError(f"{path}: {size / 2**30:.1f} GiB; an ONNX file has at most 2 GiB")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        # Only a few hundred messages of a graph matter, but to look at them takes longer than to look for this key,
        # without which there is no other file.
        if content.find(b"location") < 0:
            return
        with memoryview(content) as view:
            external = _has_external_data(view, "model", 0)
    if external:
        raise ModelFileError(
            f"{path}: keeps weights in other files (external data), which are not read; expected one file: write it "
            "with onnx.save(model, path) without save_as_external_data, or with: shvit export"
        )


def _has_external_data(message: memoryview, kind: str, depth: int) -> bool:
    if depth > _DEEPEST:
        raise ValueError("not an ONNX file: nested too deep")
    if kind == "tensor":
        return any(number == EXTERNAL_DATA for number, _ in _fields(message))
    held = _HOLDERS[kind]
    return any(
        number in held and _has_external_data(value, held[number], depth + 1) for number, value in _fields(message)
    )


def has_metadata(path: Path, key: str, text: str = "") -> bool:
    """Whether a file is whole, is ONNX and has metadata of that key, with this text in it; its weights are not read."""
    try:
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
            memoryview(content) as view,
        ):
            return _has_metadata(view, key.encode(), text.encode())
    except (ValueError, OSError, BufferError):  # empty, or no protobuf message, which the error still holds
        return False


def has_operator(path: Path, kind: str) -> bool:
    """Whether the name of an operator occurs in a file; its nodes are not taken apart, which would take longer."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(kind.encode()) >= 0


def _has_metadata(model: memoryview, key: bytes, text: bytes) -> bool:
    for number, entry in _fields(model):
        parts = dict(_fields(entry)) if number == MODEL_METADATA else {}
        if METADATA_KEY in parts and parts[METADATA_KEY] == key:
            return not text or (METADATA_VALUE in parts and text in bytes(parts[METADATA_VALUE]))
    return False


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
    head = _head(read_nodes(model))
    return None if head is None else head.inputs[0]


def _head(nodes: Iterable[Node]) -> Node | None:
    """The linear layer at the end of a graph that ``shvit export`` wrote; ``None`` in other graphs."""
    return next((node for node in nodes if node.kind == "Gemm" and node.outputs == ("logits",)), None)


def feature_map(model: bytes) -> str | None:
    """Of a graph that ``shvit export`` wrote, the output of the stage before the last one.

    It is ``float32 (N, channels, rows, columns)``; in an int8 graph as it comes out of its rounding. What reads it is
    looked up, the first convolution of the last downsampling. ``None`` in graphs that do not name that, or have one
    stage.
    """
    found = None
    for node in read_nodes(model):
        if node.kind == "Conv" and any(_DOWNSAMPLE.fullmatch(name) for name in node.outputs):
            found = node.inputs[0]
    return found


def backbone_digest(model: bytes) -> str | None:
    """What is the same of files that give the same pooled features, whatever head they have: SHA-256 in hexadecimal.

    It is of all nodes and constants of the graph, as the file holds them and in its order, without those of the head
    and of the second output. ``None`` of graphs that ``pooled_features`` knows nothing of. The page computes the same.
    """
    parts: list[tuple[Node | None, str, memoryview]] = []
    for number, value in _graph_fields(model):
        if number == GRAPH_NODE:
            node = _node(value)
            parts.append((node, next(iter(node.outputs), ""), value))
        elif number == GRAPH_CONSTANT:
            name = next((str(text, "utf-8") for key, text in _fields(value) if key == CONSTANT_NAME), "")
            parts.append((None, name, value))
    nodes = [node for node, _, _ in parts if node is not None]
    head = _head(nodes)
    if head is None:
        return None
    weights = set(head.inputs[1:])
    weights |= {name for node in nodes if node.kind == "Cast" and weights & set(node.outputs) for name in node.inputs}
    left_out = {*weights, *head.outputs, UNKNOWN}
    digest = hashlib.sha256()
    for _, name, value in parts:
        if name not in left_out and not name.startswith(f"{UNKNOWN}."):
            digest.update(value)
    return digest.hexdigest()


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
