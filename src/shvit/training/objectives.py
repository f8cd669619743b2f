"""What is learnt, by task: targets from labels, the loss, and what a teacher asks for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shvit.card import TaskName
from shvit.data.protocol import ImageDataset
from shvit.data.targets import class_counts, task_of_labels
from shvit.training.distillation import distillation_loss, teacher_targets
from shvit.training.recipe import Distillation, MultiLabelLoss, Recipe


class Objective(ABC):
    """Logits ``(B, classes)`` beside what they should be."""

    weights: Tensor | None
    """``(classes,)``, how much each class counts; ``None`` for all alike."""

    @abstractmethod
    def targets(self, labels: Tensor) -> Tensor:
        """What a batch of labels asks for, smoothed: ``float32 (B, classes)`` in [0, 1]."""

    @abstractmethod
    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean over the images."""

    @abstractmethod
    def teacher_targets(self, logits: Tensor) -> Tensor:
        """What a teacher's logits ask for: ``(B, classes)`` in [0, 1]."""

    @abstractmethod
    def distillation_loss(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Mean over the images, of logits beside ``teacher_targets``."""


class OneLabel(Objective):
    """Cross-entropy: one of the classes is right.

    Args:
        classes: how many.
    """

    def __init__(self, recipe: Recipe, classes: int, weights: Tensor | None) -> None:
        self.smoothing, self.plan, self.classes, self.weights = (
            recipe.label_smoothing,
            recipe.distillation,
            classes,
            weights,
        )

    def targets(self, labels: Tensor) -> Tensor:
        return F.one_hot(labels, self.classes).float() * (1 - self.smoothing) + self.smoothing / self.classes

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits, targets, weight=self.weights)

    def teacher_targets(self, logits: Tensor) -> Tensor:
        return teacher_targets(logits, self.plan.kind, self.plan.temperature)

    def distillation_loss(self, student: Tensor, teacher: Tensor) -> Tensor:
        return distillation_loss(student, teacher, _temperature(self.plan))


class SeveralLabels(Objective):
    """Each class by itself: the sum over the classes, which is the negative logarithm of the labels' probability."""

    def __init__(self, recipe: Recipe, weights: Tensor | None) -> None:
        self.smoothing, self.plan, self.weights = recipe.label_smoothing, recipe.distillation, weights
        self.by = recipe.multi_label

    def targets(self, labels: Tensor) -> Tensor:
        return labels.float() * (1 - self.smoothing) + self.smoothing / 2

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        if self.by.loss == "asymmetric":
            losses = asymmetric_loss(logits, targets, self.by)
        else:
            losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        if self.weights is not None:
            losses = losses * self.weights
        return losses.sum(dim=1).mean()

    def teacher_targets(self, logits: Tensor) -> Tensor:
        if self.plan.kind == "hard":
            return (logits > 0).to(logits.dtype)
        return (logits / self.plan.temperature).sigmoid()

    def distillation_loss(self, student: Tensor, teacher: Tensor) -> Tensor:
        temperature = _temperature(self.plan)
        losses = F.binary_cross_entropy_with_logits(student / temperature, teacher, reduction="none")
        return losses.sum(dim=1).mean() * temperature**2


def _temperature(plan: Distillation) -> float:
    return plan.temperature if plan.kind == "soft" else 1.0


def asymmetric_loss(logits: Tensor, targets: Tensor, by: MultiLabelLoss) -> Tensor:
    """Focused cross-entropy that all but forgets easy negatives (Ridnik et al., 2021), ``(B, classes)``.

    Args:
        targets: in [0, 1]; between the two ends, as after mixup, each part counts in its share.
    """
    present = logits.sigmoid()
    absent = (1 - present + by.margin).clamp(max=1)
    positive = F.logsigmoid(logits) * (1 - present) ** by.gamma_positive
    # From the logits, where 1 minus a probability near 1 is no number any more.
    log_absent = F.logsigmoid(-logits) if by.margin == 0 else absent.log()
    negative = log_absent * (1 - absent) ** by.gamma_negative
    return -(targets * positive + (1 - targets) * negative)


def objective_for(recipe: Recipe, images: ImageDataset, device: torch.device | Literal["cpu"] = "cpu") -> Objective:
    """What a recipe has a network learn of labelled images."""
    weights = _class_weights(images).to(device) if recipe.class_weights else None
    of_task: dict[TaskName, Objective] = {
        "classification": OneLabel(recipe, len(images.classes), weights),
        "multi_label": SeveralLabels(recipe, weights),
    }
    return of_task[task_of_labels(images)]


def _class_weights(images: ImageDataset) -> Tensor:
    """Inverse frequencies, such that the mean over all labels is 1."""
    counts = class_counts(images.labels, len(images.classes))
    return torch.tensor(counts.sum() / (len(counts) * counts.clip(1)), dtype=torch.float32)


def begin_with_frequencies(head: nn.Linear, labels: np.ndarray) -> None:
    """Sets a fresh head's bias so that it begins with how frequent each label is, rather than with one half.

    With many rare labels the first steps would else do nothing but learn that almost none is there.

    Args:
        labels: of the training images, ``bool (N, classes)``.
    """
    frequency = (labels.sum(axis=0) + 0.5) / (len(labels) + 1)
    with torch.no_grad():
        head.bias.copy_(torch.from_numpy(np.log(frequency / (1 - frequency))))
