"""Fine-tuning for 8 bits: the simulation beside the exported file, what it wins back, and its resumption."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from shvit.cli.main import main
from shvit.cli.train import parse_recipe
from shvit.data import open_dataset
from shvit.data.loader import normalize
from shvit.modelfile.quantize import _integer_input, quantize_graph
from shvit.models import SHViT, load_model, reparameterize, save_checkpoint
from shvit.models.reparam import folded_network
from shvit.models.shvit import ConvNorm
from shvit.network.graph import deployment_graph
from shvit.training import Execution, Recipe, fit, resume, setup
from shvit.training.quantization import Range, round_weights, set_ranges, simulate_int8, without_ranges

from ..conftest import ROOT
from ..modelfile.test_quantize import crops, logits
from ..models.test_reparam import randomized
from ..network.test_graph import SMALL
from .driver import small_shvit
from .test_resume import same_weights

WEIGHTS = ROOT / "weights" / "shvit_s1_tiny_imagenet.safetensors"
RECIPE = Recipe(
    pretrained="given as a network", image_size=64, epochs=2, batch_size=8, quantization_aware=True, ema_decay=0.5
)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return crops(64)


@pytest.fixture(scope="module")
def network() -> SHViT:
    return randomized(SMALL).float()


@pytest.fixture(scope="module")
def simulation(network, images) -> SHViT:
    simulated = simulate_int8(network)
    set_ranges(simulated, torch.from_numpy(images).split(16))
    return simulated.eval()


@torch.no_grad()
def simulated_logits(simulation: SHViT, images: np.ndarray) -> np.ndarray:
    return simulation(normalize(torch.from_numpy(images))).numpy()


def quantized(network: SHViT, images: np.ndarray) -> onnx.ModelProto:
    return quantize_graph(deployment_graph(folded_network(network), images.shape[1:3]), images)


def run_graph(proto: onnx.ModelProto, outputs: list[str] | None, images: np.ndarray) -> list[np.ndarray]:
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(outputs, {"images": images})


def in_graph(name: str) -> str:
    """The feature map whose range this is, under its name in the graph."""
    owner, _, kind = name.rpartition(".")
    renamed = {"dropout": "head.pool", "stem.0": "stem.1", "stem.2": "stem.3", "stem.4": "stem.5"}
    if kind == "means_range":
        return f"{owner}.pool"
    if kind == "gate_range":
        return f"{owner}.gate"
    if kind == "mixed_range":
        return f"{owner}.planes"
    if kind == "input_range" and owner != "dropout":
        return f"{owner.removesuffix('.project')}.joined.relu"
    rectified = owner.endswith(("merge.expand", "ffn.expand", "ffn_in.expand", "ffn_out.expand", "merge.dw", "reduce"))
    return f"{owner}.relu" if rectified else renamed.get(owner, owner)


def test_it_rounds_where_and_as_the_exported_graph_does(network, simulation, images):
    graph = quantized(reparameterize(network), images).graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    exported = {
        node.input[0]: (constants[node.input[1]].item(), constants[node.input[2]].item())
        for node in graph.node
        if node.op_type == "QuantizeLinear"
    }
    moved = ("attended", "untouched", "flat", "rows", "tokens", "q", "k", "v", "columns")  # values keep their scale
    exported = {name: each for name, each in exported.items() if name.rpartition(".")[2] not in moved}
    ranges = {name: each for name, each in simulation.named_modules() if isinstance(each, Range)}
    assert {in_graph(name) for name in ranges} == exported.keys()
    for name, each in ranges.items():
        (scale, zero), (own_scale, own_zero) = exported[in_graph(name)], each.scale_and_zero()
        assert own_scale.item() == pytest.approx(scale, rel=1e-4)
        assert abs(own_zero.item() - zero) <= 1
    for name, layer in reparameterize(network).named_modules():
        if isinstance(layer, torch.nn.Conv2d) and name != "stem.0":
            weights, scale = (constants[f"{name}.weight_{key}"] for key in ("quantized", "scale"))
            np.testing.assert_allclose(
                round_weights(layer.weight).detach().numpy(), weights * scale[:, None, None, None], atol=1e-6
            )


def test_its_outputs_are_nearer_to_the_exported_files_than_float32s(network, simulation, images):
    (in_int8,) = run_graph(quantized(reparameterize(network), images), None, images)
    exact = logits(network, images).numpy()
    rounded = simulated_logits(simulation, images)
    assert np.square(rounded - in_int8).mean() < 0.5 * np.square(exact - in_int8).mean()
    assert np.square(rounded - exact).mean() > 0.5 * np.square(exact - in_int8).mean()


def test_it_is_the_folded_network_when_nothing_is_rounded(network, images):
    simulated = simulate_int8(network)
    for module in simulated.modules():
        if isinstance(module, Range):
            module.rounds = False
    simulated.eval()
    # Its first convolution's border is grey instead of the mean colour, as in the graph that is quantised.
    graph = _integer_input(deployment_graph(folded_network(network), (64, 64)))
    (expected,) = run_graph(graph, None, images)
    np.testing.assert_allclose(simulated_logits(simulated, images), expected, atol=1e-4 * np.abs(expected).max())


@settings(max_examples=30)
@given(arrays.arrays(np.float32, (4, 3, 1, 2), elements=st.floats(-1e3, 1e3, width=32, allow_subnormal=False)))
def test_weights_take_at_most_129_levels_half_a_step_off(values):
    weight = torch.from_numpy(values)
    rounded = round_weights(weight)
    step = weight.abs().amax((1, 2, 3), keepdim=True) / 64
    assert ((rounded - weight).abs() <= step * 0.5001).all()
    levels = (rounded / step).nan_to_num()
    assert (levels - levels.round()).abs().max() <= 1e-3
    assert levels.abs().max() <= 64.001


def test_what_8_bits_cost_is_won_back_in_the_exported_file():
    """A trained network with outliers: one channel of each of the stem's feature maps is 30 times as large, so that
    one scale leaves the others few levels. It learns from its own outputs in float32; other images tell."""
    torch.set_num_threads(1)
    network, _ = load_model(WEIGHTS)
    with torch.no_grad():
        for layer, reader in pairwise(each for each in network.stem if isinstance(each, ConvNorm)):
            channel = int((layer.norm.weight.abs() + layer.norm.bias).argmax())
            layer.norm.weight[channel] *= 30
            layer.norm.bias[channel] *= 30
            reader.conv.weight[:, channel] /= 30
    images, others = np.split(crops(96), [64])
    exact = logits(network, images)
    simulated = simulate_int8(network)
    set_ranges(simulated, torch.from_numpy(images).split(16))
    optimizer = torch.optim.AdamW(simulated.parameters(), lr=1e-4, weight_decay=0)
    for step in range(16):
        part = slice(16 * (step % 4), 16 * (step % 4 + 1))
        loss = F.mse_loss(simulated.train()(normalize(torch.from_numpy(images[part]))), exact[part])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def error(folded: SHViT) -> float:
        """Of the exported graph's outputs, as a share of what these vary by."""
        (found,) = run_graph(quantized(folded, images), None, others)
        expected = logits(network, others)
        return float(np.square(found - expected.numpy()).mean() / expected.var())

    before = error(reparameterize(network))
    assert before > 0.1  # or there is nothing to win
    assert error(without_ranges(simulated.eval())) < 0.7 * before


