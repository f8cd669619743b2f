"""What a server is told when it starts."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from shvit.engines import BATCH_SIZE
from shvit.errors import ArgumentError, check_positive
from shvit.images.decoding import Decoding


@dataclass(frozen=True)
class Settings:
    """How a server batches, what it refuses, and what is on."""

    engine: str = "auto"
    """``auto``, ``onnxruntime``, ``openvino`` or ``litert``, as for ``Classifier``."""
    threads: int | None = None
    """Of the engine, and that decode; when not given, as many as there are processors."""
    batch_size: int = BATCH_SIZE
    """Images that are run together at most."""
    max_delay_ms: float = 5.0
    """How long an image that is ready waits for others to be run with, in milliseconds."""
    queue: int = 128
    """Images that are accepted and not yet answered; above it requests are answered 503."""
    decoding: Decoding = "exact"
    timeout: float = 30.0
    """Seconds that an upload may take; a slower one is answered 408."""
    decode_timeout: float = 10.0
    """Seconds that decoding an image may take, or explaining one; then its request fails, and another thread takes the
    place of the one that is stuck."""
    max_body: int = 16 * 2**20
    """Bytes of a request's body at most; a larger one is answered 413."""
    token: str | None = None
    """What requests to ``/v1`` and ``/metrics`` must carry as ``Authorization: Bearer TOKEN``."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may call the server from a browser; ``*`` for all."""
    allowed_hosts: tuple[str, ...] = ()
    """Names that requests may give the server in ``Host``, besides its own; ``*`` for any. With a token all may."""
    pages: Path | None = None
    """A folder of static files to show at ``/``; the package's page when not given."""

    teach: bool = False
    """Whether the page can teach: who may send images to be classified may then fetch the model files too."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "max_delay_ms":
                if value < 0:
                    raise ArgumentError(f"max_delay_ms: expected 0 or more, got {value}")
            elif isinstance(value, int | float) and not isinstance(value, bool):
                check_positive(field.name, value)
        if self.token is not None and not (self.token and self.token.isascii() and self.token.isprintable()):
            raise ArgumentError("token: expected printable ASCII characters")
        if self.pages is not None and not self.pages.is_dir():
            raise ArgumentError(f"pages: {self.pages}: no such folder")

    @property
    def max_held(self) -> int:
        """Bytes of all bodies in memory at most; a request that would need more is answered 503."""
        return max(self.max_body, 256 * 2**20)
