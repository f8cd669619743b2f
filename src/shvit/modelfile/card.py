"""The card of a file to export, from what is known of its network."""

from __future__ import annotations

import datetime
from dataclasses import replace
from typing import Literal

from shvit._version import __version__
from shvit.card import Card, ClassInfo, Metric, Preprocessing, TrainingSplit, Weights
from shvit.display import as_text
from shvit.errors import CheckpointError, ModelFileError
from shvit.network.checkpoint import Checkpoint
from shvit.network.class_names import known_classes
from shvit.network.imagenet import IMAGENET, imagenet_classes
from shvit.network.network import FoldedNetwork
from shvit.network.sides import ImageSize, sides
from shvit.network.training_metadata import stored_preprocessing, stored_task
from shvit.network.variants import SHViTConfig

METRICS = ("top1", "top5", "map", "f1")
"""What a training measures, of one label and of several: top-1 and top-5; mean average precision and F1 at 0.5."""

ClassNames = list[str] | Literal["imagenet-1k"] | None
"""One for each output in order, or ``imagenet-1k`` for its names."""


def card_for(
    network: FoldedNetwork,
    checkpoint: Checkpoint,
    name: str,
    image_size: ImageSize | None = None,
    class_names: ClassNames = None,
) -> Card:
    """Fills a card from a checkpoint's metadata, from what is known of published weights, and from a variant's shape.

    Args:
        image_size: of the input; the checkpoint's or the variant's when not given.
        class_names: one for each output in order, or ``imagenet-1k`` for its names. When not given they are the
            checkpoint's, or ImageNet-1k's for published weights (``known_classes``), or numbered: ``class 0``.

    Raises:
        CheckpointError: the class names given are not as many as the network's outputs, or the checkpoint's own are
            not what a training writes.
    """
    # Names of files and folders are among them, and a model file's texts are UTF-8.
    metadata = {key: as_text(each) if isinstance(each, str) else each for key, each in checkpoint.metadata.items()}
    preprocessing = preprocessing_for(network.config, checkpoint, image_size)
    classes = _classes(network.config.num_classes, checkpoint, class_names)
    if len(classes) != network.config.num_classes:
        raise CheckpointError(
            f"{checkpoint.path}: the network has {network.config.num_classes} classes, {len(classes)} names were given"
        )
    metrics = metadata.get("metrics")
    if not isinstance(metrics, dict):
        metrics = {}
    dataset = metadata.get("dataset", "validation")
    card = Card(
        name=as_text(name),
        architecture=network.architecture,
        classes=classes,
        preprocessing=preprocessing,
        task=stored_task(checkpoint) or "classification",
        parameters=network.parameters,
        macs=network.macs(preprocessing.image_size),
        training_data=metadata.get("training_data"),
        training_split=_training_split(checkpoint),
        trained_from=_trained_from(checkpoint),
        licence=metadata.get("licence"),
        source=metadata.get("source", as_text(checkpoint.path.name)),
        metrics=tuple(Metric(key, metrics[key], dataset, metadata.get("command")) for key in METRICS if key in metrics),
        notes=metadata.get("notes"),
        created=datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        shvit_version=__version__,
    )
    try:  # metadata may hold anything; what a reader of the file would refuse is not written
        return Card.from_json(card.to_json())
    except (ModelFileError, TypeError) as error:
        raise CheckpointError(f"{checkpoint.path}: its metadata cannot be used: {error}") from None


def preprocessing_for(
    config: SHViTConfig, checkpoint: Checkpoint, image_size: ImageSize | None = None
) -> Preprocessing:
    """How the network was evaluated when it was saved, or ImageNet's evaluation at the variant's size.

    Args:
        image_size: another size of the input.
    """
    stored = stored_preprocessing(checkpoint)
    if stored is None:
        return Preprocessing(sides(config.image_size if image_size is None else image_size))
    return stored if image_size is None else replace(stored, image_size=sides(image_size))


def _classes(outputs: int, checkpoint: Checkpoint, names: ClassNames) -> tuple[ClassInfo, ...]:
    if names == IMAGENET:
        return imagenet_classes()
    if names is not None:
        return tuple(ClassInfo(place, name) for place, name in enumerate(names))
    if (known := known_classes(checkpoint, outputs)) is not None:
        return known[0]
    return tuple(ClassInfo(place, f"class {place}") for place in range(outputs))


def _trained_from(checkpoint: Checkpoint) -> Weights | None:
    """Raises: CheckpointError: it is not what a training writes."""
    stored = checkpoint.metadata.get("trained_from")
    try:
        return None if stored is None else Weights(**stored)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{checkpoint.path}: the trained_from in its metadata cannot be read: {error}") from None


def _training_split(checkpoint: Checkpoint) -> TrainingSplit | None:
    """Raises: CheckpointError: it is not what a training writes."""
    stored = checkpoint.metadata.get("training_split")
    if stored is None:
        return None
    try:
        return TrainingSplit(**{**stored, "remembered": tuple(stored["remembered"])})
    except (TypeError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{checkpoint.path}: the training_split in its metadata cannot be read: {error}"
        ) from None
