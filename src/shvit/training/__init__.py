"""Training: the recipe, the loop, distillation, evaluation; ``train.py`` is the whole of it in one call."""

import shvit.models  # noqa: F401 - first, since without PyTorch it says what to install
from shvit.training.checkpoint import resume
from shvit.training.evaluation import ValidationResult, evaluate
from shvit.training.loop import fit, is_finished, setup
from shvit.training.recipe import Distillation, Execution, Optimizer, Recipe
from shvit.training.run import Run
from shvit.training.train import TrainedRun, read_recipe, recipe_for

__all__ = [
    "Distillation",
    "Execution",
    "Optimizer",
    "Recipe",
    "Run",
    "TrainedRun",
    "ValidationResult",
    "evaluate",
    "fit",
    "is_finished",
    "read_recipe",
    "recipe_for",
    "resume",
    "setup",
]
