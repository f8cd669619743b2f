"""What is here of the hub already: found without its client, whose import takes longer than a prediction.

The files lie in the hub's own cache, where every program that uses it finds them. Beside our other caches a note says
which commit a name led to: that one is used, whatever other programs fetch, until ``shvit models --update``.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from glob import escape
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from shvit.atomic import NAME_BYTES, shorten, write_json
from shvit.cache import cache_folder
from shvit.card import Weights
from shvit.errors import CacheError, HubError
from shvit.hub.names import Reference, parse_reference
from shvit.hub.repository_card import read_config, read_metadata
from shvit.reading import read_regular

Wanted = Literal["any", "weights"]
"""A finished model file of ours where there is one, else weights; or weights in any case."""

Kind = Literal["model", "weights"]

CONFIG, README = "config.json", "README.md"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Files with weights, the better first."""

MODELS = ("shvit.onnx", "model.onnx")
"""Model files that are taken where there are several."""

COMMIT = re.compile("[0-9a-f]{40}")

_VERSION = 1
_MOST_NOTES = 1000
_NOTE_BYTES = 512 * 2**10
_TRUE = ("1", "ON", "YES", "TRUE")


@dataclass(frozen=True)
class Found:
    """A file of a repository, in the hub's cache."""

    file: Path
    kind: Kind
    commit: str
    """Of the repository, in 40 hexadecimal digits."""


@dataclass(frozen=True)
class Fetched:
    """A published network's file, and what its repository says of it."""

    reference: Reference
    file: Path
    """In the hub's cache; not to be changed."""
    kind: Kind
    """``model``: a model file with a card, to be run; ``weights``: safetensors, or a pickle of PyTorch."""
    commit: str
    """Of the repository, in 40 hexadecimal digits."""
    sha256: str
    """Of the file, in hexadecimal."""
    config: dict[str, Any] = field(default_factory=dict)
    """The repository's ``config.json``; empty where there is none, or it is no JSON object of an accepted size."""
    metadata: dict[str, str | list[str]] = field(default_factory=dict)
    """What the README's head says by ``repository_card.KEYS``; empty where there is none."""

    @property
    def weights(self) -> Weights:
        """What a card says of them."""
        return Weights(self.reference.repository, self.commit, self.file.name, self.sha256)

    @property
    def licence(self) -> str | None:
        """As the repository's own card states it, such as ``mit``."""
        stated = self.metadata.get("license")
        named = self.metadata.get("license_name")
        chosen = named if stated == "other" and named else stated
        return chosen if isinstance(chosen, str) and chosen else None


def hub_cache() -> Path:
    """The folder that the hub's client keeps its files in, as it finds it: by HF_HUB_CACHE, HF_HOME and so on."""
    constants = sys.modules.get("huggingface_hub.constants")
    if constants is not None:
        return Path(constants.HF_HUB_CACHE)
    caches = os.getenv("XDG_CACHE_HOME", _expanded("~/.cache"))
    home = _expanded(os.getenv("HF_HOME", str(Path(caches, "huggingface"))))
    earlier = os.getenv("HUGGINGFACE_HUB_CACHE", str(Path(home, "hub")))
    return Path(_expanded(os.getenv("HF_HUB_CACHE", earlier)))


def _expanded(path: str) -> str:
    return os.path.expandvars(os.path.expanduser(path))  # noqa: PTH111 - as the client does, which raises nothing


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE says that nothing is to be asked."""
    return (os.getenv("HF_HUB_OFFLINE") or os.getenv("TRANSFORMERS_OFFLINE") or "").upper() in _TRUE


def repository_folder(reference: Reference) -> Path:
    """Where the hub's client keeps a repository of models."""
    return hub_cache() / f"models--{reference.repository.replace('/', '--')}"


def choose_file(names: Iterable[str], wanted: Wanted) -> tuple[str, Kind] | None:
    """Which of a repository's files is taken: a model file of ours at its root, else weights.

    Whether a model file is ours is not known before it is here.
    """
    here = {each for each in names if "/" not in each}
    models = sorted(each for each in here if each.endswith(".onnx"))
    weights = next((each for each in WEIGHTS if each in here), None)
    if wanted == "any" and models:
        chosen = next((each for each in MODELS if each in models), models[0] if len(models) == 1 else None)
        if chosen is not None:
            return chosen, "model"
    return (weights, "weights") if weights is not None else None


def wanted_of(reference: Reference, wanted: Wanted) -> Wanted:
    """Of the published variants weights are taken, whatever else their repositories may hold one day."""
    return "weights" if reference.published is not None else wanted


def find_cached(reference: Reference, wanted: Wanted = "any") -> Found | None:
    """The file that a name leads to, if it is here; nothing is asked, and the file is not read."""
    wanted = wanted_of(reference, wanted)
    note = _read_note(reference, wanted)
    if note is not None:
        file = _snapshot(reference, note["commit"]) / note["file"]
        if file.is_file():
            return Found(file, note["kind"], note["commit"])
    commit = _commit_of(reference)
    if commit is None:
        return None
    folder = _snapshot(reference, commit)
    try:
        # A link to a file that is gone, or that is still fetched, is none.
        names = [each.name for each in folder.iterdir() if each.is_file()]
    except OSError:
        return None
    chosen = choose_file(names, wanted)
    return None if chosen is None else Found(folder / chosen[0], chosen[1], commit)


