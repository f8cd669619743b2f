"""The training loop: set up, fit, validate, save."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from timm.utils import ModelEmaV3
from torch import nn

from shvit.atomic import atomic_path
from shvit.data.datasets import ImageDataset
from shvit.data.loader import Batch, normalize, training_loader
from shvit.data.sampler import EpochSampler
from shvit.data.transforms import STEP, TrainTransform, sample_seed
from shvit.errors import CheckpointError, DataError
from shvit.models import SHViT, create_model, save_checkpoint
from shvit.models.shvit import DistilledLogits
from shvit.runtime.card import Preprocessing
from shvit.train.distillation import LiveTeacher, PrecomputedTeacher, Teacher, distillation_loss, load_teacher
from shvit.train.evaluation import Evaluation, evaluate
from shvit.train.mixing import mix
from shvit.train.precision import keep_depthwise_in_float32
from shvit.train.recipe import Recipe

CHECKPOINT = "checkpoint.pt"


@dataclass
class Progress:
    """Where a run stands; what a checkpoint holds beside the tensors."""

    epoch: int = 0
    """Epochs begun and not finished, counted from 0."""
    step: int = 0
    """Optimizer steps taken in this epoch."""
    best_top1: float = 0.0
    seconds: float = 0.0
    """Time spent training, over all of the run's sessions."""


@dataclass
class Run:
    """Everything that one training run works on."""

    fabric: Fabric
    recipe: Recipe
    folder: Path
    train: ImageDataset
    val: ImageDataset
    model: nn.Module
    optimizer: torch.optim.Optimizer
    ema: ModelEmaV3 | None
    teacher: Teacher | None
    progress: Progress

    @property
    def preprocessing(self) -> Preprocessing:
        size = self.recipe.image_size
        return Preprocessing(image_size=(size, size), crop_ratio=self.recipe.crop_ratio)

    @property
    def steps_per_epoch(self) -> int:
        return len(self.train) // self.recipe.batch_size

    @property
    def network(self) -> SHViT:
        """The network in training, out of Fabric's wrapper."""
        network = self.model.module
        assert isinstance(network, SHViT)
        return network

    @property
    def evaluated(self) -> SHViT:
        """The network that is evaluated and kept: the average where there is one."""
        return self.ema.module if self.ema is not None else self.network


def setup(
    recipe: Recipe,
    train: ImageDataset,
    val: ImageDataset,
    folder: Path,
    device: str = "auto",
) -> Run:
    """Builds the model, the optimizer and the teacher, and checks that they fit the data."""
    if len(train) < recipe.batch_size:
        raise DataError(f"{train.name}: {len(train)} images do not fill one batch of {recipe.batch_size}")
    if [c.label for c in train.classes] != [c.label for c in val.classes]:
        raise DataError(f"{train.name} and {val.name}: the classes of training and validation differ")
    fabric = Fabric(accelerator=device, devices=1, precision=recipe.precision)  # type: ignore[arg-type]
    fabric.seed_everything(recipe.seed, verbose=False)
    pretrained: bool | str = recipe.pretrained or False
    model = create_model(
        recipe.model,
        pretrained=True if pretrained == "hub" else pretrained,
        num_classes=len(train.classes),
        drop_path=recipe.drop_path,
    )
    assert isinstance(model, SHViT)
    model = model.to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    ema = ModelEmaV3(model, decay=recipe.ema_decay, use_warmup=True) if recipe.ema_decay else None
    if recipe.precision != "32-true":
        keep_depthwise_in_float32(model)
    optimizer = torch.optim.AdamW(
        _parameter_groups(model, recipe.optimizer.weight_decay), lr=recipe.optimizer.lr, fused=True
    )
    teacher = _teacher(recipe, train)
    wrapped, optimizer = fabric.setup(model, optimizer)
    folder.mkdir(parents=True, exist_ok=True)
    return Run(fabric, recipe, folder, train, val, wrapped, optimizer, ema, teacher, Progress())


def _teacher(recipe: Recipe, train: ImageDataset) -> Teacher | None:
    plan = recipe.distillation
    if plan.logits is not None:
        return PrecomputedTeacher(plan.logits, train, recipe.augmentation, recipe.seed)
    if plan.teacher is not None:
        return LiveTeacher(load_teacher(plan.teacher, plan.teacher_weights, train.classes))
    return None


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices and kernels, none for biases and normalisations."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def learning_rate(recipe: Recipe, epoch: float) -> float:
    """The rate at a point of the run: linear warm-up, then a cosine (Loshchilov & Hutter, 2017).

    Args:
        epoch: epochs done, parts of one included.
    """
    plan = recipe.optimizer
    largest = plan.lr * recipe.batch_size / 512
    if epoch < plan.warmup_epochs:
        return largest * epoch / plan.warmup_epochs
    share = (epoch - plan.warmup_epochs) / max(recipe.epochs - plan.warmup_epochs, 1e-9)
    return plan.min_lr + (largest - plan.min_lr) * (1 + math.cos(math.pi * min(share, 1))) / 2


def fit(run: Run, on_step: Callable[[Progress, dict[str, float]], None] = lambda *_: None) -> Progress:
    """Trains to the end of the recipe; saves a checkpoint and validates after each epoch.

    Args:
        on_step: called after each optimizer step with the run's progress and the step's figures, and after
            each validation with its figures.

    Raises:
        FloatingPointError: the loss is not finite; the message says where.
    """
    while run.progress.epoch < run.recipe.epochs:
        _train_epoch(run, on_step)
        result = evaluate(run.evaluated, run.val, run.preprocessing, run.recipe.batch_size, run.recipe.workers)
        run.progress.epoch += 1
        run.progress.step = 0
        if result.top1 > run.progress.best_top1:
            run.progress.best_top1 = result.top1
            save_checkpoint(run.evaluated, run.folder / "best.safetensors", metadata=weights_metadata(run, result))
        save_checkpoint(run.evaluated, run.folder / "last.safetensors", metadata=weights_metadata(run, result))
        save_progress(run)
        figures = {"val_top1": result.top1, "val_top5": result.top5, "val_loss": result.loss}
        on_step(run.progress, figures)
    return run.progress


