"""Weights on disk: ours, the reference repository's, timm's.

The three name the same tensors differently. Reading recognises which it is; no pickle code is ever executed.
"""

from __future__ import annotations

import argparse
import json
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import Parameter

from shvit.atomic import atomic_path
from shvit.errors import CheckpointError
from shvit.models.integrity import check_archive, content_digest, is_finite
from shvit.models.reparam import reparameterize
from shvit.models.shvit import SHViT
from shvit.models.variants import VARIANTS, SHViTConfig

Names = Literal["shvit", "timm", "reference"]
Weights = Literal["auto", "model", "ema"]

CONFIG_KEY = "shvit.config"
"""Key of the configuration's JSON in a safetensors file's metadata."""

DIGEST_KEY = "shvit.digest"
"""Key, in the same place, of a SHA-256 of the tensors and the metadata; files of others have none."""

MAX_HEADER_BYTES = 16 * 2**20
"""A safetensors file whose names and metadata take more is refused; those of a network take some 100 kB."""

MAX_IMAGE_SIDE = 8192
"""A configuration that was made for larger images is refused; in pixels."""

_MODEL_KEYS = ("model", "state_dict")
_EMA_KEYS = ("model_ema", "state_dict_ema", "ema")
_HEADS = {"head.": "head", "head_dist.": "distillation head"}
_PREFIXES = ("module.", "_orig_mod.", "model.")
# What training code keeps beside its tensors. Making one of these runs nothing; paths are read as names only.
_HARMLESS: list[Any] = [
    argparse.Namespace,
    (PurePosixPath, "pathlib.PosixPath"),
    (PureWindowsPath, "pathlib.WindowsPath"),
    (PurePosixPath, "pathlib._local.PosixPath"),
    (PureWindowsPath, "pathlib._local.WindowsPath"),
]

_TO_TIMM = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^stem\.", "patch_embed."),
        (r"\.downsample\.local_in\.dw\.", ".downsample.0.m."),
        (r"\.downsample\.ffn_in\.", ".downsample.1.m."),
        (r"\.downsample\.merge\.expand\.", ".downsample.2.conv1."),
        (r"\.downsample\.merge\.dw\.", ".downsample.2.conv2."),
        (r"\.downsample\.merge\.project\.", ".downsample.2.conv3."),
        (r"\.merge\.squeeze_excite\.reduce\.", ".2.se.fc1."),
        (r"\.merge\.squeeze_excite\.expand\.", ".2.se.fc2."),
        (r"\.downsample\.local_out\.dw\.", ".downsample.3.m."),
        (r"\.downsample\.ffn_out\.", ".downsample.4.m."),
        (r"\.local\.dw\.", ".conv.m."),
        (r"\.attention\.norm\.", ".mixer.m.pre_norm."),
        (r"\.attention\.qkv\.", ".mixer.m.qkv."),
        (r"\.attention\.project\.", ".mixer.m.proj.1."),
        (r"\.ffn\.", ".ffn.m."),
        (r"(\.m)\.expand\.", r"\1.pw1."),
        (r"(\.ffn\.m|downsample\.[14]\.m)\.project\.", r"\1.pw2."),
        (r"\.conv\.(weight|bias)$", r".c.\1"),
        (r"^(head(?:_dist)?)\.linear\.", r"\1.l."),
        (r"(?<!pre_)\bnorm\.", "bn."),
    )
]
# timm's downsample.0 to .4 stand in three sub-modules of the reference, which counts blocks after them.
_DOWNSAMPLE = {"0": "0.0", "1": "0.1", "2": "1", "3": "2.0", "4": "2.1"}


def _timm_name(name: str) -> str:
    for pattern, replacement in _TO_TIMM:
        name = pattern.sub(replacement, name)
    return name


def _reference_name(name: str) -> str:
    parts = _timm_name(name).split(".")
    if parts[0] != "stages":
        return ".".join(parts)
    stage = int(parts[1])
    if parts[2] == "downsample":
        return ".".join([f"blocks{stage + 1}", _DOWNSAMPLE[parts[3]], *parts[4:]])
    place = int(parts[3]) + (3 if stage > 0 else 0)
    return ".".join([f"blocks{stage + 1}", str(place), *parts[4:]])


