"""Weights on disk: ours, the reference repository's, timm's, and whatever a training loop wrapped them in.

The three name the same tensors differently. Reading recognises which it is and where in the file it lies; no pickle
code is ever executed.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from shvit.atomic import atomic_path
from shvit.errors import CheckpointError
from shvit.models.arrays import to_array, to_tensor
from shvit.models.hub import HubModel
from shvit.models.reparam import reparameterize
from shvit.models.shvit import SHViT
from shvit.network import checkpoint as reading
from shvit.network.checkpoint import CONFIG_KEY, read_weights
from shvit.network.containers import Weights
from shvit.network.integrity import content_digest
from shvit.network.matching import FIRST, adapt_channels, match_tensors, read_network
from shvit.network.tensor_names import RENAME, Names
from shvit.network.weight_files import DIGEST_KEY, check_finite

Checkpoint = reading.Checkpoint[Tensor]
"""What a file holds, under the names it holds it by."""


@dataclass(frozen=True)
class LoadReport:
    """How a checkpoint met a network."""

    names: Names
    ema: bool
    notes: tuple[str, ...]
    """What was chosen and what was adapted: a moving average, a fresh head, another number of input channels; also
    given as warnings."""


def read_checkpoint(path: str | Path, weights: Weights = "auto") -> Checkpoint:
    """Reads a checkpoint's tensors as PyTorch's: ``shvit.network.checkpoint.read_weights`` says what is read.

    Raises:
        CheckpointError: it cannot be read, is not safe to read, or holds no SHViT or several.
    """
    return _as_tensors(read_weights(path, weights))


def _as_tensors(read: reading.Checkpoint[np.ndarray]) -> Checkpoint:
    return Checkpoint(**{**vars(read), "state": {name: to_tensor(array) for name, array in read.state.items()}})


def load_checkpoint(model: SHViT, path: str | Path, weights: Weights = "auto") -> LoadReport:
    """Loads a checkpoint into a network; after an error the network is as it was.

    Where the checkpoint has no head or one of another size the network's own stays, fresh, and a first
    convolution for another number of channels is adapted (summed for grey, repeated and rescaled for more); both
    are warned of. A network without a head takes the body.

    Raises:
        CheckpointError: the file cannot be read, or a tensor is missing, unexpected or of another shape.
    """
    checkpoint = read_weights(path, weights)
    if model.folded and not checkpoint.folded:
        raise CheckpointError(f"{path}: not folded, as this network is; load, then reparameterize")
    if checkpoint.folded and not model.folded:
        raise CheckpointError(
            f"{path}: a folded network, which cannot be unfolded; take the one it came from, or load_model"
        )
    own = model.state_dict()
    found, adapted = match_tensors(checkpoint, {name: tuple(tensor.shape) for name, tensor in own.items()})
    if FIRST in found:
        channels = own[FIRST].shape[1]
        if found[FIRST].shape[1] != channels:
            found[FIRST] = adapt_channels(found[FIRST], channels)
    new = {name: to_tensor(array).to(own[name].dtype) for name, array in found.items()}
    for name, tensor in new.items():  # it may be too large for the network's type
        check_finite(checkpoint.path, {RENAME[checkpoint.names](name): to_array(tensor)})
    model.load_state_dict({**own, **new})
    notes = (*checkpoint.notes, *adapted)
    for note in notes:
        warnings.warn(f"{path}: {note}", stacklevel=2)
    return LoadReport(checkpoint.names, checkpoint.ema, notes)


def load_model(path: str | Path, weights: Weights = "auto") -> tuple[SHViT, Checkpoint]:
    """Builds the network that a checkpoint is of, with its weights.

    Raises:
        CheckpointError: the file cannot be read, or tells of no network that is known.
    """
    checkpoint, tensors = read_network(path, weights)  # before any memory is taken for it
    assert checkpoint.config is not None
    try:
        model = SHViT(checkpoint.config)
        if checkpoint.folded:
            model = reparameterize(model)
    except (RuntimeError, ArithmeticError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: its configuration cannot be used: {str(error).splitlines()[0][:300]}") from None
    model.load_state_dict({**model.state_dict(), **{name: to_tensor(array) for name, array in tensors.items()}})
    for note in checkpoint.notes:
        warnings.warn(f"{path}: {note}", stacklevel=2)
    return model.eval(), _as_tensors(checkpoint)


def save_checkpoint(
    model: SHViT, path: str | Path, names: Names = "shvit", metadata: Mapping[str, Any] | None = None
) -> None:
    """Writes weights: safetensors, or for ``.pth`` the reference repository's ``{"model": ...}``.

    The file is written aside and renamed, so that ``path`` never holds half of one.

    Args:
        names: ``shvit``, or the names that ``timm`` or the ``reference`` code know the tensors by; they have none for
            a folded network's.
        metadata: travels in the safetensors header, each value as JSON.

    Raises:
        CheckpointError: a folded network or metadata were given for a ``.pth`` or for others' names, or the file
            cannot be written.
    """
    path = Path(path)
    pickled = path.suffix in (".pth", ".pt")
    if model.folded and (pickled or names != "shvit"):
        raise CheckpointError(
            f"{path}: a folded network is saved as .safetensors under our own names; else save the one it came from"
        )
    if pickled and metadata:
        raise CheckpointError(f"{path}: only safetensors carry metadata; write a .safetensors file")
    rename = RENAME[names]
    state = {rename(name): tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    try:
        with atomic_path(path) as aside:
            if pickled:
                torch.save({"model": state}, aside)
            else:
                texts = {CONFIG_KEY: json.dumps(asdict(model.config))}
                texts |= {key: json.dumps(value) for key, value in (metadata or {}).items()}
                texts = {"format": "pt", **texts}
                arrays = {name: to_array(tensor) for name, tensor in state.items()}
                save_file(state, aside, metadata={**texts, DIGEST_KEY: content_digest(arrays, texts)})
    except (OSError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be written: {error}") from None


HubModel._read, HubModel._write = staticmethod(load_model), staticmethod(save_checkpoint)
