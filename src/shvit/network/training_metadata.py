"""What a training wrote into a checkpoint's metadata about its classes and its images, checked as a card is."""

from __future__ import annotations

import json
from typing import Any

from shvit.card import SCHEMA_VERSION, Card, ClassInfo, Preprocessing, TaskName
from shvit.errors import CheckpointError, ModelFileError
from shvit.network.checkpoint import MAX_IMAGE_SIDE, Checkpoint


def stored_preprocessing(checkpoint: Checkpoint[Any]) -> Preprocessing | None:
    """How the network was evaluated when it was saved; ``None`` where the file does not say.

    Raises:
        CheckpointError: that part of the metadata is damaged.
    """
    if checkpoint.metadata.get("preprocessing") is None:
        return None
    preprocessing = _card(checkpoint, preprocessing=checkpoint.metadata["preprocessing"]).preprocessing
    if max(preprocessing.image_size) > MAX_IMAGE_SIDE:
        raise CheckpointError(
            f"{checkpoint.path}: its metadata cannot be used: preprocessing.image_size {preprocessing.image_size}, at "
            f"most {MAX_IMAGE_SIDE} is taken"
        )
    return preprocessing


def stored_classes(checkpoint: Checkpoint[Any]) -> tuple[ClassInfo, ...] | None:
    """The classes in the order of the outputs; ``None`` where the file does not say.

    Raises:
        CheckpointError: that part of the metadata is damaged.
    """
    if checkpoint.metadata.get("classes") is None:
        return None
    return _card(checkpoint, classes=checkpoint.metadata["classes"]).classes


def stored_task(checkpoint: Checkpoint[Any]) -> TaskName | None:
    """What the network answers; ``None`` where the file does not say, as of others' and of earlier trainings.

    Raises:
        CheckpointError: that part of the metadata is damaged, or of a task that this version does not know.
    """
    if checkpoint.metadata.get("task") is None:
        return None
    return _card(checkpoint, task=checkpoint.metadata["task"]).task


def _card(checkpoint: Checkpoint[Any], **parts: Any) -> Card:
    """A card of these parts and nothing else, read as one from a model file is."""
    least: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "name": "",
        "architecture": "",
        "classes": [{"class_id": 0, "label": ""}],
        "preprocessing": {},
    }
    try:
        return Card.from_json(json.dumps({**least, **parts}), source="its metadata")
    except (ModelFileError, TypeError, ArithmeticError, RecursionError) as error:
        raise CheckpointError(
            f"{checkpoint.path}: {str(error)[:300]}; take the checkpoint from its training again"
        ) from None
