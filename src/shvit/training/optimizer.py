"""Optimizers' parameter groups, the learning rate's course, and gradient clipping: timm's, put together."""

from __future__ import annotations

import torch
from lightning_fabric import Fabric
from timm.optim import Muon, param_groups_layer_decay, param_groups_weight_decay
from timm.scheduler import CosineLRScheduler
from timm.utils import adaptive_clip_grad
from torch import nn

from shvit.training.recipe import Optimizer, Recipe


def build_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimizer over the parameters that are trained; biases and normalisations have no weight decay."""
    plan = recipe.optimizer
    # By their shapes timm knows what else is no matrix. The head's rows are classes.
    fallback = ("head*", "*.head*") if plan.name == "muon" else ()
    if plan.layer_decay < 1:
        groups = param_groups_layer_decay(
            model, plan.weight_decay, fallback_list=fallback, layer_decay=plan.layer_decay
        )
    else:
        groups = param_groups_weight_decay(model, plan.weight_decay, fallback_list=fallback)
    if plan.name == "muon":
        return Muon(groups, lr=scaled_lr(recipe), nesterov=True, betas=(0.9, 0.999))
    # The fused kernel takes float16's loss scale off by itself, too late for clipping.
    return torch.optim.AdamW(groups, lr=scaled_lr(recipe), fused=recipe.precision != "16-mixed")


def scaled_lr(recipe: Recipe) -> float:
    """The largest learning rate that is used: the recipe's, in proportion to the batch."""
    plan = recipe.optimizer
    return plan.lr * recipe.batch_size / plan.lr_batch_size if plan.lr_batch_size else plan.lr


def build_schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, steps_per_epoch: int) -> CosineLRScheduler:
    """Linear warm-up, then a cosine (Loshchilov & Hutter, 2017), by the step.

    ``step_update(n)`` sets the rate of the step with number n, from 0; nothing else of it has a memory.
    """
    plan = recipe.optimizer
    total = recipe.epochs * steps_per_epoch
    warmup = min(round(plan.warmup_epochs * steps_per_epoch), max(total - 1, 0))
    return CosineLRScheduler(
        optimizer,
        t_initial=max(total - warmup, 2),  # timm warns of a cosine of one step; its first is the same in both
        lr_min=plan.min_lr,
        warmup_t=warmup,
        warmup_lr_init=plan.warmup_lr,
        warmup_prefix=True,
        t_in_epochs=False,
    )


def clip_gradients(fabric: Fabric, model: nn.Module, optimizer: torch.optim.Optimizer, plan: Optimizer) -> float | None:
    """Clips the gradients in place, as ``plan.clip_mode`` says.

    Returns:
        The norm that they had, all together; ``None`` when nothing is clipped.
    """
    if not plan.clip_grad:
        return None
    if plan.clip_mode == "norm":
        norm = fabric.clip_gradients(model, optimizer, max_norm=plan.clip_grad, error_if_nonfinite=False)
        assert norm is not None
        return float(norm)
    fabric.strategy.precision.unscale_gradients(optimizer)
    norm = nn.utils.get_total_norm(p.grad for p in model.parameters() if p.grad is not None)
    adaptive_clip_grad([p for name, p in model.named_parameters() if ".head" not in f".{name}"], plan.clip_grad)
    return float(norm)
