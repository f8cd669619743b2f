"""HTTP as uvicorn and httptools read it, with bounds on what comes before, between and after the bodies."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from heapq import nsmallest
from typing import Any, NoReturn

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from shvit.serve.access import SECURITY_HEADERS
from shvit.serve.bodies import LINGER_BYTES, LINGER_SECONDS
from shvit.serve.refusals import REFUSED_BY_PROTOCOL

MAX_URL = 8 * 1024
"""Bytes of a request's path and query; a longer one is answered 414."""

MAX_HEADER = 32 * 1024
"""Bytes of a request's header, or of anything else that is not body; above it: 431."""

MAX_HEADER_LINES = 100

MAX_PIPELINED = 8
"""Requests of a connection that wait for the one before."""

MAX_CHUNKS = 2048
"""Pieces of a body in what is read at once, 256 KiB: only a hostile client sends that many."""

MAX_CONNECTIONS = 1024

REASONS = {400: "malformed", 408: "too_slow", 414: "too_long", 431: "too_long"}
"""Of refusals, in a word, for the metrics."""


class _RefusedError(Exception):
    """Ends the parser's work in the middle of a piece of data."""


class BoundedProtocol(HttpToolsProtocol):
    """One connection. httptools itself collects a header of any length, by copying all of it for every piece."""

    timeout: float = 30.0
    """Seconds that a header may take, and that an answer may wait to be read."""
    refused: Callable[[str, int], None] = staticmethod(lambda reason, status: None)
    """Told of each request that is answered here: why, in a word, and the status."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._since = self.loop.time()
        """When it began to wait for what it waits for now."""
        self._head_begun = False
        """Whether a part of a request's header has come, but not the whole."""
        self._silent = 0
        """Bytes since something other than header came."""
        self._chunks = 0
        self._unread_since: float | None = None
        """Since when the client has not read its answer."""
        self._unwanted = 0
        """Bytes of a body whose request is answered already, or that came after a refusal."""
        self._refusal: tuple[int, str] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            self._make_place()

    def _make_place(self) -> None:
        """Ends those that have waited longest for their client, or this one if all are worked for."""
        waiting = [each for each in self.connections if isinstance(each, BoundedProtocol) and each.waits_for_client]
        for each in nsmallest(MAX_CONNECTIONS // 32, waiting, key=lambda each: each._since):
            each.transport.abort()
        if not waiting:
            self.transport.abort()

    @property
    def waits_for_client(self) -> bool:
        """Whether its next move is the client's."""
        idle = self.cycle is None or self.cycle.response_complete or self.cycle.more_body
        return idle and not self.transport.is_closing()

    def end_if_too_slow(self) -> None:
        """Asked every second."""
        long_ago = self.loop.time() - self.timeout
        if self._unread_since is not None and self._unread_since < long_ago:
            self.transport.abort()
        elif self._since < long_ago and not self.transport.is_closing():
            if self._head_begun:
                self._refuse(408, f"the request's header did not arrive within {self.timeout:g} s")
            elif self.cycle is None:
                self.transport.close()

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            self._count_unwanted(len(data))
            return
        self._silent += len(data)
        self._chunks = 0
        super().data_received(data)
        if self._silent > MAX_HEADER and self._refusal is None:
            self._refuse(431, f"the request's header is larger than the {MAX_HEADER:,} bytes accepted")

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= MAX_PIPELINED:
            self._stop(400, f"more than {MAX_PIPELINED} requests before the answer to the first")
        super().on_message_begin()
        self._head_begun, self._since = True, self.loop.time()

    def on_url(self, url: bytes) -> None:
        if len(self.url) + len(url) > MAX_URL:
            self._stop(414, f"the URL is longer than the {MAX_URL:,} bytes accepted")
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self.headers) >= MAX_HEADER_LINES:
            self._stop(431, f"the request's header has more than {MAX_HEADER_LINES} lines")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._head_begun, self._silent, self._unwanted = False, 0, 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._silent = 0
        self._chunks += 1
        if self._chunks > MAX_CHUNKS:
            self._stop(400, "the body comes in chunks of a few bytes; send larger ones")
        if self.cycle.response_complete:
            self._count_unwanted(len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._silent = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self._since = self.loop.time()
        super().on_response_complete()

    def pause_writing(self) -> None:
        self._unread_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._unread_since = None
        super().resume_writing()

    def _count_unwanted(self, count: int) -> None:
        self._unwanted += count
        if self._unwanted > LINGER_BYTES:
            self.transport.abort()

    def _stop(self, status: int, message: str) -> NoReturn:
        """In one of the parser's callbacks; ``data_received`` has it answered then."""
        self._refusal = status, message
        raise _RefusedError

    def send_400_response(self, msg: str) -> None:
        self._refuse(*(self._refusal or (400, "not an HTTP request that can be read")))

    def _refuse(self, status: int, message: str) -> None:
        """Answers, reads on for a while so that the client gets to read the answer, and closes the connection."""
        self._refusal = status, message
        self._head_begun = False
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if self.pipeline or cycle.response_started or not cycle.more_body:
                self.transport.abort()  # an answer would be taken for that of the request before
                return
            cycle.scope["state"][REFUSED_BY_PROTOCOL] = True
            cycle.disconnected = True
            cycle.message_event.set()
        self.refused(REASONS[status], status)
        body = json.dumps({"error": message}).encode()
        headers = [
            *self.server_state.default_headers,
            *SECURITY_HEADERS,
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        self.transport.write(STATUS_LINE[status] + lines + b"\r\n" + body)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()
        self.loop.call_later(LINGER_SECONDS, self.transport.abort)
