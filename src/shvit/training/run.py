"""What one training run works on, and where it stands."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from lightning_fabric import Fabric
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import nn

from shvit.card import Preprocessing, TrainingSplit, Weights
from shvit.data.loader import BrokenImages
from shvit.data.protocol import ImageDataset
from shvit.data.trained_on import training_split
from shvit.runs.progress import Progress
from shvit.training.distillation import LiveTeacher, PrecomputedTeacher
from shvit.training.objectives import Objective
from shvit.training.origin import origin_of
from shvit.training.recipe import Execution, Recipe


def preprocessing_of(recipe: Recipe) -> Preprocessing:
    """How a recipe's network is evaluated."""
    return Preprocessing(recipe.sides, recipe.crop_ratio, recipe.resize_mode, pad_color=recipe.pad_color)


@dataclass
class Run:
    """Everything that one training run works on."""

    fabric: Fabric
    recipe: Recipe
    execution: Execution
    folder: Path
    train: ImageDataset
    val: ImageDataset
    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: CosineLRScheduler
    ema: ModelEmaV3 | None
    teacher: PrecomputedTeacher | LiveTeacher | None
    objective: Objective
    """What it learns."""
    broken: BrokenImages
    progress: Progress
    fits_head: bool = False
    """Its head is fitted to the features before the first step."""

    @cached_property
    def training_split(self) -> TrainingSplit:
        return training_split(self.train, self.val)

    @cached_property
    def trained_from(self) -> Weights | None:
        """The published weights that it began with."""
        return origin_of(self.recipe)

    @property
    def preprocessing(self) -> Preprocessing:
        return preprocessing_of(self.recipe)

    @property
    def steps_per_epoch(self) -> int:
        return len(self.train) // self.recipe.batch_size

    @property
    def global_step(self) -> int:
        """Optimizer steps taken since the run began."""
        return self.progress.epoch * self.steps_per_epoch + self.progress.step

    @property
    def lr(self) -> float:
        """The learning rate of the step under way, the largest of all layers'."""
        return max(group["lr"] for group in self.optimizer.param_groups)

    @property
    def network(self) -> nn.Module:
        """The network in training, out of Fabric's wrapper."""
        network = self.model.module
        assert isinstance(network, nn.Module)
        return network

    @property
    def evaluated(self) -> nn.Module:
        """The network that is evaluated and kept: the average where there is one."""
        return self.ema.module if self.ema is not None else self.network
