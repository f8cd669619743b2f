"""Training: the recipe, the loop, distillation, evaluation."""

from shvit.training.checkpoint import resume
from shvit.training.evaluation import ValidationResult, evaluate
from shvit.training.loop import fit, is_finished, setup
from shvit.training.recipe import Distillation, Execution, Optimizer, Recipe
from shvit.training.run import Run

__all__ = [
    "Distillation",
    "Execution",
    "Optimizer",
    "Recipe",
    "Run",
    "ValidationResult",
    "evaluate",
    "fit",
    "is_finished",
    "resume",
    "setup",
]
