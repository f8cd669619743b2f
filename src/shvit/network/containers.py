"""Where in a file of weights the network lies: what training loops put around it and beside it.

No list of their keys and prefixes is kept: a network is known by its own tensors' names, whatever stands before them
(``module.``, ``model.backbone.``), and however deep the dictionary of them lies (``model_ema``, ``state_dict``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from shvit.errors import CheckpointError
from shvit.network.dtypes import AnyTensor, OddTensor
from shvit.network.tensor_names import RENAME, Names
from shvit.network.weight_files import check_tensors

Weights = Literal["auto", "model", "ema"]

MAX_DEPTH = 4
"""Dictionaries within dictionaries are looked through so deep."""

MAX_NETWORKS = 16
"""A file with more is refused."""

_FIRST, _BLOCK = "stem.0.conv.weight", "stages.0.blocks.0.ffn.expand.conv.weight"
_SIGNATURES: list[tuple[Names, bool, str, str]] = [
    *((names, False, rename(_FIRST), rename(_BLOCK)) for names, rename in RENAME.items()),
    ("shvit", True, "stem.0.weight", "stages.0.blocks.0.ffn.expand.weight"),
]
"""Whose names, whether folded, and two tensors that every such network has."""

_AVERAGED = {"ema", "swa", "avg", "average", "averaged"}
_TEACHERS = {"teacher", "target"}
_COUNTER = "n_averaged"
"""What ``torch.optim.swa_utils.AveragedModel`` keeps beside its ``module.``."""
_WRAPPERS = re.compile(r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What torch.compile, FSDP and activation checkpointing may put into the middle of names as well."""


@dataclass(frozen=True)
class FoundNetwork:
    """A network among what a file holds."""

    keys: tuple[str, ...]
    """Of the dictionaries that it lies in, outermost first."""
    prefix: str
    """What stands before its tensors' names there."""
    state: dict[str, AnyTensor]
    """Its tensors, without the prefix."""
    names: Names
    folded: bool
    averaged: bool
    """Its weights are a moving average."""
    is_teacher: bool
    """Another network learns from it."""
    beside: tuple[str, ...]
    """The other tensors of the same dictionary."""

    @property
    def place(self) -> str:
        """Where it lies, in words."""
        inside = ".".join(self.keys)
        return f"{inside} ({self.prefix}*)" if inside and self.prefix else inside or f"{self.prefix}*"


def choose_network(path: Path, raw: Any, weights: Weights) -> tuple[FoundNetwork, tuple[str, ...]]:
    """The network that a file is of, and what should be said of the choice.

    Args:
        path: for messages.
        raw: what the file holds.
        weights: ``model`` or ``ema``; ``auto`` takes the moving average where there is one, as timm does.

    Raises:
        CheckpointError: there is none, or not one alone; the message says what there is.
    """
    if not isinstance(raw, Mapping):
        raise CheckpointError(f"{path}: expected a state dict, got {_kind(raw)}")
    found = list(_networks(path, raw))
    if not found:
        raise CheckpointError(f"{path}: {_why_none(raw)}; it holds {_describe(raw)}")
    students = [each for each in found if not each.is_teacher] or found
    averages = [each for each in students if each.averaged]
    plain = [each for each in students if not each.averaged]
    if weights == "ema" and not averages:
        raise CheckpointError(f"{path}: has no moving average; it holds {_describe(raw)}")
    if weights == "model" and not plain:
        raise CheckpointError(f"{path}: has a moving average only, {averages[0].place}")
    chosen = _only_one(path, averages if averages and weights != "model" else plain)
    notes = []
    if weights == "auto" and chosen.averaged and plain:
        notes.append(
            f"the moving average is taken, {chosen.place}; the other weights are {plain[0].place} "
            "(weights='model', or shvit export --ema model)"
        )
    named = tuple(each.prefix for each in students if each.keys == chosen.keys and each.prefix)
    left_out = [name for name in chosen.beside if not name.startswith(named) and not name.endswith(_COUNTER)]
    if left_out:
        are = "1 tensor beside it is" if len(left_out) == 1 else f"{len(left_out)} tensors beside it are"
        notes.append(f"the network is {chosen.place}; {are} left out, such as {left_out[0]}")
    return chosen, tuple(notes)


