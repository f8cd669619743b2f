from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from shvit.models import VARIANTS, SHViT, SHViTConfig, reparameterize

STUDIES = {
    "stem stride 8": SHViTConfig(stem_stride=8, num_classes=7),
    "stem stride 4, four stages": SHViTConfig(
        widths=(32, 64, 96, 128),
        depths=(1, 1, 2, 1),
        partial_dims=(8, 16, 24, 32),
        attention=(False, False, True, True),
        stem_stride=4,
        num_classes=7,
    ),
    "multi-head": SHViTConfig(num_heads=4, num_classes=7),
    "all channels attended": SHViTConfig(num_classes=7).with_partial_ratio(1.0),
    "no attention": SHViTConfig(attention=(False, False, False), num_classes=7),
    "no head": SHViTConfig(num_classes=0),
    "attention in every other block": SHViTConfig(attention_step=2, num_classes=7),
    "gated attention": SHViTConfig(attention_gate=True, num_classes=7),
    "gated multi-head attention": SHViTConfig(attention_gate=True, num_heads=2, num_classes=7),
    "squared ReLU": SHViTConfig(depths=(1, 1, 1), activation="squared_relu", num_classes=7),
    "hard swish": SHViTConfig(activation="hard_swish", num_classes=7),
    "branches": SHViTConfig(branch_kernels=(3, 1, 1), num_classes=7),
    "two stages' features": SHViTConfig(head_stages=2, distillation=True, num_classes=7),
}


def randomized(config: SHViTConfig) -> SHViT:
    """A network whose normalisations are far from the identity, and whose outputs differ from image to image.

    Its statistics are those of some images: with others the signal dies out on the way, and the same logits come of
    everything.
    """
    torch.manual_seed(0)
    model = SHViT(config).double().train()
    # What is squared in each of many layers would grow beyond all bounds for images unlike those below.
    largest = 0.1 if config.activation == "squared_relu" else 1.2
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d | nn.GroupNorm):
            nn.init.uniform_(module.weight, largest / 4, largest)
            nn.init.normal_(module.bias, 0, 0.3)
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.momentum = None  # the statistics of what comes next, not a moving average
    coarse, fine = (torch.randn(32, config.in_chans, side, side, dtype=torch.float64) for side in (3, 16))
    with torch.no_grad():
        model(F.interpolate(1.5 * coarse, (64, 64), mode="bilinear") + F.interpolate(0.5 * fine, (64, 64)))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.momentum = 0.1
    return model.eval()


def test_these_networks_tell_images_apart():
    model = randomized(VARIANTS["shvit_s1"])
    logits = model(torch.randn(6, 3, 96, 96, dtype=torch.float64))
    assert logits.std(0).mean() > 0.05 * logits.std()


def relative_difference(ours: torch.Tensor, expected: torch.Tensor) -> float:
    return float((ours - expected).abs().max() / expected.abs().max())


@torch.no_grad()
@pytest.mark.parametrize("distillation", [False, True])
def test_folding_keeps_the_function(variant, distillation):
    model = randomized(replace(VARIANTS[variant], distillation=distillation))
    image = torch.randn(2, 3, 96, 128, dtype=torch.float64)
    expected = model(image)
    assert relative_difference(reparameterize(model)(image), expected) <= 1e-12
    assert relative_difference(reparameterize(model.float())(image.float()), expected) <= 2e-5


@torch.no_grad()
@pytest.mark.parametrize("study", STUDIES)
def test_folding_keeps_the_function_of_the_papers_studies(study):
    model = randomized(STUDIES[study])
    image = torch.randn(2, 3, 80, 64, dtype=torch.float64)
    assert relative_difference(reparameterize(model)(image), model(image)) <= 1e-12


def test_nothing_is_left_to_fold():
    folded = reparameterize(SHViT(SHViTConfig(distillation=True)))
    kinds = {type(module) for module in folded.modules()}
    assert not kinds & {nn.BatchNorm1d, nn.BatchNorm2d}
    assert not any(norm.affine for norm in folded.modules() if isinstance(norm, nn.GroupNorm))
    assert not folded.training
    assert not any(p.requires_grad for p in folded.parameters())


def test_the_source_is_not_changed():
    model = randomized(SHViTConfig(num_classes=3))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    reparameterize(model)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_folding_twice_is_refused():
    with pytest.raises(ValueError, match="folded already"):
        reparameterize(reparameterize(SHViT(SHViTConfig(num_classes=3))))
