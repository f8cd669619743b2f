"""Weights on disk, as arrays: ours, the reference repository's, timm's, and whatever a training loop wrapped them in.

The three name the same tensors differently. Reading recognises which it is and where in the file it lies; no pickle
code is ever executed.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from shvit.errors import CheckpointError
from shvit.network.containers import Weights, choose_network
from shvit.network.shapes import tensor_shapes
from shvit.network.tensor_names import RENAME, Names
from shvit.network.variants import VARIANTS, SHViTConfig
from shvit.network.weight_files import check_finite, check_tensors, read_weight_file
from shvit.shipped import why_no_weights

CONFIG_KEY = "shvit.config"
"""Key of the configuration's JSON in a safetensors file's metadata."""

MAX_IMAGE_SIDE = 8192
"""A configuration that was made for larger images is refused; in pixels."""

Values = TypeVar("Values")
"""How a tensor is held: ``np.ndarray``, or PyTorch's ``Tensor``."""


@dataclass(frozen=True)
class Checkpoint(Generic[Values]):
    """What a file holds, under the names it holds it by."""

    path: Path
    names: Names
    state: dict[str, Values]
    """The network's tensors, without what stands before their names in the file."""
    ema: bool = False
    """The tensors are an exponential moving average."""
    config: SHViTConfig | None = None
    """The network these tensors are of; ``None`` when it is none that can be told."""
    folded: bool = False
    """The network is in inference form."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """What ``save_checkpoint`` was given."""
    notes: tuple[str, ...] = ()
    """What was chosen of several networks, and what was left out."""
    dataset: str | None = None
    """What the arguments of the training call its data, where the file has them, as the reference's: IMNET."""


def read_weights(path: str | Path, weights: Weights = "auto") -> Checkpoint[np.ndarray]:
    """Reads a checkpoint: safetensors, or a pickle such as ``.pth`` without executing anything in it.

    Args:
        path: a file of the reference repository (bare state dict, ``{"model": ...}`` or a whole training
            checkpoint), of timm, of ``save_checkpoint``, or of another training loop that has such a network
            somewhere: under other keys (``model_state_dict``), with prefixes (``module.``, ``model.net.``), beside
            other tensors.
        weights: ``model`` or ``ema``; ``auto`` takes the moving average where there is one.

    Raises:
        CheckpointError: it cannot be read, is not safe to read, or holds no SHViT or several.
    """
    if reason := why_no_weights(path):
        raise CheckpointError(f"{path}: {reason}")
    path = Path(path)
    raw, metadata = read_weight_file(path)
    found, notes = choose_network(path, raw, weights)
    names, folded = found.names, found.folded
    state = check_tensors(path, found.state, found.prefix)
    check_finite(path, state, found.prefix)
    stored = metadata.pop(CONFIG_KEY, None)
    if folded and stored is None:
        raise CheckpointError(f"{path}: a folded network without its configuration; take the one it came from")
    try:
        config = SHViTConfig(**stored) if stored is not None else _infer_config(state, names)
    except (TypeError, ValueError, ArithmeticError, IndexError) as error:
        raise CheckpointError(f"{path}: its configuration cannot be used: {str(error)[:300]}") from None
    if config is not None:
        _check_config(path, config, state)
    return Checkpoint(path, names, state, found.averaged, config, folded, metadata, notes, _dataset(raw))


def _dataset(raw: Mapping[Any, Any]) -> str | None:
    arguments = raw.get("args")
    value = vars(arguments).get("data_set") if isinstance(arguments, argparse.Namespace) else None
    return value if isinstance(value, str) else None


def _check_config(path: Path, config: SHViTConfig, state: Mapping[str, np.ndarray]) -> None:
    """Refuses a network that the tensors cannot be of, before any of it is built."""
    if sum(config.depths) > len(state):
        raise CheckpointError(f"{path}: its configuration has {sum(config.depths)} blocks, it has {len(state)} tensors")
    if config.image_size > MAX_IMAGE_SIDE:
        raise CheckpointError(
            f"{path}: its configuration has image_size {config.image_size}, at most {MAX_IMAGE_SIDE} is taken"
        )


def _infer_config(state: Mapping[str, np.ndarray], names: Names) -> SHViTConfig | None:
    """Which published variant has a body of these shapes, whatever its input channels and its head."""
    rename = RENAME[names]
    first = rename("stem.0.conv.weight")
    own = {name: tensor.shape for name, tensor in state.items()}
    own[first] = own[first][2:]
    for variant in VARIANTS.values():
        wanted = {
            rename(name): shape for name, shape in tensor_shapes(replace(variant, num_classes=0)).items() if shape
        }
        wanted[first] = wanted[first][2:]
        if all(own.get(name) == shape for name, shape in wanted.items()):
            head = state.get(rename("head.linear.weight"))
            return replace(
                variant,
                in_chans=state[first].shape[1],
                num_classes=0 if head is None else head.shape[0],
                distillation=rename("head_dist.linear.weight") in state,
            )
    return None
