"""What a run starts from when nobody gives a recipe, in numbers: `benchmarks/small_folders.py` measured them."""

from __future__ import annotations

from pathlib import Path

import pytest

from shvit.training import Optimizer
from shvit.training.defaults import default_recipe, describe
from shvit.training.optimizer import scaled_lr

WEIGHTS = str(Path(__file__).parents[2] / "weights" / "shvit_s1_tiny_imagenet.safetensors")


@pytest.mark.parametrize(
    ("images", "batch_size", "epochs"),
    [(9, 8, 60), (27, 8, 60), (90, 8, 37), (450, 16, 20), (2_000, 64, 20), (4_999, 128, 20)],
)
def test_a_small_folder_gets_steps_enough_at_a_rate_that_its_batch_does_not_scale_down(images, batch_size, epochs):
    recipe = default_recipe("shvit_s1", images, WEIGHTS)
    assert (recipe.batch_size, recipe.epochs) == (batch_size, epochs)
    assert recipe.image_size == 128  # what the weights were evaluated at
    assert scaled_lr(recipe) == 1e-3
    assert (recipe.label_smoothing, recipe.mixup) == (0.05, 0.2)
    assert recipe.freeze_norm == (batch_size < 32)
    assert not default_recipe("shvit_s1", images, WEIGHTS, sync_norm=True).freeze_norm  # the two exclude each other
    assert images // batch_size * epochs >= min(400, 60 * (images // batch_size))


@pytest.mark.parametrize(("images", "lr"), [(90, 3e-4), (299, 3e-4), (300, 1e-3), (4_999, 1e-3)])
def test_a_head_that_is_fitted_to_few_is_fine_tuned_from_at_a_lower_rate(images, lr):
    recipe = default_recipe("shvit_s1", images, WEIGHTS, head_start="linear")
    assert (recipe.head_start, scaled_lr(recipe)) == ("linear", lr)
    assert default_recipe("shvit_s1", images, WEIGHTS).head_start == "random"
    many = default_recipe("shvit_s1", 5_000, WEIGHTS, head_start="linear")
    assert many.optimizer == default_recipe("shvit_s1", 5_000, WEIGHTS).optimizer


@pytest.mark.parametrize("images", [9, 450, 4_999])
def test_other_trainings_of_a_small_folder_have_the_rate_of_a_full_batch(images):
    assert scaled_lr(default_recipe("shvit_s1", images, None)) == pytest.approx(2e-3 * 128 / 512)
    assert scaled_lr(default_recipe("shvit_s1", images, WEIGHTS, quantization_aware=True)) == pytest.approx(2.5e-5)


def test_fine_tuning_of_many_images_is_as_it_was():
    for images, epochs in ((5_000, 20), (49_999, 20), (50_000, 10), (1_000_000, 10)):
        recipe = default_recipe("shvit_s1", images, WEIGHTS)
        assert (recipe.batch_size, recipe.epochs) == (128, epochs)
        assert recipe.optimizer == Optimizer(lr=3e-3, weight_decay=0.05, warmup_epochs=1.0, layer_decay=0.85)
        assert (recipe.augmentation.color_jitter, recipe.label_smoothing) == (0, 0.1)
        assert (recipe.mixup, recipe.freeze_norm) == (0, False)
    recipe = default_recipe("shvit_s1", 1_000_000, None)
    assert recipe.optimizer == Optimizer(lr=2e-3, weight_decay=0.05, warmup_epochs=5.0)
    assert (recipe.batch_size, recipe.epochs, recipe.mixup, recipe.cutmix) == (128, 30, 0.2, 1.0)


def test_what_was_chosen_is_said():
    assert describe(default_recipe("shvit_s1", 450, WEIGHTS), 450, chosen=True) == (
        "fine-tuning: 20 epochs of 28 steps of 16 images, learning rate up to 0.001; chosen for 450 images where no "
        "flag says otherwise"
    )
    assert describe(default_recipe("shvit_s1", 60_000, None), 60_000, chosen=False) == (
        "training from nothing: 30 epochs of 468 steps of 128 images, learning rate up to 0.0005"
    )
