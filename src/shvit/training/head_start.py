"""Linear probing before fine-tuning (Kumar et al., 2022): the head is fitted on the features of the network as it is.

Fine-tuning from a random head bends good features towards that head first; from one that fits them it need not.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from shvit.card import ClassInfo
from shvit.data.loader import evaluation_loader, normalize
from shvit.data.targets import class_counts
from shvit.heads.linear import FEWEST_PICTURES, fit_linear_head
from shvit.models import SHViT, read_checkpoint
from shvit.models.create import weights_file
from shvit.models.shvit import Head
from shvit.network.training_metadata import stored_classes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shvit.training.run import Run


def has_these_classes(pretrained: str, classes: Sequence[ClassInfo]) -> bool:
    """Whether a checkpoint's head is for these classes, in this order; by their number where it names none.

    Raises:
        CheckpointError: it cannot be fetched or read.
    """
    checkpoint = read_checkpoint(weights_file(pretrained))
    stored = stored_classes(checkpoint)
    if stored is None:
        return checkpoint.config is not None and checkpoint.config.num_classes == len(classes)
    return [each.label for each in stored] == [each.label for each in classes]


def fit_head(run: Run) -> float | None:
    """Sets the network's head, and the average's, to a regression on the features of the training images.

    Each image counts twice, as it is and mirrored, prepared as for evaluation. Every process runs the network on its
    part of the images; the first one fits.

    Returns:
        How many of the training images it gets right where it was fitted without them (cross-validation), in [0, 1];
        ``None`` where a class has too few for that: the head stays as it is, and a warning says so.

    Raises:
        DataError: too many images cannot be read.
        MissingDependencyError: scikit-learn is not installed.
    """
    network = run.network
    assert isinstance(network, SHViT)
    features, known = _features(run, network)
    counts = class_counts(run.train.labels[known], len(run.train.classes))
    if len(counts) < 2 or counts.min() < FEWEST_PICTURES:
        scarce = run.train.classes[int(counts.argmin())].label
        if run.fabric.is_global_zero:
            warnings.warn(
                f"the head starts at random: to fit it first, {FEWEST_PICTURES} classes or more need {FEWEST_PICTURES} "
                f"training images or more each, and {scarce!r} has {counts.min()}",
                stacklevel=2,
            )
        return None
    found: tuple[np.ndarray, np.ndarray, float] | None = None
    if run.fabric.is_global_zero:
        targets = run.train.labels[known]
        fitted = fit_linear_head(features, targets, len(run.train.classes))
        right = float((fitted.held_out.argmax(axis=1) == targets).mean())
        found = fitted.head.weight, fitted.head.bias, right
    found = run.fabric.broadcast(found)
    assert found is not None
    weight, bias, right = found
    for each in {network, run.evaluated}:
        assert isinstance(each, SHViT)
        for head in (each.head, each.head_dist):
            if isinstance(head, Head):
                set_head(head, weight, bias, features)
    return right


@torch.no_grad()
def _features(run: Run, network: SHViT) -> tuple[np.ndarray, np.ndarray]:
    """Pooled features ``float32 (N, 2, num_features)`` of the training images that can be read, and which they are."""
    fabric, images = run.fabric, run.train
    width = network.num_features
    # A column says which rows are there: each process fills in its own.
    rows = torch.zeros(len(images), 2 * width + 1)
    was_training = network.training
    network.eval()
    batches = evaluation_loader(
        images,
        run.preprocessing,
        run.recipe.batch_size,
        run.execution.workers,
        fabric.global_rank,
        fabric.world_size,
    )
    for batch in batches:
        run.broken.add(batch)
        if not len(batch.indices):
            continue
        pixels = normalize(batch.images.to(fabric.device))
        views = [network(view, pre_logits=True) for view in _views(pixels)]
        rows[batch.indices, :-1] = torch.cat([each.float() for each in views if isinstance(each, Tensor)], 1).cpu()
        rows[batch.indices, -1] = 1
    network.train(was_training)
    if fabric.world_size > 1:
        total = fabric.all_reduce(rows.to(fabric.device), reduce_op="sum")
        assert isinstance(total, Tensor)
        rows = total.cpu()
    known = np.flatnonzero(rows[:, -1].numpy() > 0)
    return rows[known, :-1].numpy().reshape(len(known), 2, width), known


def _views(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Images ``(B, 3, H, W)`` as they are, and mirrored."""
    return pixels, pixels.flip(3)


@torch.no_grad()
def set_head(head: Head, weight: np.ndarray, bias: np.ndarray, features: np.ndarray) -> None:
    """Makes a head compute ``features @ weight.T + bias`` in evaluation, its normalisation being that of features.

    So it computes nearly the same in training, from the statistics of a batch.

    Args:
        weight, bias: ``(classes, channels)`` and ``(classes,)``.
        features: ``(pictures, views, channels)``.
    """
    norm, linear = head.norm, head.linear
    flat = features.reshape(-1, features.shape[-1]).astype(np.float64)
    mean, variance = flat.mean(axis=0), flat.var(axis=0)
    assert norm.running_mean is not None and norm.running_var is not None
    _put(norm.running_mean, mean)
    _put(norm.running_var, variance)
    nn.init.ones_(norm.weight)
    nn.init.zeros_(norm.bias)
    # Of what the normalisation computes with, in its own precision.
    scale = np.sqrt(norm.running_var.double().cpu().numpy() + norm.eps)
    mean = norm.running_mean.double().cpu().numpy()
    _put(linear.weight, weight.astype(np.float64) * scale)
    _put(linear.bias, bias.astype(np.float64) + weight.astype(np.float64) @ mean)


def _put(tensor: Tensor, values: np.ndarray) -> None:
    tensor.copy_(torch.from_numpy(values))
