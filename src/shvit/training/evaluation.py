"""How good a network is after an epoch, over all processes. ``shvit.evaluation`` has the whole report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

from shvit.card import Preprocessing
from shvit.data.loader import evaluation_loader, normalize
from shvit.data.protocol import ImageDataset
from shvit.data.stratify import has_several
from shvit.errors import DataError
from shvit.tasks.ranking import f1_scores, mean_average_precision


class Validation(Protocol):
    """What an epoch is judged by."""

    @property
    def score(self) -> float:
        """In [0, 1]; higher is better."""

    @property
    def loss(self) -> float: ...

    @property
    def images(self) -> int:
        """Images counted: those that could be read."""

    @property
    def shares(self) -> dict[str, float]:
        """All figures in [0, 1], by the names that logs and cards have; the score first."""


@dataclass(frozen=True)
class ValidationResult:
    """How well a network does on a labelled set, one label for a picture; shares in [0, 1]."""

    top1: float
    top5: float
    loss: float
    images: int

    @property
    def score(self) -> float:
        return self.top1

    @property
    def shares(self) -> dict[str, float]:
        return {"top1": self.top1, "top5": self.top5}


@dataclass(frozen=True)
class MultiLabelResult:
    """The same of any number of labels; shares in [0, 1]."""

    mean_average_precision: float
    f1: float
    """Mean over the classes, of those answers whose score is 0.5 or more."""
    loss: float
    """Binary cross-entropy, summed over the classes: the negative logarithm of the labels' probability."""
    images: int

    @property
    def score(self) -> float:
        return self.mean_average_precision

    @property
    def shares(self) -> dict[str, float]:
        return {"map": self.mean_average_precision, "f1": self.f1}


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    images: ImageDataset,
    preprocessing: Preprocessing,
    batch_size: int,
    workers: int,
    fabric: Fabric | None = None,
) -> ValidationResult | MultiLabelResult:
    """How good a network is over a whole set, through the runtime's preprocessing.

    Args:
        fabric: shares the work among its processes, each image in one of them, and gives all the same result.

    Returns:
        Top-1, top-5 and cross-entropy; where pictures have any number of labels, mAP, F1 and binary cross-entropy.

    Raises:
        DataError: no image could be read.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    rank, world_size = (fabric.global_rank, fabric.world_size) if fabric is not None else (0, 1)
    totals: _Totals = _Several(images, device) if has_several(images.labels) else _One(device)
    for batch in evaluation_loader(images, preprocessing, batch_size, workers, rank, world_size):
        logits = model(normalize(batch.images.to(device)))
        totals.add(logits.float(), batch.labels.to(device), batch.indices)
    if fabric is not None:
        total = fabric.all_reduce(totals.sums, reduce_op="sum")
        assert isinstance(total, Tensor)
        totals.sums = total
    model.train(was_training)
    found = totals.result()
    if found is None:
        raise DataError(f"{images.name}: none of its {len(images)} images could be read")
    return found


class _Totals(Protocol):
    sums: Tensor
    """To be added up over the processes."""

    def add(self, logits: Tensor, labels: Tensor, indices: Tensor) -> None: ...

    def result(self) -> ValidationResult | MultiLabelResult | None:
        """``None`` where nothing was added."""


class _One:
    """Counts."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(4, dtype=torch.float64, device="cpu" if device.type == "mps" else device)

    def add(self, logits: Tensor, labels: Tensor, indices: Tensor) -> None:
        ranked = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
        loss = F.cross_entropy(logits, labels, reduction="sum")
        counted = [ranked[:, 0].sum(), ranked.sum(), loss, torch.tensor(len(labels))]
        self.sums += torch.stack([each.to(self.sums) for each in counted])

    def result(self) -> ValidationResult | None:
        top1, top5, loss, count = self.sums.tolist()
        return ValidationResult(top1 / count, top5 / count, loss / count, int(count)) if count else None


class _Several:
    """Every image's logits: precision is of the order of all of them. A last column counts the image."""

    def __init__(self, images: ImageDataset, device: torch.device) -> None:
        self.labels = images.labels
        self.sums = torch.zeros(len(images), len(images.classes) + 1, device=device)

    def add(self, logits: Tensor, labels: Tensor, indices: Tensor) -> None:
        self.sums[indices.to(self.sums.device)] = torch.cat([logits, torch.ones_like(logits[:, :1])], dim=1)

    def result(self) -> MultiLabelResult | None:
        rows = self.sums.cpu()
        seen = rows[:, -1] > 0
        if not seen.any():
            return None
        targets, logits = self.labels[seen.numpy()], rows[seen, :-1]
        loss = F.binary_cross_entropy_with_logits(logits, torch.from_numpy(targets).float(), reduction="none")
        scores = logits.numpy()
        f1 = f1_scores(scores >= 0, targets)
        return MultiLabelResult(
            mean_average_precision(scores, targets),
            float(np.nanmean(f1)) if targets.any() or (scores >= 0).any() else 0.0,
            float(loss.double().sum(dim=1).mean()),
            int(seen.sum()),
        )
