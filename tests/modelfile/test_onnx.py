from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from shvit import Classifier
from shvit.card import Card, ClassInfo, Preprocessing
from shvit.cli.main import main
from shvit.engines import load_engine
from shvit.errors import ExportError
from shvit.exporting import FileOptions, export_model, export_onnx
from shvit.modelfile import verify
from shvit.modelfile.card import card_for
from shvit.modelfile.onnx import to_proto
from shvit.modelfile.source import Source
from shvit.modelfile.verify import photograph_crops
from shvit.models import SHViT, SHViTConfig, create_model, save_checkpoint
from shvit.models.checkpoints import load_model
from shvit.models.reparam import folded_network
from shvit.network.sides import sides

from ..conftest import SAMPLES
from ..models.test_reparam import randomized

CONFIG = SHViTConfig(widths=(32, 48, 64), depths=(1, 1, 2), partial_dims=(8, 16, 16), num_classes=4)


def small_card(size: tuple[int, int] = (96, 160)) -> Card:
    return Card("small", "shvit", tuple(ClassInfo(i, f"c{i}") for i in range(4)), Preprocessing(size))


@pytest.fixture(scope="module")
def model() -> SHViT:
    network = randomized(replace(CONFIG, distillation=True)).float()
    with torch.no_grad():  # logits of a trained network's size
        for head in (network.head, network.head_dist):
            head.linear.weight *= 0.1
    return network


def photographs() -> list[Path]:
    return sorted(SAMPLES.glob("*.jpg"))


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_file_gives_what_the_network_gives(model, tmp_path, engine, precision):
    report = export_onnx(model, tmp_path / "small.onnx", small_card(), precision)
    assert report.images == 204
    assert report.top1_agreement > 0.99
    assert report.max_difference <= verify.TOLERANCE[precision]
    classifier = Classifier(tmp_path / "small.onnx", engine=engine)
    batch = np.stack([classifier.preprocess(path) for path in photographs()])
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        expected = model(((torch.from_numpy(batch) / 255 - mean) / std).permute(0, 3, 1, 2)).softmax(-1).numpy()
    np.testing.assert_allclose(classifier.predict_batch(batch), expected, atol=1e-4 if precision == "fp32" else 1e-2)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_int8_changes_little_in_either_engine(model, tmp_path, engine):
    # Not export_onnx: a network with random weights has outliers that 8 bits cut off.
    path, card = tmp_path / "small.onnx", small_card()
    images = photograph_crops(card.preprocessing)
    source = Source(folded_network(model), path, card, "int8", calibration=images)
    proto = to_proto(source)
    onnx.save(proto, path)
    assert path.stat().st_size < 0.6 * 4 * source.network.parameters
    producers = {name: node.op_type for node in proto.graph.node for name in node.output}
    convolutions = [node for node in proto.graph.node if node.op_type == "Conv"]
    assert len(convolutions) > 20
    assert all(producers[name] == "DequantizeLinear" for node in convolutions for name in node.input[:2])
    assert not {"Cast", "Sub"} & {node.op_type for node in proto.graph.node if node.output[0].startswith("stem")}
    constants = [tensor for tensor in proto.graph.initializer if len(tensor.dims) == 4]
    kernels = [onnx.numpy_helper.to_array(tensor) for tensor in constants]
    assert all(kernel.dtype == np.int8 and np.abs(kernel.astype(int)).max() <= 64 for kernel in kernels)
    found, expected = load_engine(engine, path).infer(images), source.logits(images)
    assert 0.95 < np.corrcoef(found.ravel(), expected.ravel())[0, 1] < 1
    assert (found.argmax(1) == expected.argmax(1)).mean() > 0.8


