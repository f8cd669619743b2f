"""Reading and extending ONNX files byte by byte, beside the library that is made for it."""

from __future__ import annotations

from functools import cache

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from shvit.engines.onnx_graph import backbone_digest, read_nodes, with_outputs
from shvit.shipped import DEFAULT_MODEL, resolve_model


@cache
def shipped() -> bytes:
    return resolve_model(DEFAULT_MODEL).read_bytes()


def test_nodes_are_those_that_onnx_reads():
    expected = onnx.load_from_string(shipped()).graph.node
    found = read_nodes(shipped())
    assert len(found) > 500
    assert [(each.kind, each.inputs, each.outputs) for each in found] == [
        (each.op_type, tuple(each.input), tuple(each.output)) for each in expected
    ]


@given(st.lists(st.text(max_size=300), max_size=40))
def test_outputs_are_added_as_onnx_would(names):
    node = helper.make_node("Identity", ["images"], ["logits"])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("images", "logits")]
    model = helper.make_model(helper.make_graph([node], "small", values[:1], values[1:]))
    found = onnx.load_from_string(with_outputs(model.SerializeToString(), names))
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    assert found == model


@given(st.binary(max_size=200) | st.integers(0, 20_000).map(lambda end: shipped()[:end]))
def test_bytes_that_are_no_model_give_one_kind_of_error(data):
    try:
        nodes = read_nodes(data)
    except ValueError as error:
        assert "ONNX" in str(error) or isinstance(error, UnicodeDecodeError)
    else:
        assert isinstance(nodes, list)


@pytest.mark.parametrize("data", [b"\x3a\xff\xff\xff\xff\x0f", b"\x3a\x05\x0a\x7f", b"\x80" * 20, b"\x3b", b"\x0d\x00"])
def test_lengths_beyond_the_end_are_refused(data):
    with pytest.raises(ValueError, match="not an ONNX file"):
        read_nodes(data)


def test_the_backbone_is_the_same_whatever_follows_it():
    """Other values of the head, no second output, and the file written anew by another program."""
    model = onnx.load_from_string(shipped())
    expected = backbone_digest(shipped())
    assert expected is not None and len(expected) == 64
    head = next(node for node in model.graph.node if node.output[0] == "logits")
    for each in model.graph.initializer:
        if each.name.removesuffix(".float16") in head.input[1:]:
            each.raw_data = bytes(len(each.raw_data))
    kept = [node for node in model.graph.node if not node.output[0].startswith("unknown")]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    del model.graph.output[1:]
    helper.set_model_props(model, {"other": "card"})
    assert backbone_digest(model.SerializeToString()) == expected


def test_the_backbone_is_another_with_one_other_weight():
    model = onnx.load_from_string(shipped())
    constant = next(each for each in model.graph.initializer if each.name.startswith("stem."))
    constant.raw_data = bytes([constant.raw_data[0] ^ 1]) + constant.raw_data[1:]
    assert backbone_digest(model.SerializeToString()) != backbone_digest(shipped())


def test_a_graph_without_our_head_has_no_backbone():
    node = helper.make_node("Identity", ["images"], ["logits"])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("images", "logits")]
    model = helper.make_model(helper.make_graph([node], "small", values[:1], values[1:]))
    assert backbone_digest(model.SerializeToString()) is None
