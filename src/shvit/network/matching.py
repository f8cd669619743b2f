"""A checkpoint's tensors as a network takes them: under our names, each of the network's shape."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from shvit.errors import CheckpointError
from shvit.network.checkpoint import Checkpoint, read_weights
from shvit.network.containers import Weights
from shvit.network.dtypes import is_float, torch_name
from shvit.network.shapes import Shapes, tensor_shapes
from shvit.network.tensor_names import RENAME
from shvit.network.variants import VARIANTS
from shvit.network.weight_files import check_finite

FIRST = "stem.0.conv.weight"
"""The convolution that meets the image."""

_HEADS = {"head.": "head", "head_dist.": "distillation head"}


def read_network(path: str | Path, weights: Weights = "auto") -> tuple[Checkpoint[np.ndarray], dict[str, np.ndarray]]:
    """The checkpoint, and every tensor of the network that it is of, under our names.

    Returns:
        The checkpoint, whose configuration is known, and tensors of the shapes of ``tensor_shapes``, in float32;
        ``num_batches_tracked`` may be missing.

    Raises:
        CheckpointError: the file cannot be read, or tells of no network that is known.
    """
    checkpoint = read_weights(path, weights)
    if checkpoint.config is None:
        raise CheckpointError(
            f"{path}: these tensors are of none of {', '.join(VARIANTS)}, and the file has no configuration"
        )
    tensors, notes = match_tensors(checkpoint, tensor_shapes(checkpoint.config, checkpoint.folded))
    if notes:
        raise CheckpointError(f"{path}: its configuration is not of its tensors: {notes[0]}")
    rename = RENAME[checkpoint.names]
    for name, tensor in tensors.items():
        if is_float(tensor.dtype) and tensor.dtype != np.float32:
            with np.errstate(over="ignore"):
                tensors[name] = tensor.astype(np.float32)
            check_finite(checkpoint.path, {rename(name): tensors[name]})  # it may be too large for float32
    return checkpoint, tensors


def match_tensors(checkpoint: Checkpoint[np.ndarray], own: Shapes) -> tuple[dict[str, np.ndarray], list[str]]:
    """A checkpoint's tensors for a network of these shapes.

    Returns:
        The tensors under our names, without those that the network's own, fresh ones are to be kept of: of a head
        that the checkpoint does not have, or has for another number of classes, and the counters that some savers
        leave out. The first convolution may be for another number of channels (``adapt_channels``). And what is
        adapted, in sentences.

    Raises:
        CheckpointError: a tensor is missing, unexpected, of another shape or not of floating-point numbers.
    """
    rename = RENAME[checkpoint.names]
    given = dict(checkpoint.state)
    notes: dict[str, None] = {}
    absent = tuple(head for head in _HEADS if not any(name.startswith(head) for name in given))
    unwanted = tuple(head for head in _HEADS if not any(name.startswith(head) for name in own))
    found: dict[str, np.ndarray] = {}
    missing: list[str] = []
    for name, shape in own.items():
        value = given.pop(rename(name), None)
        if value is not None:
            if not name.endswith("num_batches_tracked") and not is_float(value.dtype):
                raise CheckpointError(
                    f"{checkpoint.path}: {rename(name)} should be floating point, got {torch_name(value.dtype)}"
                )
            if value.shape != shape:
                notes[_note(checkpoint, name, value.shape, shape)] = None
            if value.shape == shape or name == FIRST:
                found[name] = value
        elif name.startswith(absent):
            notes[f"the checkpoint has no {_HEADS[name.split('.')[0] + '.']}: that head is fresh"] = None
        elif not name.endswith("num_batches_tracked"):
            missing.append(rename(name))
    if missing:
        raise CheckpointError(f"{checkpoint.path}: {_count(missing)} missing, such as {missing[0]}{_guess(checkpoint)}")
    extra = [name for name in given if not name.startswith(unwanted)]
    if extra:
        raise CheckpointError(
            f"{checkpoint.path}: {_count(extra)} not of this network, such as {extra[0]}{_guess(checkpoint)}"
        )
    if given and "head." not in unwanted:
        notes["the checkpoint's distillation head is left out: pass distillation=True to use both heads"] = None
    return found, list(notes)


def adapt_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """A first convolution ``(C, given, 3, 3)`` for another number of channels, as timm does it, in float32."""
    kernel = kernel.astype(np.float32)
    given = kernel.shape[1]
    if channels == 1:
        return kernel.sum(axis=1, keepdims=True)
    repeats = -(-channels // given)
    return np.tile(kernel, (1, repeats, 1, 1))[:, :channels] * np.float32(given / channels)


def _note(checkpoint: Checkpoint[np.ndarray], name: str, shape: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    """What is done about a tensor of another shape.

    Raises:
        CheckpointError: nothing can be.
    """
    if re.match(r"head(_dist)?\.linear\.", name) and len(shape) == len(wanted) and shape[1:] == wanted[1:]:
        return f"the head has {shape[0]} classes, this network {wanted[0]}: the head is fresh"
    if name == FIRST and shape[:1] == wanted[:1] and shape[2:] == wanted[2:] and shape[1]:
        return f"the first convolution was made for {shape[1]} channels: adapted to {wanted[1]}"
    raise CheckpointError(
        f"{checkpoint.path}: {RENAME[checkpoint.names](name)} should have the shape {wanted}, "
        f"got {shape}{_guess(checkpoint)}"
    )


def _count(names: list[str]) -> str:
    return "1 tensor is" if len(names) == 1 else f"{len(names)} tensors are"


def _guess(checkpoint: Checkpoint[np.ndarray]) -> str:
    """What the file seems to be, for an error's end."""
    if checkpoint.config is None:
        return ""
    for name, variant in VARIANTS.items():
        if (variant.widths, variant.depths) == (checkpoint.config.widths, checkpoint.config.depths):
            return f"; the file is of {name}"
    return ""
