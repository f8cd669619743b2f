"""Pictures side by side on one page, which needs no other file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from shvit.atomic import write_text
from shvit.errors import ImageError
from shvit.evaluation.pages import contained, data_uri, jpeg, page_template
from shvit.images.encoded import read_encoded
from shvit.images.preprocess import decode

THUMBNAIL = 176
"""Longer side of a picture on the page, in pixels."""

SHOWN = 600
"""Pictures on a page: each is some kilobytes of it."""

Read = Callable[[int], bytes]
"""The encoded picture at a place."""


class Tile(NamedTuple):
    """A picture with what is said of it."""

    place: int
    """What ``Read`` knows it by."""
    source: str
    lines: tuple[str, ...]
    """Below it."""
    marked: str = ""
    """A line below it that stands out."""
    note: str = ""
    """Above it: what it is here for, such as ``given: cat``."""
    sha256: str | None = None
    """Of the picture when it was embedded, where that is known."""


class Section(NamedTuple):
    """Pictures that belong together."""

    title: str
    tiles: tuple[Tile, ...]


class Sheet(NamedTuple):
    """A page."""

    title: str
    about: tuple[str, ...]
    """Sentences at its head."""
    sections: tuple[Section, ...]


def write_sheet(path: Path, sheet: Sheet, read: Read) -> int:
    """Writes the page, whole or not at all.

    A picture that cannot be read, or is another one by now, is said to be so in its place.

    Args:
        read: may raise ``ImageError``.

    Returns:
        How many pictures are missing on it.

    Raises:
        MissingDependencyError: jinja2 is not installed.
        OSError: the file cannot be written.
    """
    template = page_template("sheet.html.jinja", "shvit.similarity", "teach")
    seen: dict[int, tuple[str, str]] = {}
    sections, left, missing = [], SHOWN, 0
    for section in sheet.sections:
        shown = section.tiles[:left]
        left -= len(shown)
        tiles = []
        for tile in shown:
            if tile.place not in seen:
                seen[tile.place] = _picture(tile, read)
                missing += not seen[tile.place][0]
            picture, reason = seen[tile.place]
            tiles.append(tile._asdict() | {"picture": picture, "reason": reason})
        if tiles:
            sections.append({"title": section.title, "tiles": tiles, "more": len(section.tiles) - len(tiles)})
    page = template.render(
        title=sheet.title,
        about=sheet.about,
        sections=sections,
        left_out=len(sheet.sections) - len(sections),
        missing=missing,
    )
    write_text(page, path)
    return missing


def _picture(tile: Tile, read: Read) -> tuple[str, str]:
    """A picture as a data URI, or ``""`` and why there is none."""
    try:
        encoded = read(tile.place)
        if tile.sha256 is not None and hashlib.sha256(encoded).hexdigest() != tile.sha256:
            return "", "is another picture by now"
        return data_uri("jpeg", jpeg(thumbnail(decode(encoded)))), ""
    except ImageError as error:
        return "", str(error).removeprefix(f"{tile.source}: ")


def thumbnail(image: Image.Image) -> Image.Image:
    return contained(image, THUMBNAIL)


def of_files(sources: Sequence[str]) -> Read:
    """Reads pictures by their files' names."""
    return lambda place: read_encoded(sources[place], sources[place])