def _train_epoch(run: Run, on_step: Callable[[Progress, dict[str, float]], None]) -> None:
    recipe, progress = run.recipe, run.progress
    sampler = EpochSampler(len(run.train), recipe.batch_size, recipe.seed, progress.epoch, progress.step)
    transform = TrainTransform(recipe.augmentation, recipe.image_size_at(progress.epoch), recipe.seed)
    views = run.teacher.views if run.teacher is not None else None
    loader = training_loader(run.train, transform, sampler, recipe.workers, views)
    run.model.train()
    started = time.perf_counter()
    for batch in loader:
        rate = learning_rate(recipe, progress.epoch + progress.step / run.steps_per_epoch)
        for group in run.optimizer.param_groups:
            group["lr"] = rate
        loss = _train_step(run, batch)
        progress.step += 1
        now = time.perf_counter()
        progress.seconds += now - started
        figures = {"loss": loss, "lr": rate, "images_per_second": recipe.batch_size / (now - started)}
        started = now
        on_step(progress, figures)


def _train_step(run: Run, batch: Batch) -> float:
    recipe, progress = run.recipe, run.progress
    device = run.fabric.device
    # A seed for each step, so that a resumed run draws what the uninterrupted one would have.
    torch.manual_seed(sample_seed(recipe.seed, STEP, progress.epoch, progress.step))
    pixels = batch.images.to(device, non_blocking=True)
    classes = len(run.train.classes)
    labels = F.one_hot(batch.labels.to(device), classes).float()
    targets = [labels * (1 - recipe.label_smoothing) + recipe.label_smoothing / classes]
    plan = recipe.distillation
    if run.teacher is not None:
        logits = run.teacher.logits(pixels, batch.indices, progress.epoch)
        targets.append((logits / plan.temperature).softmax(dim=-1))
    rng = np.random.default_rng([recipe.seed, progress.epoch, progress.step, 1])
    images, targets = mix(normalize(pixels), targets, recipe.mixup, recipe.cutmix, rng)

    output = run.model(images)
    logits = output.logits if isinstance(output, DistilledLogits) else output
    loss = F.cross_entropy(logits.float(), targets[0])
    if run.teacher is not None:
        student = output.distilled if isinstance(output, DistilledLogits) else output
        soft = distillation_loss(student.float(), targets[1], plan.temperature)
        loss = (1 - plan.alpha) * loss + plan.alpha * soft
    value = float(loss.detach())
    if not math.isfinite(value):
        raise FloatingPointError(
            f"the loss is {value} at epoch {progress.epoch + 1}, step {progress.step + 1}; "
            f"the last checkpoint is {run.folder / CHECKPOINT}; try a lower optimizer.lr or precision 32-true"
        )
    run.fabric.backward(loss)
    if recipe.optimizer.clip_grad:
        run.fabric.clip_gradients(run.model, run.optimizer, max_norm=recipe.optimizer.clip_grad)
    run.optimizer.step()
    run.optimizer.zero_grad()
    if run.ema is not None:
        run.ema.update(run.network, step=progress.epoch * run.steps_per_epoch + progress.step)
    return value


def weights_metadata(run: Run, result: Evaluation) -> dict[str, Any]:
    """What travels with the weights, so that export can write the model file's card."""
    return {
        "classes": [asdict(each) for each in run.train.classes],
        "preprocessing": asdict(run.preprocessing),
        "recipe": asdict(run.recipe),
        "epoch": run.progress.epoch,
        "training_data": f"{short_name(run.train)}, {len(run.train):,} images",
        "dataset": f"{short_name(run.val)}, {len(run.val):,} validation images",
        "metrics": {"top1": result.top1, "top5": result.top5, "images": result.images},
    }


def short_name(images: ImageDataset) -> str:
    """A dataset's last two folders: enough to know it by, and nothing of the rest of the machine."""
    return "/".join(Path(images.name).parts[-2:])


def save_progress(run: Run) -> None:
    """Writes the checkpoint that ``resume`` reads: aside, flushed to the disk, then renamed."""
    state = {
        "model": run.network.state_dict(),
        "ema": run.ema.module.state_dict() if run.ema is not None else None,
        "optimizer": run.optimizer.state_dict(),
        "progress": asdict(run.progress),
        "recipe": asdict(run.recipe),
    }
    with atomic_path(run.folder / CHECKPOINT) as aside:
        torch.save(state, aside)


def resume(run: Run) -> bool:
    """Takes up the run in ``run.folder``; ``False`` when there is none.

    Raises:
        CheckpointError: the checkpoint cannot be read, or belongs to another recipe.
    """
    path = run.folder / CHECKPOINT
    if not path.exists():
        return False
    try:
        state = torch.load(path, map_location=run.fabric.device, weights_only=True)
        if state["recipe"] != asdict(run.recipe):
            changed = sorted(k for k, v in asdict(run.recipe).items() if state["recipe"].get(k) != v)
            raise CheckpointError(f"{path}: the run had another recipe; changed: {', '.join(changed)}")
        run.network.load_state_dict(state["model"])
        if run.ema is not None:
            run.ema.module.load_state_dict(state["ema"])
        run.optimizer.load_state_dict(state["optimizer"])
        run.progress = Progress(**state["progress"])
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"{path}: cannot be resumed from: {error}") from error
    return True
