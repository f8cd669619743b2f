"""Batch normalisation in training: frozen, or over the images of all processes."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def freeze_norms(model: nn.Module) -> None:
    """Stops the body's batch normalisations from learning and from following the batches, in place.

    The head's goes on: it is fresh when the classes are new, and where it was fitted to the features, these change.
    ``model.train()`` undoes the second half.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval().requires_grad_(False)


def synchronize_norms(model: nn.Module) -> nn.Module:
    """The same network whose batch normalisations see the images of all processes in training."""
    if next(model.parameters()).is_cuda:
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.__class__ = _SyncedBatchNorm  # type: ignore[assignment]
    return model


class _Sum(torch.autograd.Function):
    """The sum over all processes, which each of them uses: so their gradients are summed as well."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


class _SyncedBatchNorm(_BatchNorm):
    """Over all processes, on any device; PyTorch's own takes GPU tensors only."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Any: it stands in for the one- and the two-dimensional one."""

    def forward(self, input: Tensor) -> Tensor:
        if not (self.training and dist.is_initialized()):
            return super().forward(input)
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        assert self.momentum is not None
        values = input.float()
        others = [0, *range(2, input.ndim)]
        shape = (1, -1, *[1] * (input.ndim - 2))
        count = torch.tensor([values.numel() / values.shape[1]], device=values.device)
        sums = _Sum.apply(torch.cat([values.sum(others), count]))
        total = sums[-1]
        mean = sums[:-1] / total
        centred = values - mean.view(shape)
        variance = _Sum.apply(centred.square().sum(others)) / total
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (total / (total - 1)), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale.view(shape) + self.bias.view(shape)).to(input.dtype)