_RENAME = {"shvit": lambda name: name, "timm": _timm_name, "reference": _reference_name}


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds, under the names it holds it by."""

    path: Path
    names: Names
    state: dict[str, Tensor]
    """Tensors without wrappers' prefixes."""
    ema: bool = False
    """The tensors are an exponential moving average."""
    config: SHViTConfig | None = None
    """The network these tensors are of; ``None`` when it is none that can be told."""
    folded: bool = False
    """The network is in inference form."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """What ``save_checkpoint`` was given."""


@dataclass(frozen=True)
class LoadReport:
    """How a checkpoint met a network."""

    names: Names
    ema: bool
    notes: tuple[str, ...]
    """What was adapted: a fresh head, another number of input channels; also given as warnings."""


def read_checkpoint(path: str | Path, weights: Weights = "auto") -> Checkpoint:
    """Reads a checkpoint: safetensors, or ``.pth`` without executing anything in it.

    Args:
        path: a file of the reference repository (bare state dict, ``{"model": ...}`` or a whole training
            checkpoint), of timm, or of ``save_checkpoint``.
        weights: ``model`` or ``ema``; ``auto`` takes the moving average where there is one.

    Raises:
        CheckpointError: it cannot be read, is not safe to read, or is no SHViT.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
    metadata: dict[str, Any] = {}
    ema = False
    if _is_safetensors(path):
        state, metadata = _read_safetensors(path)
        if weights == "ema":
            raise CheckpointError(f"{path}: has one set of weights, no moving average beside it")
    else:
        state, ema = _choose(path, _read_pickle(path), weights)
    _check_tensors(path, state)
    state = _strip_prefixes(state)
    names, folded = _recognise(path, state)
    stored = metadata.pop(CONFIG_KEY, None)
    if folded and stored is None:
        raise CheckpointError(f"{path}: a folded network without its configuration; take the one it came from")
    try:
        config = SHViTConfig(**stored) if stored is not None else _infer_config(state, names)
    except (TypeError, ValueError, ArithmeticError, IndexError) as error:
        raise CheckpointError(f"{path}: its configuration cannot be used: {str(error)[:300]}") from None
    if config is not None:
        _check_config(path, config, state)
    return Checkpoint(path, names, state, ema, config, folded, metadata)


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
    new, notes = _match(model, checkpoint)
    model.load_state_dict(new)
    for note in notes:
        warnings.warn(f"{checkpoint.path}: {note}", stacklevel=3)
    return LoadReport(checkpoint.names, checkpoint.ema, tuple(notes))


def _match(model: SHViT, checkpoint: Checkpoint) -> tuple[dict[str, Tensor], list[str]]:
    """Every tensor that the network needs, under our names; and what had to be adapted."""
    rename = _RENAME[checkpoint.names]
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
        new[name] = value
    if missing:
        raise CheckpointError(
            f"{checkpoint.path}: {len(missing)} tensors are missing, such as {missing[0]}{_guess(checkpoint)}"
        )
    extra = [name for name in given if not name.startswith(unwanted)]
    if extra:
        raise CheckpointError(
            f"{checkpoint.path}: {len(extra)} tensors are not of this network, such as {extra[0]}{_guess(checkpoint)}"
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
    rename = _RENAME[names]
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


def _note(notes: list[str], text: str) -> None:
    if text not in notes:
        notes.append(text)


def _is_safetensors(path: Path) -> bool:
    """A safetensors file starts with its header's length and the header's brace, whatever it is called."""
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    return path.suffix == ".safetensors" or (len(start) == 9 and start[8:9] == b"{")


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with path.open("rb") as start:
            header = int.from_bytes(start.read(8), "little")
        if header > MAX_HEADER_BYTES:
            raise CheckpointError(
                f"{path}: refused: a header of {header:,} bytes, at most {MAX_HEADER_BYTES:,} are read"
            )
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            texts = dict(file.metadata() or {})
    except CheckpointError:
        raise
    except Exception as error:  # of many kinds: the library's own, and PyTorch's for types that it does not know
        raise CheckpointError(f"{path}: not a whole safetensors file: {str(error)[:300]}") from None
    written = texts.pop(DIGEST_KEY, None)
    if written is not None and written != content_digest(state, texts):
        raise CheckpointError(
            f"{path}: damaged: its tensors or its metadata are not those that were written (SHA-256); "
            "take a copy of it, or the run's other weights"
        )
    metadata = {}
    for key, text in texts.items():
        try:
            metadata[key] = json.loads(text)
        except ValueError:
            metadata[key] = text
        except RecursionError:
            raise CheckpointError(f"{path}: refused: the metadata {key[:100]!r} are nested too deep") from None
    return state, metadata


def _read_pickle(path: Path) -> Any:
    try:
        if zipfile.is_zipfile(path):
            with path.open("rb") as file:
                check_archive(file)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of many kinds: what torch, its unpickler and zipfile make of arbitrary bytes
        text = str(error)
        asked = re.search(r"GLOBAL ([\w.]+)", text) or re.search(r"blocklisted module ([\w.]+)", text)
        if asked:
            raise CheckpointError(
                f"{path}: refused: the file asks to run code ({asked.group(1)}); nothing of it was executed"
            ) from None
        unpickler = re.search(r"WeightsUnpickler error:\s*(.*)", text)
        reason = unpickler.group(1) if unpickler else text.split(". ")[0][:200] if " " in text else type(error).__name__
        raise CheckpointError(f"{path}: not a whole PyTorch checkpoint: {reason}") from None


def _choose(path: Path, raw: Any, weights: Weights) -> tuple[dict[str, Tensor], bool]:
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path}: expected a state dict, got {type(raw).__name__}")
    ema, model = (
        next((raw[key] for key in keys if isinstance(raw.get(key), dict)), None) for keys in (_EMA_KEYS, _MODEL_KEYS)
    )
    if model is None and ema is None:
        model = raw
    if weights == "ema" and ema is None:
        raise CheckpointError(f"{path}: has no moving average (looked for {', '.join(_EMA_KEYS)})")
    if weights == "model" and model is None:
        raise CheckpointError(f"{path}: has a moving average only")
    use_ema = ema is not None and weights != "model"
    state = ema if use_ema else model
    assert state is not None
    tensors = {name: value for name, value in state.items() if isinstance(name, str) and isinstance(value, Tensor)}
    return tensors, use_ema


