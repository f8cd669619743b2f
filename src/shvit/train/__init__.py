"""Training: the recipe, the loop, distillation, evaluation."""

from shvit.train.evaluation import Evaluation, evaluate, evaluate_classifier
from shvit.train.loop import Run, fit, resume, setup
from shvit.train.recipe import Distillation, Optimizer, Recipe

__all__ = [
    "Distillation",
    "Evaluation",
    "Optimizer",
    "Recipe",
    "Run",
    "evaluate",
    "evaluate_classifier",
    "fit",
    "resume",
    "setup",
]
