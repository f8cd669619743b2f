"""The training loop: set up, fit, validate, save."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from shvit.atomic import atomic_path
from shvit.data.alignment import align
from shvit.data.datasets import short_path
from shvit.data.loader import Batch, BrokenImages, dead_workers_named, normalize, training_loader
from shvit.data.protocol import ImageDataset
from shvit.data.sampler import EpochSampler
from shvit.data.stratify import has_several
from shvit.data.targets import for_task, task_of_labels
from shvit.data.transforms import STEP, TrainTransform, erase, sample_seed
from shvit.errors import ArgumentError, DataError, TrainingError
from shvit.models import SHViT, create_model, save_checkpoint
from shvit.models.shvit import DistilledLogits, Head
from shvit.runs.best import is_better
from shvit.runs.progress import Progress
from shvit.training import checkpoint
from shvit.training.distillation import LiveTeacher, PrecomputedTeacher, load_teacher
from shvit.training.evaluation import Validation, evaluate
from shvit.training.head_start import fit_head, has_these_classes
from shvit.training.locking import only_run
from shvit.training.mixing import mix
from shvit.training.normalization import freeze_norms, synchronize_norms
from shvit.training.objectives import begin_with_frequencies, objective_for
from shvit.training.optimizer import build_optimizer, build_schedule, clip_gradients
from shvit.training.precision import keep_attention_in_float32, keep_depthwise_in_float32
from shvit.training.processes import launch, tells_of_a_lost_process
from shvit.training.quantization import calibrate, simulate_int8, without_ranges
from shvit.training.recipe import Execution, Recipe
from shvit.training.run import Run, preprocessing_of

OnStep = Callable[[Progress, dict[str, float]], None]


def setup(
    recipe: Recipe,
    train: ImageDataset,
    val: ImageDataset,
    folder: Path,
    execution: Execution | None = None,
    network: nn.Module | None = None,
) -> Run:
    """Builds the model, the optimizer and the teacher, and checks that they fit the data.

    With several processes it starts the others, or joins those that ``torchrun`` started.

    Args:
        network: train this instead of ``recipe.model``: one image tensor ``(B, 3, H, W)`` to logits, for studies
            that compare SHViT with others by the same recipe.

    Raises:
        DataError: too few images for a batch, or a validation class that training lacks.
        CheckpointError: the pretrained weights cannot be read, or are of another network.
        ArgumentError: this machine does not have the device, or a process would get one image of a batch.
    """
    execution = execution or Execution()
    if len(train) < recipe.batch_size:
        raise DataError(
            f"{train.name}: {len(train)} images do not fill one batch of {recipe.batch_size}; "
            "give a smaller --batch-size"
        )
    _check_normalization(recipe, execution.processes)
    train, val = for_task(train, recipe.task), for_task(val, recipe.task or task_of_labels(train))
    val = align(train, val)
    fabric = launch(recipe, execution)
    fabric.seed_everything(recipe.seed, verbose=False)
    model = network or _build(recipe, train)
    if recipe.quantization_aware:
        model = _simulation(model, recipe, train)
    fits_head = _fits_head(recipe, train, model, network is not None)
    if recipe.freeze_norm:
        freeze_norms(model)
    model = model.to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    ema = ModelEmaV3(model, decay=recipe.ema_decay, use_warmup=recipe.ema_warmup) if recipe.ema_decay else None
    if recipe.precision != "32-true":
        keep_attention_in_float32(model)
        if fabric.device.type == "cpu":
            keep_depthwise_in_float32(model)
    if recipe.sync_norm and fabric.world_size > 1:
        model = synchronize_norms(model)
    teacher = _teacher(recipe, train)
    wrapped, optimizer = fabric.setup(model, build_optimizer(model, recipe))
    schedule = build_schedule(optimizer, recipe, len(train) // recipe.batch_size)
    if fabric.is_global_zero:
        folder.mkdir(parents=True, exist_ok=True)
    return Run(
        fabric=fabric,
        recipe=recipe,
        execution=execution,
        folder=folder,
        train=train,
        val=val,
        model=wrapped,
        optimizer=optimizer,
        schedule=schedule,
        ema=ema,
        teacher=teacher,
        objective=objective_for(recipe, train, fabric.device),
        broken=BrokenImages(recipe.broken_share, len(train), train.name),
        progress=Progress(),
        fits_head=fits_head,
    )


def _fits_head(recipe: Recipe, train: ImageDataset, model: nn.Module, given: bool) -> bool:
    """Whether a head is to be fitted.

    Args:
        given: the network was given, and is not the recipe's.
    """
    if recipe.head_start == "random":
        return False
    if has_several(train.labels):
        raise ArgumentError(f"head_start: linear is for one label a picture; {train.name} has any number")
    if not isinstance(model, SHViT):
        raise ArgumentError(f"head_start: linear is for a SHViT, not for {type(model).__name__}")
    assert recipe.pretrained is not None
    weights = recipe.model if recipe.pretrained == "hub" else recipe.pretrained
    return given or not has_these_classes(weights, train.classes)


def _check_normalization(recipe: Recipe, processes: int) -> None:
    """Raises: ArgumentError: batch normalisation would have one image to normalise over, which has no variance."""
    share = recipe.batch_size if recipe.sync_norm else recipe.batch_size // processes
    if share < 2 and not (recipe.freeze_norm or recipe.quantization_aware):
        each = f" over {processes} processes leaves {share} for each of them" if processes > 1 else ""
        raise ArgumentError(
            f"batch_size: {recipe.batch_size}{each}; batch normalisation needs two images or more: give --batch-size "
            f"{2 * processes} or more or, with --pretrained, --freeze-norm true"
        )


def _build(recipe: Recipe, images: ImageDataset) -> nn.Module:
    model = create_model(
        recipe.model,
        pretrained=recipe.pretrained == "hub" or recipe.pretrained or False,
        num_classes=len(images.classes),
        distillation=recipe.distillation.two_heads,
        dropout=recipe.dropout,
        drop_path=recipe.drop_path,
    )
    for head in (model.head, model.head_dist):
        # One that was loaded has a bias already.
        if has_several(images.labels) and isinstance(head, Head) and not head.linear.bias.any():
            begin_with_frequencies(head.linear, images.labels)
    return model


def _simulation(model: nn.Module, recipe: Recipe, train: ImageDataset) -> SHViT:
    if not isinstance(model, SHViT):
        raise ArgumentError(f"quantization_aware: only a SHViT can be simulated in 8 bits, not {type(model).__name__}")
    simulation = simulate_int8(model)
    calibrate(simulation, train, preprocessing_of(recipe))
    return simulation


def _teacher(recipe: Recipe, train: ImageDataset) -> PrecomputedTeacher | LiveTeacher | None:
    plan = recipe.distillation
    if plan.logits is not None:
        return PrecomputedTeacher(plan.logits, train, recipe.augmentation, recipe.seed)
    if plan.teacher is not None:
        teacher = load_teacher(plan.teacher, plan.teacher_weights, train.classes, task=task_of_labels(train))
        return LiveTeacher(teacher)
    return None


def fit(run: Run, on_step: OnStep = lambda *_: None) -> Progress:
    """Trains to the end of the recipe; validates and saves a checkpoint after each epoch.

    Args:
        on_step: called in the first process after each optimizer step with the run's progress and the step's
            figures, and after each validation with its figures.

    Raises:
        TrainingError: a loss is not finite, of training or of validation, another process of the run is gone, or
            another run is writing into the folder; the message says where.
        CheckpointError: a checkpoint cannot be written.
        DataError: too many images cannot be read.
    """
    report = on_step if run.fabric.is_global_zero else lambda *_: None
    try:
        with only_run(run), dead_workers_named():
            if run.fits_head and run.progress.best_loss is None and not run.global_step:
                right = fit_head(run)
                if right is not None:
                    _validate(run, report, {"head_top1": right})
            while not is_finished(run):
                _train_epoch(run, report)
                _validate(run, report)
    except RuntimeError as error:
        if run.fabric.world_size > 1 and tells_of_a_lost_process(error):
            raise TrainingError(
                f"process {run.fabric.global_rank} of {run.fabric.world_size} lost the others at epoch "
                f"{run.progress.epoch + 1}, step {run.progress.step + 1}; look for the first error among them, then "
                "start all again with --resume auto"
            ) from error
        raise
    return run.progress


def is_finished(run: Run) -> bool:
    """Whether all epochs are trained, or the best was ``early_stopping`` epochs ago."""
    progress, patience = run.progress, run.recipe.early_stopping
    return progress.epoch >= run.recipe.epochs or 0 < patience <= progress.epoch - progress.best_epoch


def _train_epoch(run: Run, report: OnStep) -> None:
    recipe, progress, fabric = run.recipe, run.progress, run.fabric
    sampler = EpochSampler(
        len(run.train),
        recipe.batch_size,
        recipe.seed,
        progress.epoch,
        progress.step,
        repeats=recipe.repeats,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
    )
    evaluation = replace(run.preprocessing, image_size=recipe.image_size_at(progress.epoch))
    transform = TrainTransform(recipe.augmentation, evaluation, recipe.seed)
    views = run.teacher.views if isinstance(run.teacher, PrecomputedTeacher) else None
    on_gpu = fabric.device.type == "cuda"
    loader = training_loader(run.train, transform, sampler, run.execution.workers, views, pin_memory=on_gpu)
    run.model.train()
    if recipe.freeze_norm:
        freeze_norms(run.model)
    started = time.perf_counter()
    for batch in loader:
        run.broken.add(batch)
        run.schedule.step_update(run.global_step)
        loss = _train_step(run, batch)
        progress.step += 1
        now = time.perf_counter()
        progress.seconds += now - started
        figures = {
            "loss": loss,
            "lr": run.lr,
            "images_per_second": recipe.batch_size / (now - started),
        }
        started = now
        report(progress, figures)
        every = run.execution.checkpoint_every_steps
        if every and run.global_step % every == 0 and progress.step < run.steps_per_epoch:
            _save_checkpoint(run)
    progress.epoch += 1
    progress.step = 0


def _train_step(run: Run, batch: Batch) -> float:
    recipe, progress, fabric = run.recipe, run.progress, run.fabric
    # A seed for each step, so that a resumed run draws what the uninterrupted one would have.
    torch.manual_seed(sample_seed(recipe.seed, STEP, progress.epoch, progress.step) + fabric.global_rank)
    loss = _loss(run, batch)
    mean = fabric.all_reduce(loss.detach(), reduce_op="mean")
    assert isinstance(mean, Tensor)
    value = mean.item()
    if not math.isfinite(value):
        return _not_finite(run, value, "loss")
    fabric.backward(loss)
    norm = clip_gradients(fabric, run.model, run.optimizer, recipe.optimizer)
    if norm is not None and recipe.precision != "16-mixed" and not math.isfinite(norm):
        return _not_finite(run, norm, "gradients' norm")  # in float16 the scaler sees to it
    run.optimizer.step()
    run.optimizer.zero_grad()
    if run.ema is not None:
        run.ema.update(run.network, step=run.global_step)
    return value


def _loss(run: Run, batch: Batch) -> Tensor:
    recipe, device = run.recipe, run.fabric.device
    plan = recipe.distillation
    images_counted = len(batch.labels)
    if not images_counted:
        batch = _nothing_like(batch)
    elif images_counted == 1 < recipe.batch_size:  # the others of its batch could not be read
        batch = _twice(batch)
    pixels = batch.images.to(device, non_blocking=True)
    targets = [run.objective.targets(batch.labels.to(device))]
    if isinstance(run.teacher, PrecomputedTeacher):
        logits = run.teacher.logits(batch.indices, run.progress.epoch).to(device)
        targets.append(run.objective.teacher_targets(logits))
    augmentation = recipe.augmentation
    images = erase(normalize(pixels), batch.seeds, augmentation.erase_probability, augmentation.erase_mode)
    rng = np.random.default_rng([recipe.seed, run.progress.epoch, run.progress.step, 1])
    images, targets = mix(images, targets, recipe.mixup, recipe.cutmix, rng)
    if isinstance(run.teacher, LiveTeacher):
        targets.append(run.objective.teacher_targets(run.teacher.logits(images)))

    output = run.model(images)
    two_heads = isinstance(output, DistilledLogits)
    logits = (output.logits if two_heads else output).float()
    loss = run.objective.loss(logits, targets[0])
    if run.teacher is not None:
        student = output.distilled.float() if two_heads else logits
        loss = (1 - plan.alpha) * loss + plan.alpha * run.objective.distillation_loss(student, targets[1])
    # Gradients are averaged over processes as if each had as many images as the others.
    return loss * (images_counted * run.fabric.world_size / recipe.batch_size)


def _twice(batch: Batch) -> Batch:
    """One image as two, which have the same loss: normalisation over a batch of one has no variance."""
    images, labels, indices, seeds = (each.repeat_interleave(2, 0) for each in batch[:4])
    return Batch(images, labels, indices, seeds)


def _nothing_like(batch: Batch) -> Batch:
    """Black images in place of a batch that could not be read: the other processes wait for this one's gradients."""
    height, width = batch.images.shape[1:3]
    two = torch.zeros(2, dtype=torch.int64)  # normalisation over a batch of one has no variance
    labels = torch.zeros(2, *batch.labels.shape[1:], dtype=batch.labels.dtype)
    return Batch(torch.zeros(2, height, width, 3, dtype=torch.uint8), labels=labels, indices=two, seeds=two)


