"""Model files that decide, and such as say so wrongly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from shvit import Classifier
from shvit.card import METADATA_KEY, Threshold, Unknown
from shvit.errors import ModelFileError, ModelOutputError

from ..conftest import COLOURS, UNKNOWN_LIMIT, colour_card, write_deciding_model

RED, GREY = (np.full((32, 48, 3), each, np.uint8) for each in ((200, 20, 20), (120, 120, 120)))


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_it_decides(deciding_model, engine):
    classifier = Classifier(deciding_model, engine=engine, threads=1)
    red, grey = classifier.predict([RED, GREY])
    assert (red.decision, red.known, grey.decision, grey.known) == ("answer", True, "unknown", False)
    assert grey.headline == "unknown (nearest: red)"
    scores, unknown = classifier.judge_batch(np.stack([RED, GREY]))
    np.testing.assert_allclose(unknown, [-180, 0], atol=1e-3)
    np.testing.assert_array_equal(scores, classifier.predict_batch(np.stack([RED, GREY])))
    assert [each.decision for each in classifier.predict([RED, GREY], unknown=False)] == ["answer", "unsure"]
    assert [each.decision for each in classifier.predict([RED, GREY], min_score=0.2)] == ["answer", "unknown"]


def test_the_temperature_divides_logits(tmp_path):
    cold = Classifier(write_deciding_model(tmp_path / "a.onnx", temperature=10.0), threads=1)
    logits = np.array([200, 20, 20]) / 16 / 10
    expected = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(cold.predict_batch(RED[None])[0], expected, rtol=1e-5)
    assert cold.predict(RED)[0].decision == "unsure"


def test_as_many_thresholds_as_classes(tmp_path):
    thresholds = tuple(Threshold(place, label, place / 2) for place, label in enumerate(COLOURS))
    classifier = Classifier(write_deciding_model(tmp_path / "a.onnx", thresholds=thresholds), threads=1)
    assert classifier.predict(RED)[0].decision == "answer"
    assert classifier.predict(RED[..., ::-1])[0].decision == "unsure"  # blue, from 1 on


def with_output(path: Path, nodes: list, element: int, shape: list, constants: dict | None = None) -> Path:
    """The file whose output ``unknown`` comes from other nodes."""
    model = onnx.load(write_deciding_model(path))
    kept = [each for each in model.graph.node if each.output[0] not in ("least", "most", "unknown")]
    del model.graph.node[:], model.graph.output[1:]
    model.graph.node.extend([*kept, *nodes])
    model.graph.initializer.extend(numpy_helper.from_array(each, name) for name, each in (constants or {}).items())
    model.graph.output.append(helper.make_tensor_value_info("unknown", element, shape))
    onnx.save(model, path)
    return path


def node(kind: str, *inputs: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(kind, list(inputs), ["unknown"], **attributes)


HOSTILE = {
    "several columns": ([node("Identity", "means")], TensorProto.FLOAT, ["batch", 3], None, r"of shape \(2, 3\)"),
    "flat": (
        [node("ReduceMax", "means", "columns", keepdims=0)], TensorProto.FLOAT, ["batch"], None, r"of shape \(2,\)"
    ),
    "one row": (
        [node("ReduceMax", "means", keepdims=1)], TensorProto.FLOAT, [1, 1], None, r"of shape \(1, 1\)"
    ),
    "whole numbers": (
        [
            helper.make_node("ReduceMax", ["means", "columns"], ["most"]),
            node("Cast", "most", to=TensorProto.INT64),
        ],
        TensorProto.INT64, ["batch", 1], None, "of int64, expected float32",
    ),
    "no numbers": (
        [
            helper.make_node("ReduceMax", ["means", "columns"], ["most"]),
            helper.make_node("Sub", ["limit", "most"], ["rest"]),
            node("Sqrt", "rest"),
        ],
        TensorProto.FLOAT, ["batch", 1], {"limit": np.float32([1])}, "with NaN or infinity",
    ),
}  # fmt: skip


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("name", list(HOSTILE))
def test_what_is_no_unknown_score_is_a_failed_result(tmp_path, name, engine):
    nodes, element, shape, constants, expected = HOSTILE[name]
    classifier = Classifier(
        with_output(tmp_path / "a.onnx", nodes, element, shape, constants), engine=engine, threads=1
    )
    with pytest.raises(ModelOutputError, match=f"the graph returned unknown {expected}"):
        classifier.judge_batch(np.stack([RED, GREY]))
    for result in classifier.predict([RED, RED]) if name != "one row" else ():
        assert result.error is not None
        assert "\n" not in result.error


def test_without_a_limit_such_an_output_is_of_no_concern(tmp_path):
    nodes, element, shape, constants, _ = HOSTILE["no numbers"]
    path = with_output(tmp_path / "a.onnx", nodes, element, shape, constants)
    model = onnx.load(path)
    helper.set_model_props(model, {METADATA_KEY: colour_card().to_json()})
    onnx.save(model, path)
    (result,) = Classifier(path, threads=1).predict(RED)
    assert (result.known, result.predictions[0].label) == (None, "red")


def test_a_limit_without_an_output(tmp_path):
    path = write_deciding_model(tmp_path / "a.onnx")
    model = onnx.load(path)
    del model.graph.output[1:]
    onnx.save(model, path)
    with pytest.raises(ModelFileError, match=r"the card has a limit for unknown pictures, the graph gives no unknown"):
        Classifier(path)


@pytest.mark.parametrize(("limit", "known"), [(1e308, True), (-1e308, False), (UNKNOWN_LIMIT, True)])
def test_limits_that_somebody_wrote(tmp_path, limit, known):
    path = write_deciding_model(tmp_path / "a.onnx", Unknown("m", limit, 0.95))
    assert Classifier(path, threads=1).predict(RED)[0].known is known


def test_embeddings_come_beside(deciding_model):
    with pytest.raises(ModelFileError, match="no head that embeddings could be taken before"):
        Classifier(deciding_model, embedding=True)
    (result,) = Classifier(embedding=True, threads=1).predict(RED)
    assert result.embedding is not None and result.known is not None
