"""An index beside the embeddings that it is of: plain arrays (safetensors), made anew when those changed."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from shvit.atomic import atomic_path, beside
from shvit.reading import read_regular
from shvit.similarity.cells import Cells, build_cells

FORMAT = "shvit index of embeddings, 1"

_HEADER_BYTES = 2**20
_DTYPES = {"middles": "float32", "starts": "int64", "order": "int32", "codes": "int8", "scales": "float32"}


def index_path(embeddings: Path) -> Path:
    """``NAME.index`` beside a file; in a folder of parts ``_embeddings.index``."""
    return embeddings / "_embeddings.index" if embeddings.is_dir() else beside(embeddings, ".index")


def open_or_build(
    embeddings: Path, stored: np.ndarray, notice: Callable[[str], None], advance: Callable[[int], None]
) -> Cells:
    """The index beside a file of embeddings; where there is none of these very embeddings, it is made and kept.

    Args:
        stored: what is in the file.
        notice: told in a line of one that is made, or cannot be kept.
        advance: as of ``build_cells``.
    """
    path = index_path(embeddings)
    digest = hashlib.sha256(np.ascontiguousarray(stored).data).hexdigest()
    found = read_index(path, digest, stored.shape)
    if found is not None:
        return found
    notice(f"{path}: making an index of {len(stored):,} embeddings; later searches read it")
    cells = build_cells(stored, advance)
    try:
        write_index(path, cells, digest)
    except OSError as error:
        notice(f"{path}: the index is not kept: {error.strerror or error}")
    return cells


def write_index(path: Path, cells: Cells, digest: str) -> None:
    """Args: digest: SHA-256 of the embeddings.

    Raises:
        OSError: it cannot be written, or is a link: nobody named this file, and what a link that came with the
            embeddings leads to is not written over.
    """
    if path.is_symlink():
        raise OSError(errno.ELOOP, "is a link, and not written through", str(path))
    arrays = {name: np.ascontiguousarray(getattr(cells, name)) for name in _DTYPES}
    with atomic_path(path) as aside:
        safetensors.numpy.save_file(arrays, aside, {"format": FORMAT, "embeddings": digest})


def read_index(path: Path, digest: str, shape: tuple[int, ...]) -> Cells | None:
    """An index, if it is of these embeddings and whole.

    It may be anybody's: a search cannot be led outside of the embeddings by it.

    Args:
        digest: SHA-256 of the embeddings.
        shape: theirs, ``(N, values)``.
    """
    rows, values = shape
    # As many cells as rows are the most that there can be.
    limit = rows * (4 * values + 8) + rows * (values + 8) + _HEADER_BYTES
    try:
        data = read_regular(path, limit)
        if _metadata(data) != {"format": FORMAT, "embeddings": digest}:
            return None
        arrays = safetensors.numpy.load(data)
    except (OSError, ValueError, RecursionError, SafetensorError):
        return None
    if {name: str(array.dtype) for name, array in arrays.items()} != _DTYPES:
        return None
    cells = Cells(**arrays)
    return cells if _fits(cells, rows, values) else None


def _metadata(data: bytes) -> dict[str, str] | None:
    """What stands in a safetensors file beside its arrays.

    Raises:
        ValueError: it is none.
    """
    size = int.from_bytes(data[:8], "little")
    if not 0 < size <= _HEADER_BYTES:
        raise ValueError("no header")
    header = json.loads(data[8 : 8 + size])
    return header.get("__metadata__") if isinstance(header, dict) else None


def _fits(cells: Cells, rows: int, values: int) -> bool:
    count = len(cells.middles)
    shapes = {
        "middles": (count, values),
        "starts": (count + 1,),
        "order": (rows,),
        "codes": (rows, values),
        "scales": (rows,),
    }
    if not count or any(getattr(cells, name).shape != shape for name, shape in shapes.items()):
        return False
    starts = cells.starts
    return bool(
        starts[0] == 0
        and starts[-1] == rows
        and (np.diff(starts) >= 0).all()
        and np.array_equal(np.sort(cells.order), np.arange(rows))
        and np.isfinite(cells.middles).all()
        and np.isfinite(cells.scales).all()
    )