def _check_tensors(path: Path, state: dict[str, Tensor]) -> None:
    """Refuses what would fail half-way through loading, or take more memory than the file has bytes."""
    if not state:
        raise CheckpointError(f"{path}: holds no tensors")
    for name, tensor in state.items():
        plain = type(tensor) in (Tensor, Parameter) and tensor.layout == torch.strided and tensor.device.type == "cpu"
        if not plain or tensor.is_quantized or tensor.is_nested:
            raise CheckpointError(f"{path}: {name} is not a plain tensor")
    size = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    if size > path.stat().st_size:
        raise CheckpointError(f"{path}: refused: its tensors would take {size} bytes, more than the file has")
    if not is_finite(state):
        name = next(name for name, tensor in state.items() if not is_finite({name: tensor}))
        raise CheckpointError(f"{path}: {name} has values that are not finite; take weights from before they diverged")


def _check_config(path: Path, config: SHViTConfig, state: dict[str, Tensor]) -> None:
    """Refuses a network that the tensors cannot be of, before any of it is built."""
    if sum(config.depths) > len(state):
        raise CheckpointError(f"{path}: its configuration has {sum(config.depths)} blocks, it has {len(state)} tensors")
    if config.image_size > MAX_IMAGE_SIDE:
        raise CheckpointError(
            f"{path}: its configuration has image_size {config.image_size}, at most {MAX_IMAGE_SIDE} is taken"
        )


def _strip_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Takes off what DistributedDataParallel, torch.compile and the like put before every name."""
    while True:
        prefix = next((each for each in _PREFIXES if all(name.startswith(each) for name in state)), None)
        if prefix is None:
            return state
        state = {name.removeprefix(prefix): value for name, value in state.items()}


def _recognise(path: Path, state: dict[str, Tensor]) -> tuple[Names, bool]:
    """Whose names they are, and whether the network is folded."""
    if "stem.0.conv.weight" in state or "stem.0.weight" in state:
        return "shvit", "stem.0.weight" in state
    if "patch_embed.0.c.weight" in state:
        return "reference" if any(name.startswith("blocks1.") for name in state) else "timm", False
    raise CheckpointError(
        f"{path}: not a SHViT: expected a first convolution stem.0.conv.weight or patch_embed.0.c.weight; "
        f"the file's first tensor is {next(iter(state), None)}"
    )


def _infer_config(state: dict[str, Tensor], names: Names) -> SHViTConfig | None:
    """Which published variant has a body of these shapes, whatever its input channels and its head."""
    rename = _RENAME[names]

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
        f"{checkpoint.path}: {_RENAME[checkpoint.names](name)} should have the shape {tuple(wanted.shape)}, "
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
