"""Files of ``torch.save``: the ZIP archive that it writes since 2020, and the row of pickles before that."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from shvit.errors import CheckpointError
from shvit.network.integrity import check_archive
from shvit.network.pickles import Unpickler
from shvit.reading import open_regular

MAX_PICKLE_BYTES = 64 * 2**20
"""A pickle, which has everything but the tensors' values, of more is refused; those of checkpoints take some 100 kB."""

_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001


def read_torch_file(path: Path) -> Any:
    """What a file holds: plain containers, and of tensors ``np.ndarray`` or an ``OddTensor``.

    Nothing that a file asks for is run. Memory is taken for as many bytes as the file has, and for its pickle.

    Raises:
        CheckpointError: it cannot be read, is damaged, or asks to run code.
    """
    try:
        with open_regular(path) as file:
            start = file.read(2)
            if start == b"PK":
                return _read_archive(path, file)
            if start[:1] == b"\x80":  # pickles since protocol 2
                return _read_pickles(path, file)
    except CheckpointError:
        raise
    except Exception as error:  # of many kinds: what pickle, zipfile and the system make of arbitrary bytes
        if isinstance(error, OSError) and error.strerror:
            raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
        reason = (
            str(error) if isinstance(error, pickle.UnpicklingError) else f"damaged: {error or type(error).__name__}"
        )
        raise CheckpointError(f"{path}: not a whole PyTorch checkpoint: {reason[:200]}") from None
    raise CheckpointError(f"{path}: not a whole PyTorch checkpoint: it is neither an archive nor a pickle")


def _read_archive(path: Path, file: IO[bytes]) -> Any:
    if not zipfile.is_zipfile(file):
        raise pickle.UnpicklingError("an archive without its end")
    try:
        found = check_archive(file)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    folder = found[0].filename.partition("/")[0] if found else ""
    records = {each.filename.removeprefix(f"{folder}/"): each for each in found}
    if "constants.pkl" in records:
        raise pickle.UnpicklingError("a TorchScript archive, which is a program; save the network's state_dict()")
    if "data.pkl" not in records:
        raise pickle.UnpicklingError("an archive without data.pkl")
    if "byteorder" in records and bytes(_content(file, records["byteorder"])) != b"little":
        raise pickle.UnpicklingError("written on a big-endian machine; save it again on another")
    if (size := records["data.pkl"].file_size) > MAX_PICKLE_BYTES:
        raise CheckpointError(f"{path}: refused: a pickle of {size:,} bytes, at most {MAX_PICKLE_BYTES:,} are read")
    storages: dict[str, np.ndarray] = {}

    def load_storage(key: str, count: int, size: int) -> np.ndarray:
        if key not in storages:
            if f"data/{key}" not in records:
                raise pickle.UnpicklingError(f"the record data/{key[:100]} is missing")
            storages[key] = _content(file, records[f"data/{key}"])
        if len(storages[key]) != count * size:
            raise pickle.UnpicklingError(
                f"the record data/{key[:100]} has {len(storages[key])} bytes, its tensors expect {count * size}"
            )
        return storages[key]

    return Unpickler(path, io.BytesIO(_content(file, records["data.pkl"]).data), load_storage).load()


def _content(file: IO[bytes], record: zipfile.ZipInfo) -> np.ndarray:
    """A record's bytes, which are as they are in the archive; ``uint8 (bytes,)``."""
    file.seek(record.header_offset)
    header = file.read(30)
    if len(header) < 30 or not header.startswith(b"PK\x03\x04"):
        raise pickle.UnpicklingError(f"the record {record.filename[:100]} is not where the archive says")
    file.seek(sum(struct.unpack("<HH", header[26:])), os.SEEK_CUR)  # its name and what else is known of it
    return _read_into(file, np.empty(record.file_size, np.uint8))


def _read_into(file: IO[bytes], content: np.ndarray) -> np.ndarray:
    if file.readinto(content.data) != len(content):  # type: ignore[attr-defined]
        raise pickle.UnpicklingError("it ends before its tensors do")
    return content


def _read_pickles(path: Path, file: IO[bytes]) -> Any:
    """The older format: five pickles, then each storage's length and bytes, in the last pickle's order."""
    left = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = io.BytesIO(file.read(min(left, MAX_PICKLE_BYTES)))
    storages: dict[str, tuple[np.ndarray, int]] = {}

    def load_storage(key: str, count: int, size: int) -> np.ndarray:
        nonlocal left
        if key not in storages:
            left -= count * size
            if left < 0:
                raise pickle.UnpicklingError("its tensors would take more bytes than the file has")
            storages[key] = np.empty(count * size, np.uint8), size
        if len(storages[key][0]) != count * size:
            raise pickle.UnpicklingError("two of its tensors are of one storage, but disagree on its size")
        return storages[key][0]

    def read() -> Any:
        return Unpickler(path, head, load_storage).load()

    if read() != _MAGIC or read() != _VERSION:
        raise pickle.UnpicklingError("a pickle that torch.save did not write")
    system = read()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise pickle.UnpicklingError("written on a big-endian machine; save it again on another")
    content, keys = read(), read()
    if not isinstance(keys, list) or sorted(keys) != sorted(storages):
        raise pickle.UnpicklingError("its storages are not those of its tensors")
    file.seek(head.tell())
    head.close()
    for key in keys:
        storage, size = storages[key]
        if int.from_bytes(file.read(8), "little") * size != len(storage):
            raise pickle.UnpicklingError("a storage's size is not that of its tensors")
        _read_into(file, storage)
    return content
