"""Answers to requests that are not done."""

from __future__ import annotations

import anyio
from fastapi import Response
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from shvit.serve.bodies import LINGER_BYTES, LINGER_SECONDS, RefusedError

RETRY_AFTER = "1"
"""Seconds after which a refused client may try again: a full queue is worked off in about that time."""

REFUSED_BY_PROTOCOL = "refused_by_protocol"
"""In the state of a request that the protocol has refused, answered and counted while its body still came."""

IMAGE_ROUTES = ("/v1/predict", "/v1/embed", "/v1/explain")
"""What takes a place in the queue."""


def content_length(headers: Headers) -> int | None:
    value = headers.get("content-length", "")
    return int(value) if value.isascii() and value.isdigit() and len(value) < 20 else None


class ClosingResponse(JSONResponse):
    """An answer to a request whose body is not wanted: the rest is read for a while, then the connection is closed.

    Closing at once would make the client's system throw the answer away while it still sends.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [*self.raw_headers, (b"connection", b"close")]
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        size = 0
        with anyio.move_on_after(LINGER_SECONDS):
            while size < LINGER_BYTES:
                message = await receive()
                size += len(message.get("body", b""))
                if not message.get("more_body", False):
                    break
        await send({"type": "http.response.body", "body": b""})


def refusal(error: RefusedError) -> Response:
    if error.status in (408, 413):
        return ClosingResponse({"error": str(error)}, error.status)
    return JSONResponse(
        {"error": str(error)}, error.status, {"Retry-After": RETRY_AFTER} if error.status == 503 else None
    )
