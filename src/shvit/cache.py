"""Where things are kept that can be made or fetched again: downloads, indices, rewritten tables, engines' timings."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path

from shvit.errors import CacheError

CACHE_VARIABLE = "SHVIT_CACHE"
"""Environment variable with the folder of the cache; otherwise ``shvit`` in the system's folder for caches."""


def cache_folder() -> Path:
    """``$SHVIT_CACHE``, by default ``$XDG_CACHE_HOME/shvit`` or ``~/.cache/shvit``; everything in it can be deleted.

    It is not made here: whoever writes makes it.

    Raises:
        CacheError: there is no home folder to put it in.
    """
    named = os.environ.get(CACHE_VARIABLE)
    try:
        folder = Path(named or user_cache_path("shvit", appauthor=False)).expanduser()
    except RuntimeError:  # neither HOME nor the system says where it is
        raise CacheError(f"this user has no home folder for the cache; name a folder in {CACHE_VARIABLE}") from None
    return folder
