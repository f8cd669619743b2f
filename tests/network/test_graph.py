"""The graph that is written by hand, beside the network that it is written from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shvit.card import IMAGENET_MEAN, IMAGENET_STD
from shvit.models import SHViT, SHViTConfig, reparameterize
from shvit.models.reparam import folded_network
from shvit.network.forward import logits_of
from shvit.network.graph import deployment_graph

from ..models.test_reparam import randomized

SMALL = SHViTConfig(widths=(32, 48, 64), depths=(1, 1, 2), partial_dims=(8, 16, 16), num_classes=4)


def folded(config: SHViTConfig) -> SHViT:
    return reparameterize(randomized(config).float())


def session_of(proto: onnx.ModelProto) -> onnxruntime.InferenceSession:
    onnx.checker.check_model(proto, full_check=True)
    return onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])


def assert_same(network: SHViT, size: tuple[int, int], session: onnxruntime.InferenceSession | None = None) -> None:
    session = session or session_of(deployment_graph(folded_network(network), size))
    images = np.random.default_rng(0).integers(0, 256, (3, *size, 3), dtype=np.uint8)
    mean, std = (torch.tensor(value) * 255 for value in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.no_grad():
        expected = network(((torch.from_numpy(images) - mean) / std).permute(0, 3, 1, 2)).numpy()
    (found,) = session.run(None, {"images": images})
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    assert np.abs(logits_of(folded_network(network), images) - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_heads": 2, "partial_dims": (8, 16, 32)},
        {"stem_stride": 8},
        {"attention": (True, False, True)},
        {"widths": (32, 48, 64, 80), "depths": (1, 1, 1, 1), "partial_dims": (8, 16, 16, 16), "attention": (True,) * 4},
        {"mlp_ratio": 3, "qk_dim": 8, "distillation": True},
        {"attention_gate": True, "attention_step": 2},
        {"attention_gate": True, "num_heads": 2, "partial_dims": (8, 16, 32)},
        {"activation": "squared_relu", "branch_kernels": (3, 1)},
        {"activation": "hard_swish"},
        {"head_stages": 3, "distillation": True},
    ],
)
def test_it_is_the_network_in_every_configuration(changes):
    network = folded(replace(SMALL, **changes))
    assert_same(network, (96, 64))
    dynamic = session_of(deployment_graph(folded_network(network), (96, 64), dynamic_size=True))
    for size in ((96, 64), (65, 130)):
        assert_same(network, size, dynamic)


@pytest.fixture(scope="module")
def small() -> SHViT:
    return folded(SMALL)


@settings(max_examples=15)
@given(height=st.integers(16, 150), width=st.integers(16, 150))
def test_it_is_the_network_at_any_size(small, height, width):
    assert_same(small, (height, width))


@pytest.fixture(scope="module")
def dynamic(small) -> onnxruntime.InferenceSession:
    return session_of(deployment_graph(folded_network(small), (64, 64), dynamic_size=True))


@settings(max_examples=15)
@given(height=st.integers(1, 150), width=st.integers(1, 150))
def test_one_graph_is_the_network_at_any_size(small, dynamic, height, width):
    assert_same(small, (height, width), dynamic)


def test_it_has_what_engines_run_fast_and_no_shapes_computed_at_run_time(small):
    proto = deployment_graph(folded_network(small), (64, 64))
    kinds = {node.op_type for node in proto.graph.node}
    assert not kinds & {"Shape", "Gather", "Split", "BatchNormalization", "GroupNormalization"}
    names = {node.name for node in proto.graph.node}
    assert {"stem.0", "stages.1.downsample.merge.project", "stages.2.blocks.1.attention.qkv", "logits"} <= names
