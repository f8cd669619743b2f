"""From a request's body to the images in it."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import anyio
from pydantic import BaseModel, Field, ValidationError

from shvit.serve.batching import Encoded

RAW_TYPES = ("application/octet-stream", "image/")
"""Beginnings of the media types whose body is one image."""

MULTIPART, JSON = "multipart/form-data", "application/json"

LINGER_SECONDS, LINGER_BYTES = 2.0, 64 * 2**20
"""How long, and how much, of a body that was refused is still read, so that the client gets to read why."""

MAX_NAME = 1024
"""Characters of an image's name."""

MAX_PART_HEADER = 4 * 1024
"""Bytes before the data of one part of a form."""

MAX_BOUNDARY = 256
"""Characters of a form's boundary; by the standard there are 70 at most."""

FIND_STEP = 256 * 1024
"""Bytes that are searched at a time."""

OTHER_FIELDS = 64
"""Fields of a form that are no files and are passed over, at most."""

JSON_DEPTH, JSON_GAP, JSON_SLASHES, JSON_MARKS = 16, 1024, 64, 32
"""Of a JSON body: how deep values lie within others, bytes between two of the marks that structure it (quotes,
brackets, commas, colons), backslashes in a row, and marks for each image. More than anybody needs to send images."""

JSON_STRING = 6 * MAX_NAME
"""Bytes of a string that the JSON reader sees at most: a name's, each letter escaped."""

PROGRESS = 64 * 1024
"""Bytes that an upload must bring to count as not stalled."""

STALLED_SECONDS = 1.0
"""Without that many bytes; then it is answered 408 if its memory is needed, 503 otherwise."""

Receive = Callable[[], Awaitable[Any]]
"""Of ASGI: the next message of a request."""


class RefusedError(Exception):
    """A request that is not done: the HTTP status and a line that says why."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        """In a word, for the metrics."""


class GoneError(Exception):
    """The client went away."""


class Base64Image(BaseModel):
    """One image of a JSON request."""

    data: str = Field(description="The file's bytes in base64, or as a data URI.")
    name: str | None = Field(None, max_length=MAX_NAME, description="What to call it in the answer.")


class Base64Images(BaseModel):
    """The body of a JSON request."""

    images: list[Base64Image] = Field(min_length=1)


@dataclass
class Upload:
    """One image of a request, as it came."""

    data: Encoded
    name: str | None = None


@dataclass(eq=False)
class _Reading:
    """A body of which more is to come."""

    scope: anyio.CancelScope
    chunks: list[bytes] = field(default_factory=list)
    size: int = 0
    progress: int = 0
    """Its size when it had last brought ``PROGRESS`` bytes more."""
    progress_at: float = field(default_factory=time.monotonic)
    evicted: RefusedError | None = None

    def take(self, chunk: bytes) -> None:
        self.chunks.append(chunk)
        self.size += len(chunk)
        if self.size >= self.progress + PROGRESS:
            self.progress, self.progress_at = self.size, time.monotonic()


class Held:
    """Bytes of all bodies that are in memory, and how many may be.

    When there is no room, the upload that wastes most of it gives up its own: the one with the most bytes, times the
    seconds since it last brought a good part. One that has stopped a byte before its end goes before any that still
    comes, and a large one before a small one.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.bytes = limit, 0
        self._readings: set[_Reading] = set()

    async def read_body(self, receive: Receive, declared: int | None, limit: int, seconds: float) -> bytes:
        """A request's whole body; what it takes stays counted until the caller calls ``release``.

        Args:
            declared: its Content-Length, if it has one.
            limit: bytes that are accepted.
            seconds: that it may take.

        Raises:
            RefusedError: it is too large (413), too slow (408), or there is no room for it (503).
            GoneError: the client went away.
        """
        if declared is not None and declared > limit:
            raise _too_large(limit)
        with anyio.move_on_after(seconds) as scope:
            reading = _Reading(scope)
            self._readings.add(reading)
            whole = False
            try:
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise GoneError
                    if chunk := message.get("body", b""):
                        if reading.size + len(chunk) > limit:
                            raise _too_large(limit)
                        self._make_room(len(chunk), reading)
                        self.bytes += len(chunk)
                        reading.take(chunk)
                    if not message.get("more_body", False):
                        chunks = reading.chunks
                        whole = True
                        return chunks[0] if len(chunks) == 1 else b"".join(chunks)
            finally:
                self._readings.discard(reading)
                if not whole:
                    self.bytes -= reading.size
        if reading.evicted is not None:
            raise reading.evicted
        raise RefusedError(408, "too_slow", f"the body did not arrive within {seconds:g} s")

    def release(self, size: int) -> None:
        """A body of this many bytes is in memory no longer."""
        self.bytes -= size

    def _make_room(self, count: int, reading: _Reading) -> None:
        """Raises: RefusedError: there is none for more of this body."""
        while self.bytes + count > self.limit:
            now = time.monotonic()
            worst = max(self._readings, key=lambda each: each.size * (now - each.progress_at))
            stalled = now - worst.progress_at > STALLED_SECONDS
            error = (
                RefusedError(408, "stalled", "the body came too slowly while memory was short; try again")
                if stalled
                else RefusedError(503, "no_memory", "too many bytes are in memory already; try again")
            )
            if worst is reading or not worst.size:
                raise error
            self._readings.discard(worst)
            self.bytes -= worst.size
            worst.chunks, worst.size, worst.evicted = [], 0, error
            worst.scope.cancel()


