"""SHViT: the Single-Head Vision Transformer, trained in PyTorch and run without it.

``Classifier`` runs model files and needs NumPy, Pillow and an engine; ``Client`` asks a server that runs one. The lab
(``create_model`` and the rest) needs PyTorch: ``pip install 'shvit[torch]'``. Importing this package loads neither.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shvit.models import create_model, list_models, load_checkpoint, reparameterize, save_checkpoint
    from shvit.runtime.card import Card
    from shvit.runtime.classifier import Classifier
    from shvit.runtime.explain import Explainer
    from shvit.runtime.results import Prediction, Result
    from shvit.serve.client import AsyncClient, Client

__version__ = "0.1.0"

_RUNTIME = {
    "AsyncClient": "shvit.serve.client",
    "Card": "shvit.runtime.card",
    "Classifier": "shvit.runtime.classifier",
    "Client": "shvit.serve.client",
    "Explainer": "shvit.runtime.explain",
    "Prediction": "shvit.runtime.results",
    "Result": "shvit.runtime.results",
}
_LAB = ("create_model", "list_models", "load_checkpoint", "reparameterize", "save_checkpoint")

__all__ = [
    "AsyncClient",
    "Card",
    "Classifier",
    "Client",
    "Explainer",
    "Prediction",
    "Result",
    "create_model",
    "list_models",
    "load_checkpoint",
    "reparameterize",
    "save_checkpoint",
]


def __getattr__(name: str) -> Any:
    if name in _RUNTIME:
        return getattr(import_module(_RUNTIME[name]), name)
    if name in _LAB:
        return getattr(import_module("shvit.models"), name)
    raise AttributeError(f"module 'shvit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
