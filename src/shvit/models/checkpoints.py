"""Weights on disk: ours, the reference repository's, timm's, and whatever a training loop wrapped them in.

The three name the same tensors differently. Reading recognises which it is and where in the file it lies; no pickle
code is ever executed.
"""

from __future__ import annotations

import argparse
import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from shvit.atomic import atomic_path
from shvit.errors import CheckpointError
from shvit.models.containers import Weights, choose_network
from shvit.models.integrity import content_digest
from shvit.models.reparam import reparameterize
from shvit.models.shvit import SHViT
from shvit.models.weight_files import DIGEST_KEY, check_finite, check_tensors, read_weight_file
from shvit.network.tensor_names import RENAME, Names
from shvit.network.variants import VARIANTS, SHViTConfig
from shvit.shipped import why_no_weights

CONFIG_KEY = "shvit.config"
"""Key of the configuration's JSON in a safetensors file's metadata."""

MAX_IMAGE_SIDE = 8192
"""A configuration that was made for larger images is refused; in pixels."""

_HEADS = {"head.": "head", "head_dist.": "distillation head"}


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds, under the names it holds it by."""

    path: Path
    names: Names
    state: dict[str, Tensor]
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


@dataclass(frozen=True)
class LoadReport:
    """How a checkpoint met a network."""

    names: Names
    ema: bool
    notes: tuple[str, ...]
    """What was chosen and what was adapted: a moving average, a fresh head, another number of input channels; also
    given as warnings."""


def read_checkpoint(path: str | Path, weights: Weights = "auto") -> Checkpoint:
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
    state, names, folded = found.state, found.names, found.folded
    check_tensors(path, state, found.prefix)
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


def _dataset(raw: dict[Any, Any]) -> str | None:
    arguments = dict.get(raw, "args")  # its own: a pickle may give an OrderedDict an attribute ``get``
    value = vars(arguments).get("data_set") if isinstance(arguments, argparse.Namespace) else None
    return value if isinstance(value, str) else None


def load_checkpoint(model: SHViT, path: str | Path, weights: Weights = "auto") -> LoadReport:
    """Loads a checkpoint into a network; after an error the network is as it was.

    Where the checkpoint has no head or one of another size the network's own stays, fresh, and a first
    convolution for another number of channels is adapted (summed for grey, repeated and rescaled for more); both
    are warned of. A network without a head takes the body.

    Raises:
        CheckpointError: the file cannot be read, or a tensor is missing, unexpected or of another shape.
    """
    return _load(model, read_checkpoint(path, weights))


def _load(model: SHViT, checkpoint: Checkpoint) -> LoadReport:
    if model.folded and not checkpoint.folded:
        raise CheckpointError(f"{checkpoint.path}: not folded, as this network is; load, then reparameterize")
    if checkpoint.folded and not model.folded:
        raise CheckpointError(
            f"{checkpoint.path}: a folded network, which cannot be unfolded; take the one it came from, or load_model"
        )
    new, adapted = _match(model, checkpoint)
    model.load_state_dict(new)
    notes = (*checkpoint.notes, *adapted)
    for note in notes:
        warnings.warn(f"{checkpoint.path}: {note}", stacklevel=3)
    return LoadReport(checkpoint.names, checkpoint.ema, notes)


def _match(model: SHViT, checkpoint: Checkpoint) -> tuple[dict[str, Tensor], list[str]]:
    """Every tensor that the network needs, under our names; and what had to be adapted."""
    rename = RENAME[checkpoint.names]
    given = dict(checkpoint.state)
    own = model.state_dict()
    notes: list[str] = []
    absent = tuple(head for head in _HEADS if not any(name.startswith(head) for name in given))
    unwanted = tuple(head for head in _HEADS if not any(name.startswith(head) for name in own))
    new: dict[str, Tensor] = {}
    missing: list[str] = []
    for name, tensor in own.items():
        value = given.pop(rename(name), None)
        if value is None and name.endswith("num_batches_tracked"):
            value = tensor  # some savers leave the counters out; evaluation does not use them
        if value is None and name.startswith(absent):
            value = tensor
            _note(notes, f"the checkpoint has no {_HEADS[name.split('.')[0] + '.']}: that head is fresh")
        if value is None:
            missing.append(rename(name))
            continue
        if value.shape != tensor.shape:
            value = _adapt(checkpoint, name, value, tensor, notes)
        if tensor.is_floating_point() and not value.is_floating_point():
            raise CheckpointError(f"{checkpoint.path}: {rename(name)} should be floating point, got {value.dtype}")
        if value.dtype != tensor.dtype and not value.is_meta:
            try:
                converted = value.to(tensor.dtype)
            except RuntimeError:  # PyTorch converts some of its types to no other
                raise CheckpointError(f"{checkpoint.path}: {rename(name)}: cannot be used as {value.dtype}") from None
            check_finite(checkpoint.path, {rename(name): converted})  # it may be too large for float32
        new[name] = value
    if missing:
        raise CheckpointError(f"{checkpoint.path}: {_count(missing)} missing, such as {missing[0]}{_guess(checkpoint)}")
    extra = [name for name in given if not name.startswith(unwanted)]
    if extra:
        raise CheckpointError(
            f"{checkpoint.path}: {_count(extra)} not of this network, such as {extra[0]}{_guess(checkpoint)}"
        )
    if given and model.num_classes:
        _note(notes, "the checkpoint's distillation head is left out: pass distillation=True to use both heads")
    return new, notes


def load_model(path: str | Path, weights: Weights = "auto") -> tuple[SHViT, Checkpoint]:
    """Builds the network that a checkpoint is of, with its weights.

    Raises:
        CheckpointError: the file cannot be read, or tells of no network that is known.
    """
    checkpoint = read_checkpoint(path, weights)
    if checkpoint.config is None:
        raise CheckpointError(
            f"{path}: these tensors are of none of {', '.join(VARIANTS)}, and the file has no configuration"
        )
    # First without memory: a file's configuration may ask for a network of which it has no tensors.
    try:
        with torch.device("meta"):
            outline = _network(checkpoint)
    except (RuntimeError, ArithmeticError, TypeError, ValueError) as error:  # sizes whose product no number holds
        raise CheckpointError(f"{path}: its configuration cannot be used: {str(error).splitlines()[0][:300]}") from None
    shapes = {name: tensor.to("meta") for name, tensor in checkpoint.state.items()}
    _, notes = _match(outline, replace(checkpoint, state=shapes))
    if notes:
        raise CheckpointError(f"{path}: its configuration is not of its tensors: {notes[0]}")
    model = _network(checkpoint)
    _load(model, checkpoint)
    return model.eval(), checkpoint


def _network(checkpoint: Checkpoint) -> SHViT:
    """One of a checkpoint's configuration and form, with fresh weights."""
    assert checkpoint.config is not None
    model = SHViT(checkpoint.config)
    return reparameterize(model) if checkpoint.folded else model


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
                save_file(state, aside, metadata={**texts, DIGEST_KEY: content_digest(state, texts)})
    except (OSError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be written: {error}") from None


def _count(names: list[str]) -> str:
    return "1 tensor is" if len(names) == 1 else f"{len(names)} tensors are"


def _note(notes: list[str], text: str) -> None:
    if text not in notes:
        notes.append(text)


def _check_config(path: Path, config: SHViTConfig, state: dict[str, Tensor]) -> None:
    """Refuses a network that the tensors cannot be of, before any of it is built."""
    if sum(config.depths) > len(state):
        raise CheckpointError(f"{path}: its configuration has {sum(config.depths)} blocks, it has {len(state)} tensors")
    if config.image_size > MAX_IMAGE_SIDE:
        raise CheckpointError(
            f"{path}: its configuration has image_size {config.image_size}, at most {MAX_IMAGE_SIDE} is taken"
        )


def _infer_config(state: dict[str, Tensor], names: Names) -> SHViTConfig | None:
    """Which published variant has a body of these shapes, whatever its input channels and its head."""
    rename = RENAME[names]

    def body_shape(name: str, tensor: Tensor) -> torch.Size:
        return tensor.shape[2:] if name == "stem.0.conv.weight" else tensor.shape

    for variant in VARIANTS.values():
        with torch.device("meta"):
            body = SHViT(replace(variant, num_classes=0)).state_dict()
        wanted = {rename(name): body_shape(name, tensor) for name, tensor in body.items() if tensor.ndim}
        own = {rename(name): name for name in body}
        if all(name in state and body_shape(own[name], state[name]) == shape for name, shape in wanted.items()):
            head = state.get(rename("head.linear.weight"))
            return replace(
                variant,
                in_chans=state[rename("stem.0.conv.weight")].shape[1],
                num_classes=0 if head is None else head.shape[0],
                distillation=rename("head_dist.linear.weight") in state,
            )
    return None


def _adapt(checkpoint: Checkpoint, name: str, value: Tensor, wanted: Tensor, notes: list[str]) -> Tensor:
    if re.match(r"head(_dist)?\.linear\.", name) and value.ndim == wanted.ndim and value.shape[1:] == wanted.shape[1:]:
        _note(notes, f"the head has {value.shape[0]} classes, this network {wanted.shape[0]}: the head is fresh")
        return wanted
    others_alike = value.shape[:1] == wanted.shape[:1] and value.shape[2:] == wanted.shape[2:]
    if name == "stem.0.conv.weight" and others_alike and value.shape[1]:
        _note(
            notes,
            f"the first convolution was made for {value.shape[1]} channels: adapted to {wanted.shape[1]}",
        )
        return _adapt_channels(value, wanted.shape[1])
    raise CheckpointError(
        f"{checkpoint.path}: {RENAME[checkpoint.names](name)} should have the shape {tuple(wanted.shape)}, "
        f"got {tuple(value.shape)}{_guess(checkpoint)}"
    )


def _adapt_channels(kernel: Tensor, channels: int) -> Tensor:
    """A first convolution for another number of channels, as timm does it."""
    given = kernel.shape[1]
    if channels == 1:
        return kernel.sum(dim=1, keepdim=True)
    repeats = -(-channels // given)
    return kernel.repeat(1, repeats, 1, 1)[:, :channels] * (given / channels)


def _guess(checkpoint: Checkpoint) -> str:
    """What the file seems to be, for an error's end."""
    if checkpoint.config is None:
        return ""
    for name, variant in VARIANTS.items():
        if (variant.widths, variant.depths) == (checkpoint.config.widths, checkpoint.config.depths):
            return f"; the file is of {name}"
    return ""
