"""Mixed precision, gradients that explode, normalisations that are frozen or shared."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from timm.optim import NAdamW, param_groups_weight_decay
from timm.utils import adaptive_clip_grad
from torch import nn

from shvit.data import open_dataset
from shvit.errors import TrainingError
from shvit.models import SHViTConfig
from shvit.models.shvit import SingleHeadAttention
from shvit.training import Execution, Optimizer, Recipe, fit, setup
from shvit.training.normalization import freeze_norms
from shvit.training.optimizer import build_optimizer, build_schedule
from shvit.training.precision import keep_attention_in_float32

from .driver import small_shvit

RECIPE = Recipe(image_size=64, epochs=4, batch_size=12, optimizer=Optimizer(lr=1e-2), ema_decay=0)


def prepare(colours, folder, recipe):
    torch.set_num_threads(1)
    train, val = open_dataset(colours, "train"), open_dataset(colours, "val")
    return setup(recipe, train, val, folder, Execution(device="cpu", workers=0), small_shvit())


def learn(run) -> list[float]:
    losses = []
    fit(run, lambda _, figures: losses.append(figures["loss"]) if "loss" in figures else None)
    return losses


def test_every_precision_learns_alike(colours, tmp_path):
    recipe = replace(RECIPE, epochs=6, optimizer=Optimizer(lr=2e-2))
    curves = {
        precision: learn(prepare(colours, tmp_path / precision, replace(recipe, precision=precision)))
        for precision in ("32-true", "bf16-mixed", "16-mixed")
    }
    full = curves["32-true"]
    assert full[-1] < full[0] - 0.08
    for precision, tolerance in (("bf16-mixed", 0.05), ("16-mixed", 0.02)):
        assert curves[precision] == pytest.approx(full, rel=tolerance), precision


def test_large_queries_and_keys_do_not_break_float16():
    """What the reference computes, the product before the scale, is not a number here."""
    torch.manual_seed(0)
    config = SHViTConfig(widths=(16, 16, 16), depths=(1, 1, 1), partial_dims=(8, 8, 8))
    attention = SingleHeadAttention(config, stage=1).train()
    with torch.no_grad():
        attention.qkv.norm.weight.fill_(300.0)
        attention.project.norm.weight.fill_(1.0)
    images = torch.randn(2, 16, 6, 6)
    robust = copy.deepcopy(attention)
    keep_attention_in_float32(robust)
    expected = copy.deepcopy(attention)(images)
    with torch.autocast("cpu", torch.float16):
        assert not attention(images).isfinite().all()
        output = robust(images)
    assert output.isfinite().all()
    output.float().sum().backward()
    assert all(p.grad.isfinite().all() for p in robust.parameters())
    # Softmax of such logits picks one token: rounding decides near ties, and those alone may differ.
    assert ((output.float() - expected).abs() < 0.05).float().mean() > 0.95


def break_at(run, step: int) -> None:
    """Makes the head's output infinite at one step, as an overflow would."""
    before = run.schedule.step_update

    def step_update(number: int) -> None:
        before(number)
        if number == step:
            handle = run.network.head.register_forward_hook(
                lambda *_: handle.remove() or torch.full((12, 3), float("nan"))
            )

    run.schedule.step_update = step_update


def test_a_loss_that_is_not_finite_stops_and_says_where(colours, tmp_path):
    run = prepare(colours, tmp_path, RECIPE)
    break_at(run, 6)
    with pytest.raises(TrainingError) as error:
        learn(run)
    assert "the loss is nan at epoch 2, step 3, with the learning rate" in str(error.value)
    assert f"the last good checkpoint is {tmp_path / 'checkpoints/step-00000004.pt'}" in str(error.value)
    assert all(p.isfinite().all() for p in run.network.parameters())


def test_or_is_skipped_and_counted(colours, tmp_path):
    run = prepare(colours, tmp_path, replace(RECIPE, non_finite="skip"))
    break_at(run, 6)
    losses = learn(run)
    assert run.progress.skipped == 1
    assert [step for step, loss in enumerate(losses) if loss != loss] == [6]
    assert all(p.isfinite().all() for p in run.network.parameters())


def test_gradients_that_are_not_finite_do_not_reach_the_weights(colours, tmp_path):
    run = prepare(colours, tmp_path, RECIPE)
    run.network.stem[0].conv.weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(TrainingError, match=r"the gradients' norm is (nan|inf) at epoch 1, step 1"):
        learn(run)
    assert all(p.isfinite().all() for p in run.network.parameters())


