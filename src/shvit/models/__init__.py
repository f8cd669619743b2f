"""The networks, their weights, and folding for deployment. Needs PyTorch."""

from shvit.errors import MissingDependencyError
from shvit.install import install_command

try:
    import torch  # noqa: F401
except ImportError as error:
    raise MissingDependencyError(
        f"this needs PyTorch, which is not installed; install the lab with: {install_command('torch')}"
    ) from error

from shvit.models.checkpoints import load_checkpoint, load_model, read_checkpoint, save_checkpoint
from shvit.models.create import create_model, list_models
from shvit.models.reparam import reparameterize
from shvit.models.shvit import SHViT, SHViTFeatures
from shvit.network.variants import VARIANTS, SHViTConfig

__all__ = [
    "VARIANTS",
    "SHViT",
    "SHViTConfig",
    "SHViTFeatures",
    "create_model",
    "list_models",
    "load_checkpoint",
    "load_model",
    "read_checkpoint",
    "reparameterize",
    "save_checkpoint",
]
