from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from shvit.bench import peaks, reached
from shvit.bench.cost import Cost, Layer, count_cost
from shvit.bench.peaks import Peaks
from shvit.cli.main import main
from shvit.hub.names import PUBLISHED
from shvit.models import VARIANTS, SHViT, create_model, reparameterize, save_checkpoint
from shvit.models.reparam import folded_network

from .test_speed import SMALL

MEASURED_MACS = {"shvit_s1": 241.4, "shvit_s2": 365.5, "shvit_s3": 600.7, "shvit_s4": 986.4}
"""Millions, folded."""
PEAKS = Peaks(1, 100.0, "none", 400.0, "none", 10.0)


@pytest.mark.parametrize("variant", MEASURED_MACS)
def test_totals_are_the_known_ones(variant):
    folded = reparameterize(create_model(variant))
    size = (folded.config.image_size,) * 2
    cost = count_cost(folded, size)
    known = PUBLISHED[variant]
    assert cost.macs == folded_network(folded).macs(size) == known.macs
    assert round(cost.macs / 1e6, 1) == MEASURED_MACS[variant]
    assert cost.parameters == known.parameters
    # Each weight is read once: there are no shared layers.
    assert sum(layer.weights for layer in cost.layers) == cost.parameters


def test_layers_counted_by_hand():
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),  # 8 kernels of 27 weights and a bias, on 3·16·16, gives 8·8·8
        nn.ReLU(),  # in passing
        nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),
        nn.Sigmoid(),
        nn.Flatten(),  # a view
        nn.Linear(512, 10),
    )
    layers = count_cost(network.eval(), (16, 16)).layers
    assert [(each.name, each.kind) for each in layers] == [
        ("0", "convolution"),
        ("2", "depthwise"),
        ("3", "elementwise"),
        ("5", "matrix product"),
    ]
    counted = [(each.macs, each.weights, each.inputs, each.outputs) for each in layers]
    assert counted == [
        (512 * 27, 8 * 27 + 8, 768, 512),
        (512 * 9, 72, 512, 512),
        (0, 0, 512, 512),
        (5120, 5130, 512, 10),
    ]
    assert [each.bytes("fp32") for each in layers] == [4 * (224 + 768 + 512), 4 * 1096, 4 * 1024, 4 * 5652]
    assert [each.bytes("fp16") for each in layers] == [2 * 1504, 2 * 1096, 2 * 1024, 2 * 5652]
    assert [each.bytes("int8") for each in layers] == [
        1504,
        1096,
        4 * 1024,
        4 * 5652,
    ]  # only convolutions are in 8 bits


def test_attention_counted_by_hand():
    folded = reparameterize(SHViT(VARIANTS["shvit_s1"]))
    layers = [each for each in count_cost(folded, (224, 224)).layers if each.name == "stages.1.blocks.0.attention"]
    tokens, partial, width = 49, 48, 224
    assert [each.operation for each in layers] == ["bmm", "_softmax", "bmm", "cat", "relu", "add"]
    weights, values = layers[0], layers[2]
    assert (weights.macs, weights.inputs, weights.outputs) == (tokens**2 * 16, 2 * 16 * tokens, tokens**2)
    assert (values.macs, values.inputs) == (tokens**2 * partial, tokens**2 + partial * tokens)
    assert layers[-1].inputs == 2 * layers[-1].outputs == 2 * width * tokens


def test_a_relu_that_does_not_follow_a_product_is_a_layer_of_its_own():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sigmoid(), nn.ReLU())
    assert [each.operation for each in count_cost(network, (4, 4)).layers] == ["convolution", "sigmoid", "relu"]


def test_the_bound_is_the_slower_of_arithmetic_and_memory():
    heavy = Layer("a", "convolution", "convolution", (1,), macs=10**9, weights=10, inputs=10, outputs=10)
    light = Layer("b", "add", "elementwise", (1,), macs=0, weights=0, inputs=2 * 10**6, outputs=10**6)
    assert heavy.seconds(PEAKS, "fp32") == pytest.approx(2 / 100)
    assert heavy.seconds(PEAKS, "int8") == pytest.approx(2 / 400)
    assert light.seconds(PEAKS, "fp32") == light.seconds(PEAKS, "int8") == pytest.approx(12e6 / 10e9)
    cost = Cost((heavy, light), 10)
    assert cost.seconds(PEAKS, "fp32") == pytest.approx(0.02 + 0.0012)
    assert cost.intensity("fp32") == pytest.approx(2 * 10**9 / cost.bytes("fp32"))
    assert sum(part.bytes("fp32") for part in cost.by_kind().values()) == cost.bytes("fp32")


def test_counting_leaves_the_network_as_it_was():
    network = nn.Sequential(nn.Conv2d(3, 4, 1))
    before = network(torch.ones(1, 3, 4, 4))
    count_cost(network, (4, 4))
    assert not network[0]._forward_hooks and not network[0]._forward_pre_hooks
    assert torch.equal(network(torch.ones(1, 3, 4, 4)), before)


@pytest.fixture
def quick_peaks(monkeypatch):
    monkeypatch.setattr(peaks, "SIDE", 256)
    monkeypatch.setattr(peaks, "COPIED", 2**22)
    monkeypatch.setattr(peaks.measure_peaks, "__defaults__", (0.02,))


def test_the_share_of_the_peak(tmp_path, capsys, quick_peaks, monkeypatch):
    monkeypatch.setattr(reached, "PRECISIONS", ("int8",))
    checkpoint = tmp_path / "small.safetensors"
    save_checkpoint(SHViT(SMALL), checkpoint)
    command = ["bench", "cost", "--model", str(checkpoint), "--engine", "onnxruntime", "--batch-size", "2"]
    assert main([*command, "--seconds", "0.02", "--rounds", "2", "--format", "json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [each["precision"] for each in printed["reached"]] == ["int8"]
    each = printed["reached"][0]
    expected = 2 * printed["results"][0]["macs"] * each["images_per_second"] / 1e9 / printed["peaks"]["int8_gops"]
    assert each["share_of_peak"] == pytest.approx(expected)


def test_cost_from_the_command_line(tmp_path, capsys, quick_peaks):
    assert main(["bench", "cost", "--model", "shvit_s1", "--output", str(tmp_path), "--format", "json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    (result,) = printed["results"]
    assert result["macs"] == 241_400_128
    assert result["memory_access_bytes"]["fp32"] == sum(layer["bytes"]["fp32"] for layer in result["layers"])
    assert printed["peaks"]["int8_gops"] > 0
    assert 0 < result["bound_images_per_second"]["fp32"] < 1e5
    assert json.loads((tmp_path / "cost.json").read_text())["results"] == printed["results"]
    assert (tmp_path / "cost_shvit_s1.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert main(["bench", "cost", "--no-peaks", "--layers", "--image-size", "64"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("stages.2.blocks.4.ffn.expand" in line and "640×1×1" in line for line in lines)
    assert main(["bench", "cost", "--no-peaks", "--image-size", "64x96"]) == 0
    assert " 64x96 " in capsys.readouterr().out
    assert main(["bench", "cost", "--no-peaks", "--output", str(tmp_path)]) == 2
    assert main(["bench", "cost", "--model", "shvit_s9", "--no-peaks"]) == 2
    assert "shvit_s9: no such model; expected one of shvit_s1" in capsys.readouterr().err
