"""ONNX Runtime for browsers: a pinned version from npm's registry, kept in the user's cache folder."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from importlib.metadata import distribution
from pathlib import Path

from shvit.atomic import atomic_folder, atomic_path
from shvit.cache import cache_folder
from shvit.errors import ExportError, MissingDependencyError

VERSION = "1.30.0"
SHA256 = "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"
"""Of the package's archive, which therefore is the one that this project was tested with."""

FILES = {
    "wasm": ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"),
    "webgpu": ("ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.mjs", "ort-wasm-simd-threaded.asyncify.wasm"),
}
"""What each way of running needs, from the package's ``dist``: 14 and 27 MB."""

NOTICES = ("LICENSE", "ThirdPartyNotices.txt")
"""Not in the package; those of the Python package, which is of the same source."""


def write_runtime(folder: Path, devices: tuple[str, ...]) -> None:
    """Puts what a page loads of ONNX Runtime Web into a folder, with its licence.

    Args:
        devices: keys of ``FILES``.

    Raises:
        MissingDependencyError: npm is not installed, and the package is not in the cache.
        ExportError: it cannot be fetched, or is not what was expected.
    """
    folder.mkdir()
    with tarfile.open(fetch_archive()) as archive:
        for name in sorted({name for device in devices for name in FILES[device]}):
            member = archive.extractfile(f"package/dist/{name}")
            assert member is not None  # the archive's hash was compared
            with member, (folder / name).open("wb") as file:
                shutil.copyfileobj(member, file)
    for path in distribution("onnxruntime").files or ():
        if path.name in NOTICES and path.parent.name == "onnxruntime":
            shutil.copyfile(path.locate(), folder / path.name)


def runtime_folder() -> Path:
    """A folder in the cache with what runs models in WebAssembly; made when it is first asked for.

    Raises:
        MissingDependencyError, ExportError: as for ``write_runtime``.
    """
    folder = cache_folder() / f"onnxruntime-web-{VERSION}"
    if not folder.is_dir():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with atomic_folder(folder) as aside:
                write_runtime(aside, ("wasm",))
        except OSError as error:
            raise ExportError(f"{folder}: cannot be written: {error.strerror or error}") from None
    return folder


def fetch_archive() -> Path:
    """The package's archive, from the cache or else from the registry."""
    kept = cache_folder() / f"onnxruntime-web-{VERSION}.tgz"
    if kept.is_file() and _sha256(kept) == SHA256:
        return kept
    npm = shutil.which("npm")
    if npm is None:
        raise MissingDependencyError(
            f"npm is not installed, and fetches onnxruntime-web {VERSION}: install Node.js, or put the output of "
            f"`npm pack onnxruntime-web@{VERSION}` of another machine at {kept}"
        )
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            command = [npm, "pack", f"onnxruntime-web@{VERSION}", "--silent", "--pack-destination", folder]
            answer = subprocess.run(command, cwd=folder, capture_output=True, text=True)
            fetched = next(Path(folder).glob("*.tgz"), None)
            if answer.returncode or fetched is None:
                reason = " ".join((answer.stderr or answer.stdout).split()) or f"exit status {answer.returncode}"
                raise ExportError(f"onnxruntime-web {VERSION} cannot be fetched with npm: {reason[:200]}")
            found = _sha256(fetched)
            if found != SHA256:
                raise ExportError(f"onnxruntime-web {VERSION}: expected an archive with SHA-256 {SHA256}, got {found}")
            with atomic_path(kept) as aside:
                shutil.copyfile(fetched, aside)
    except OSError as error:
        raise ExportError(f"{kept}: cannot be written: {error.strerror or error}") from None
    return kept


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
