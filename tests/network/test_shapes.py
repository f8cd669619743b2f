from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from shvit.models import VARIANTS, SHViT, reparameterize
from shvit.network.shapes import tensor_shapes
from tests.models.test_reparam import STUDIES

CONFIGS = {
    **VARIANTS,
    **STUDIES,
    "two heads": replace(VARIANTS["shvit_s1"], distillation=True, in_chans=1, num_classes=3),
    "wider feed-forward": replace(VARIANTS["shvit_s2"], mlp_ratio=3, qk_dim=8),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_shapes_are_those_of_the_pytorch_network_in_its_order(name):
    with torch.device("meta"):
        model = SHViT(CONFIGS[name])
        folded = reparameterize(model)
    for each, is_folded in ((model, False), (folded, True)):
        expected = [(name, tuple(tensor.shape)) for name, tensor in each.state_dict().items()]
        assert list(tensor_shapes(CONFIGS[name], is_folded).items()) == expected