def _too_large(limit: int) -> RefusedError:
    return RefusedError(413, "too_large", f"the body is larger than the {limit:,} bytes accepted")


def media_type(content_type: str) -> str:
    """The media type of a Content-Type header, which must be one that images come in.

    Raises:
        RefusedError: it is another (415).
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind in (MULTIPART, JSON) or kind.startswith(RAW_TYPES):
        return kind
    raise RefusedError(
        415,
        "unsupported",
        f"Content-Type: expected image/*, application/octet-stream, {MULTIPART} or {JSON}, got {kind or 'nothing'!r}",
    )


def media_parameter(value: str, name: str) -> str | None:
    """A parameter of a header such as Content-Type or Content-Disposition; ``None`` if it has none of that name.

    The standard library's way to it takes a time that grows with the square of the header's length.

    Args:
        name: in small letters; ``filename*`` is what RFC 5987 encodes.

    Raises:
        RefusedError: a quote is not closed (400).
    """
    place = value.find(";")
    while place >= 0 and (found := _PARAMETER.match(value, place)) is not None:
        place = found.end()
        if value.startswith('"', place):
            quoted = _QUOTED.match(value, place)
            if quoted is None:
                raise RefusedError(400, "malformed", "a header's quote is not closed")
            text, place = quoted[1].replace('\\"', '"').replace("\\\\", "\\"), value.find(";", quoted.end())
        else:
            end = value.find(";", place)
            text, place = value[place : end if end >= 0 else None].strip(), end
        if found[1].lower() == name:
            return text
    return None


_PARAMETER = re.compile(r";[\s;]*([^\s;=\"]*)\s*=?\s*")
_QUOTED = re.compile(r'"([^"\\]*(?:\\.[^"\\]*)*)"', re.DOTALL)


def images_in(body: bytes, kind: str, content_type: str, limit: int) -> list[Upload]:
    """The images of a body, at least one.

    What this takes is bounded by ``limit`` and by a quick look at each byte: a body can hold a million empty images.

    Args:
        kind: its media type.
        content_type: the whole header, which names a multipart body's boundary.
        limit: images that are accepted.

    Raises:
        RefusedError: the body is not what the header says (400), holds too many images (413), or none (422).
    """
    if kind == MULTIPART:
        uploads = []
        for upload in _files(body, content_type, limit + OTHER_FIELDS):
            uploads.append(upload)
            if len(uploads) > limit:
                raise _too_many(limit)
        if not uploads:
            raise RefusedError(422, "no_image", "the form has no files; expected one or more")
        return uploads
    if kind == JSON:
        return _in_json(body, limit)
    if not body:
        raise RefusedError(422, "no_image", "the body is empty; expected an image")
    return [Upload(body)]


def _too_many(limit: int) -> RefusedError:
    return RefusedError(413, "too_many", f"at least {limit + 1} images; at most {limit} are accepted in a request")


def _in_json(body: bytes, limit: int) -> list[Upload]:
    short, cut_out = _without_long_strings(body, limit)
    try:
        request = Base64Images.model_validate_json(short)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        status = 400 if first["type"] == "json_invalid" else 422
        raise RefusedError(status, "malformed", f"{place or 'body'}: {first['msg']}") from None
    if len(request.images) > limit:
        raise _too_many(limit)
    uploads, view = [], memoryview(body)
    for image in request.images:
        data = image.data
        if len(data) > JSON_STRING:
            begin, end = cut_out[int(data[JSON_STRING:])]
            try:
                data = str(view[begin:end], "ascii")
            except UnicodeDecodeError:
                data = "!"  # no base64
        uploads.append(Upload(data, image.name))
    return uploads


_MARK = re.compile(rb'["{}\[\],:]')


def _without_long_strings(body: bytes, limit: int) -> tuple[bytes, list[tuple[int, int]]]:
    """A JSON body without its long strings, and from where to where these lie in it.

    Each is replaced by ``JSON_STRING`` letters and its place in the list, which is longer than any that stays.

    Megabytes of base64 need not go through the JSON reader, which would keep all other threads from running. Here marks
    are counted and nothing is made of them; whether the body is JSON at all is not looked at.

    Raises:
        RefusedError: it has too many images or other values (413), or they lie too deep or too far apart (400).
    """
    kept: list[bytes] = []
    cut_out: list[tuple[int, int]] = []
    copied = place = depth = images = 0
    begin: int | None = None  # of the string that place is in
    for _ in range(64 + JSON_MARKS * limit):
        if begin is not None:
            end = body.find(b'"', place)
            if end < 0:
                break
            before = body[max(end - JSON_SLASHES, begin) : end]
            slashes = len(before) - len(before.rstrip(b"\\"))
            if slashes == JSON_SLASHES:
                raise RefusedError(400, "malformed", f"body: {JSON_SLASHES} backslashes in a row")
            place = end + 1
            if slashes % 2:
                continue
            if end - begin > JSON_STRING:
                kept += (body[copied:begin], b"x" * JSON_STRING, b"%d" % len(cut_out))
                cut_out.append((begin, end))
                copied = end
            begin = None
            continue
        found = _MARK.search(body, place, place + JSON_GAP)
        if found is None:
            if place + JSON_GAP < len(body):
                raise RefusedError(400, "malformed", f"body: more than {JSON_GAP} bytes without a quote or a bracket")
            break
        place = found.end()
        mark = found[0]
        if mark == b'"':
            begin = place
        elif mark in b"{[":
            depth += 1
            images += depth == 3  # {"images": [{
            if images > limit:
                raise _too_many(limit)
            if depth > JSON_DEPTH:
                raise RefusedError(400, "malformed", f"body: more than {JSON_DEPTH} values within each other")
        elif mark in b"}]":
            depth -= 1
    else:
        raise RefusedError(
            413, "too_many", f"the body has too many values; at most {limit} images are accepted in a request"
        )
    if begin is not None:
        raise RefusedError(400, "malformed", "body: Invalid JSON: a string does not end")
    return b"".join((*kept, body[copied:])), cut_out


def _files(body: bytes, content_type: str, limit: int) -> Iterator[Upload]:
    """The parts of a form that are files, whatever their fields are called; other fields are passed over.

    Args:
        limit: parts of any kind that are accepted.

    Raises:
        RefusedError: it is not a form (400), or has too many parts (413).
    """
    boundary = media_parameter(content_type, "boundary")
    if not boundary or len(boundary) > MAX_BOUNDARY or not boundary.isascii():
        raise RefusedError(400, "malformed", f"Content-Type: {MULTIPART} without a boundary that can be used")
    mark = b"\r\n--" + boundary.encode()
    # The first one begins a line; what comes before it is not part of the form.
    place = len(mark) - 2 if body.startswith(mark[2:]) else _find(body, mark, 0) + len(mark)
    if place < len(mark) - 2:
        raise _no_form("its boundary is missing")
    for _ in range(limit):
        if body.startswith(b"--", place):
            return
        line_end = body.find(b"\r\n", place, place + MAX_PART_HEADER)
        if line_end < 0 or body[place:line_end].strip(b" \t"):
            raise _no_form("its end is missing" if line_end < 0 else "a boundary is followed by other text")
        header_end = body.find(b"\r\n\r\n", line_end, line_end + MAX_PART_HEADER)
        if header_end < 0:
            long = len(body) > line_end + MAX_PART_HEADER
            raise _no_form(f"a part's header is longer than {MAX_PART_HEADER} bytes" if long else "its end is missing")
        begin = header_end + 4
        end = _find(body, mark, begin)
        if end < 0:
            raise _no_form("its end is missing")
        if (name := _file_name(body[line_end + 2 : header_end])) is not None:
            yield Upload(body[begin:end], name[:MAX_NAME] or None)
        place = end + len(mark)
    raise RefusedError(413, "too_many", f"a form of more than {limit} parts")


def _find(body: bytes, mark: bytes, place: int) -> int:
    """``body.find(mark, place)`` in steps, between which other threads can run."""
    while place < len(body):
        found = body.find(mark, place, place + FIND_STEP + len(mark))
        if found >= 0:
            return found
        place += FIND_STEP
    return -1


def _file_name(header: bytes) -> str | None:
    """What a part's header calls its file; ``None`` if it has none."""
    for line in header.split(b"\r\n"):
        name, _, rest = line.partition(b":")
        if name.strip().lower() == b"content-disposition":
            value = rest.decode("utf-8", "replace")
            encoded = media_parameter(value, "filename*")
            if encoded is not None:
                charset, _, text = encoded.partition("'")
                text = text.partition("'")[2]
                return unquote(text, "latin-1" if charset.lower() == "iso-8859-1" else "utf-8", "replace")
            return media_parameter(value, "filename")
    return None


def _no_form(why: str) -> RefusedError:
    return RefusedError(400, "malformed", f"not a multipart body: {why}")
