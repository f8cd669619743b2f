"""Training: the recipe, the loop, distillation, evaluation."""

from shvit.train.checkpoint import resume
from shvit.train.evaluation import Evaluation, evaluate
from shvit.train.loop import Run, fit, setup
from shvit.train.recipe import Distillation, Execution, Optimizer, Recipe

__all__ = [
    "Distillation",
    "Evaluation",
    "Execution",
    "Optimizer",
    "Recipe",
    "Run",
    "evaluate",
    "fit",
    "resume",
    "setup",
]