def prepare(colours, folder, recipe=RECIPE, **execution):
    torch.set_num_threads(1)
    train, val = open_dataset(colours, "train"), open_dataset(colours, "val")
    return setup(recipe, train, val, folder, Execution(device="cpu", workers=0, **execution), small_shvit())


def test_a_run_keeps_a_folded_checkpoint_and_resumes_to_the_same_bits(colours, tmp_path, capsys):
    fit(prepare(colours, tmp_path / "whole"))
    part = prepare(colours, tmp_path / "part", checkpoint_every_steps=1)

    def stop(progress, figures):
        if (progress.epoch, progress.step) == (1, 3):
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fit(part, stop)
    rest = prepare(colours, tmp_path / "part")
    assert resume(rest)
    fit(rest)
    assert same_weights(tmp_path / "whole/last.safetensors", tmp_path / "part/last.safetensors")

    network, checkpoint = load_model(tmp_path / "whole/last.safetensors")
    assert network.folded
    assert "simulation in 8 bits" in checkpoint.metadata["notes"]
    output = tmp_path / "small.onnx"
    arguments = ["export", "--model", str(tmp_path / "whole/last.safetensors"), "--output", str(output)]
    assert main([*arguments, "--precision", "int8", "--calibration", str(colours), "--max-loss", "50"]) == 0
    assert f"{output}: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"pretrained": None}, "quantization_aware: needs pretrained"),
        ({"precision": "bf16-mixed"}, "quantization_aware: needs precision 32-true"),
        ({"dropout": 0.1}, "quantization_aware: dropout"),
    ],
)
def test_what_does_not_go_with_it_is_refused(changes, expected):
    with pytest.raises(ValueError, match=expected):
        replace(RECIPE, **changes)


@pytest.mark.parametrize("changes", [{"attention_gate": True}, {"activation": "hard_swish"}, {"head_stages": 2}])
def test_a_network_that_the_simulation_does_not_know_is_refused(changes):
    with pytest.raises(ValueError, match="quantization_aware: the simulation knows the paper's design"):
        simulate_int8(randomized(replace(SMALL, **changes)))


def test_the_flag_brings_defaults_of_its_own(tmp_path):
    checkpoint = tmp_path / "small.safetensors"
    save_checkpoint(small_shvit(), checkpoint)
    recipe, _ = parse_recipe(["--pretrained", str(checkpoint), "--quantization-aware", "true", "--lr", "2e-4"], 1000)
    assert recipe.quantization_aware
    assert (recipe.mixup, recipe.cutmix, recipe.optimizer.lr) == (0, 0, 2e-4)
    assert recipe.epochs < 10
