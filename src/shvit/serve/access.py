"""Who may ask: tokens, the names that the server goes by, and pages of other sites."""

from __future__ import annotations

import hmac
import ipaddress
import socket
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

GUARDED = ("/v1", "/metrics")
"""What a token is asked for; health, the reference and the page say nothing of anybody's images."""

SECURITY_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"content-security-policy", b"frame-ancestors 'none'"),
]
"""Of every answer: it is what its type says, and shown within no other site's page."""

LOOPBACK = ("localhost", "127.0.0.1", "::1")

READING = ("GET", "HEAD", "OPTIONS")
"""Methods that change nothing and cost little; a page of another site cannot read what they answer."""


class SecurityHeaders:
    """Adds ``SECURITY_HEADERS`` to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *SECURITY_HEADERS]
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)


class TokenRequired:
    """Lets requests for ``GUARDED`` paths through only if they carry the token.

    Args:
        refused: told the reason of each refusal.
    """

    def __init__(self, app: ASGIApp, token: str, refused: Callable[[str], None]) -> None:
        self._app, self._expected, self._refused = app, token.encode(), refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")  # with the part that a proxy took off, if uvicorn was told of one
        guarded = path.startswith(GUARDED) or path.removeprefix(scope.get("root_path", "")).startswith(GUARDED)
        if scope["type"] == "http" and guarded:
            scheme, _, sent = next(iter(_values(scope, b"authorization")), b"").partition(b" ")
            if scheme.lower() != b"bearer" or not hmac.compare_digest(sent.strip(b" "), self._expected):
                self._refused("unauthorized")
                headers = {"WWW-Authenticate": "Bearer"}
                response = JSONResponse({"error": "the token is missing or wrong"}, 401, headers)
                return await response(scope, receive, send)
        await self._app(scope, receive, send)


class OwnSiteOnly:
    """Where no token is asked for: refuses what pages of other sites make a browser send.

    A site can give its own name the address of a server on the visitor's machine or network, and its page then passes
    for one of that server's (DNS rebinding); the ``Host`` still says the site's name. Or its page posts across sites,
    which a browser does without asking; the ``Origin`` says where it is from.

    Args:
        is_own: whether a name, in small letters, is one of the server's.
        origins: of other sites that may post; ``*`` for all.
        refused: told the reason of each refusal.
    """

    def __init__(
        self, app: ASGIApp, is_own: Callable[[str], bool], origins: Iterable[str], refused: Callable[[str], None]
    ) -> None:
        self._app, self._is_own, self._refused = app, is_own, refused
        self._origins = {origin.lower().rstrip("/") for origin in origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        # Programs of old may send none; browsers always do.
        hosts = _values(scope, b"host")
        for host in hosts:
            if not self._is_own(name_in(host.decode("latin-1"))):
                text = "is not one of this server's names; --allowed-host adds one"
                return await self._refuse(421, "foreign_host", "Host", host, text)(scope, receive, send)
        if scope["method"] not in READING:
            for origin in _values(scope, b"origin"):
                if not self._may_post(origin.decode("latin-1").lower(), scope, hosts):
                    text = "is another site, whose pages may not post here; --cors-origin lets them"
                    return await self._refuse(403, "foreign_origin", "Origin", origin, text)(scope, receive, send)
        await self._app(scope, receive, send)

    def _refuse(self, status: int, reason: str, header: str, value: bytes, text: str) -> JSONResponse:
        self._refused(reason)
        shown = value[:100].decode("latin-1")
        return JSONResponse({"error": f"{header} {shown!r} {text}"}, status, {"Connection": "close"})

    def _may_post(self, origin: str, scope: Scope, hosts: list[bytes]) -> bool:
        if origin in self._origins or "*" in self._origins:
            return True
        # A proxy may have put its own name for this server into Host; what the browser says of the two sites, no page
        # can change.
        if _values(scope, b"sec-fetch-site") == [b"same-origin"]:
            return True
        try:
            address = urlsplit(origin)
            port = address.port or {"http": 80, "https": 443}.get(address.scheme)
            for host in hosts:
                own = urlsplit(f"//{host.decode('latin-1').lower()}")
                # Before a proxy that does TLS, this server does not know the port that a Host leaves out.
                same_port = own.port == port or (own.port is None and port in (80, 443))
                if own.hostname == address.hostname and same_port:
                    return True
        except ValueError:
            pass
        return False


def _values(scope: Scope, name: bytes) -> list[bytes]:
    return [value for key, value in scope["headers"] if key == name]


def name_in(host: str) -> str:
    """The name or address in a Host header, without the port, in small letters."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0].rstrip(".") if host.count(":") == 1 else host.rstrip(".")


def own_names(listens_at: str, allowed: Iterable[str]) -> Callable[[str], bool]:
    """Whether a name that a request gives the server is one of its own.

    Those are the loopback's, the address that it listens at, and the ``allowed`` ones. One that listens at all of a
    machine's addresses has these, the machine's name, and names without a dot, as networks give them to containers: no
    site of the internet has such a name, or an address in place of one.

    Args:
        listens_at: a name or address; ``0.0.0.0`` or ``::`` for all.
        allowed: further names; ``*`` for any.
    """
    names = {*LOOPBACK, listens_at.lower(), *(name_in(each) for each in allowed)}
    everywhere = listens_at in ("", "0.0.0.0", "::")
    if everywhere:
        names |= {socket.gethostname().lower(), socket.getfqdn().lower()}

    def is_own(name: str) -> bool:
        if name in names or "*" in names:
            return True
        return everywhere and bool(name) and ("." not in name.rstrip(".") or _is_address(name))

    return is_own


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True