@pytest.mark.parametrize("size", [128, (64, 192)], ids=str)
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_file_of_any_size_is_used_at_the_one_that_is_asked_for(model, tmp_path, engine, size):
    path = tmp_path / "any.onnx"
    report = export_model(model, path, small_card(), FileOptions("onnx", "fp32", dynamic_size=True))
    assert report.card.verification.notes == "takes images of any size; run at 96x160, 49x81, 123x220"
    assert Classifier(path).preprocess(photographs()[0]).shape == (96, 160, 3)
    classifier = Classifier(path, engine=engine, image_size=size)
    batch = np.stack([classifier.preprocess(each) for each in photographs()])
    assert batch.shape[1:] == (*sides(size), 3)
    expected = (
        torch.from_numpy(Source(folded_network(model), path, small_card(), "fp32").logits(batch)).softmax(-1).numpy()
    )
    np.testing.assert_allclose(classifier.predict_batch(batch), expected, atol=1e-4)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_file_of_any_size_in_int8(model, tmp_path, engine):
    path, card = tmp_path / "small.onnx", small_card()
    images = photograph_crops(card.preprocessing)
    source = Source(folded_network(model), path, card, "int8", calibration=images, dynamic_size=True)
    onnx.save(to_proto(source), path)
    for pixels in (images, photograph_crops(Preprocessing((130, 65)))):
        found, expected = load_engine(engine, path).infer(pixels), source.logits(pixels)
        assert 0.95 < np.corrcoef(found.ravel(), expected.ravel())[0, 1] < 1


def test_only_a_file_of_any_size_takes_another(model, tmp_path, capsys):
    export_onnx(model, tmp_path / "fixed.onnx", small_card())
    arguments = ["predict", str(photographs()[0]), "--model", str(tmp_path / "fixed.onnx"), "--image-size"]
    for size in ("64", "160x96", "96"):
        assert main([*arguments, size]) == 2
        error = capsys.readouterr().err
        assert f"image_size {size}: " in error
        assert f"takes images of 96x160 only; export it with --dynamic-size, or with --image-size {size}" in error
    assert main([*arguments, "96x160"]) == 0
    with pytest.raises(
        ExportError, match="a LiteRT file takes one image size; for any size export to ONNX or OpenVINO"
    ):
        export_model(model, tmp_path / "any.tflite", small_card(), FileOptions("litert", dynamic_size=True))


