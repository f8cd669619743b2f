"""Whether a file of tensors holds what was written into it."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from typing import IO

import numpy as np

from shvit.network.dtypes import is_float, torch_name

_BLOCK = 1 << 20


def check_archive(file: IO[bytes]) -> list[zipfile.ZipInfo]:
    """Reads every record of an archive of ``torch.save`` against its CRC, which PyTorch's own reader leaves out.

    An archive that was written without CRCs (``torch.serialization.set_crc32_options(False)``) has nothing to compare.

    Returns:
        The records, in the archive's order; what all have together is no more than the file's size.

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
            for each in records if any(each.CRC for each in records) else ():
                with archive.open(each) as record:
                    while record.read(_BLOCK):
                        pass
            return records
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


def content_digest(state: Mapping[str, np.ndarray], texts: Mapping[str, str]) -> str:
    """SHA-256 of tensors, their names, types and shapes, and of the texts beside them, whatever their order."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name]
        digest.update(json.dumps([name, torch_name(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data)
    digest.update(json.dumps(sorted(texts.items())).encode())
    return digest.hexdigest()


def is_finite(tensor: np.ndarray) -> bool:
    """Whether a tensor of floating-point numbers has no infinity and no NaN; one of others has none."""
    return not is_float(tensor.dtype) or bool(np.isfinite(tensor).all())