def _networks(path: Path, raw: Mapping[Any, Any]) -> Iterator[FoundNetwork]:
    """All of them, in the file's order."""
    count = 0
    for keys, holder in _dictionaries(raw):
        tensors = _tensors(path, holder)
        places = [
            (first.removesuffix(start), names, folded)
            for names, folded, start, block in _SIGNATURES
            for first in tensors
            if _ends_name(first, start) and first.removesuffix(start) + block in tensors
        ]
        count += len(places)
        if count > MAX_NETWORKS:
            raise CheckpointError(f"{path}: refused: it holds more than {MAX_NETWORKS} networks")
        # Lightning's WeightAveraging puts the average where the weights would be, and the weights aside.
        swapped = keys == ("state_dict",) and "averaging_state" in raw
        for prefix, names, folded in places:
            inner = tuple(each for each, *_ in places if each.startswith(prefix) and each != prefix)
            own = [name for name in tensors if name.startswith(prefix) and not name.startswith(inner)]
            words = set(re.split(r"[._]", ".".join((*keys, prefix)).lower()))
            yield FoundNetwork(
                keys=keys,
                prefix=prefix,
                state={name.removeprefix(prefix): tensors[name] for name in own},
                names=names,
                folded=folded,
                averaged=swapped or prefix.removesuffix("module.") + _COUNTER in tensors or bool(words & _AVERAGED),
                is_teacher=bool(words & _TEACHERS),
                beside=tuple(name for name in tensors if not name.startswith(prefix) or name.startswith(inner)),
            )


def _dictionaries(raw: Mapping[Any, Any]) -> Iterator[tuple[tuple[str, ...], Mapping[Any, Any]]]:
    """A dictionary and those within it, each once, with the keys that lead there."""
    seen = {id(raw)}  # a pickle may hold itself
    level: list[tuple[tuple[str, ...], Mapping[Any, Any]]] = [((), raw)]
    for _ in range(MAX_DEPTH):
        yield from level
        inner = []
        for keys, holder in level:
            for key, each in holder.items():
                if isinstance(key, str) and isinstance(each, Mapping) and id(each) not in seen:
                    seen.add(id(each))
                    inner.append(((*keys, key), each))
        level = inner


def _tensors(path: Path, holder: Mapping[Any, Any]) -> dict[str, AnyTensor]:
    """Those of one dictionary, without what wrappers put into their names."""
    tensors: dict[str, AnyTensor] = {}
    for name, each in _named_tensors(holder).items():
        plain = _WRAPPERS.sub("", name)
        if plain in tensors:
            raise CheckpointError(f"{path}: refused: two of its tensors are called {plain}, one of them {name}")
        tensors[plain] = each
    return tensors


def _ends_name(name: str, end: str) -> bool:
    """Whether whole parts of a name, between dots, are this end."""
    return name == end or name.endswith(f".{end}")


def _only_one(path: Path, networks: list[FoundNetwork]) -> FoundNetwork:
    """The first of networks that are one and the same, under several names."""
    first, *others = networks
    for other in others:
        one, another = (check_tensors(path, each.state, each.prefix) for each in (first, other))
        if {name: _address(tensor) for name, tensor in one.items()} != {
            name: _address(tensor) for name, tensor in another.items()
        }:
            places = ", ".join(each.place for each in networks)
            raise CheckpointError(
                f"{path}: holds {len(networks)} networks and does not say which is meant: {places}; save the one that "
                "you want in a file of its own"
            )
    return first


def _address(tensor: np.ndarray) -> int:
    """Where its values begin; of two tensors without any it is the same."""
    return tensor.__array_interface__["data"][0] if tensor.size else 0


def _why_none(raw: Mapping[Any, Any]) -> str:
    if not any(_named_tensors(each) for _, each in _dictionaries(raw)):
        return "holds no tensors by name"
    known = dict.fromkeys(first for _, _, first, _ in _SIGNATURES)
    return f"not a SHViT: expected a tensor whose name ends in {' or '.join(known)}"


def _named_tensors(holder: Mapping[Any, Any]) -> dict[str, AnyTensor]:
    tensors = (np.ndarray, OddTensor)
    return {name: each for name, each in holder.items() if isinstance(name, str) and isinstance(each, tensors)}


def _kind(value: Any) -> str:
    """What a value is called in messages."""
    return "Tensor" if isinstance(value, (np.ndarray, OddTensor)) else type(value).__name__


SHOWN = 5
"""Keys, and tensors of each, that an error names."""


def _describe(raw: Mapping[Any, Any]) -> str:
    """What a file holds, for an error: its keys, how many tensors, how large, and the first ones."""
    parts = []
    if tensors := _named_tensors(raw):
        parts.append(_count(tensors))
    others = [(key, each) for key, each in raw.items() if key not in tensors]
    for key, each in others[:SHOWN]:
        name = str(key)[:60]
        if isinstance(each, Mapping):
            inner = _named_tensors(each)
            parts.append(f"{name}: {_count(inner) if inner else f'a dict of {len(each)}'}")
        else:
            parts.append(f"{name}: {_kind(each)}")
    if len(others) > SHOWN:
        parts.append(f"{len(others) - SHOWN} more keys")
    return "; ".join(parts) or "nothing"


def _count(tensors: Mapping[str, AnyTensor]) -> str:
    size = sum(each.nbytes for each in tensors.values()) / 1e6
    first = ", ".join(f"{name[:100]} {tuple(each.shape)}" for name, each in list(tensors.items())[:SHOWN])
    more = ", ..." if len(tensors) > SHOWN else ""
    many = "1 tensor" if len(tensors) == 1 else f"{len(tensors)} tensors"
    return f"{many} of {size:,.1f} MB ({first}{more})"
