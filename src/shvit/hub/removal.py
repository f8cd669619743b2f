"""Freeing what a published network takes on the disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from shvit.errors import HubError
from shvit.hub.cached import notes_of, repository_folder
from shvit.hub.names import Reference


def remove(reference: Reference, further: Iterable[Path] = ()) -> int:
    """Removes all revisions of a repository from the hub's cache, what is noted of them, and further files.

    Args:
        further: files, or folders, that were made of it.

    Returns:
        Bytes that are free now; 0 where nothing was there.

    Raises:
        HubError: something cannot be removed; what can be, is.
    """
    freed = 0
    for path in (*further, *notes_of(reference)):
        freed += _size(path)
        _delete(path)
    folder = repository_folder(reference)
    if folder.is_dir():
        freed += _size(folder)
        _forget(folder)
    left = [each for each in (*further, folder) if each.exists()]
    if left:
        raise HubError(f"{reference.repository}: {left[0]}: cannot be removed; remove it by hand, as who owns it")
    return freed


def _forget(folder: Path) -> None:
    """Through the hub's client; what a killed download left, of which it knows nothing, as a folder."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    with suppress(CacheNotFound):
        cache = scan_cache_dir(folder.parent)
        commits = [each.commit_hash for found in cache.repos if found.repo_path == folder for each in found.revisions]
        if commits:
            cache.delete_revisions(*commits).execute()
    _delete(folder)


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _size(path: Path) -> int:
    """Of a file, or of a folder's files; what links lead to is not counted."""
    total = 0
    for each in (path, *path.rglob("*")) if path.is_dir() else (path,):
        with suppress(OSError):
            found = each.lstat()
            total += found.st_size if not each.is_symlink() and not each.is_dir() else 0
    return total
