"""Files that are fetched, or derived from others, once."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

from shvit.atomic import atomic_path
from shvit.cache import CACHE_VARIABLE, cache_folder
from shvit.errors import DataError

MAX_DOWNLOAD_BYTES = 64 * 2**30
"""A file from the network is refused above this size."""

TIMEOUT = 60
"""Seconds that a server may keep silent."""


def derived_folder(part: str) -> Path:
    """A folder of the cache, made if it is not there.

    Raises:
        DataError: it cannot be made.
    """
    folder = cache_folder() / part
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be made: {error.strerror}; name another folder for the cache in {CACHE_VARIABLE}"
        ) from None
    return folder


def files_key(files: Sequence[Path]) -> str:
    """A name for what is derived from files: it changes with their places, sizes and times."""
    digest = hashlib.sha256()
    for file in files:
        status = file.stat()
        digest.update(f"{file.resolve()}\0{status.st_size}\0{status.st_mtime_ns}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()[:32]


def download(url: str) -> Path:
    """The cached copy of a file on the network, fetched if it is not there yet.

    Raises:
        DataError: it cannot be fetched whole; the message names the URL, and nothing is left in the cache.
    """
    name = re.sub(r"[^\w.-]", "_", Path(urlsplit(url).path).name)[-80:]
    target = derived_folder("downloads") / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{name}"
    if target.exists():
        return target
    try:
        with urlopen(url, timeout=TIMEOUT) as response, atomic_path(target) as aside, aside.open("wb") as file:
            expected = int(response.headers.get("Content-Length") or -1)
            limit = min(MAX_DOWNLOAD_BYTES, shutil.disk_usage(target.parent).free)
            received = 0
            while received <= limit >= expected and (chunk := response.read(2**20)):
                received += file.write(chunk)
            if max(received, expected) > limit:
                raise DataError(
                    f"{url}: {max(received, expected):,} bytes or more, but {limit:,} are accepted or free in "
                    f"{target.parent}; make room, or name another folder in {CACHE_VARIABLE}"
                )
            if expected not in (-1, received):
                raise DataError(f"{url}: the connection ended after {received:,} of {expected:,} bytes; try again")
    except DataError:
        raise
    except (OSError, HTTPException, ValueError) as error:
        raise DataError(f"{url}: cannot be fetched: {error}") from None
    return target
