"""Reading files of tensors that anybody may have written: safetensors, and pickles of which nothing is executed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from shvit.errors import CheckpointError
from shvit.network.dtypes import SAFETENSORS, TYPES, AnyTensor
from shvit.network.integrity import content_digest, is_finite
from shvit.network.torch_files import read_torch_file
from shvit.reading import open_regular, utf8_path

DIGEST_KEY = "shvit.digest"
"""Key, in a safetensors file's metadata, of a SHA-256 of the tensors and the metadata; files of others have none."""

CHECKPOINT_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".tar", ".bin")
"""How files of weights are called: .ckpt by Lightning, .tar by PyTorch's and timm's examples, .bin by Transformers."""

MAX_HEADER_BYTES = 16 * 2**20
"""A safetensors file whose names and metadata take more is refused; those of a network take some 100 kB."""


def read_weight_file(path: Path) -> tuple[Any, dict[str, Any]]:
    """What a file holds, and its metadata, which only safetensors have.

    Tensors are ``np.ndarray``, in memory of their own; those that are no plain array are an ``OddTensor``.

    Raises:
        CheckpointError: it cannot be read, or is not safe to read.
    """
    if _is_safetensors(path):
        return _read_safetensors(path)
    return read_torch_file(path), {}


def check_tensors(path: Path, state: Mapping[str, AnyTensor], prefix: str = "") -> dict[str, np.ndarray]:
    """Refuses what would fail half-way through loading, or take more memory than the file has bytes.

    Args:
        prefix: what stands before the names in the file.

    Returns:
        The same tensors.

    Raises:
        CheckpointError: as said; the message names the tensor.
    """
    plain = {name: tensor for name, tensor in state.items() if isinstance(tensor, np.ndarray)}
    for name in state:
        if name not in plain:
            raise CheckpointError(f"{path}: {prefix}{name} is not a plain tensor")
    size = sum(tensor.nbytes for tensor in plain.values())
    if size > path.stat().st_size:
        raise CheckpointError(f"{path}: refused: its tensors would take {size} bytes, more than the file has")
    return plain


def check_finite(path: Path, state: Mapping[str, np.ndarray], prefix: str = "") -> None:
    """Refuses weights with an infinity or a NaN.

    Args:
        prefix: what stands before the names in the file.

    Raises:
        CheckpointError: as said; the message names the first such tensor, and says how many there are.
    """
    bad = [name for name, tensor in state.items() if not is_finite(tensor)]
    if bad:
        others = f" ({len(bad)} tensors have)" if len(bad) > 1 else ""
        raise CheckpointError(
            f"{path}: {prefix}{bad[0]} has values that are not finite{others}; take weights from before they diverged"
        )


def _is_safetensors(path: Path) -> bool:
    """A safetensors file starts with its header's length and the header's brace, whatever it is called."""
    try:
        with open_regular(path) as file:
            start = file.read(9)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    return path.suffix == ".safetensors" or (len(start) == 9 and start[8:9] == b"{")


def _read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    try:
        state, texts = _checked_safetensors(path)
    except CheckpointError:
        raise
    except Exception as error:  # of many kinds: the library's own, and NumPy's for what does not fit together
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


def _checked_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The library checks the header; the tensors are read at once, also of types for which it needs PyTorch."""
    with open_regular(path) as file:
        size = int.from_bytes(file.read(8), "little")
        if size > MAX_HEADER_BYTES:
            raise CheckpointError(f"{path}: refused: a header of {size:,} bytes, at most {MAX_HEADER_BYTES:,} are read")
        with utf8_path(path) as named, safe_open(named, framework="numpy"):
            header: dict[str, Any] = json.loads(file.read(size))
        texts = header.pop("__metadata__", None) or {}
        content = np.empty(max((each["data_offsets"][1] for each in header.values()), default=0), np.uint8)
        if file.readinto(content.data) != len(content):  # type: ignore[attr-defined]
            raise CheckpointError(f"{path}: not a whole safetensors file: it ends before its tensors do")
    state = {}
    for name, each in header.items():
        if each["dtype"] not in SAFETENSORS:
            raise CheckpointError(f"{path}: {name} is of the type {each['dtype']}, which is not read")
        start, end = each["data_offsets"]
        tensor = content[start:end].view(TYPES[SAFETENSORS[each["dtype"]]]).reshape(each["shape"])
        state[name] = np.require(tensor, requirements="A")  # others may lie where no number of their type begins
    return state, texts
