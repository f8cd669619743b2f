"""SHViT: the Single-Head Vision Transformer, trained in PyTorch and run without it.

``Classifier`` runs model files, ``Embedder`` gives their features, ``evaluate`` measures them and ``calibrate`` fits
when they answer; they need NumPy, Pillow and an engine. ``teach`` gives one new classes (the extra ``teach``).
``Client`` asks a server that runs one. The lab (``train``, ``create_model`` and the rest, and ``evaluate`` of
checkpoints) needs PyTorch, the extra ``torch``. Importing this package loads neither.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from shvit._version import __version__

if TYPE_CHECKING:
    from shvit.calibration.calibrate import calibrate
    from shvit.calibration.fitting import CalibrationOptions
    from shvit.card import Card
    from shvit.evaluation.export import ExportOptions, export
    from shvit.evaluation.measure import EvaluationOptions, evaluate
    from shvit.models import create_model, list_models, load_checkpoint, reparameterize, save_checkpoint
    from shvit.predicting.classifier import Classifier
    from shvit.predicting.embedder import Embedder, Embedding
    from shvit.predicting.embeddings import EmbeddingOptions, EmbeddingsInfo
    from shvit.predicting.explain import Explainer
    from shvit.serve.client import AsyncClient, Client
    from shvit.similarity.duplicates import find_duplicates, find_leaks
    from shvit.similarity.mislabelled import find_mislabelled
    from shvit.similarity.search import EmbeddingIndex
    from shvit.tasks.results import Prediction, Result
    from shvit.teaching.report import TeachOptions
    from shvit.teaching.teach import teach
    from shvit.training.recipe import Execution, Recipe
    from shvit.training.train import recipe_for, train

_MODULES = {
    "AsyncClient": "shvit.serve.client",
    "CalibrationOptions": "shvit.calibration.fitting",
    "Card": "shvit.card",
    "Classifier": "shvit.predicting.classifier",
    "Client": "shvit.serve.client",
    "Embedder": "shvit.predicting.embedder",
    "Embedding": "shvit.predicting.embedder",
    "EmbeddingIndex": "shvit.similarity.search",
    "EmbeddingOptions": "shvit.predicting.embeddings",
    "EmbeddingsInfo": "shvit.predicting.embeddings",
    "Explainer": "shvit.predicting.explain",
    "Prediction": "shvit.tasks.results",
    "Result": "shvit.tasks.results",
    "EvaluationOptions": "shvit.evaluation.measure",
    "Execution": "shvit.training",
    "ExportOptions": "shvit.evaluation.export",
    "Recipe": "shvit.training",
    "TeachOptions": "shvit.teaching.report",
    "calibrate": "shvit.calibration.calibrate",
    "create_model": "shvit.models",
    "evaluate": "shvit.evaluation.measure",
    "export": "shvit.evaluation.export",
    "find_duplicates": "shvit.similarity.duplicates",
    "find_leaks": "shvit.similarity.duplicates",
    "find_mislabelled": "shvit.similarity.mislabelled",
    "list_models": "shvit.models",
    "load_checkpoint": "shvit.models",
    "recipe_for": "shvit.training.train",
    "reparameterize": "shvit.models",
    "save_checkpoint": "shvit.models",
    "teach": "shvit.teaching.teach",
    "train": "shvit.training.train",
}
_EXTRAS = {
    "shvit.models": "torch",
    "shvit.serve.client": "serve",
    "shvit.similarity.duplicates": "teach",
    "shvit.similarity.mislabelled": "teach",
    "shvit.similarity.search": "teach",
    "shvit.teaching.report": "teach",
    "shvit.teaching.teach": "teach",
    "shvit.training": "torch",
    "shvit.training.train": "torch",
}
"""The extras that modules need."""
_PACKAGES = {
    "serve": ("httpx2",),
    "teach": ("sklearn", "pyarrow"),
    "torch": ("torch", "torchvision", "timm", "lightning_fabric", "yaml"),
}
"""What these modules import of each extra: PyTorch alone, as many have it, does not do."""

__all__ = [
    "AsyncClient",
    "CalibrationOptions",
    "Card",
    "Classifier",
    "Client",
    "Embedder",
    "Embedding",
    "EmbeddingIndex",
    "EmbeddingOptions",
    "EmbeddingsInfo",
    "EvaluationOptions",
    "Execution",
    "Explainer",
    "ExportOptions",
    "Prediction",
    "Recipe",
    "Result",
    "TeachOptions",
    "__version__",
    "calibrate",
    "create_model",
    "evaluate",
    "export",
    "find_duplicates",
    "find_leaks",
    "find_mislabelled",
    "list_models",
    "load_checkpoint",
    "recipe_for",
    "reparameterize",
    "save_checkpoint",
    "teach",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        try:
            return getattr(import_module(_MODULES[name]), name)
        except ModuleNotFoundError as error:
            extra, package = _EXTRAS.get(_MODULES[name]), (error.name or "shvit").partition(".")[0]
            if extra is None or package == "shvit":
                raise
            from shvit.errors import MissingDependencyError
            from shvit.install import install_command

            raise MissingDependencyError(
                f"shvit.{name} needs {package}, which is not installed; install it with: {install_command(extra)}"
            ) from error
    raise AttributeError(f"module 'shvit' has no attribute {name!r}")


def __dir__() -> list[str]:
    """What can be had here: ``help`` and ``inspect.getmembers`` get each of these, and end at the first that cannot."""
    incomplete = {extra for extra, packages in _PACKAGES.items() if any(find_spec(each) is None for each in packages)}
    return [name for name in __all__ if _EXTRAS.get(_MODULES.get(name, "")) not in incomplete]
