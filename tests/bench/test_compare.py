from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import timm
import torch
from PIL import Image

from shvit.bench.networks import Network, calibration_crops, deployed, write_model_file
from shvit.bench.peers import PEERS, PUBLISHED, open_peer
from shvit.cli.main import main
from shvit.engines import load_engine
from shvit.models import SHViT, save_checkpoint

from .test_speed import SMALL

TINY = "test_efficientnet"
"""timm's own, for its tests."""


def png(path: Path) -> Image.Image:
    data = path.read_bytes()
    Image.open(io.BytesIO(data)).verify()
    image = Image.open(io.BytesIO(data))
    assert image.format == "PNG"
    return image


@torch.no_grad()
def test_a_peer_is_exported_folded_and_computes_what_it_did(tmp_path):
    network = open_peer(TINY)
    write_model_file(network, "fp32", tmp_path / "peer.onnx")
    kinds = {node.op_type for node in onnx.load(tmp_path / "peer.onnx").graph.node}
    assert "Conv" in kinds and "BatchNormalization" not in kinds
    images = calibration_crops(network.image_size, 3)
    pixels = (torch.from_numpy(images) / 255 - torch.tensor(network.mean)) / torch.tensor(network.std)
    expected = network.module(pixels.permute(0, 3, 1, 2)).numpy()
    for engine in ("onnxruntime", "openvino"):
        found = load_engine(engine, tmp_path / "peer.onnx", 1).infer(images)
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(("peer", "zero_point"), [("mobilenetv4_conv_small", 114), ("mobilevitv2_050", 0)])
def test_the_bytes_of_an_image_are_the_first_input_of_a_peer_too(tmp_path, peer, zero_point):
    """Tracing leaves a node that asks for the images' shape, which hid the graph's beginning from the quantiser."""
    network = open_peer(peer)
    network = Network(peer, network.module, (64, 64), "random", network.mean, network.std)
    write_model_file(network, "int8", tmp_path / "peer.onnx")
    proto = onnx.load(tmp_path / "peer.onnx")
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    (planes,) = (node for node in proto.graph.node if "images" in node.input and node.op_type != "Shape")
    (entry,) = (node for node in proto.graph.node if planes.output[0] in node.input)
    assert (planes.op_type, entry.op_type) == ("Transpose", "DequantizeLinear")
    assert [constants[name].item() for name in entry.input[1:]] == [1, zero_point]


def test_branches_of_a_peer_are_merged():
    network = Network("mobileone_s0", timm.create_model("mobileone_s0").double().eval(), (64, 64), "random")
    merged = deployed(network)
    assert sum(p.numel() for p in merged.parameters()) < 0.5 * sum(p.numel() for p in network.module.parameters())
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in merged.modules())
    image = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        expected = network.module(image)
        assert (merged(image) - expected).abs().max() < 1e-9 * expected.abs().max()


def test_the_published_accuracies_are_of_networks_that_timm_has():
    for name, known in PUBLISHED.items():
        assert timm.is_model(name)
        assert 60 < known.top1 < 85
        assert known.source
    for name in PEERS:
        assert PUBLISHED[name].weights in timm.list_models(f"{name}*", pretrained=True)


def test_compare_from_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(PUBLISHED, TINY, PUBLISHED["mobilevitv2_100"]._replace(image_size=64))
    checkpoint = tmp_path / "small.safetensors"
    save_checkpoint(SHViT(SMALL), checkpoint)
    command = ["bench", "compare", "--model", str(checkpoint), "--peers", TINY, "--engine", "onnxruntime", "openvino"]
    command += ["--precision", "int8", "--batch-size", "2", "--seconds", "0.04", "--rounds", "2", "--format", "json"]
    assert main([*command, "--output", str(tmp_path / "report")]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert {each["model"] for each in printed["results"]} == {str(checkpoint), TINY}
    assert {each["engine"] for each in printed["results"]} == {"onnxruntime", "openvino"}
    speedups = {each["precision"]: each for each in printed["times_faster"]}
    assert speedups.keys() == {"int8", "best"}
    fastest = {
        model: min(each["latency_ms"]["p50"] for each in printed["results"] if each["model"] == model)
        for model in (str(checkpoint), TINY)
    }
    # Of rounds, not of all runs: near the quotient of the medians, not equal to it.
    assert speedups["best"]["median"] == pytest.approx(fastest[TINY] / fastest[str(checkpoint)], rel=0.7)
    assert speedups["best"]["min"] <= speedups["best"]["median"] <= speedups["best"]["max"]
    assert json.loads((tmp_path / "report" / "compare.json").read_text()) == printed
    markdown = (tmp_path / "report" / "compare.md").read_text()
    assert f"| {TINY} | 64 | 78.1 |" in markdown
    assert "timm, results/results-imagenet.csv" in markdown
    assert png(tmp_path / "report" / "compare.png").width > 500


def test_wrong_names_are_refused(capsys, tmp_path):
    assert main(["bench", "compare", "--model", "shvit_s9", "--peers", TINY]) == 2
    assert "shvit_s9: no such model" in capsys.readouterr().err
    with pytest.raises(ValueError, match="has no such network"):
        open_peer("mobilenet_v99")
    (tmp_path / "file").touch()
    assert main(["bench", "compare", "--output", str(tmp_path / "file" / "report")]) == 2
    assert "cannot be made" in capsys.readouterr().err
