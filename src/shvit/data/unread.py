"""What lies among a dataset's images and is not read, and what to do about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from shvit.data.protocol import ImageDataset
from shvit.data.splits import Subset
from shvit.images.sources import BROKEN_LINK, COMPANION_EXTENSIONS, HEIF_EXTENSIONS, OTHER_NAME, VIDEO_EXTENSIONS
from shvit.install import install_command

REPEATED_LINK = "link to a folder that is read already"
"""A loop, or a second way to the same files."""

OUTSIDE = "image outside the class folders"

LINKED_MEMBER, LABEL_ALONE = "link in a tar file", "label without an image"
"""Of shards; only their plain members are read."""

COMPANIONS = COMPANION_EXTENSIONS | {REPEATED_LINK}
"""What commonly lies beside images without being one: told, but no problem."""

PICTURES = frozenset(
    {".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".srw", ".pef", ".raw", ".3fr", ".x3f"}
    | {".psd", ".svg", ".eps", ".ai", ".pdf", ".jxl", ".jxr", ".tga", ".ico", ".icns", ".pcx", ".exr", ".hdr"}
    | {".dcm", ".nii", ".fits", ".j2k", ".jpx", ".pbm", ".pnm", ".pam", ".sgi", ".xcf", ".djvu", ".wmf", ".emf"}
    | {".npy", ".bpg", ".mpo", ".jpe", ".dib", ".apng"}
)
"""Formats of pictures that are not read."""


def is_unread_picture(name: str) -> bool:
    """Whether a file of this name is a picture of a format that is not read."""
    return Path(name).suffix.lower() in PICTURES | HEIF_EXTENSIONS


def left_out(*datasets: ImageDataset) -> Counter[str]:
    """What lies among the datasets' images and is not read, by suffix or by what it is; empty where none can."""
    whole: dict[int, ImageDataset] = {}
    for images in datasets:
        while isinstance(images, Subset):
            images = images.images
        whole[id(images)] = images
    counts = Counter[str]()
    for images in whole.values():
        counts.update(getattr(images, "left_out", {}))
    return counts


def missing_pictures(others: Mapping[str, int]) -> int:
    """How many of them may be pictures that somebody meant to be there."""
    return sum(count for kind, count in others.items() if kind not in COMPANIONS)


def describe_unread(others: Mapping[str, int]) -> str:
    """What is not read, and what to do about it, in a line; empty when there is nothing."""
    return "; ".join(unread_lines(others))


def unread_lines(others: Mapping[str, int]) -> list[str]:
    """The same, each kind by itself, the most frequent first."""
    return [
        f"{count:,} {kind} not read{f' ({advice})' if (advice := _advice(kind)) else ''}"
        for kind, count in Counter(others).most_common()
    ]


def _advice(kind: str) -> str:
    if kind in HEIF_EXTENSIONS:
        return f"HEIC needs: {install_command('heif')}"
    if kind in PICTURES:
        return "convert to JPEG or PNG"
    if kind in VIDEO_EXTENSIONS:
        return "videos; take frames out of them"
    if kind == OTHER_NAME:
        return "no suffix of an image; give images theirs, such as .jpg"
    if kind == OUTSIDE:
        return "move them into one"
    if kind == BROKEN_LINK:
        return "mend or remove"
    return "" if kind in COMPANIONS else "not a known image format; convert or remove"
