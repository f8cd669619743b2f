"""Model files from anywhere: graphs that return what is no answer, fail, or name other files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper
from PIL import Image

from shvit import Classifier
from shvit.card import METADATA_KEY
from shvit.cli.main import main
from shvit.engines.onnx_graph import check_file
from shvit.errors import ModelFileError, ModelOutputError
from shvit.predicting.explain import Explainer

from ..conftest import colour_card

ENGINES = ("onnxruntime", "openvino")
SIDES = (32, 48, 3)

Tensors = dict[str, np.ndarray]


def write(
    path: Path,
    nodes: Sequence[NodeProto],
    constants: Tensors | None = None,
    element: int = TensorProto.FLOAT,
    shape: Sequence[object] = ("batch", 3),
    takes: Sequence[object] = ("batch", *SIDES),
    card: str | None = None,
    more_inputs: Sequence[onnx.ValueInfoProto] = (),
) -> Path:
    """A model file whose nodes begin with ``means``, the mean of each channel, ``float32 (N, 3)``."""
    first = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["means"], keepdims=0),
    ]
    values = {"axes": np.array([1, 2], np.int64), **(constants or {})}
    graph = helper.make_graph(
        [*first, *nodes],
        "hostile",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, takes), *more_inputs],
        [helper.make_tensor_value_info("logits", element, shape)],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, {METADATA_KEY: colour_card().to_json() if card is None else card})
    path.write_bytes(model.SerializeToString())
    return path


def node(kind: str, *inputs: str, output: str = "logits", **attributes: object) -> NodeProto:
    return helper.make_node(kind, list(inputs), [output], **attributes)


def nan_for_red(path: Path) -> Path:
    """NaN for an image whose first channel is bright: the square root of 200 minus it."""
    return write(
        path, [node("Sub", "limit", "means", output="rest"), node("Sqrt", "rest")], {"limit": np.float32([200])}
    )


def infinite(path: Path) -> Path:
    return write(path, [node("Div", "means", "zero")], {"zero": np.float32([0])})


def one_row(path: Path) -> Path:
    nodes = [node("ReduceMean", "means", "first", keepdims=1)]
    return write(path, nodes, {"first": np.int64([0])}, shape=("rows", 3))


def largest(factors: str) -> list[NodeProto]:
    """The largest mean of a channel times these, ``int64``: a value that no engine knows when it loads the file."""
    return [
        node("ReduceMax", "means", output="peak", keepdims=0),
        node("Mul", "peak", factors, output="scaled"),
        node("Cast", "scaled", output="largest", to=TensorProto.INT64),
    ]


def other_shape(path: Path) -> Path:
    """Two columns, as nobody knows before the graph runs."""
    nodes = [*largest("two"), node("Slice", "means", "start", "largest", "axis")]
    constants = {"two": np.float32([0.01]), "start": np.int64([0]), "axis": np.int64([1])}
    return write(path, nodes, constants, shape=("batch", "classes"))


def no_rows(path: Path) -> Path:
    """Nothing at all: the first 0 rows."""
    constants = {"start": np.int64([0]), "end": np.int64([0])}
    return write(path, [node("Slice", "means", "start", "end", "start")], constants, shape=("rows", 3))


def failing(path: Path) -> Path:
    """Reshapes to what the images do not fill, whatever their number."""
    nodes = [*largest("ones"), node("Reshape", "means", "largest")]
    return write(path, nodes, {"ones": np.float32([1, 1])}, shape=("rows", "classes"))


def logits_as_probabilities(path: Path) -> Path:
    return write(path, [node("Identity", "means")], card=colour_card(output="probabilities").to_json())


RETURNS = {
    infinite: r"the graph returned output with NaN or infinity",
    other_shape: r"the graph returned output of shape \(1, 2\), expected \(1, 3\)",
    no_rows: r"the graph returned output of shape \(0, 3\), expected 1 rows",
    failing: r"the graph (failed: |returned output of shape)",  # OpenVINO fails once, then it returns nothing
    logits_as_probabilities: r"the graph returned 100 to 200 where the card says probabilities; expected 0 to 1",
}
GREY = np.full((40, 50, 3), (100, 150, 200), np.uint8)
RED = np.full((40, 50, 3), (250, 0, 0), np.uint8)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("make", RETURNS, ids=lambda make: make.__name__)
def test_each_image_fails_where_the_graph_returns_no_scores(tmp_path, engine, make):
    file = make(tmp_path / "m.onnx")
    classifier = Classifier(file, engine=engine, threads=1)
    for threads_batch in (1, 4):
        results = list(classifier.stream([GREY, b"no image", GREY], batch_size=threads_batch))
        assert [result.predictions for result in results] == [(), (), ()]
        assert results[1].error.startswith("not an image")
        for result in (results[0], results[2]):
            assert result.error.startswith(f"{file}: ")
            assert "\n" not in result.error
    with pytest.raises(ModelOutputError, match=RETURNS[make]):
        classifier.predict_batch(classifier.preprocess(GREY)[None])


@pytest.mark.parametrize("engine", ENGINES)
def test_only_the_images_at_fault_fail(tmp_path, engine):
    classifier = Classifier(nan_for_red(tmp_path / "m.onnx"), engine=engine, threads=1)
    first, second, third = classifier.predict([GREY, RED, GREY])
    assert second.error == f"{tmp_path / 'm.onnx'}: the graph returned output with NaN or infinity"
    assert first.predictions == third.predictions
    logits = np.sqrt(200 - np.float32([100, 150, 200]))
    expected = np.exp(logits) / np.exp(logits).sum()
    assert [each.score for each in first.predictions] == pytest.approx(expected, rel=1e-4)
    batch = np.stack([classifier.preprocess(image) for image in (GREY, RED)])
    with pytest.raises(ModelOutputError):
        classifier.predict_batch(batch)
    good, bad = classifier.judge_each(batch)
    assert good.scores == pytest.approx(expected, rel=1e-4)
    assert isinstance(bad, ModelOutputError)


@pytest.mark.parametrize("engine", ENGINES)
def test_one_row_for_many_images_is_no_answer_for_any_but_one(tmp_path, engine):
    classifier = Classifier(one_row(tmp_path / "m.onnx"), engine=engine, threads=1)
    with pytest.raises(ModelOutputError, match=r"output of shape \(1, 3\), expected 2 rows"):
        classifier.predict_batch(np.stack([classifier.preprocess(GREY)] * 2))
    # One by one each has its own row.
    labels = [result.predictions[0].label for result in classifier.predict([GREY, RED])]
    assert labels == ["blue", "red"]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("kind", "element"), [("float16", TensorProto.FLOAT16), ("float64", TensorProto.DOUBLE)])
def test_scores_in_other_floating_point_types_are_taken(tmp_path, engine, kind, element):
    nodes = [node("Mul", "means", "scale", output="scaled"), node("Cast", "scaled", to=element)]
    file = write(tmp_path / "m.onnx", nodes, {"scale": np.float32([0.1])}, element)
    probabilities = Classifier(file, engine=engine, threads=1).predict_batch(np.full((2, *SIDES), 90, np.uint8))
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, 1 / 3, rtol=1e-3)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("element", [TensorProto.INT64, TensorProto.STRING, TensorProto.BOOL])
def test_a_graph_that_returns_no_floats_is_refused(tmp_path, engine, element):
    file = write(tmp_path / "m.onnx", [node("Cast", "means", to=element)], element=element)
    with pytest.raises(ModelFileError, match=r"m\.onnx: (expected a graph that returns scores|not a model that)"):
        Classifier(file, engine=engine)


def external(path: Path, location: str, where: str = "initializer") -> Path:
    """A tensor whose data another file holds: of the graph, of a node, or of a graph within a node."""
    model = onnx.load(write(path, [node("Mul", "means", "scale")], {"scale": np.float32([1, 1, 1])}))
    tensor = TensorProto(name="scale", data_type=TensorProto.FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", "12")):
        tensor.external_data.add(key=key, value=value)
    graph = model.graph
    graph.initializer.remove(next(each for each in graph.initializer if each.name == "scale"))
    constant = helper.make_node("Constant", [], ["scale"], value=tensor)
    if where == "initializer":
        graph.initializer.append(tensor)
    elif where == "node":
        graph.node.insert(0, constant)
    else:
        inner = helper.make_graph([constant], "inner", [], [helper.make_tensor_value_info("scale", 1, [3])])
        condition = helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True)))
        graph.node.insert(0, helper.make_node("If", ["yes"], ["scale"], then_branch=inner, else_branch=inner))
        graph.node.insert(0, condition)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("where", ["initializer", "node", "graph in a node"])
@pytest.mark.parametrize("location", ["weights.bin", "../../secret", "/etc/passwd", "*/_ORT_MEM_ADDR_/*"])
def test_weights_in_other_files_are_refused(tmp_path, monkeypatch, engine, where, location):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.bin").write_bytes(np.float32([1, 2, 3]).tobytes())
    file = external(tmp_path / "m.onnx", location, where)
    expected = r"m\.onnx: keeps weights in other files \(external data\), which are not read"
    with pytest.raises(ModelFileError, match=expected):
        Classifier(file, engine=engine)
    if engine == "onnxruntime":
        for more in ({"embedding": True}, {}):
            with pytest.raises(ModelFileError, match=expected):
                (Classifier if more else Explainer)(file, **more)


def test_a_label_may_be_called_location(tmp_path):
    card = json.loads(colour_card().to_json())
    card["classes"][0]["label"] = "location"
    file = write(tmp_path / "m.onnx", [node("Identity", "means")], card=json.dumps(card))
    assert Classifier(file).predict(RED)[0].predictions[0].label == "location"


def unknown_operator(path: Path) -> Path:
    return write(path, [helper.make_node("Steal", ["means"], ["logits"], domain="evil")])


def many_inputs(path: Path) -> Path:
    more = [helper.make_tensor_value_info("more", TensorProto.FLOAT, ["batch", 3])]
    return write(path, [node("Add", "means", "more")], more_inputs=more)


def scalar(path: Path) -> Path:
    return write(path, [node("ReduceMean", "means", keepdims=0)], shape=())


def wide_input(path: Path) -> Path:
    return write(path, [node("Identity", "means")], takes=("batch", 100_000, 100_000, 3))


def greyscale(path: Path) -> Path:
    return write(path, [node("Identity", "means")], takes=("batch", 32, 48))


def false_dims(path: Path) -> Path:
    """An initialiser of 4 TB by its dimensions, with 12 bytes."""
    model = onnx.load(write(path, [node("Mul", "means", "scale")], {"scale": np.float32([1, 1, 1])}))
    tensor = next(each for each in model.graph.initializer if each.name == "scale")
    tensor.dims[:] = [1_000_000, 1_000_000]
    path.write_bytes(model.SerializeToString())
    return path


def cut_off(path: Path) -> Path:
    content = write(path, [node("Identity", "means")]).read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


def loops_in_itself(path: Path) -> Path:
    return write(path, [node("Add", "logits", "means")])


def deep_messages(path: Path) -> Path:
    """Graphs in graphs: each node's attribute is a graph with a node."""
    message = b"location"
    for number in (7, *[1, 5, 6] * 2000)[::-1]:
        size, length = bytearray(), len(message)
        while length > 127:
            size.append(length & 127 | 128)
            length >>= 7
        message = bytes([number << 3 | 2, *size, length]) + message
    path.write_bytes(message)
    return path