def test_int8_needs_calibration_and_measures_what_it_wrote(tmp_path, capsys):
    from PIL import Image

    for split in ("train", "val"):
        for number, colour in enumerate(("red", "blue")):
            (tmp_path / "data" / split / colour).mkdir(parents=True)
            for each in range(16):
                Image.new("RGB", (64, 64), (200 * (number == 0), each, 200 * number)).save(
                    tmp_path / "data" / split / colour / f"{each}.png"
                )
    torch.manual_seed(0)
    save_checkpoint(SHViT(replace(CONFIG, num_classes=2)), tmp_path / "s1.safetensors")
    (tmp_path / "names.txt").write_text("\ufeffblue\nred\n", encoding="utf-8")
    output = tmp_path / "s1.onnx"
    arguments = ["export", "--model", str(tmp_path / "s1.safetensors"), "--output", str(output), "--image-size", "64"]
    arguments += ["--classes", str(tmp_path / "names.txt"), "--precision", "int8"]
    assert main(arguments) == 2
    assert "--precision int8: give --calibration DATA" in capsys.readouterr().err
    arguments += ["--calibration", str(tmp_path / "data")]
    assert main([*arguments, "--max-loss", "-1"]) == 2
    assert "--max-loss: expected 0 to 100" in capsys.readouterr().err
    assert not output.exists()
    assert main([*arguments, "--max-loss", "100"]) == 0
    assert "on 32 validation images" in capsys.readouterr().out
    (top1, _) = Classifier(output).card.metrics
    assert (top1.name, top1.dataset) == ("top1", "data/val (32 images)")
    assert main(["eval", "--model", str(output), "--data", str(tmp_path / "data"), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["top1"] == pytest.approx(top1.value, abs=1e-4)


def test_what_the_file_holds(model, tmp_path):
    export_onnx(model, tmp_path / "small.onnx", small_card())
    proto = onnx.load(tmp_path / "small.onnx")
    onnx.checker.check_model(proto, full_check=True)
    kinds = {node.op_type for node in proto.graph.node}
    assert not kinds & {"BatchNormalization", "Identity", "Dropout"}
    (images,), (logits,) = proto.graph.input, proto.graph.output
    assert images.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    dims = [each.dim_param or each.dim_value for each in images.type.tensor_type.shape.dim]
    assert dims[1:] == [96, 160, 3]
    assert isinstance(dims[0], str)
    assert logits.name == "logits"
    # Nothing of the exporting machine's file system travels along.
    assert b"site-packages" not in (tmp_path / "small.onnx").read_bytes()
    card = Card.from_json(proto.metadata_props[0].value)
    assert replace(card, verification=None) == small_card()


def test_the_network_is_not_changed(model, tmp_path):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    export_onnx(model, tmp_path / "small.onnx", small_card())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_file_that_differs_is_not_left(model, tmp_path, monkeypatch):
    monkeypatch.setattr(verify, "TOLERANCE", {"fp16": 1e-9})
    (tmp_path / "small.onnx").write_bytes(b"what was there before")
    with pytest.raises(ExportError, match="the exported graph differs from the network"):
        export_onnx(model, tmp_path / "small.onnx", small_card())
    assert [path.name for path in tmp_path.iterdir()] == ["small.onnx"]
    assert (tmp_path / "small.onnx").read_bytes() == b"what was there before"


def test_a_network_whose_outputs_say_nothing_is_refused_without_warnings(model, tmp_path):
    network = folded_network(model)
    for factor, largest in ((0.0, "0"), (1e30, "nan")):
        arrays = {name: np.float32(factor) * each for name, each in network.arrays.items()}
        with warnings.catch_warnings(), pytest.raises(ExportError, match=f"the largest logit is {largest}"):
            warnings.simplefilter("error")
            export_onnx(replace(network, arrays=arrays), tmp_path / "small.onnx", small_card())
    assert not list(tmp_path.iterdir())


def test_what_does_not_fit_is_refused(model, tmp_path):
    card = small_card()
    with pytest.raises(ExportError, match="the card names 3 classes, the network has 4"):
        export_onnx(model, tmp_path / "a.onnx", replace(card, classes=card.classes[:3]))
    with pytest.raises(ExportError, match="in_chans=1"):
        export_onnx(SHViT(replace(CONFIG, in_chans=1)), tmp_path / "a.onnx", card)
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match="cannot be written"):
        export_onnx(model, tmp_path / "file" / "a.onnx", card)
    assert not (tmp_path / "a.onnx").exists()


def test_export_from_the_command_line(tmp_path, capsys):
    torch.manual_seed(0)
    save_checkpoint(create_model("shvit_s1", num_classes=3), tmp_path / "s1.pth", names="reference")
    (tmp_path / "names.txt").write_text("ant\nbee\ncat\n")
    arguments = ["export", "--model", str(tmp_path / "s1.pth"), "--output", str(tmp_path / "s1.onnx")]
    assert main([*arguments, "--image-size", "64x96", "--classes", str(tmp_path / "names.txt")]) == 0
    assert "on 204 crops of photographs" in capsys.readouterr().out
    assert main(["info", str(tmp_path / "s1.onnx"), "--format", "json"]) == 0
    card = json.loads(capsys.readouterr().out)
    assert card["architecture"] == "shvit_s1"
    assert [each["label"] for each in card["classes"]] == ["ant", "bee", "cat"]
    assert card["preprocessing"]["image_size"] == [64, 96]
    assert card["macs"] == pytest.approx(241.4e6 * 64 * 96 / 224**2, rel=0.05)
    for names in (SAMPLES / "none.txt", tmp_path / "latin1.txt"):
        (tmp_path / "latin1.txt").write_bytes(b"caf\xe9\n")
        assert main([*arguments[:3], "--output", str(tmp_path / "no.onnx"), "--classes", str(names)]) == 2
        assert str(names) in capsys.readouterr().err


def test_the_card_of_imagenet_weights_names_the_classes(tmp_path):
    save_checkpoint(create_model("shvit_s4"), tmp_path / "shvit_s4.in1k.safetensors", names="timm")
    model, checkpoint = load_model(tmp_path / "shvit_s4.in1k.safetensors")
    card = card_for(folded_network(model), checkpoint, "s4")
    assert card.classes[281].wnid == "n02123045"
    assert "tabby" in card.classes[281].label
    assert card.preprocessing.image_size == (256, 256)
    assert round(card.macs / 1e6, 1) == 986.4
