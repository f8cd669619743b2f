"""Whether a file of tensors holds what was written into it."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from itertools import chain
from typing import BinaryIO

import torch
from torch import Tensor

_BLOCK = 1 << 20


def check_archive(file: BinaryIO) -> None:
    """Reads every record of an archive of ``torch.save`` against its CRC, which PyTorch's own reader leaves out.

    An archive that was written without CRCs (``torch.serialization.set_crc32_options(False)``) has nothing to compare.

    Raises:
        ValueError: it is no such archive, or a record is not what was written; the message names the record.
    """
    try:
        size = file.seek(0, 2)
        with zipfile.ZipFile(file) as archive:
            records = archive.infolist()
            if any(each.compress_type != zipfile.ZIP_STORED for each in records):
                raise ValueError("refused: a compressed archive, as torch.save does not write them")
            if (
                len({each.filename for each in records}) < len(records)
                or sum(each.file_size for each in records) > size
            ):
                raise ValueError("refused: an archive whose records overlap")
            if not any(each.CRC for each in records):
                return
            for each in records:
                with archive.open(each) as record:
                    while record.read(_BLOCK):
                        pass
    except ValueError:
        raise
    except zipfile.BadZipFile as error:
        raise ValueError(f"damaged: {error}") from None
    except (
        RuntimeError,
        EOFError,
        NotImplementedError,
        OverflowError,
        OSError,
    ) as error:  # flags and sizes that are lies
        raise ValueError(f"damaged: {error or type(error).__name__}") from None


def content_digest(state: Mapping[str, Tensor], texts: Mapping[str, str]) -> str:
    """SHA-256 of tensors, their names, types and shapes, and of the texts beside them, whatever their order."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name]
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    digest.update(json.dumps(sorted(texts.items())).encode())
    return digest.hexdigest()


def is_finite(state: Mapping[str, Tensor]) -> bool:
    """Whether all floating-point tensors hold numbers alone: no infinity, no NaN."""
    small = (tensor.float() for tensor in state.values() if tensor.dtype in _SMALL_FLOATS)
    whole = (tensor for tensor in state.values() if tensor.dtype in _FLOATS)
    return all(bool(tensor.isfinite().all()) for tensor in chain(whole, small))


_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_SMALL_FLOATS = (
    torch.float8_e4m3fn,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2,
    torch.float8_e5m2fnuz,
    torch.float8_e8m0fnu,
)
