"""Accuracy after an epoch, over all processes. ``shvit.evaluation`` has the whole report."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import nn

from shvit.card import Preprocessing
from shvit.data.loader import evaluation_loader, normalize
from shvit.data.protocol import ImageDataset
from shvit.errors import DataError


@dataclass(frozen=True)
class ValidationResult:
    """How well a network does on a labelled set; shares in [0, 1]."""

    top1: float
    top5: float
    loss: float
    images: int
    """Images counted: those that could be read."""


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    images: ImageDataset,
    preprocessing: Preprocessing,
    batch_size: int,
    workers: int,
    fabric: Fabric | None = None,
) -> ValidationResult:
    """Top-1, top-5 and cross-entropy of a network over a whole set, through the runtime's preprocessing.

    Args:
        fabric: shares the work among its processes, each image in one of them, and gives all the same result.

    Raises:
        DataError: no image could be read.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    rank, world_size = (fabric.global_rank, fabric.world_size) if fabric is not None else (0, 1)
    sums = torch.zeros(4, dtype=torch.float64, device="cpu" if device.type == "mps" else device)
    for batch in evaluation_loader(images, preprocessing, batch_size, workers, rank, world_size):
        logits = model(normalize(batch.images.to(device)))
        labels = batch.labels.to(device)
        ranked = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
        loss = F.cross_entropy(logits.float(), labels, reduction="sum")
        sums += torch.stack([ranked[:, 0].sum(), ranked.sum(), loss, torch.tensor(len(labels))]).to(sums)
    if fabric is not None:
        total = fabric.all_reduce(sums, reduce_op="sum")
        assert isinstance(total, torch.Tensor)
        sums = total
    model.train(was_training)
    top1, top5, total_loss, count = sums.tolist()
    if not count:
        raise DataError(f"{images.name}: none of its {len(images)} images could be read")
    return ValidationResult(top1 / count, top5 / count, total_loss / count, int(count))