def _not_finite(run: Run, value: float, what: str) -> float:
    """Stops, or leaves the step out and counts it."""
    progress = run.progress
    if run.recipe.non_finite == "skip":
        progress.skipped += 1
        run.optimizer.zero_grad()
        return value
    raise TrainingError(
        f"the {what} is {value} at epoch {progress.epoch + 1}, step {progress.step + 1}, with the learning rate "
        f"{run.lr:.3g}; the last good checkpoint is "
        f"{checkpoint.last_good(run.folder) or 'none yet'}; try a lower --lr, more optimizer.warmup_epochs, precision "
        "32-true, or non_finite skip"
    )


def _validate(run: Run, report: OnStep, figures: Mapping[str, float] = MappingProxyType({})) -> None:
    """Accuracy after an epoch; the weights and the checkpoint are written.

    Args:
        figures: to report with it.
    """
    recipe, progress = run.recipe, run.progress
    result = evaluate(run.evaluated, run.val, run.preprocessing, recipe.batch_size, run.execution.workers, run.fabric)
    if not math.isfinite(result.loss):  # also where steps are skipped: such weights do not mend themselves
        raise TrainingError(
            f"the validation loss is {result.loss} after epoch {progress.epoch}, with the learning rate "
            f"{run.lr:.3g}; the last good checkpoint is {checkpoint.last_good(run.folder) or 'none yet'}; try a lower "
            "--lr, more optimizer.warmup_epochs or precision 32-true"
        )
    best = is_better(result.score, result.loss, progress.best_score, progress.best_loss, len(run.val))
    if best:
        progress.best_score, progress.best_loss, progress.best_epoch = result.score, result.loss, progress.epoch
    if run.fabric.is_global_zero:
        for name in ("best", "last") if best else ("last",):
            save_weights(run, run.folder / f"{name}.safetensors", result)
    # First the log, then the checkpoint: a run that is killed between the two reports the epoch twice, not never.
    report(
        progress,
        {**figures, **{f"val_{name}": value for name, value in result.shares.items()}, "val_loss": result.loss},
    )
    _save_checkpoint(run)