def with_card(card: str):
    def make(path: Path) -> Path:
        return write(path, [node("Identity", "means")], card=card)

    make.__name__ = card[:12]
    return make


REFUSED = {
    unknown_operator: "not a model that",
    many_inputs: "expected a graph of one input, images, and an output, this one has 2 inputs",
    scalar: r"the graph's output has the shape \(\), the card says|not a model that",
    wide_input: r"the graph's input has the shape \(None, 100000, 100000, 3\); expected sides of 1 to 2048",
    greyscale: "expected a graph that takes uint8 images|not a model that",
    false_dims: "not a model that",
    cut_off: "not a model that|has no card",
    loops_in_itself: "not a model that|has 2 inputs",
    deep_messages: "not a model that",
    with_card("[" * 100_000): "the card is nested too deep",
    with_card('{"schema_version": 1, "name": NaN}'): "the card is not JSON",
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("make", REFUSED, ids=lambda make: make.__name__)
def test_what_cannot_be_a_classifier_is_refused_in_one_line(tmp_path, capsys, engine, make):
    file = make(tmp_path / "m.onnx")
    with pytest.raises(ModelFileError, match=REFUSED[make]) as caught:
        Classifier(file, engine=engine)
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)
    assert main(["info", str(file)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_file_longer_than_protobuf_reads_is_refused_unread(tmp_path):
    file = tmp_path / "m.onnx"
    with file.open("wb") as sparse:
        sparse.truncate(6 * 2**30)
    with pytest.raises(ModelFileError, match=r"m\.onnx: 6\.0 GiB; an ONNX file has at most 2 GiB"):
        check_file(file)
    for load in (Explainer, lambda path: Classifier(path, embedding=True), lambda path: Classifier(path)):
        with pytest.raises(ModelFileError, match=r"an ONNX file has at most 2 GiB"):
            load(file)


def test_predict_says_what_failed_and_ends_with_1(tmp_path, capsys):
    file = nan_for_red(tmp_path / "m.onnx")
    for name, pixels in (("a", GREY), ("b", RED), ("c", GREY)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    assert main(["predict", str(tmp_path), "--model", str(file), "--format", "jsonl"]) == 1
    told = capsys.readouterr()
    rows = [json.loads(line, parse_constant=pytest.fail) for line in told.out.splitlines()]
    assert [sorted(row) for row in rows] == [["predictions", "source"], ["error", "source"], ["predictions", "source"]]
    assert rows[1]["error"] == f"{file}: the graph returned output with NaN or infinity"
    assert "1 of 3 inputs failed" in told.err


@pytest.mark.parametrize("live", [False, True])
def test_a_videos_frames_without_scores_are_damage_and_the_command_ends_with_1(tmp_path, capsys, live):
    av = pytest.importorskip("av", reason="needs pip install 'shvit[video]'")
    with av.open(str(tmp_path / "v.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height = 64, 48
        for _ in range(5):
            packets = stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), 90, np.uint8), format="rgb24"))
            container.mux(packets)
        container.mux(stream.encode())
    file = infinite(tmp_path / "m.onnx")
    more = ["--live"] if live else []
    assert main(["video", str(tmp_path / "v.mp4"), "--model", str(file), *more]) == 1
    assert "the graph returned output with NaN or infinity" in capsys.readouterr().out


def test_evaluation_ends_where_the_graph_gives_no_scores(tmp_path, capsys):
    for label in ("red", "green", "blue"):
        (tmp_path / "data" / label).mkdir(parents=True)
        Image.fromarray(GREY).save(tmp_path / "data" / label / "a.png")
    file = infinite(tmp_path / "m.onnx")
    assert main(["eval", "--model", str(file), "--data", str(tmp_path / "data")]) == 2
    assert f"error: {file}: the graph returned output with NaN or infinity\n" in capsys.readouterr().err
