"""Loads models and serves them until it is told to stop."""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from types import FrameType

import numpy as np

from shvit.display import LineFormatter, say
from shvit.errors import ArgumentError, MissingDependencyError, ModelFileError, ShvitError
from shvit.install import install_command
from shvit.predicting.classifier import Classifier
from shvit.serve.settings import Settings
from shvit.shipped import SHIPPED_MODELS

try:
    import uvicorn

    from shvit.serve.app import create_app
    from shvit.serve.batching import STOP_SECONDS
    from shvit.serve.protocol import MAX_CONNECTIONS, BoundedProtocol
except ModuleNotFoundError as error:
    if (error.name or "shvit").partition(".")[0] == "shvit":
        raise
    raise MissingDependencyError(
        f"serving needs {error.name}, which is not installed; install it with: {install_command('serve')}"
    ) from error

BACKLOG = 2048
"""Connections that the system keeps until they are taken."""

GRACE_SECONDS = 10.0
"""After ``timeout``, until the process ends in any case: an upload that is waited for is also answered."""

KEEP_ALIVE = 75
"""Seconds that a connection may idle between requests; longer than most proxies keep theirs."""


def load_models(models: Sequence[str], settings: Settings) -> dict[str, Classifier]:
    """Classifiers by the names that requests use.

    Args:
        models: names or model files, as ``Classifier`` takes them; each as ``NAME=`` one of those where its card's name
            does not do.

    Raises:
        ShvitError: one cannot be loaded, or two have the same name.
    """
    loaded: dict[str, Classifier] = {}
    for model in models:
        name, separator, source = model.partition("=")
        if not separator or model in SHIPPED_MODELS or Path(model).is_file():
            name, source = "", model
        classifier = _load(source, settings)
        name = name or classifier.card.name
        if name in loaded:
            raise ShvitError(
                f"--model {model}: there is a model {name!r} already; give this one another: NAME={source}"
            )
        loaded[name] = classifier
    return loaded


def _load(model: str, settings: Settings) -> Classifier:
    """With embeddings, which cost nothing, where the file has a head that they can be taken before."""

    def load(embedding: bool) -> Classifier:
        return Classifier(
            model,
            settings.engine,
            settings.threads,
            settings.batch_size,
            decoding=settings.decoding,
            embedding=embedding,
        )

    try:
        return load(True)
    except ModelFileError:
        return load(False)


class Server(uvicorn.Server):
    """uvicorn's, which says when it is ready, tells the application when it is about to end, and ends in time."""

    def __init__(
        self, config: uvicorn.Config, timeout: float, ready: Callable[[], None], ending: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._ready, self._ending = ready, ending
        self._last = timeout + GRACE_SECONDS
        self.answered_all = True
        """Whether nothing was left when it ended."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:  # every second
            for connection in list(self.server_state.connections):
                if isinstance(connection, BoundedProtocol):
                    connection.end_if_too_slow()
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self.should_exit:
            # Works from C, whatever threads there are and whatever they hold; says where they are.
            faulthandler.dump_traceback_later(self._last - 0.5, exit=True)
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._ending()
        began = time.monotonic()
        limit = self._last - STOP_SECONDS - 2
        self.config.timeout_graceful_shutdown = limit  # type: ignore[assignment]  # it takes parts of seconds too
        await super().shutdown(sockets)
        self.answered_all = time.monotonic() < began + limit


def serve(
    models: Sequence[str],
    settings: Settings,
    host: str = "127.0.0.1",
    port: int = 8000,
    certificate: Path | None = None,
    key: Path | None = None,
    access_log: bool = True,
    root_path: str = "",
    announce: Callable[[str], None] = say,
) -> bool:
    """Serves until SIGTERM or SIGINT, then finishes what was accepted.

    Where a thread is stuck that cannot be ended, the process is ended here, with the exit status 0 or 1.

    Args:
        models: as for ``load_models``.
        port: 0 for a free one.
        certificate: PEM file of a certificate chain, for TLS.
        key: PEM file of its key.
        root_path: what a proxy in front takes off the path.
        announce: told what is served where, once it is, a line at a time.

    Returns:
        Whether all that was accepted was answered.

    Raises:
        ShvitError: a model or a setting cannot be used.
        OSError: the address cannot be listened on.
    """
    loaded = load_models(models, settings)
    for classifier in loaded.values():
        height, width = classifier.card.preprocessing.image_size
        classifier.predict_batch(np.zeros((1, height, width, 3), np.uint8))  # the first one is slower
    app = create_app(loaded, settings, host)
    _log_to_stderr(access_log)
    _allow_connections()

    class Protocol(BoundedProtocol):
        timeout = settings.timeout
        refused = staticmethod(app.state.service.metrics.refused_unread)

    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=access_log,
        ssl_certfile=certificate,
        ssl_keyfile=key,
        server_header=False,
        root_path=root_path,
        timeout_keep_alive=KEEP_ALIVE,
    )
    try:
        config.load()
    except OSError as error:  # of the files for TLS, which it does not name
        raise ArgumentError(f"TLS certificate {certificate}, key {key}: {error.strerror or error}") from None
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with closing(socket.create_server((host, port), family=family, backlog=BACKLOG)) as listener:
        address = f"[{host}]" if ":" in host else host
        url = f"{'https' if certificate else 'http'}://{address}:{listener.getsockname()[1]}{root_path}"

        def announce_all() -> None:
            for line in _summary(url, loaded, settings):
                announce(line)

        server = Server(
            config,
            settings.timeout,
            ready=announce_all,
            ending=lambda: setattr(app.state.service, "draining", True),
        )
        # When it has ended, uvicorn raises again the signal that ended it; that is no failure.
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, lambda *_: None)
        # What is there now stays: the garbage collector need not look through it in the middle of requests.
        gc.collect()
        gc.freeze()
        server.run(sockets=[listener])
    if not app.state.service.batcher.ended:
        # A thread in the middle of native code may not outlive the interpreter.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0 if server.answered_all else 1)
    faulthandler.cancel_dump_traceback_later()
    return server.answered_all


def _allow_connections() -> None:
    """Raises the limit on open files, which is 1024 on many systems, above that on connections."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + 256
    if 0 <= soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard < 0 else min(wanted, hard), hard))


def _summary(url: str, models: dict[str, Classifier], settings: Settings) -> list[str]:
    lines = [f"serving on {url}"]
    for name, classifier in models.items():
        threads = f"{classifier.threads} thread{'s' if classifier.threads > 1 else ''}"
        lines.append(f"  model {name}: {classifier.engine}, {threads}, {classifier.decoding} decoding")
    lines.append(f"  batches of up to {settings.batch_size} images within {settings.max_delay_ms:g} ms")
    lines.append(f"  queue of {settings.queue} images")
    lines.append(f"  token: {'required' if settings.token else 'none, anybody who reaches the port may use it'}")
    lines.append(f"  CORS: {', '.join(settings.cors_origins) or 'off'}")
    return lines


def _log_to_stderr(access_log: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(message)s"))
    for name in ("uvicorn", "shvit.serve"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.propagate = False
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    logging.getLogger("uvicorn.access").setLevel(logging.INFO if access_log else logging.WARNING)
