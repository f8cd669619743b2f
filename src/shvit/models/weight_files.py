"""Reading files of tensors that anybody may have written: safetensors, and pickles of which nothing is executed."""

from __future__ import annotations

import argparse
import json
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import Parameter

from shvit.errors import CheckpointError
from shvit.models.integrity import check_archive, content_digest, is_finite
from shvit.reading import utf8_path

DIGEST_KEY = "shvit.digest"
"""Key, in a safetensors file's metadata, of a SHA-256 of the tensors and the metadata; files of others have none."""

CHECKPOINT_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".tar", ".bin")
"""How files of weights are called: .ckpt by Lightning, .tar by PyTorch's and timm's examples, .bin by Transformers."""

MAX_HEADER_BYTES = 16 * 2**20
"""A safetensors file whose names and metadata take more is refused; those of a network take some 100 kB."""


class NumPyValue:
    """Stands for one, which is not read; messages call it by this name."""

    def __init__(self, *parts: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


# What training code keeps beside its tensors. Making one of these runs nothing; paths are read as names only, and
# NumPy's numbers and arrays, such as the best accuracy so far, not at all.
_HARMLESS: list[Any] = [
    argparse.Namespace,
    (PurePosixPath, "pathlib.PosixPath"),
    (PureWindowsPath, "pathlib.WindowsPath"),
    (PurePosixPath, "pathlib._local.PosixPath"),
    (PureWindowsPath, "pathlib._local.WindowsPath"),
    (NumPyValue, "numpy.dtype"),
    (NumPyValue, "numpy.ndarray"),
    *(
        (NumPyValue, f"numpy.{core}.multiarray.{name}")
        for core in ("core", "_core")
        for name in ("scalar", "_reconstruct")
    ),
]


def read_weight_file(path: Path) -> tuple[Any, dict[str, Any]]:
    """What a file holds, and its metadata, which only safetensors have.

    Raises:
        CheckpointError: it cannot be read, or is not safe to read.
    """
    if _is_safetensors(path):
        return _read_safetensors(path)
    return _read_pickle(path), {}


def check_tensors(path: Path, state: Mapping[str, Tensor], prefix: str = "") -> None:
    """Refuses what would fail half-way through loading, or take more memory than the file has bytes.

    Args:
        prefix: what stands before the names in the file.

    Raises:
        CheckpointError: as said; the message names the tensor.
    """
    for name, tensor in state.items():
        plain = type(tensor) in (Tensor, Parameter) and tensor.layout == torch.strided and tensor.device.type == "cpu"
        if not plain or tensor.is_quantized or tensor.is_nested:
            raise CheckpointError(f"{path}: {prefix}{name} is not a plain tensor")
    size = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    if size > path.stat().st_size:
        raise CheckpointError(f"{path}: refused: its tensors would take {size} bytes, more than the file has")


def check_finite(path: Path, state: Mapping[str, Tensor], prefix: str = "") -> None:
    """Refuses weights with an infinity or a NaN.

    Args:
        prefix: what stands before the names in the file.

    Raises:
        CheckpointError: as said; the message names the first such tensor, and says how many there are.
    """
    bad = [name for name, tensor in state.items() if not is_finite({name: tensor})]
    if bad:
        others = f" ({len(bad)} tensors have)" if len(bad) > 1 else ""
        raise CheckpointError(
            f"{path}: {prefix}{bad[0]} has values that are not finite{others}; take weights from before they diverged"
        )


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
        with utf8_path(path) as named, safe_open(named, framework="pt") as file:
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
        with path.open("rb") as file:
            if zipfile.is_zipfile(path):
                check_archive(file)
            elif not file.read(2).startswith((b"\x80", b"PK")):  # pickles since protocol 2, and archives cut short
                raise CheckpointError(f"{path}: not a whole PyTorch checkpoint: it is neither an archive nor a pickle")
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    try:
        with torch.serialization.safe_globals(_HARMLESS), warnings.catch_warnings():
            # Of files that another pickle protocol wrote. They are read, or refused by name.
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of many kinds: what torch, its unpickler and zipfile make of arbitrary bytes
        text = str(error)
        asked = re.search(r"GLOBAL ([\w.]+)", text) or re.search(r"blocklisted module ([\w.]+)", text)
        if asked:
            raise CheckpointError(
                f"{path}: refused: the file asks to run code ({asked.group(1)}); nothing of it was executed; of a "
                "network of yours, save the weights alone: torch.save(model.state_dict(), ...)"
            ) from None
        unpickler = re.search(r"WeightsUnpickler error:\s*(.*)", text)
        reason = unpickler.group(1) if unpickler else text.split(". ")[0][:200] if " " in text else type(error).__name__
        raise CheckpointError(f"{path}: not a whole PyTorch checkpoint: {reason}") from None