def test_adaptive_clipping_is_timms_and_leaves_the_head_out(colours, tmp_path):
    recipe = replace(RECIPE, epochs=1, optimizer=replace(RECIPE.optimizer, clip_mode="agc", clip_grad=1e-3))
    run = prepare(colours, tmp_path, recipe)
    seen = {}
    step = run.optimizer.step

    def look(*args, **kwargs):
        seen.update({name: p.grad.clone() for name, p in run.network.named_parameters()})
        return step(*args, **kwargs)

    plain = {}
    clip = run.fabric.strategy.precision.unscale_gradients

    def remember(optimizer):
        plain.update({name: p.grad.clone() for name, p in run.network.named_parameters()})
        return clip(optimizer)

    run.optimizer.step, run.fabric.strategy.precision.unscale_gradients = look, remember
    weights = {name: p.detach().clone() for name, p in run.network.named_parameters()}

    class EnoughError(Exception):
        pass

    def stop(*_):
        raise EnoughError

    with pytest.raises(EnoughError):
        fit(run, stop)
    for name, gradient in plain.items():
        parameter = nn.Parameter(weights[name].clone())
        parameter.grad = gradient.clone()
        if not name.startswith("head."):
            adaptive_clip_grad([parameter], 1e-3)
        assert torch.equal(seen[name], parameter.grad), name


def test_frozen_normalisations_stay_as_they_were(colours, tmp_path):
    checkpoint = tmp_path / "start.safetensors"
    from shvit.models import save_checkpoint

    save_checkpoint(small_shvit(), checkpoint)
    run = prepare(colours, tmp_path / "run", replace(RECIPE, epochs=1, freeze_norm=True, pretrained=str(checkpoint)))
    before = copy.deepcopy(run.network.state_dict())
    learn(run)
    after = run.network.state_dict()
    frozen = [
        name for name in before if ".norm." in name and not name.startswith("head.") and "attention.norm" not in name
    ]
    assert len(frozen) > 100
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    assert not torch.equal(before["stem.0.conv.weight"], after["stem.0.conv.weight"])
    assert not torch.equal(before["head.norm.running_mean"], after["head.norm.running_mean"])


def test_muon_takes_the_steps_of_torchs_and_leaves_head_and_depthwise_convolutions_to_nadamw():
    model, other = small_shvit(), small_shvit()
    other.load_state_dict(model.state_dict())
    before = [weights.detach().clone() for weights in model.parameters()]
    plan = Optimizer(name="muon", lr=1e-2, lr_batch_size=0, weight_decay=0.1)
    optimizer = build_optimizer(model, replace(RECIPE, optimizer=plan))
    nadamw = NAdamW(param_groups_weight_decay(other, 0.1), lr=1e-2, betas=(0.9, 0.999))
    matrices = {
        name: nn.Parameter(weights.detach().flatten(1).clone())
        for name, weights in model.named_parameters()
        if weights.ndim == 4 and weights.shape[1] > 1 and len(weights) >= 4  # timm leaves smaller ones to it too
    }
    assert {"stem.2.conv.weight", "stages.2.blocks.0.ffn.expand.conv.weight"} < matrices.keys()
    muon = torch.optim.Muon(matrices.values(), lr=1e-2, weight_decay=0.1, nesterov=True, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        for (name, weights), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
            theirs.grad = weights.grad = torch.randn_like(weights)
            if name in matrices:
                matrices[name].grad = weights.grad.flatten(1)
        for each in (optimizer, nadamw, muon):
            each.step()
    for (name, weights), theirs, began in zip(model.named_parameters(), other.parameters(), before, strict=True):
        expected = matrices[name].view_as(weights) if name in matrices else theirs
        # Five iterations leave singular values anywhere between 0.7 and 1.2, in each implementation elsewhere.
        tolerance = 0.35 if name in matrices else 1e-4
        assert (weights - expected).norm() <= tolerance * (expected - began).norm(), name


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_layer_decay_gives_early_blocks_smaller_rates(name):
    model = small_shvit()
    plan = Optimizer(name=name, lr=1e-2, layer_decay=0.5, warmup_epochs=0, lr_batch_size=0, min_lr=0)
    recipe = replace(RECIPE, optimizer=plan)
    optimizer = build_optimizer(model, recipe)
    build_schedule(optimizer, recipe, steps_per_epoch=10).step_update(0)
    rates = {}
    names = {id(p): name for name, p in model.named_parameters()}
    for group in optimizer.param_groups:
        rates.update({names[id(p)]: group["lr"] for p in group["params"]})
    # stem, block, downsampling, block, downsampling, block, head: seven layers.
    for name, power in (
        ("stem.0.conv.weight", 6),
        ("stages.0.blocks.0.local.dw.conv.weight", 5),
        ("stages.1.downsample.merge.expand.conv.weight", 4),
        ("stages.2.blocks.0.ffn.expand.norm.bias", 1),
        ("head.linear.weight", 0),
    ):
        assert rates[name] == pytest.approx(1e-2 * 0.5**power), name


def test_a_network_that_is_trained_again_is_thawed():
    model = small_shvit()
    freeze_norms(model)
    assert not model.stem[0].norm.training
    assert model.head.norm.training
    model.train()
    assert model.stem[0].norm.training
