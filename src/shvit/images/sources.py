"""What a user points at, as a stream of image paths."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Set
from glob import glob, has_magic
from pathlib import Path
from typing import TextIO

from shvit.images.encoded import HEIF_INSTALLED
from shvit.install import install_command
from shvit.reading import listed_paths, why_irregular

HEIF_EXTENSIONS = frozenset({".heic", ".heif", ".hif", ".heics", ".heifs"})

IMAGE_EXTENSIONS = frozenset(
    {
        ".jpg",
        ".jpeg",
        ".jfif",
        ".png",
        ".webp",
        ".bmp",
        ".gif",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".avif",
        ".jp2",
        *(HEIF_EXTENSIONS if HEIF_INSTALLED else ()),
    }
)
"""Which files of a folder are taken for images. A file named by itself is tried whatever it is called."""

VIDEO_EXTENSIONS = frozenset(
    {
        *(".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".mkv", ".webm", ".avi", ".divx", ".wmv", ".asf", ".flv", ".f4v"),
        *(".mpg", ".mpeg", ".mpe", ".m1v", ".m2v", ".vob", ".ts", ".mts", ".m2ts", ".ogv", ".ogm", ".rm", ".rmvb"),
        *(".mxf", ".nut", ".dv", ".ivf", ".y4m", ".h264", ".hevc", ".mjpeg"),
    }
)
"""Which files of a folder are taken for videos. A file named by itself is tried whatever it is called."""


COMPANION_EXTENSIONS = frozenset(
    {".txt", ".md", ".rst", ".html", ".log", ".json", ".jsonl", ".xml", ".csv", ".tsv", ".yaml", ".yml", ".ini"}
    | {".cls", ".db", ".py", ".ipynb", ".sha1", ".sha256", ".md5"}
)
"""Which files commonly lie beside images and videos without being one: alone they are not worth a word."""


class SourceError(Exception):
    """A source that gives no images: its name and the reason."""

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(f"{source}: {reason}")
        self.source, self.reason = source, reason


def is_image(name: str) -> bool:
    """Whether a file of this name is taken for an image; hidden files never are."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS  # noqa: PTH122 - 4× faster


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is one, or a link to one; a link to itself is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def expand_sources(
    sources: Iterable[str],
    stdin: TextIO,
    extensions: Set[str] = IMAGE_EXTENSIONS,
    kind: str = "images",
    notice: Callable[[str], None] = lambda line: None,
) -> Iterator[str | SourceError]:
    """Files, folders (all levels), globs, and ``-`` for paths on ``stdin``, as ``listed_paths`` reads them.

    Yields a path for each image, in a settled order within a folder, and a ``SourceError`` for each source
    that gives none, and for each pipe, device or socket in a folder or among a pattern's. Paths that are files, or
    nothing, are passed on as they are: opening them tells.

    Args:
        extensions: which files of a folder are taken; in lower case, with the dot.
        kind: what those are, for messages.
        notice: told, a line for each folder, of the files in it that are not taken.

    Raises:
        ValueError: ``stdin`` holds what is no list of paths.
    """
    for source in sources:
        if source == "-":
            for path in listed_paths(stdin):
                yield from _expand(path, extensions, kind, notice)
        else:
            yield from _expand(source, extensions, kind, notice)


def _expand(source: str, extensions: Set[str], kind: str, notice: Callable[[str], None]) -> Iterator[str | SourceError]:
    if Path(source).is_dir():
        found, others = False, Counter[str]()
        for path in walk_files(Path(source), extensions, others):
            found = True
            yield _found(str(path))
        if not found:
            yield SourceError(source, f"no {kind} in this folder{'; ' if others else ''}{describe_left_out(others)}")
        elif others.keys() - COMPANION_EXTENSIONS:
            notice(f"{source}: {describe_left_out(others)}")
    elif not os.path.lexists(source) and has_magic(source):
        matches = sorted(glob(source, recursive=True))  # noqa: PTH207 - keeps the pattern relative as typed
        if not matches:
            yield SourceError(source, "no file matches")
        for match in matches:
            if not Path(match).is_dir():
                yield _found(match)
    else:
        yield source


def _found(path: str) -> str | SourceError:
    """What a folder or a pattern gave: nobody named it, so it is a file or nothing."""
    reason = why_irregular(path)
    return SourceError(path, reason) if reason else path


def walk_images(folder: Path) -> Iterator[Path]:
    """Image files of a folder and all below it, sorted by name; hidden ones and links to folders left out."""
    return walk_files(folder, IMAGE_EXTENSIONS)


def walk_files(folder: Path, extensions: Set[str], others: Counter[str] | None = None) -> Iterator[Path]:
    """Files with these extensions, as ``walk_images`` gives images.

    Args:
        others: counts, on the way, what is not given, by suffix in lower case; hidden files are not counted. Links to
            folders, which are not followed, and links to nothing are counted under names of their own, and so are files
            without a suffix or with one that looks like none. Broken links with one of the extensions are given like
            files, and fail when they are opened.
    """
    for current, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if others is not None:
            others.update(LINKED_FOLDER for name in folders if Path(current, name).is_symlink())
        for name in sorted(files):
            if name.startswith("."):
                continue
            path = Path(current, name)
            if path.suffix.lower() in extensions:
                yield path
            elif others is not None:
                others[kind_of_other(path)] += 1


LINKED_FOLDER, BROKEN_LINK, OTHER_NAME = "link to a folder", "broken link", "other name"
"""What ``walk_files`` counts beside suffixes."""


def describe_left_out(others: Counter[str]) -> str:
    """What was not read, and what to do about it, in a line; empty when there is nothing."""
    counts = others.most_common()
    if not counts:
        return ""
    named = [f"{count:,} {name}" for name, count in counts[:8]]
    if rest := sum(count for _, count in counts[8:]):
        named.append(f"{rest:,} of other kinds")
    advice = "what is named by itself, or by a pattern such as '**/*.SUFFIX', is tried whatever its name"
    if not HEIF_INSTALLED and any(name in HEIF_EXTENSIONS for name, _ in counts):
        advice = f"{advice}; HEIC needs: {install_command('heif')}"
    return f"not read: {', '.join(named)} ({advice})"


def kind_of_other(path: Path) -> str:
    """What ``walk_files`` counts a file as that is not read."""
    if path.is_symlink() and not path.exists():
        return BROKEN_LINK
    suffix = path.suffix.lower()
    # A name comes from anybody: what is counted is short and can be printed.
    return suffix if re.fullmatch(r"\.[a-z0-9_-]{1,12}", suffix) else OTHER_NAME
