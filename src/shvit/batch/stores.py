"""Folders of this machine and object stores behind the same few calls."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import unquote, urlsplit

from shvit.atomic import atomic_path
from shvit.errors import BatchError, MissingDependencyError, ShvitError
from shvit.images.sources import is_folder
from shvit.install import install_command
from shvit.reading import open_regular

ATOMIC_STORES = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oci", "memory"})
"""Where an object that is put is there whole or not at all."""

STREAM_BLOCK = 8 * 2**20
"""Bytes that are fetched at once of an object which is read from its beginning to its end."""


class Found(NamedTuple):
    """A file of a folder, or an object of a store."""

    path: str
    """Absolute path or URL."""
    size: int | None
    """Bytes, where the listing tells."""


def is_url(name: str) -> bool:
    return re.match(r"[a-z][a-z0-9+.-]+://", name) is not None


def settled(name: str) -> str:
    """The same place whatever the working folder of whoever opens it: a URL, or an absolute path."""
    if name.startswith("file://"):
        name = unquote(urlsplit(name).path)
    return name if is_url(name) else str(Path(name).absolute())


def printable(path: str) -> str:
    """A path as text: bytes in it that are no UTF-8 as escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def filesystem(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it.

    Raises:
        MissingDependencyError: fsspec, or what it needs for this kind of store, is not installed.
        BatchError: there is no such kind.
    """
    try:
        import fsspec

        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise MissingDependencyError(
            f"{url}: needs {error.name or 'a package that fsspec knows of'}: {one_line(error)}; for fsspec and s3:// "
            f"run: {install_command('ray')}"
        ) from None
    except ValueError as error:
        raise BatchError(f"{url}: {one_line(error)}") from None


def open_binary(path: str, block: int = STREAM_BLOCK) -> IO[bytes]:
    """A file or an object, to read."""
    if not is_url(path):
        return open_regular(path)
    store, inside = filesystem(path)
    return store.open(inside, "rb", block_size=block)


def find(root: str) -> Iterator[Found]:
    """All files in and below a folder or a prefix, in a settled order; hidden ones and links to folders left out.

    Raises:
        OSError: a folder cannot be read.
    """
    if not is_url(root):
        yield from _walk(root)
        return
    store, inside = filesystem(root)
    store.invalidate_cache()
    below = len(inside.rstrip("/")) + 1
    for path, details in sorted(store.find(inside, detail=True).items()):
        if not any(part.startswith(".") for part in path[below:].split("/")):
            yield Found(store.unstrip_protocol(path), details.get("size"))


def _walk(folder: str) -> Iterator[Found]:
    with os.scandir(folder) as entries:
        inside = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    for entry in inside:
        # A link to nothing or to itself is an input that fails; a pipe or a device is none.
        if (entry.is_symlink() or entry.is_file()) and not is_folder(entry):
            yield Found(entry.path, None)
    for entry in inside:
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(entry.path)


def one_line(error: BaseException) -> str:
    """An error's reason, without the path that the system adds to it."""
    if isinstance(error, OSError) and error.strerror and not isinstance(error.strerror, bytes):
        return " ".join(str(error.strerror).split())
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def naming(place: str) -> Iterator[None]:
    """What goes wrong with a store inside is an error that names the place; each kind of store has its own."""
    try:
        yield
    except ShvitError:
        raise
    except Exception as error:
        raise BatchError(f"{place}: {one_line(error)}") from None


class Output:
    """A folder or a prefix that files are put into, each whole or not at all.

    Args:
        root: path or URL.

    Raises:
        BatchError: nothing can be put there in one step.
    """

    def __init__(self, root: str) -> None:
        self.root = settled(root).rstrip("/")
        self._store: Any = None
        if is_url(self.root):
            protocol = self.root.partition("://")[0]
            if protocol not in ATOMIC_STORES:
                raise BatchError(
                    f"--output {root}: expected a folder or an object store ({', '.join(sorted(ATOMIC_STORES))}), "
                    f"because a file must get there whole or not at all; {protocol}:// does not promise that"
                )
            self._store, self._inside = filesystem(self.root)

    def path(self, name: str) -> str:
        """Path or URL of a file in it."""
        return f"{self.root}/{name}"

    @contextmanager
    def create(self, name: str) -> Iterator[Path]:
        """A local path to write to; when all went well it is put in place under its name.

        Raises:
            OSError: it cannot be written.
        """
        if self._store is None:
            target = Path(self.path(name))
            target.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(target) as aside:
                yield aside
            return
        with tempfile.TemporaryDirectory(prefix="shvit-") as folder:
            local = Path(folder) / "part"
            yield local
            with naming(self.path(name)):
                self._store.put_file(str(local), f"{self._inside}/{name}")

    def read(self, name: str) -> bytes | None:
        """What is in a file; ``None`` where there is no such file."""
        with naming(self.path(name)):
            try:
                with open_binary(self.path(name)) as file:
                    return file.read()
            except FileNotFoundError:
                return None

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            if self._store is None:
                Path(self.path(name)).unlink()
            else:
                self._store.rm_file(f"{self._inside}/{name}")

    def names(self) -> list[str]:
        """Names of the files right in it; none if it is not there yet."""
        with naming(self.root):
            try:
                if self._store is None:
                    return [entry.name for entry in os.scandir(self.root) if entry.is_file()]
                self._store.invalidate_cache()
                return [path.rpartition("/")[2] for path in self._store.ls(self._inside, detail=False)]
            except FileNotFoundError:
                return []

    def clear(self, own: Callable[[str], bool], folder: str) -> None:
        """Takes away what a run put there, and then the folder, if nothing else is in it.

        Args:
            own: whether a file of this name, right in it, is the run's.
            folder: in it, all of which is.
        """
        names = [each for each in self.names() if own(each)]
        with naming(self.root):
            if self._store is not None:
                inside = [f"{self._inside}/{each}" for each in names]
                below = f"{self._inside}/{folder}"
                self._store.rm([*inside, *([below] if self._store.exists(below) else [])], recursive=True)
                self._store.invalidate_cache()
                if self._store.exists(self._inside) and not self._store.ls(self._inside, detail=False):
                    self._store.rmdir(self._inside)  # of stores that have folders
                return
            for each in names:
                Path(self.root, each).unlink(missing_ok=True)
            with suppress(OSError):  # somebody else's things, or a link, stay
                shutil.rmtree(Path(self.root, folder))
                Path(self.root).rmdir()

    def clear_partials(self, prefix: str) -> None:
        """Takes away what killed processes left of files whose names begin so."""
        if self._store is None:
            for path in Path(self.root).glob(f".{prefix}*.partial"):
                path.unlink(missing_ok=True)
