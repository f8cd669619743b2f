"""From a request's body to the images in it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.message import Message
from typing import Any

import anyio
from pydantic import BaseModel, Field, ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

from shvit.serve.batching import Encoded

RAW_TYPES = ("application/octet-stream", "image/")
"""Beginnings of the media types whose body is one image."""

MULTIPART, JSON = "multipart/form-data", "application/json"

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

    data: str = Field(description="The file's bytes in base64.")
    name: str | None = Field(None, description="What to call it in the answer.")


class Base64Images(BaseModel):
    """The body of a JSON request."""

    images: list[Base64Image] = Field(min_length=1)


@dataclass
class Upload:
    """One image of a request, as it came."""

    data: Encoded
    name: str | None = None


class Held:
    """Bytes of all bodies that are in memory, and how many may be."""

    def __init__(self, limit: int) -> None:
        self.limit, self.bytes = limit, 0


async def read_body(receive: Receive, declared: int | None, limit: int, seconds: float, held: Held) -> bytes:
    """A request's whole body; what it takes stays counted in ``held`` until the caller takes it off again.

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
    chunks: list[bytes] = []
    size = 0
    try:
        with anyio.fail_after(seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise GoneError
                if chunk := message.get("body", b""):
                    size += len(chunk)
                    held.bytes += len(chunk)
                    if size > limit:
                        raise _too_large(limit)
                    if held.bytes > held.limit:
                        raise RefusedError(503, "no_memory", "too many bytes are in memory already; try again")
                    chunks.append(chunk)
                if not message.get("more_body", False):
                    return chunks[0] if len(chunks) == 1 else b"".join(chunks)
    except TimeoutError:
        held.bytes -= size
        raise RefusedError(408, "too_slow", f"the body did not arrive within {seconds:g} s") from None
    except (RefusedError, GoneError):
        held.bytes -= size
        raise


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


def images_in(body: bytes, kind: str, content_type: str) -> list[Upload]:
    """The images of a body, at least one.

    Args:
        kind: its media type.
        content_type: the whole header, which names a multipart body's boundary.

    Raises:
        RefusedError: the body is not what the header says (400), or holds no image (422).
    """
    if kind == MULTIPART:
        uploads = _parts(body, content_type)
        if not uploads:
            raise RefusedError(422, "no_image", "the form has no files; expected one or more")
        return uploads
    if kind == JSON:
        try:
            request = Base64Images.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"]))
            status = 400 if first["type"] == "json_invalid" else 422
            raise RefusedError(status, "malformed", f"{place or 'body'}: {first['msg']}") from None
        return [Upload(image.data, image.name) for image in request.images]
    if not body:
        raise RefusedError(422, "no_image", "the body is empty; expected an image")
    return [Upload(body)]


def _parts(body: bytes, content_type: str) -> list[Upload]:
    """The parts of a form that are files, whatever their fields are called; other fields are passed over."""
    header = Message()
    header["Content-Type"] = content_type
    boundary = header.get_param("boundary")
    if not isinstance(boundary, str) or not boundary:
        raise RefusedError(400, "malformed", "Content-Type: multipart/form-data without a boundary")
    reader = _Parts()
    try:
        parser = MultipartParser(boundary.encode("latin-1"), reader.callbacks())  # type: ignore[arg-type]
        parser.write(body)
        parser.finalize()
    except (FormParserError, UnicodeEncodeError) as error:
        raise RefusedError(400, "malformed", f"not a multipart body: {error}") from None
    if not reader.ended:
        raise RefusedError(400, "malformed", "not a multipart body: its end is missing")
    return reader.uploads


class _Parts:
    """Collects what the parser finds."""

    def __init__(self) -> None:
        self.uploads: list[Upload] = []
        self.ended = False
        self._begin()

    def callbacks(self) -> dict[str, Callable[..., None]]:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._field,
            "on_header_value": self._value,
            "on_header_end": self._header,
            "on_part_data": self._data,
            "on_part_end": self._part,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self._name: str | None = None
        self._header_field, self._header_value = b"", b""
        self._chunks: list[bytes] = []
        self._is_file = False

    def _field(self, data: bytes, start: int, end: int) -> None:
        self._header_field += data[start:end]

    def _value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _header(self) -> None:
        if self._header_field.lower() == b"content-disposition":
            disposition = Message()
            disposition["Content-Disposition"] = self._header_value.decode("utf-8", "replace").replace("\n", " ")
            self._name = disposition.get_filename()
            self._is_file = self._name is not None
        self._header_field, self._header_value = b"", b""

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._chunks.append(data[start:end])

    def _part(self) -> None:
        if self._is_file:
            self.uploads.append(Upload(b"".join(self._chunks), self._name or None))

    def _end(self) -> None:
        self.ended = True
