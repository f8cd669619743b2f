"""How many parts an encoded image is cut into: Pillow goes through them one by one, in Python."""

from __future__ import annotations

_PARTS = 4096
"""Segments of a JPEG, chunks of a PNG, blocks of a GIF before its first frame; a file's size in 256 bytes is added."""

_EXIF_PARTS = 64
"""Segments of EXIF in a JPEG. Pillow joins them one by one, and so copies the first as often as there are others."""

_SCANS = 100
"""Scans of a JPEG. Each goes over all of its pixels, and may be a hundred bytes; encoders write about ten."""

_PROGRESSIVE = (b"\xc2", b"\xc6", b"\xca", b"\xce")

_HEADER_BYTES = 2**16
"""Where the header of a PPM ends, with its comments; and bytes between a JPEG's segments."""


def too_many_parts(data: bytes) -> bool:
    """Whether an image is cut into so many parts that opening it would take seconds; no photograph is.

    Damage is no reason: the decoder tells of it.
    """
    if data.startswith(b"\xff\xd8"):
        return _jpeg(data)
    if data.startswith(b"\x89PNG"):
        return _png(data)
    if data.startswith(b"GIF8"):
        return _gif(data)
    return data[:1] == b"P" and data[1:2].isalnum() and _ppm(data)


def _limit(data: bytes) -> int:
    return _PARTS + len(data) // 256


def _jpeg(data: bytes) -> bool:
    place, parts, exif, between = 2, 0, 0, 0
    progressive, components = False, b""
    while 0 <= place < len(data) - 1:
        following = data.find(b"\xff", place)
        if following < 0:
            return len(data) - place > _HEADER_BYTES
        between += following - place
        place, marker = following, data[following + 1 : following + 2]
        if marker in (b"\x00", b"\xff"):
            place, between = place + 1, between + 1
        elif marker == b"\xda":
            # Otherwise all of it is in the first scan, and what follows is not decoded.
            several = progressive or data[place + 4 : place + 5] < components
            return several and data.count(b"\xff\xda", place) > _SCANS
        else:
            if b"\xc0" <= marker <= b"\xcf" and marker not in (b"\xc4", b"\xc8", b"\xcc"):
                progressive, components = marker in _PROGRESSIVE, data[place + 9 : place + 10]
            alone = marker == b"\x01" or b"\xd0" <= marker <= b"\xd9"
            exif += marker == b"\xe1" and data[place + 4 : place + 8] == b"Exif"
            place += 2 if alone else 2 + max(2, int.from_bytes(data[place + 2 : place + 4], "big"))
            parts += 1
        if parts > _PARTS or exif > _EXIF_PARTS or between > _HEADER_BYTES:
            return True
    return False


def _png(data: bytes) -> bool:
    place, parts, limit = 8, 0, _limit(data)
    while place < len(data) and parts <= limit:
        place += 12 + int.from_bytes(data[place : place + 4], "big")
        parts += 1
    return parts > limit


def _gif(data: bytes) -> bool:
    place, parts, limit = 13, 0, _limit(data)
    if len(data) > 10 and data[10] & 128:
        place += 3 << ((data[10] & 7) + 1)
    while place < len(data) and parts <= limit:
        kind = data[place : place + 1]
        if kind in (b",", b";"):
            return False
        place += 1
        parts += 1
        if kind != b"!":
            continue
        place += 1
        while place < len(data) and data[place] and parts <= limit:
            place += 1 + data[place]
            parts += 1
        place += 1
    return parts > limit


def _ppm(data: bytes) -> bool:
    header = data[:_HEADER_BYTES]
    words = b" ".join(line.partition(b"#")[0] for line in header.splitlines()).split()
    return len(data) > _HEADER_BYTES and len(words) < 3
