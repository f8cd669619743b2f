"""What a network's outputs are called: by its file, by what is known of published weights, or not at all."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from shvit.card import ClassInfo
from shvit.network.checkpoint import Checkpoint
from shvit.network.imagenet import imagenet_classes
from shvit.network.training_metadata import stored_classes

_PUBLISHED = {
    "reference": re.compile(r"shvit_s[1-4]\.pth"),
    "timm": re.compile(r"(?:models--timm--)?shvit_s[1-4]\.in1k(?:\.safetensors|\.pth)?"),
}
"""How the published weights' file, or timm's repository around it, is called; by whose names its tensors have."""


def known_classes(checkpoint: Checkpoint[Any], outputs: int) -> tuple[tuple[ClassInfo, ...], str | None] | None:
    """A network's classes, and what they are concluded from if the file does not name them; ``None`` if nothing does.

    A thousand outputs alone say nothing. ImageNet-1k's names belong to the published weights, which are known by what
    they are called, and to those of the reference's training on ImageNet, which keeps its arguments.

    Raises:
        CheckpointError: what the file names is damaged.
    """
    if (stored := stored_classes(checkpoint)) is not None:
        return stored, None
    imagenet = imagenet_classes()
    if outputs != len(imagenet):
        return None
    if checkpoint.dataset == "IMNET":
        return imagenet, "its training's arguments say data_set IMNET"
    called = _PUBLISHED.get(checkpoint.names)
    if called is not None and (name := _called(checkpoint.path, called)) is not None:
        return imagenet, f"{name} is what the published weights are called"
    return None


def _called(path: Path, published: re.Pattern[str]) -> str | None:
    """The file's name, or of a folder around it, that is of published weights."""
    return next((part for part in reversed(path.parts) if published.fullmatch(part)), None)
