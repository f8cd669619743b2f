"""Accuracy on a labelled set, of a network or of a model file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shvit.data.datasets import ImageDataset
from shvit.data.loader import evaluation_loader, normalize
from shvit.errors import DataError
from shvit.runtime.card import Preprocessing
from shvit.runtime.classifier import Classifier


@dataclass(frozen=True)
class Evaluation:
    """How well a network does on a labelled set; shares in [0, 1]."""

    top1: float
    top5: float
    loss: float
    images: int


@torch.inference_mode()
def evaluate(
    model: nn.Module, images: ImageDataset, preprocessing: Preprocessing, batch_size: int, workers: int
) -> Evaluation:
    """Top-1, top-5 and cross-entropy of a network over a whole set, through the runtime's preprocessing."""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    result = _evaluate(lambda batch: model(normalize(batch.to(device))), images, preprocessing, batch_size, workers)
    model.train(was_training)
    return result


def evaluate_classifier(classifier: Classifier, images: ImageDataset, batch_size: int, workers: int) -> Evaluation:
    """The same of a model file, in its engine.

    Raises:
        DataError: the set has more classes than the model.
    """
    if len(images.classes) > len(classifier.classes):
        raise DataError(
            f"{images.name}: has {len(images.classes)} classes, the model {classifier.card.name} knows "
            f"{len(classifier.classes)}"
        )

    def logits(batch: Tensor) -> Tensor:
        return torch.from_numpy(np.log(classifier.predict_batch(batch.numpy()).clip(1e-30)))

    return _evaluate(logits, images, classifier.card.preprocessing, batch_size, workers)


def _evaluate(
    logits_of: Callable[[Tensor], Tensor],
    images: ImageDataset,
    preprocessing: Preprocessing,
    batch_size: int,
    workers: int,
) -> Evaluation:
    top1 = top5 = 0
    loss = 0.0
    for batch in evaluation_loader(images, preprocessing, batch_size, workers):
        logits = logits_of(batch.images)
        labels = batch.labels.to(logits.device)
        ranked = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
        top1 += int(ranked[:, 0].sum())
        top5 += int(ranked.sum())
        loss += float(F.cross_entropy(logits, labels, reduction="sum"))
    count = len(images)
    return Evaluation(top1 / count, top5 / count, loss / count, count)
