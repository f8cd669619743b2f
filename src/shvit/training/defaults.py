"""A recipe for data of this size, for who gives none."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from shvit.card import Preprocessing, TaskName
from shvit.data.transforms import Augmentation
from shvit.models import VARIANTS, read_checkpoint
from shvit.network.sides import in_words, sides
from shvit.network.training_metadata import stored_preprocessing
from shvit.training.optimizer import scaled_lr
from shvit.training.recipe import HeadStart, Optimizer, Recipe

FULL_BATCH = 128
"""Images in a batch where there are enough."""
STEPS = 20
"""Optimizer steps that an epoch should have at least: with fewer, small data would hardly be learnt from."""
SMALL, LARGE = 5_000, 50_000
"""Images below which augmentation is strong and the rate does not depend on the batch, and from which augmentation may
be light when fine-tuning. AdamW's steps do not grow with the gradient: a rate in proportion to the small batch of a
small folder would hardly move the weights."""
SMALL_LR = 1e-3
"""Learning rate of the head that fine-tunes fewer than SMALL images."""
FEW, FITTED_LR = 300, 3e-4
"""The same where the head is fitted first, to fewer than FEW images: it need not be learnt, and features that suit it
are soon bent away. More images teach the features more than is lost (docs/studies/small_folders.md)."""
SMALL_LABEL_SMOOTHING, SMALL_MIXUP = 0.05, 0.2
"""Below SMALL images: with more of either the scores of an easy task stay too low, with less those of a hard one are
too high."""
SMALL_BATCH = 32
"""Images in a batch below which fine-tuning keeps normalisations as loaded: statistics of so few are mostly noise."""
FINE_TUNING_STEPS, MOST_EPOCHS = 400, 60
"""Optimizer steps that fine-tuning should take at least, and how many epochs it takes at most to come to them."""


def default_recipe(
    model: str,
    images: int,
    pretrained: str | None,
    quantization_aware: bool = False,
    sync_norm: bool = False,
    task: TaskName = "classification",
    head_start: HeadStart = "random",
) -> Recipe:
    """What ``shvit train`` starts from when it is given no recipe file; flags change single values.

    Fine-tuning takes few epochs, small rates for early blocks, and the size and the way to bring images to it that the
    checkpoint was evaluated with.
    Training from nothing takes many epochs and stronger augmentation. The rate of small folders is not scaled down with
    their small batch (``benchmarks/small_folders.py`` compares rates), and the smallest are fine-tuned for more epochs.

    Args:
        model: variant.
        images: training images there are.
        pretrained: a checkpoint's file, ``hub``, or ``None`` to train from nothing.
        quantization_aware: fine-tune weights that are good in float32 for 8 bits.
        sync_norm: normalisations will see the images of all processes, so they are not frozen.
        task: of several labels each is by itself, and nothing is to be gained by smoothing towards one half.
        head_start: of fine-tuning.
    """
    recipe = _for_images(model, images, pretrained, quantization_aware, sync_norm)
    if head_start == "linear":
        fitted = replace(recipe.optimizer, lr=FITTED_LR if images < FEW else recipe.optimizer.lr)
        recipe = replace(recipe, head_start=head_start, optimizer=fitted)
    return replace(recipe, label_smoothing=0.0) if task == "multi_label" else recipe


def _for_images(model: str, images: int, pretrained: str | None, quantization_aware: bool, sync_norm: bool) -> Recipe:
    batch_size = max(8, min(FULL_BATCH, 1 << max(images // STEPS, 1).bit_length() - 1))
    evaluated = Preprocessing(sides(VARIANTS[model].image_size if model in VARIANTS else Recipe.image_size))
    if pretrained is None:
        return Recipe(
            model=model,
            image_size=in_words(evaluated.image_size),
            epochs=100 if images < LARGE else 30,
            batch_size=batch_size,
            optimizer=_rated(images, Optimizer(lr=2e-3, weight_decay=0.05, warmup_epochs=5.0)),
            augmentation=Augmentation(crop_scale=(0.2, 1.0), color_jitter=0.3),
            mixup=0.2,
            cutmix=1.0,
        )
    if pretrained != "hub" and Path(pretrained).is_file():
        evaluated = stored_preprocessing(read_checkpoint(pretrained)) or evaluated
    if quantization_aware:
        return Recipe(
            model=model,
            pretrained=pretrained,
            image_size=in_words(evaluated.image_size),
            resize_mode=evaluated.resize_mode,
            pad_color=evaluated.pad_color,
            epochs=5 if images < LARGE else 2,
            batch_size=batch_size,
            optimizer=_rated(images, Optimizer(lr=1e-4, weight_decay=0.0, warmup_epochs=0.2, min_lr=1e-6)),
            augmentation=Augmentation(crop_scale=(0.35, 1.0)),
            quantization_aware=True,
        )
    recipe = Recipe(
        model=model,
        pretrained=pretrained,
        image_size=in_words(evaluated.image_size),
        resize_mode=evaluated.resize_mode,
        pad_color=evaluated.pad_color,
        epochs=20 if images < LARGE else 10,
        batch_size=batch_size,
        optimizer=Optimizer(lr=3e-3, weight_decay=0.05, warmup_epochs=1.0, layer_decay=0.85),
        augmentation=Augmentation(crop_scale=(0.35, 1.0)),
    )
    if images >= SMALL:
        return recipe
    needed = math.ceil(FINE_TUNING_STEPS / max(images // batch_size, 1))
    return replace(
        recipe,
        epochs=min(max(recipe.epochs, needed), MOST_EPOCHS),
        optimizer=replace(recipe.optimizer, lr=SMALL_LR, lr_batch_size=0),
        augmentation=replace(recipe.augmentation, color_jitter=0.3),
        label_smoothing=SMALL_LABEL_SMOOTHING,
        mixup=SMALL_MIXUP,
        freeze_norm=batch_size < SMALL_BATCH and not sync_norm,
    )


def _rated(images: int, optimizer: Optimizer) -> Optimizer:
    """With the rate of a full batch for a small folder, whatever its batch."""
    if images >= SMALL:
        return optimizer
    return replace(optimizer, lr=optimizer.lr * FULL_BATCH / optimizer.lr_batch_size, lr_batch_size=0)


def describe(recipe: Recipe, images: int, chosen: bool) -> str:
    """One line on how a recipe trains so many images.

    Args:
        chosen: the recipe is ``default_recipe``'s, apart from single flags.
    """
    if not recipe.epochs:
        return "no epoch: the head alone is learnt"
    what = "training from nothing" if recipe.pretrained is None else "fine-tuning"
    epochs = "1 epoch" if recipe.epochs == 1 else f"{recipe.epochs} epochs"
    plan = (
        f"{what}: {epochs} of {images // recipe.batch_size} steps of {recipe.batch_size} images, "
        f"learning rate up to {scaled_lr(recipe):.3g}"
    )
    return f"{plan}; chosen for {images:,} images where no flag says otherwise" if chosen else plan