def _save_checkpoint(run: Run) -> None:
    if run.fabric.is_global_zero:
        checkpoint.save(run)
    run.fabric.barrier()


def save_weights(run: Run, path: Path, result: Validation) -> None:
    """Writes the evaluated weights with what export needs to write the model file's card.

    Raises:
        CheckpointError: the file cannot be written; what it held before is whole.
    """
    network = run.evaluated
    if not isinstance(network, SHViT):  # of a study; its own library reads it
        with atomic_path(path) as aside:
            save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, aside)
        return
    metadata: dict[str, Any] = {
        "classes": [asdict(each) for each in run.train.classes],
        "preprocessing": asdict(run.preprocessing),
        "recipe": asdict(run.recipe),
        "epoch": run.progress.epoch,
        "training_data": f"{short_path(run.train.name)}, {len(run.train):,} images",
        "dataset": f"{short_path(run.val.name)}, {len(run.val):,} validation images",
        "training_split": asdict(run.training_split),
        "task": task_of_labels(run.train),
        "metrics": {**result.shares, "images": result.images},
    }
    if run.trained_from is not None:
        metadata["trained_from"] = asdict(run.trained_from)
    if run.recipe.quantization_aware:
        network = without_ranges(network)
        metadata["notes"] = "Fine-tuned for 8 bits; its accuracy is that of the simulation in 8 bits."
    save_checkpoint(network, path, metadata=metadata)
