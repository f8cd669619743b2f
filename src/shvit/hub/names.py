"""What a published network is called, and what is known of those that have a name of their own."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from shvit.errors import ArgumentError
from shvit.shipped import NETWORKS, nearest_network

PREFIX = "hf://"
MAIN = "main"
"""The revision that is meant where none is given."""

_REPOSITORY = re.compile(r"\b[\w.-]{1,96}\b/\b[\w.-]{1,96}\b", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*")
_NAMED = re.compile(rf"({'|'.join(NETWORKS)})[:\s]")
"""A published name, and behind it what does not belong there."""
_LONGEST_REVISION = 200
_OTHER_KINDS = ("buckets", "datasets", "kernels", "models", "spaces")


@dataclass(frozen=True)
class Published:
    """A variant's published weights. The network's figures are of its folded form, with 1000 classes."""

    title: str
    repository: str
    weights_bytes: int
    """Of ``model.safetensors``; its header, of some kB, not counted."""
    parameters: int
    macs: int
    """Multiply-accumulate operations for one image."""
    image_size: int
    """Side of the input, in pixels."""
    top1: float
    """Share of ImageNet-1k's 50,000 validation images whose first label is right, in percent, as ``MEASURED_BY``
    measured it on these weights."""
    paper_top1: float
    """The same as the paper (arXiv 2401.16456) has it."""


MEASURED_BY = "timm"

PUBLISHED = {
    "shvit_s1": Published("SHViT-S1", "timm/shvit_s1.in1k", 25_498_448, 6_307_596, 241_400_128, 224, 72.780, 72.8),
    "shvit_s2": Published("SHViT-S2", "timm/shvit_s2.in1k", 46_165_808, 11_452_020, 365_505_144, 224, 75.184, 75.2),
    "shvit_s3": Published("SHViT-S3", "timm/shvit_s3.in1k", 57_260_268, 14_208_300, 600_707_607, 224, 77.356, 77.4),
    "shvit_s4": Published("SHViT-S4", "timm/shvit_s4.in1k", 66_689_040, 16_544_088, 986_431_488, 256, 79.362, 79.4),
}
"""By name. Written down, so that a list of them counts nothing; a test counts them again."""


@dataclass(frozen=True)
class Reference:
    """A revision of a repository on the hub."""

    name: str
    """As people give it: ``shvit_s4``, ``hf://user/repo``, each with ``@revision`` where it is not ``main``."""
    repository: str
    """Such as ``timm/shvit_s4.in1k``."""
    revision: str = MAIN
    """A branch, a tag or a commit."""

    @property
    def published(self) -> Published | None:
        """What is known of it, where it is a variant's."""
        return PUBLISHED.get(self.name.partition("@")[0])


def parse_reference(text: str) -> Reference | None:
    """What a name on the hub means: ``shvit_s4``, ``hf://user/repo``, either with ``@revision``.

    Returns:
        ``None`` where it is no such name: a path, a shipped model, or nothing that is known.

    Raises:
        ArgumentError: it looks like one and is none; the message says what was expected, or what was meant.
    """
    if text.lower().startswith(PREFIX):
        return _parse_address(text)
    short, at, revision = text.partition("@")
    if short in PUBLISHED:
        _check_revision(text, revision if at else MAIN)
        return _reference(short, PUBLISHED[short].repository, revision or MAIN)
    if (named := _NAMED.match(text)) and not os.path.lexists(text):
        raise ArgumentError(
            f"{text}: no such file, and no network's name; expected {named[1]} or {named[1]}@revision, and where a "
            "model file is taken one :int8 behind it"
        )
    meant = nearest_network(short)
    if meant is None or os.path.lexists(text):
        return None
    raise ArgumentError(f"{text}: no such file, and no network's name; did you mean {meant}{at}{revision}?")


def _parse_address(text: str) -> Reference:
    repository, at, revision = text[len(PREFIX) :].partition("@")
    expected = f"expected {PREFIX}user/repository or {PREFIX}user/repository@revision"
    user, *rest = repository.split("/")
    if user in _OTHER_KINDS:
        raise ArgumentError(f"{text}: {user} are not read this way; {expected}, of a repository of models")
    if len(rest) > 1 and all((user, *rest[:1])):
        raise ArgumentError(f"{text}: names more than a repository; {expected}")
    if not _REPOSITORY.fullmatch(repository) or re.search(r"--|\.\.", repository) or repository.endswith(".git"):
        raise ArgumentError(
            f"{text}: is no repository's name; {expected}: of letters, digits, '-', '_' and '.', 96 at most each"
        )
    _check_revision(text, revision if at else MAIN)
    return _reference(f"{PREFIX}{repository}", repository, revision or MAIN)


def _reference(name: str, repository: str, revision: str) -> Reference:
    return Reference(name if revision == MAIN else f"{name}@{revision}", repository, revision)


def _check_revision(text: str, revision: str) -> None:
    """A revision becomes part of paths: none leads out of a folder."""
    if len(revision) > _LONGEST_REVISION or ".." in revision or not _REVISION.fullmatch(revision):
        raise ArgumentError(f"{text}: is no revision after the @; expected a branch, a tag or a commit")
