"""Embeddings from the model file, of every format and engine, beside those computed in PyTorch."""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from shvit import Classifier, Embedder, EmbeddingOptions
from shvit._version import __version__
from shvit.card import Card, ClassInfo, Preprocessing
from shvit.engines.onnx_graph import backbone_digest
from shvit.errors import ArgumentError, ImageTypeError, ModelFileError
from shvit.exporting import FileOptions, export_model
from shvit.models import SHViT, reparameterize

from ..conftest import SAMPLES
from ..models.test_reparam import randomized
from .test_explain import SMALL, in_torch, write_model

PICTURE = SAMPLES / "coffee.jpg"
SIZE = (80, 96)


@pytest.fixture(scope="module")
def network() -> SHViT:
    torch.manual_seed(0)
    return reparameterize(randomized(SMALL).float())


@pytest.fixture(scope="module")
def files(network, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    return {each: write_model(network, folder / f"{each}.onnx", SIZE, each) for each in ("fp32", "fp16", "int8")}


def in_pytorch(network: SHViT, pixels: np.ndarray, stages: int = 1) -> np.ndarray:
    """The mean over the positions of the last stages' outputs."""
    maps = []
    hooks = [stage.register_forward_hook(lambda *args: maps.append(args[2])) for stage in network.stages[-stages:]]
    in_torch(network, pixels)
    for hook in hooks:
        hook.remove()
    return np.concatenate([each[0].mean((1, 2)).numpy() for each in maps])


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("fp16", 1e-2), ("int8", 0.5)])
@pytest.mark.parametrize("stages", [1, 2])
def test_values_are_those_of_pytorch(network, files, engine, precision, tolerance, stages):
    if engine == "openvino":
        pytest.importorskip("openvino", reason="needs pip install 'shvit[openvino]'")
    embedder = Embedder(files[precision], EmbeddingOptions(stages=stages), engine, threads=1)
    pixels = embedder.preprocess(PICTURE)
    (found,) = embedder.embed_batch(pixels[None])
    assert found.shape == (embedder.values,) == ((64,) if stages == 1 else (48 + 64,)) and found.dtype == np.float32
    expected = in_pytorch(network, pixels, stages)
    assert difference(found, expected) < tolerance
    if stages == 2:  # the earlier one first
        assert difference(found[:48], expected[:48]) < tolerance and difference(found[48:], expected[48:]) < tolerance


@pytest.mark.parametrize("format", ["openvino", "litert"])
def test_other_formats(network, tmp_path, format):
    pytest.importorskip({"openvino": "openvino", "litert": "litert_torch"}[format], reason=f"needs the extra {format}")
    path = tmp_path / f"small{'.xml' if format == 'openvino' else '.tflite'}"
    card = Card("small", "shvit", tuple(ClassInfo(i, f"class {i}") for i in range(4)), Preprocessing(SIZE))
    export_model(network, path, card, FileOptions(format, "fp32"))
    embedder = Embedder(path, threads=1)
    assert embedder.engine == format and embedder.card.name == "small"
    pixels = embedder.preprocess(PICTURE)
    found = embedder.embed_batch(np.stack([pixels, pixels]))
    for row in found:
        assert difference(row, in_pytorch(network, pixels)) < 1e-4
    result = Classifier(path, threads=1, embedding=True).predict(PICTURE)[0]
    np.testing.assert_allclose(result.embedding, found[0], rtol=1e-4, atol=1e-5)
    with pytest.raises(ModelFileError, match=r"the last two stages are taken from ONNX files only, not \."):
        Embedder(path, EmbeddingOptions(stages=2))


def test_options(files):
    pixels = Embedder(files["fp32"]).preprocess(PICTURE)

    def embed(**options) -> np.ndarray:
        return Embedder(files["fp32"], EmbeddingOptions(**options), threads=1).embed_batch(pixels[None])[0]

    plain = embed()
    mirrored = Embedder(files["fp32"], threads=1).embed_batch(pixels[None, :, ::-1])[0]
    assert difference(mirrored, plain) > 1e-3
    np.testing.assert_allclose(embed(flip=True), (plain + mirrored) / 2, rtol=1e-4, atol=1e-5)
    assert np.linalg.norm(embed(normalize=True, flip=True)) == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(embed(normalize=True), plain / np.linalg.norm(plain), rtol=1e-4, atol=1e-5)
    (half,) = Embedder(files["fp32"], EmbeddingOptions(dtype="float16"), threads=1).embed(PICTURE)
    assert half.values.dtype == np.float16
    np.testing.assert_allclose(half.values, plain, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("options", "said"), [({"stages": 3}, "stages: expected 1 or 2"), ({"dtype": "int8"}, "dtype: expected float32")]
)
def test_options_that_are_none(options, said):
    with pytest.raises(ArgumentError, match=said):
        EmbeddingOptions(**options)


def test_what_it_is_of(files):
    options = EmbeddingOptions(normalize=True, flip=True, stages=2, dtype="float16")
    info = Embedder(files["int8"], options).info
    data = files["int8"].read_bytes()
    assert asdict(info) == {
        "model": "small",
        "model_sha256": hashlib.sha256(data).hexdigest(),
        "backbone": backbone_digest(data),
        "values": 112,
        "dtype": "float16",
        "normalized": True,
        "flip": True,
        "stages": 2,
        "version": __version__,
    }


