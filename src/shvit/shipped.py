"""Model files by name: those shipped inside the package."""

from __future__ import annotations

from pathlib import Path

from shvit.errors import ModelFileError

ASSETS = Path(__file__).parent / "assets"
DEFAULT_MODEL = "shvit_s1_tiny_imagenet"
SHIPPED_MODELS = {DEFAULT_MODEL: ASSETS / f"{DEFAULT_MODEL}.onnx"}


def resolve_model(model: str | Path) -> Path:
    """The file behind a shipped model's name or a path.

    Raises:
        ModelFileError: it is neither.
    """
    if isinstance(model, str) and model in SHIPPED_MODELS:
        return SHIPPED_MODELS[model]
    path = Path(model)
    if path.is_file():
        return path
    if path.is_dir():
        raise ModelFileError(f"{path}: is a folder; expected a model file (.onnx)")
    raise ModelFileError(f"{model}: no such model file, nor a shipped model; shipped: {', '.join(SHIPPED_MODELS)}")


def verification_images() -> list[Path]:
    """Photographs in the package that every exported file is run on."""
    return sorted((ASSETS / "photographs").glob("*.jpg"))
