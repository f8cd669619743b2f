"""Maps from the model file, beside those computed in PyTorch, and where they lie on the picture."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pyarrow.parquet
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shvit import Classifier, Explainer
from shvit.card import IMAGENET_MEAN, IMAGENET_STD, Card, ClassInfo, Preprocessing
from shvit.errors import ImageError, ImageTypeError, ModelFileError
from shvit.images.preprocess import decode, kept_region, preprocess
from shvit.modelfile.onnx import set_card, to_proto
from shvit.modelfile.source import Source
from shvit.modelfile.verify import photograph_crops
from shvit.models import SHViT, SHViTConfig, reparameterize
from shvit.models.checkpoints import load_model
from shvit.models.reparam import folded_network
from shvit.shipped import verification_images

from ..conftest import PATIENCE, ROOT, SAMPLES
from ..models.test_reparam import randomized

SMALL = SHViTConfig(widths=(32, 48, 64), depths=(1, 2, 2), partial_dims=(8, 16, 32), num_classes=4)
PICTURE = SAMPLES / "coffee.jpg"


def write_model(network: SHViT, path: Path, size: tuple[int, int], precision: str = "fp32") -> Path:
    classes = tuple(ClassInfo(i, f"class {i}") for i in range(network.num_classes))
    card = Card("small", "shvit", classes, Preprocessing(size))
    calibration = photograph_crops(card.preprocessing)[:32] if precision == "int8" else None
    proto = to_proto(Source(folded_network(network), path, card, precision, calibration=calibration))
    set_card(proto, card)
    onnx.save(proto, path)
    return path


def in_torch(
    network: SHViT, pixels: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor, dict[tuple[int, int], np.ndarray]]:
    """Logits, the last feature map, and attention ``(tokens, tokens)`` from what its qkv layers give."""
    attention = {}

    def record(stage, block, layer):
        def hook(module, inputs, output):
            q, k, *_ = output.flatten(2).split(layer.qkv_dims, dim=1)
            q, k = (each.unflatten(1, (layer.num_heads, -1)) for each in (q, k))
            scores = torch.einsum("bhci,bhcj->bhij", q, k) / math.sqrt(network.config.qk_dim)
            attention[stage, block] = torch.softmax(scores, -1).mean(1)[0].numpy()

        return layer.qkv.register_forward_hook(hook)

    hooks = [
        record(stage + 1, block + 1, each.attention)
        for stage, of_stage in enumerate(network.stages)
        for block, each in enumerate(of_stage.blocks)
        if hasattr(each, "attention")
    ]
    mean, std = (torch.tensor(value) * 255 for value in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.no_grad():
        features = network.forward_features(((torch.tensor(pixels)[None] - mean) / std).permute(0, 3, 1, 2))
        logits = network.forward_head(features)
    for hook in hooks:
        hook.remove()
    return logits[0], features[0], attention


@pytest.mark.parametrize(
    ("changes", "size", "precision", "tolerance"),
    [
        ({}, (96, 160), "fp32", 1e-5),
        ({}, (224, 224), "fp32", 1e-5),
        ({"distillation": True}, (100, 70), "fp32", 1e-5),  # sides that are halved to fractions
        ({"num_heads": 2}, (96, 96), "fp32", 1e-5),
        ({"attention_step": 2, "attention_gate": True}, (96, 64), "fp32", 1e-5),
        ({"stem_stride": 8, "attention": (True, False, True)}, (64, 96), "fp32", 1e-5),
        ({}, (96, 160), "fp16", 1e-2),
    ],
)
def test_maps_are_those_of_the_network_in_pytorch(tmp_path, changes, size, precision, tolerance):
    network = randomized(replace(SMALL, **changes)).float()
    explanation = Explainer(write_model(network, tmp_path / "small.onnx", size, precision), threads=1).explain(PICTURE)
    logits, features, attention = in_torch(network, preprocess(decode(PICTURE), Preprocessing(size)))
    assert explanation.attention.keys() == attention.keys()
    for place, expected in attention.items():
        rows, columns = explanation.attention[place].shape[:2]
        found = explanation.attention[place].reshape(rows * columns, -1)
        np.testing.assert_allclose(found, expected, atol=tolerance)
        np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)
        stage, block = place
        assert explanation.attention_map(stage, block).sum() == pytest.approx(1, abs=1e-5)
        np.testing.assert_array_equal(
            explanation.attention_map(stage, block, (rows - 1, 0)).ravel(), found[(rows - 1) * columns]
        )
    head = reparameterize(network).head
    for class_id in range(network.num_classes):
        found = explanation.class_activation(class_id)
        assert found.shape == features.shape[1:]
        expected = torch.einsum("c,chw->hw", head.weight[class_id], features).numpy()
        size_of_logits = float(logits.abs().max())
        np.testing.assert_allclose(found, expected, atol=10 * tolerance * max(1, np.abs(expected).max()))
        assert (
            abs(found.mean() + float(head.bias[class_id]) - float(logits[class_id])) <= 10 * tolerance * size_of_logits
        )


def test_an_int8_export_can_be_explained(tmp_path):
    network = randomized(SMALL).float()
    explanation = Explainer(write_model(network, tmp_path / "small.onnx", (96, 160), "int8")).explain(PICTURE)
    assert sorted(explanation.attention) == [(2, 1), (2, 2), (3, 1), (3, 2)]
    _, _, attention = in_torch(network, preprocess(explanation.image, Preprocessing((96, 160))))
    for place, expected in attention.items():
        found = explanation.attention[place].reshape(expected.shape)
        np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)
        assert np.abs(found - expected).sum(1).mean() / 2 < 0.15  # a random network's ranges are unlike a trained one's
    head = reparameterize(network).head
    probabilities = {each.class_id: each.score for each in explanation.predictions}
    logits = [explanation.class_activation(i).mean() + float(head.bias[i]) for i in range(4)]
    np.testing.assert_allclose(np.exp(logits) / np.exp(logits).sum(), [probabilities[i] for i in range(4)], atol=0.05)


def test_grids_have_the_pictures_proportions(tmp_path):
    path = write_model(randomized(SMALL).float(), tmp_path / "small.onnx", (96, 160))
    explanation = Explainer(path).explain(PICTURE)
    assert explanation.attention_map(2).shape == (3, 5)
    assert explanation.attention_map(3).shape == explanation.class_activation().shape == (2, 3)


def test_the_shipped_model_explains_what_it_predicts():
    network = reparameterize(load_model(ROOT / "weights" / "shvit_s1_tiny_imagenet.safetensors")[0])
    explainer, classifier = Explainer(), Classifier(engine="onnxruntime")
    for path in verification_images():
        explanation = explainer.explain(path)
        assert explanation.predictions == classifier.predict(path)[0].predictions
        logits = classifier._engine.infer(classifier.preprocess(path)[None])[0]
        activation = [explanation.class_activation(i).mean() for i in range(len(classifier.classes))]
        found = np.array(activation) + network.head.bias.numpy()
        assert np.abs(found - logits).max() <= 0.01 * np.abs(logits).max()  # the mean is rounded to 8 bits
    assert explainer.blocks == (*((2, block) for block in (1, 2, 3, 4)), *((3, block) for block in (1, 2, 3, 4, 5)))


def test_an_int8_file_attends_nearly_as_its_network_does():
    network = load_model(ROOT / "weights" / "shvit_s1_tiny_imagenet.safetensors")[0]
    explainer = Explainer()
    for path in verification_images():
        explanation = explainer.explain(path)
        _, _, attention = in_torch(network, preprocess(explanation.image, explainer.card.preprocessing))
        for place, expected in attention.items():
            found = explanation.attention[place].reshape(expected.shape)
            # Half the sum of differences: the share of a token's weight that goes elsewhere.
            assert np.abs(found - expected).sum(1).mean() / 2 < 0.1, place


@settings(max_examples=60)
@given(
    width=st.integers(20, 600),
    height=st.integers(20, 600),
    input_size=st.tuples(st.integers(24, 160), st.integers(24, 160)),
    mode=st.sampled_from(["crop", "squash", "pad"]),
)
def test_the_region_is_where_the_networks_pixels_come_from(width, height, input_size, mode):
    """In a picture whose red and green are each pixel's place, what preprocessing keeps tells where it was."""
    across, down = (np.arange(side) + 0.5 for side in (width, height))
    ramps = np.zeros((height, width, 3), np.uint8)
    ramps[..., 0], ramps[..., 1] = np.rint(255 * across / width), np.rint(255 * down / height)[:, None]
    preprocessing = Preprocessing(input_size, resize_mode=mode, interpolation="bilinear")
    seen = preprocess(Image.fromarray(ramps), preprocessing).astype(float) / 255
    left, top, right, bottom = kept_region(width, height, preprocessing)
    if mode != "pad":
        assert 0 <= left < right <= width + 1e-6 and 0 <= top < bottom <= height + 1e-6
    middle = tuple((side - 1) // 2 for side in input_size)
    for found, start, end, whole in (
        (seen[middle[0], :, 0] * width, left, right, width),
        (seen[:, middle[1], 1] * height, top, bottom, height),
    ):
        step = (end - start) / len(found)
        expected = start + (np.arange(len(found)) + 0.5) * step
        inner = (expected > 2 * step + 2) & (expected < whole - 2 * step - 2)  # at the picture's edges ramps are bent
        assert np.abs(found - expected)[inner].max(initial=0) <= whole / 255 + 0.5


def test_a_point_and_the_token_there():
    explanation = Explainer().explain(PICTURE)
    left, top, right, bottom = explanation.region
    for stage in (2, 3):
        rows, columns = explanation.attention_map(stage).shape
        for token in np.ndindex(rows, columns):
            assert explanation.token_at(stage, *explanation.center(stage, token)) == token
        assert explanation.token_at(stage, left, top) == (0, 0)
        assert explanation.token_at(stage, right - 0.01, bottom - 0.01) == (rows - 1, columns - 1)
    for x, y in ((left - 1, top), (right + 1, top), (left, top - 1), (left, bottom)):
        with pytest.raises(ValueError, match="outside of what the network sees"):
            explanation.token_at(2, x, y)


@pytest.mark.parametrize("size", [(300, 90), (90, 300)])
def test_of_a_padded_picture_every_point_has_its_token(size, tmp_path):
    """A rectangular input with a picture in its middle: the tokens of the padding are not the picture's."""
    path = write_model(randomized(SMALL).float(), tmp_path / "padded.onnx", (64, 128))
    how = Preprocessing((64, 128), resize_mode="pad")
    proto = onnx.load(path)
    set_card(proto, Card("small", "shvit", tuple(ClassInfo(i, f"class {i}") for i in range(4)), how))
    onnx.save(proto, path)
    width, height = size
    explanation = Explainer(path, threads=1).explain(Image.effect_noise(size, 60).convert("RGB"))
    assert explanation.region == kept_region(width, height, how)
    rows, columns = explanation.attention_map(2).shape
    seen = preprocess(Image.new("RGB", size, "white"), how).min(-1) == 255
    for x, y in ((0, 0), (width - 0.01, 0), (width / 2, height / 2), (width - 0.01, height - 0.01)):
        row, column = explanation.token_at(2, x, y)
        cell = seen[row * 64 // rows : (row + 1) * 64 // rows, column * 128 // columns : (column + 1) * 128 // columns]
        assert cell.any(), (x, y)
    for x, y in ((-0.1, 0), (width, 0), (0, height), (0, -0.1)):
        with pytest.raises(ValueError, match=rf"x from 0.0 to {width}.0 and y from 0.0 to {height}.0"):
            explanation.token_at(2, x, y)


def in_a_corner(photograph: Image.Image, size: int, corner: tuple[int, int], background: object) -> Image.Image:
    """A plain picture with a photograph in one corner of what the network sees of it, neither resized by it."""
    picture = Image.new("RGB", (round(size / 0.875),) * 2, background)
    margin = (picture.width - size) // 2
    row, column = (margin + place * (size - photograph.width) for place in corner)
    picture.paste(photograph, (column, row))
    return picture


@pytest.mark.parametrize("background", ["black", (124, 116, 104)])
def test_the_class_activation_lies_on_the_object(background):
    explainer = Explainer(threads=1)
    size = explainer.card.preprocessing.image_size[0]
    espresso = Image.fromarray(preprocess(decode(PICTURE), explainer.card.preprocessing)).resize((size * 13 // 20,) * 2)
    for corner in np.ndindex(2, 2):
        explanation = explainer.explain(in_a_corner(espresso, size, corner, background))
        assert explanation.predictions[0].label == "espresso"
        values = explanation.class_activation()
        assert np.unravel_index(values.argmax(), values.shape) == corner


def test_the_class_activation_lies_on_objects_of_all_classes(tiny_imagenet):
    explainer = Explainer(threads=1)
    size = explainer.card.preprocessing.image_size[0]
    rows = pyarrow.parquet.read_table(next(tiny_imagenet.rglob("val*.parquet"))).to_pylist()[::40]
    hits = []
    for row in rows:
        photograph = decode(row["image"]["bytes"]).resize((size * 9 // 16,) * 2, Image.Resampling.BICUBIC)
        for corner in np.ndindex(2, 2):
            explanation = explainer.explain(in_a_corner(photograph, size, corner, "white"))
            if explanation.predictions[0].class_id == row["label"]:
                values = explanation.class_activation()
                hits.append(np.unravel_index(values.argmax(), values.shape) == corner)
    assert len(hits) > 50
    assert np.mean(hits) > 0.8  # 0.25 by chance


def test_places_that_there_are_not_are_refused_by_name():
    explanation = Explainer().explain(PICTURE)
    with pytest.raises(ValueError, match=r"stage 1: has no attention; .*: 2, 3"):
        explanation.attention_map(1)
    with pytest.raises(ValueError, match="block 9: stage 2 has attention in its blocks 1 to 4"):
        explanation.attention_map(2, 9)
    for token in ((4, 0), (0, -1)):
        with pytest.raises(ValueError, match="stage 2 has 4×4 tokens"):
            explanation.attention_map(2, token=token)
    with pytest.raises(ValueError, match="classes 0 to 199"):
        explanation.class_activation(200)
    with pytest.raises(ImageError, match="not an image"):
        Explainer().explain(b"no image at all")


def test_bytes_of_any_kind_are_explained_and_what_is_no_image_is_refused():
    explainer, data = Explainer(threads=1), PICTURE.read_bytes()
    expected = explainer.explain(data)
    for same in (bytearray(data), memoryview(data)):
        assert explainer.explain(same).predictions == expected.predictions
    for other, named in ((None, "None"), ([PICTURE], "a list")):
        with pytest.raises(ImageTypeError, match=f"^image: expected a path, .*, got {named}$"):
            explainer.explain(other)


def test_files_that_cannot_be_explained_are_refused(tmp_path, colour_model):
    with pytest.raises(ModelFileError, match=r"does not name what explanations need.*shvit export"):
        Explainer(colour_model)
    for suffix in (".tflite", ".xml"):
        (tmp_path / f"model{suffix}").write_bytes(b"no ONNX")
        with pytest.raises(ModelFileError, match="need a graph in ONNX"):
            Explainer(tmp_path / f"model{suffix}")
    (tmp_path / "broken.onnx").write_bytes(b"\x3a\xff\xff\x0fabc")
    with pytest.raises(ModelFileError, match="not a model that onnxruntime can load"):
        Explainer(tmp_path / "broken.onnx")


def test_a_network_without_attention_still_has_class_activation(tmp_path):
    network = randomized(replace(SMALL, attention=(False, False, False))).float()
    explainer = Explainer(write_model(network, tmp_path / "small.onnx", (96, 96)))
    assert explainer.blocks == ()
    explanation = explainer.explain(PICTURE)
    assert explanation.class_activation().shape == (2, 2)
    with pytest.raises(ValueError, match="no attention"):
        explanation.attention_map(2)


def test_it_needs_neither_pytorch_nor_onnx():
    code = (
        "import sys, shvit\n"
        f"shvit.Explainer().explain({str(PICTURE)!r}).class_activation()\n"
        "assert not {'torch', 'onnx', 'shvit.models'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE)


def test_without_onnx_runtime_the_error_says_what_to_install():
    code = (
        "import sys\n"
        "sys.modules['onnxruntime'] = None\n"
        "from shvit.predicting.explain import Explainer\n"
        "from shvit.errors import MissingDependencyError\n"
        "try:\n    Explainer()\n"
        "except MissingDependencyError as error:\n    assert 'pip install onnxruntime' in str(error)\n"
        "else:\n    raise SystemExit('no error')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE)
