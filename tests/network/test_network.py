from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from shvit.models import SHViT
from shvit.models.reparam import folded_network, module_of
from shvit.network.forward import forward
from shvit.network.network import FoldedNetwork

from ..models.test_reparam import STUDIES, randomized
from .test_shapes import CONFIGS


@torch.inference_mode()
def counted_macs(network: FoldedNetwork, size: tuple[int, int]) -> int:
    """By PyTorch's counter, and five for each element that a GroupNorm sees."""
    module, norms = module_of(network), []
    for each in module.modules():
        if isinstance(each, nn.GroupNorm):
            each.register_forward_hook(lambda _module, _inputs, output: norms.append(5 * output.numel()))
    with FlopCounterMode(display=False) as counter:
        images = torch.zeros(1, network.config.in_chans, *size)
        _, pooled = module.forward_intermediates(images, network.config.head_stages)
        module.forward_head(pooled)
    return counter.get_total_flops() // 2 + sum(norms) + sum(each.numel() for each in pooled)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("size", [(224, 224), (97, 200)])
def test_macs_are_those_that_pytorch_counts(name, size):
    network = folded_network(SHViT(CONFIGS[name]))
    assert network.macs(size) == counted_macs(network, size)
    assert network.parameters == sum(each.numel() for each in module_of(network).parameters())


@pytest.mark.parametrize("name", [*STUDIES, "two heads"])
def test_numpy_computes_what_the_unfolded_pytorch_network_does(name):
    model = randomized(CONFIGS[name]).eval()
    images = torch.randn(2, model.config.in_chans, 97, 130, dtype=torch.float64)
    with torch.inference_mode():
        expected = model(images).numpy()
    found = forward(folded_network(model), images.numpy())
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    assert (found.argmax(1) == expected.argmax(1)).all()


def test_a_module_that_is_changed_leaves_its_arrays_as_they_are():
    network = folded_network(SHViT(CONFIGS["multi-head"]))
    before = network.arrays["stem.0.weight"].copy()
    with torch.no_grad():
        module_of(network).stem[0].weight.zero_()
    assert (network.arrays["stem.0.weight"] == before).all()
