"""Against the reference implementation's logits, and against timm's implementation."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from timm.models import adapt_input_conv

from shvit.models import VARIANTS, SHViTFeatures, create_model, reparameterize, save_checkpoint
from shvit.models.reparam import folded_network

from .conftest import golden_input

PAPER_PARAMETERS = {"shvit_s1": 6_330_808, "shvit_s2": 11_483_072, "shvit_s3": 14_245_273, "shvit_s4": 16_588_484}
FOLDED_PARAMETERS = {"shvit_s1": 6_308_660, "shvit_s2": 11_453_508, "shvit_s3": 14_210_010, "shvit_s4": 16_546_248}
FOLDED_MACS_M = {"shvit_s1": 241.4, "shvit_s2": 365.5, "shvit_s3": 600.7, "shvit_s4": 986.4}


@torch.no_grad()
def test_logits_are_the_references(variant, golden_model, golden):
    logits = golden_model(golden_input(VARIANTS[variant].image_size))
    np.testing.assert_allclose(logits.numpy(), golden[variant], rtol=0, atol=5e-7)


@torch.no_grad()
def test_distilled_logits_are_the_references(variant, golden_distilled_model, golden):
    logits = golden_distilled_model(golden_input(VARIANTS[variant].image_size))
    np.testing.assert_allclose(logits.numpy(), golden[f"{variant}_distilled"], rtol=0, atol=5e-7)


@torch.no_grad()
def test_logits_of_a_wide_image_are_the_references(variant, golden_model, golden):
    image = torch.from_numpy(np.random.default_rng(99).standard_normal((1, 3, 384, 512)))
    np.testing.assert_allclose(golden_model(image).numpy(), golden[f"{variant}_384x512"], rtol=0, atol=5e-7)


@torch.no_grad()
def test_float32_logits_are_the_references(variant, golden_model, golden):
    model = create_model(variant)
    model.load_state_dict(golden_model.state_dict())
    logits = model.eval()(golden_input(VARIANTS[variant].image_size).float())
    np.testing.assert_allclose(logits.numpy(), golden[variant], rtol=0, atol=2e-5)


@torch.no_grad()
def test_equals_timm_with_the_same_tensors(variant, golden_model):
    theirs = timm.create_model(variant).double().eval()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), golden_model.state_dict().values(), strict=True)))
    image = golden_input(VARIANTS[variant].image_size)[:1]
    last, maps = golden_model.forward_intermediates(image)
    their_last, their_maps = theirs.forward_intermediates(image)
    torch.testing.assert_close(last, their_last, rtol=0, atol=1e-10)
    assert len(maps) == len(their_maps) == 3
    for ours, expected in zip(maps, their_maps, strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(golden_model(image), theirs(image), rtol=0, atol=1e-10)


def test_feature_info_equals_timm(variant):
    theirs = timm.create_model(variant, features_only=True).feature_info
    ours = create_model(variant, features_only=True)
    assert isinstance(ours, SHViTFeatures)
    assert ours.feature_info.channels() == theirs.channels()
    assert ours.feature_info.reduction() == theirs.reduction()


def test_parameter_counts(variant, golden_model):
    attention = zip(VARIANTS[variant].partial_dims, VARIANTS[variant].depths, VARIANTS[variant].attention, strict=True)
    group_norm_affine = sum(2 * partial * depth for partial, depth, attends in attention if attends)
    folded = reparameterize(golden_model)
    assert sum(p.numel() for p in golden_model.parameters()) == PAPER_PARAMETERS[variant]
    # The published count of folded parameters keeps GroupNorm's affine part, which we fold as well.
    assert sum(p.numel() for p in folded.parameters()) == FOLDED_PARAMETERS[variant] - group_norm_affine


def test_macs(variant):
    config = VARIANTS[variant]
    macs = folded_network(create_model(variant)).macs((config.image_size, config.image_size))
    assert round(macs / 1e6, 1) == FOLDED_MACS_M[variant]


@torch.no_grad()
def test_timm_loads_what_we_write(tmp_path, golden_model, variant):
    file = tmp_path / "model.safetensors"
    save_checkpoint(golden_model, file, names="timm")
    theirs = timm.create_model(variant, checkpoint_path=str(file)).double().eval()
    theirs.load_state_dict({k: v.double() for k, v in theirs.state_dict().items()})
    image = golden_input(64)
    torch.testing.assert_close(theirs(image), golden_model(image), rtol=0, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 2, 4, 5])
def test_input_channels_are_adapted_as_timm_does(tmp_path, channels):
    file = tmp_path / "model.safetensors"
    model = create_model("shvit_s1")
    save_checkpoint(model, file, names="timm")
    expected = adapt_input_conv(channels, model.stem[0].conv.weight.detach())
    with pytest.warns(UserWarning, match="adapted"):
        adapted = create_model("shvit_s1", pretrained=file, in_chans=channels)
    torch.testing.assert_close(adapted.stem[0].conv.weight.detach(), expected)
