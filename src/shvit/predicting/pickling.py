"""Pickling what holds an engine: by its model file and its arguments, of which the same is made where it arrives."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from shvit.errors import ModelFileError
from shvit.hub.resolve import resolve_model
from shvit.shipped import SHIPPED_MODELS


class MadeOfFile:
    """What is made of a model file. Copies of it, and what another process unpickles, load that file themselves.

    A shipped model goes by its name, since the other process may have this package elsewhere; any other file by its
    absolute path, so it has to be there too. What is at that path by then has to be the same file.
    """

    def _note_origin(self, model: str | Path, path: Path, **arguments: Any) -> None:
        """To be called before the file is loaded.

        Args:
            model: as it was given.
            path: the file behind it.
            arguments: the others that this was made with.
        """
        self._origin = str(model) if model in SHIPPED_MODELS else str(path.absolute())
        self._arguments, self._stamp = arguments, _stamp(path)

    def __reduce__(self) -> tuple[Any, ...]:
        """Raises: ModelFileError: the file is not there any more, or was written anew since it was loaded."""
        path = resolve_model(self._origin)
        if _stamp(path) != self._stamp:
            raise ModelFileError(
                f"{path}: was written anew since it was loaded, so another process would load another model; load it "
                "again before it is sent there"
            )
        return _make_again, (type(self), self._origin, self._arguments, digest_of(path))


def _make_again(kind: type, model: str, arguments: dict[str, Any], digest: str) -> Any:
    """Raises: ModelFileError: the file is not there, or is another one than where this was pickled."""
    path = resolve_model(model)
    if digest_of(path) != digest:
        raise ModelFileError(
            f"{path}: is another file than the one that the {kind.__name__} was pickled with; expected SHA-256 "
            f"{digest[:16]}..., put that file here or pickle it anew"
        )
    return kind(model, **arguments)


def _stamp(path: Path) -> list[tuple[int, int]]:
    """What changes when a file is written: cheaper than its contents."""
    found = (each.stat() for each in _files(path))
    return [(status.st_mtime_ns, status.st_size) for status in found]


def digest_of(path: Path) -> str:
    """SHA-256 of a model file and of what belongs to it, in hexadecimal digits."""
    digest = hashlib.sha256()
    for each in _files(path):
        digest.update(each.read_bytes())
    return digest.hexdigest()


def _files(path: Path) -> list[Path]:
    """A model file and what belongs to it: the weights of OpenVINO's lie beside it."""
    weights = path.with_suffix(".bin")
    return [path, weights] if path.suffix.lower() == ".xml" and weights.is_file() else [path]