def recall(reference: Reference, wanted: Wanted = "any") -> Fetched | None:
    """What a name led to before, if its file is here as it was then; that takes a millisecond."""
    wanted = wanted_of(reference, wanted)
    note = _read_note(reference, wanted)
    if note is None:
        return None
    file = _snapshot(reference, note["commit"]) / note["file"]
    try:
        found = file.stat()
    except OSError:
        return None
    if (found.st_size, found.st_mtime_ns) != (note["size"], note["mtime_ns"]):
        return None
    config = read_config(file.with_name(CONFIG))
    return Fetched(reference, file, note["kind"], note["commit"], note["sha256"], config, note["metadata"])


def take(reference: Reference, found: Found, wanted: Wanted) -> Fetched:
    """Reads what is here, and notes it for ``recall``.

    Raises:
        HubError: the file cannot be read, or is not the one that was fetched.
    """
    sha256 = digest_of(reference, found.file)
    expected = expected_digest(found.file)
    if expected not in (None, sha256):
        raise HubError(
            f"{reference.repository}: {found.file}: is not the file that was fetched (SHA-256 {sha256}, expected "
            f"{expected}); remove it with: shvit models --remove {reference.name}"
        )
    return keep(reference, found, wanted, sha256)


def digest_of(reference: Reference, file: Path) -> str:
    """SHA-256 of a file, in hexadecimal.

    Raises:
        HubError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with file.open("rb") as content:
            while data := content.read(2**20):
                digest.update(data)
    except OSError as error:
        raise HubError(f"{reference.repository}: {file}: cannot be read: {error.strerror or error}") from None
    return digest.hexdigest()


def expected_digest(file: Path) -> str | None:
    """The SHA-256 that a file is to have: the hub's cache keeps large ones under it."""
    stored = file.resolve().name
    return stored if re.fullmatch("[0-9a-f]{64}", stored) else None


def keep(reference: Reference, found: Found, wanted: Wanted, sha256: str) -> Fetched:
    """Notes what a name led to, for ``recall``."""
    metadata = read_metadata(found.file.with_name(README))
    note = {
        "version": _VERSION,
        "name": reference.name,
        "file": found.file.name,
        "kind": found.kind,
        "commit": found.commit,
        "sha256": sha256,
        "metadata": metadata,
    }
    with suppress(OSError, CacheError):  # without it, all is read again the next time
        now = found.file.stat()
        path = _note_path(reference, wanted)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json({**note, "size": now.st_size, "mtime_ns": now.st_mtime_ns}, path)
    config = read_config(found.file.with_name(CONFIG))
    return Fetched(reference, found.file, found.kind, found.commit, sha256, config, metadata)


def known_addresses() -> list[Reference]:
    """``hf://`` addresses that were fetched, by name; of some their files may be gone meanwhile."""
    names = set()
    with suppress(CacheError):
        for path, _ in zip(sorted((cache_folder() / "hub").glob("*.json")), range(_MOST_NOTES), strict=False):
            note = _read(path)
            if note is not None and note["name"].startswith("hf://"):
                names.add(note["name"])
    found = []
    for name in sorted(names):
        with suppress(ValueError):
            reference = parse_reference(name)
            found.extend([reference] if reference is not None else [])
    return found


def notes_of(reference: Reference) -> Iterator[Path]:
    """The notes of all revisions of a repository."""
    with suppress(CacheError):
        yield from (cache_folder() / "hub").glob(f"{escape(_stem(reference))}@*.json")


def _stem(reference: Reference) -> str:
    return reference.repository.replace("/", "--")


def _note_path(reference: Reference, wanted: Wanted) -> Path:
    suffix = f".{wanted}.json"
    name = shorten(f"{_stem(reference)}@{quote(reference.revision, safe='')}", NAME_BYTES - len(suffix))
    return cache_folder() / "hub" / f"{name}{suffix}"


def _read_note(reference: Reference, wanted: Wanted) -> dict[str, Any] | None:
    try:
        return _read(_note_path(reference, wanted))
    except CacheError:
        return None


def _read(path: Path) -> dict[str, Any] | None:
    try:
        note = json.loads(read_regular(path, _NOTE_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    types = {"name": str, "file": str, "kind": str, "commit": str, "sha256": str, "size": int, "mtime_ns": int}
    sound = (
        isinstance(note, dict)
        and note.get("version") == _VERSION
        and all(isinstance(note.get(key), kind) for key, kind in types.items())
        and isinstance(note.get("metadata"), dict)
        and COMMIT.fullmatch(note["commit"])
        and note["kind"] in ("model", "weights")
        and note["file"] not in ("", ".", "..")
        and Path(note["file"]).name == note["file"]
    )
    return note if sound else None


def _snapshot(reference: Reference, commit: str) -> Path:
    return repository_folder(reference) / "snapshots" / commit


def _commit_of(reference: Reference) -> str | None:
    """What the hub's cache knows of a revision."""
    if COMMIT.fullmatch(reference.revision):
        return reference.revision
    try:
        stored = read_regular(repository_folder(reference) / "refs" / reference.revision, 200).decode("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return stored if COMMIT.fullmatch(stored) else None
