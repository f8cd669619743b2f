"""Going on in training from a model file that ``shvit teach`` wrote: from the weights that it was taught on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from shvit.card import Card, ClassInfo
from shvit.data.loader import normalize
from shvit.engines.onnx_graph import has_operator
from shvit.errors import CheckpointError, ModelFileError, ModelOutputError
from shvit.models.checkpoints import load_model
from shvit.models.create import weights_file
from shvit.models.reparam import inference_form
from shvit.network.sides import in_words
from shvit.predicting.classifier import Classifier
from shvit.tasks import Judged

COMPARED = 4
"""Pictures that two networks are compared on."""

NAMED = 5
"""How many classes a line names."""

TOLERANCE, TOLERANCE_INT8 = 0.03, 0.4
"""How far the features of a file may be from those of the weights that it was made from, relative to their size, in
floating point and in 8 bits: S1's shipped file is at 0.22 of its own weights, and at 1.04 of others."""


@dataclass(frozen=True)
class Continuation:
    """With what a training goes on from a taught file."""

    values: dict[str, Any]
    """Of the recipe, by their names: the variant, the weights, how images are prepared, and that the head is fitted
    first, to the images that are trained on. The file's own was also taught with those that are held out now, and would
    look better on them than it is."""
    labels: tuple[str, ...]
    """Of the file's classes."""

    def describe_lost(self, classes: Sequence[ClassInfo]) -> str | None:
        """A line on classes of the file that are none of those that are trained on, if there are any."""
        lost = [label for label in self.labels if label not in {each.label for each in classes}]
        if not lost:
            return None
        more = f" and {len(lost) - NAMED} more" if len(lost) > NAMED else ""
        return f"note: no pictures of {', '.join(lost[:NAMED])}{more}, which the taught file tells: not learnt"


def continue_from(file: str | Path, weights: str | None = None) -> Continuation:
    """Finds the weights that a file was taught on.

    Args:
        file: what ``shvit teach`` wrote.
        weights: of the network that it was taught on, as for ``pretrained``; those published ones that the card names
            when not given.

    Raises:
        ModelFileError: it cannot be read, or is not taught.
        CheckpointError: the card names no weights and none are given; or they are of another network.
        HubError: they cannot be fetched.
    """
    taught = Classifier(file, engine="onnxruntime", embedding=True)
    card = taught.card
    if card.taught is None:
        raise ModelFileError(
            f"{file}: no taught file: its card does not say what it was taught on; expected one that shvit teach "
            "wrote. To fine-tune any other, give the weights that it was exported from: --pretrained FILE"
        )
    if weights is None and card.weights is None:
        raise CheckpointError(
            f"{file}: taught on {card.taught.model!r}, whose weights are not known: its card names none on the hub; "
            "give those that it was exported from as well: --pretrained FILE"
        )
    if weights is None:
        assert card.weights is not None
        weights = f"hf://{card.weights.repository}@{card.weights.commit}"
    _check_same_network(taught, card.architecture if weights == "hub" else weights)
    preprocessing = card.preprocessing
    values = {
        "model": card.architecture,
        "pretrained": weights,
        "head_start": "linear",
        "image_size": in_words(preprocessing.image_size),
        "resize_mode": preprocessing.resize_mode,
        "crop_ratio": preprocessing.crop_ratio,
        "pad_color": preprocessing.pad_color,
    }
    return Continuation(values, tuple(each.label for each in card.classes))


def _check_same_network(taught: Classifier, weights: str) -> None:
    """Raises: CheckpointError: the weights give other features than the file that was taught on them."""
    network, _ = load_model(weights_file(weights))
    pixels = _pictures(taught.card)
    with torch.inference_mode():
        ours = inference_form(network)(normalize(torch.from_numpy(pixels)), pre_logits=True).numpy()
    theirs = np.stack([_embedding(each) for each in taught.judge_each(pixels)])
    if ours.shape == theirs.shape:
        difference = float(np.linalg.norm(ours - theirs) / np.linalg.norm(ours))
        in_8_bits = has_operator(taught.path, "DequantizeLinear")
        if difference <= (TOLERANCE_INT8 if in_8_bits else TOLERANCE):
            return
        found = f"their features differ by {difference:.0%}"
    else:
        found = f"it has {theirs.shape[1]} features, they give {ours.shape[1]}"
    assert taught.card.taught is not None
    raise CheckpointError(
        f"{weights}: not the weights that {taught.path} was taught on: {found}; give those that "
        f"{taught.card.taught.model!r} was exported from"
    )


def _embedding(judged: Judged | ModelOutputError) -> np.ndarray:
    if isinstance(judged, ModelOutputError):
        raise judged
    assert judged.embedding is not None
    return judged.embedding


def _pictures(card: Card) -> np.ndarray:
    """Coloured clouds, the same every time, as the network takes images: ``uint8 (COMPARED, H, W, 3)``."""
    height, width = card.preprocessing.image_size
    random = np.random.default_rng(0)
    coarse = [random.integers(0, 256, (side, side, 3), dtype=np.uint8) for side in range(3, 3 + 4 * COMPARED, 4)]
    return np.stack(
        [np.asarray(Image.fromarray(each).resize((width, height), Image.Resampling.BICUBIC)) for each in coarse]
    )
