"""Training: the recipe, the loop, distillation, evaluation."""

from shvit.train.checkpoint import resume
from shvit.train.evaluation import Evaluation, evaluate
from shvit.train.loop import fit, setup
from shvit.train.recipe import Distillation, Execution, Optimizer, Recipe
from shvit.train.run import Run

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
