"""SHViT: the Single-Head Vision Transformer, trained in PyTorch and run without it.

``Classifier`` runs model files and needs NumPy, Pillow and an engine; ``Client`` asks a server that runs one. The lab
(``train``, ``evaluate``, ``export``, ``create_model`` and the rest) needs PyTorch: ``pip install 'shvit[torch]'``.
Importing this package loads neither.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from shvit._version import __version__

if TYPE_CHECKING:
    from shvit.card import Card
    from shvit.evaluation.export import ExportOptions, export
    from shvit.evaluation.measure import EvaluationOptions, evaluate
    from shvit.models import create_model, list_models, load_checkpoint, reparameterize, save_checkpoint
    from shvit.predicting.classifier import Classifier
    from shvit.predicting.explain import Explainer
    from shvit.predicting.results import Prediction, Result
    from shvit.serve.client import AsyncClient, Client
    from shvit.training.recipe import Execution, Recipe
    from shvit.training.train import recipe_for, train

_RUNTIME = {
    "AsyncClient": "shvit.serve.client",
    "Card": "shvit.card",
    "Classifier": "shvit.predicting.classifier",
    "Client": "shvit.serve.client",
    "Explainer": "shvit.predicting.explain",
    "Prediction": "shvit.predicting.results",
    "Result": "shvit.predicting.results",
}
_WORK = {
    "EvaluationOptions": "shvit.evaluation.measure",
    "Execution": "shvit.training",
    "ExportOptions": "shvit.evaluation.export",
    "Recipe": "shvit.training",
    "evaluate": "shvit.evaluation.measure",
    "export": "shvit.evaluation.export",
    "recipe_for": "shvit.training.train",
    "train": "shvit.training.train",
}
_LAB = ("create_model", "list_models", "load_checkpoint", "reparameterize", "save_checkpoint")

__all__ = [
    "AsyncClient",
    "Card",
    "Classifier",
    "Client",
    "EvaluationOptions",
    "Execution",
    "Explainer",
    "ExportOptions",
    "Prediction",
    "Recipe",
    "Result",
    "__version__",
    "create_model",
    "evaluate",
    "export",
    "list_models",
    "load_checkpoint",
    "recipe_for",
    "reparameterize",
    "save_checkpoint",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _RUNTIME:
        return getattr(import_module(_RUNTIME[name]), name)
    if name in _WORK:
        return getattr(import_module(_WORK[name]), name)
    if name in _LAB:
        return getattr(import_module("shvit.models"), name)
    raise AttributeError(f"module 'shvit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
