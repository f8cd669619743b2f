"""One writer for a folder: the second process that would write into it is refused."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from shvit.errors import TrainingError
from shvit.training.run import Run

try:
    import fcntl
except ImportError:  # Windows: nobody is refused there
    fcntl = None  # type: ignore[assignment]

FILE = ".lock"

_held: dict[Path, int] = {}
"""Locked folders of this process, and their files' descriptors."""


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Holds ``folder`` for this process, which may ask for it again; the system lets go of it when the process dies.

    Raises:
        TrainingError: another process holds it; the message names both.
    """
    key = folder.resolve()
    if fcntl is None or key in _held:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = _lock(folder)
    if descriptor is None:
        yield
        return
    _held[key] = descriptor
    try:
        os.truncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield
    finally:
        # Gone before it is released: who waits for this very file finds that the name is another's, see _lock.
        with suppress(OSError):
            (folder / FILE).unlink()
        os.close(_held.pop(key))


@contextmanager
def only_run(run: Run) -> Iterator[None]:
    """``only_writer`` of a run's folder, held by its first process.

    Raises:
        TrainingError: another process holds it; in all processes of the run, so that none waits for the first.
    """
    with ExitStack() as stack:
        refusal = None
        if run.fabric.is_global_zero:
            try:
                stack.enter_context(only_writer(run.folder))
            except TrainingError as error:
                refusal = str(error)
        refusal = run.fabric.broadcast(refusal)
        if refusal is not None:
            raise TrainingError(refusal)
        yield


def _lock(folder: Path) -> int | None:
    """A descriptor that holds the lock; ``None`` on a file system that has no locks."""
    path = folder / FILE
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_file(path, descriptor):
                return descriptor
        except BlockingIOError:
            who = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
            os.close(descriptor)
            raise TrainingError(
                f"{folder}: {who} is writing into this folder; wait for its end or stop it, or give another --output"
            ) from None
        except OSError:
            os.close(descriptor)
            return None
        os.close(descriptor)


def _is_file(path: Path, descriptor: int) -> bool:
    """Whether the name is still that of the open file: its last holder may have deleted it."""
    with suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    return False


def _forget() -> None:
    """In a process that was forked, such as a loader's: it must not hold the lock after its parent died."""
    for descriptor in _held.values():
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


if fcntl is not None:
    os.register_at_fork(after_in_child=_forget)
