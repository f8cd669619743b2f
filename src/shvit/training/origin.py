"""Which published weights a training began with, itself or by way of other checkpoints."""

from __future__ import annotations

from pathlib import Path

from shvit.card import Weights
from shvit.errors import CheckpointError
from shvit.hub.cached import recall
from shvit.hub.names import parse_reference
from shvit.models.checkpoints import read_checkpoint
from shvit.training.recipe import Recipe


def origin_of(recipe: Recipe) -> Weights | None:
    """Those on the hub, as they were fetched for it; ``None`` where it began with others, or with nothing."""
    if recipe.pretrained is None:
        return None
    name = recipe.model if recipe.pretrained == "hub" else recipe.pretrained
    reference = parse_reference(name)
    if reference is not None:
        fetched = recall(reference, "weights")
        return None if fetched is None else fetched.weights
    if not Path(name).is_file():  # it was there when the run began
        return None
    try:
        stored = read_checkpoint(name).metadata.get("trained_from")
        return None if stored is None else Weights(**stored)
    except (CheckpointError, TypeError):
        return None