def test_one_result_a_picture(files, tmp_path):
    embedder = Embedder(files["fp32"], threads=1, batch_size=2)
    encoded = PICTURE.read_bytes()
    array = np.asarray(Image.open(PICTURE).convert("RGB"))
    broken, missing = tmp_path / "broken.jpg", tmp_path / "missing.jpg"
    broken.write_bytes(encoded[:200])
    found = list(embedder.stream(iter([PICTURE, broken, encoded, array, missing, None, Image.fromarray(array)])))
    assert [each.error is None for each in found] == [True, False, True, True, False, False, True]
    assert [each.values is None for each in found] == [False, True, False, False, True, True, False]
    digest, pixels = hashlib.sha256(encoded).hexdigest(), hashlib.sha256(array.tobytes()).hexdigest()
    broken_digest = hashlib.sha256(encoded[:200]).hexdigest()
    assert [each.sha256 for each in found] == [digest, broken_digest, digest, pixels, None, None, pixels]
    assert found[4].error == "No such file or directory" and found[4].source == str(missing)
    assert not found[1].error.startswith(("<", str(broken)))
    for place in (2, 3, 6):
        np.testing.assert_allclose(found[place].values, found[0].values, rtol=1e-4, atol=1e-5)
    threads = Embedder(files["fp32"], threads=3, batch_size=4).embed([PICTURE] * 9)
    assert [each.sha256 for each in threads] == [digest] * 9
    with pytest.raises(ImageTypeError):
        embedder.embed(None)


def test_what_float16_cannot_hold_is_an_error(network, tmp_path):
    path = write_model(network, tmp_path / "large.onnx", SIZE)
    proto = onnx.load(path)
    head = next(node for node in proto.graph.node if node.output[0] == "logits")
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(1e6), "large"))
    place = list(proto.graph.node).index(head)
    proto.graph.node.insert(place, onnx.helper.make_node("Mul", [head.input[0], "large"], ["larger"]))
    head = proto.graph.node[place + 1]
    head.input[0] = "larger"
    onnx.save(proto, path)
    assert Embedder(path).embed(PICTURE)[0].error is None
    assert (
        "float16 cannot hold; take float32" in Embedder(path, EmbeddingOptions(dtype="float16")).embed(PICTURE)[0].error
    )


def test_files_that_have_no_features(colour_model, files, tmp_path):
    with pytest.raises(ModelFileError, match=r"colours\.onnx: no head that embeddings could be taken before"):
        Embedder(colour_model)
    proto = onnx.load(files["fp32"])
    for node in proto.graph.node:
        for place, name in enumerate(node.output):
            if name.endswith("downsample.local_in"):
                node.output[place] = f"other{name}"
        for place, name in enumerate(node.input):
            if name.endswith("downsample.local_in"):
                node.input[place] = f"other{name}"
    onnx.save(proto, tmp_path / "renamed.onnx")
    assert Embedder(tmp_path / "renamed.onnx").values == 64
    with pytest.raises(ModelFileError, match=r"renamed\.onnx: the graph does not name its stages"):
        Embedder(tmp_path / "renamed.onnx", EmbeddingOptions(stages=2))
    with pytest.raises(ModelFileError, match="no such model file"):
        Embedder(tmp_path / "missing.onnx")


def test_batches_that_are_none(files):
    embedder = Embedder(files["fp32"])
    for batch in (
        np.zeros((1, *SIZE, 3), np.float32),
        np.zeros((1, 8, 8, 3), np.uint8),
        np.zeros((0, *SIZE, 3), np.uint8),
    ):
        with pytest.raises(ArgumentError, match="batch: expected uint8"):
            embedder.embed_batch(batch)


def test_it_is_pickled(files):
    embedder = Embedder(files["fp32"], EmbeddingOptions(normalize=True), "onnxruntime", 1, 3, "fast")
    made = pickle.loads(pickle.dumps(embedder))
    assert (made.info, made.options, made.engine) == (embedder.info, embedder.options, "onnxruntime")
    assert (made.threads, made.batch_size, made.decoding) == (1, 3, "fast")
    np.testing.assert_array_equal(made.embed(PICTURE)[0].values, embedder.embed(PICTURE)[0].values)


def test_a_classifier_gives_the_same_with_any_engine(files):
    pytest.importorskip("openvino", reason="needs pip install 'shvit[openvino]'")
    for engine in ("onnxruntime", "openvino"):
        result = Classifier(files["fp32"], engine, 1, embedding=True).predict(PICTURE)[0]
        (expected,) = Embedder(files["fp32"], engine=engine, threads=1).embed(PICTURE)
        np.testing.assert_allclose(result.embedding, expected.values, rtol=1e-4, atol=1e-5)


def test_another_head_leaves_the_backbone(network, files, tmp_path):
    path = write_model(network, tmp_path / "same.onnx", SIZE)
    proto = onnx.load(path)
    for tensor in proto.graph.initializer:
        if tensor.name == "head.bias":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.arange(4, dtype=np.float32), "head.bias"))
    onnx.save(proto, path)
    mine, its = Embedder(files["fp32"]).info, Embedder(path).info
    assert mine.model_sha256 != its.model_sha256 and mine.difference(its) is None
    assert "different networks" in mine.difference(Embedder(files["int8"]).info)
