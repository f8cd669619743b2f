"""What a server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
PHASES = ("queue", "decode", "infer")

CLIENT_GONE = 499
"""The status of what nobody is there to read."""


class ModelMetrics:
    """The metrics of one model, with its name filled in: looking labels up takes longer than counting."""

    def __init__(self, metrics: Metrics, name: str) -> None:
        self.queue, self.decode, self.infer = (metrics.phase_seconds.labels(name, phase) for phase in PHASES)
        self.batch_size = metrics.batch_size.labels(name)
        self.classified, self.failed = (metrics.images.labels(name, outcome) for outcome in ("classified", "failed"))
        self.dropped = metrics.images.labels(name, "dropped")


class Metrics:
    """All of a server's metrics; each application has its own registry."""

    def __init__(self, waiting: Callable[[], int], stuck: Callable[[], int]) -> None:
        """
        Args:
            waiting: how many images are accepted and not yet answered.
            stuck: how many decoders were given up and still run.
        """
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "shvit_requests",
            "Answered requests under /v1, and those refused before their path was known, by HTTP status.",
            ("code",),
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "shvit_request_seconds",
            "From the request's header to its answer, of those answered 200.",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.rejected = Counter("shvit_rejections", "Requests refused, by reason.", ("reason",), registry=self.registry)
        self.images = Counter(
            "shvit_images",
            "Images that were accepted, by outcome; dropped are those whose client went away.",
            ("model", "outcome"),
            registry=self.registry,
        )
        self.phase_seconds = Histogram(
            "shvit_phase_seconds",
            "An image's time: queue is waiting for a decoder and for its batch, infer is its batch's time.",
            ("model", "phase"),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.batch_size = Histogram(
            "shvit_batch_size",
            "Images that were run together.",
            ("model",),
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=self.registry,
        )
        self.engine = Gauge(
            "shvit_engine_info", "1 for each model, with what runs it.", ("model", "engine"), registry=self.registry
        )
        Gauge("shvit_queue_images", "Images accepted and not yet answered.", registry=self.registry).set_function(
            waiting
        )
        Gauge("shvit_stuck_decoders", "Decoders given up and still running.", registry=self.registry).set_function(
            stuck
        )
        ProcessCollector(registry=self.registry)

    def refused(self, reason: str) -> None:
        """Counts why a request was not done; its answer is counted by ``CountedAnswers``."""
        self.rejected.labels(reason).inc()

    def refused_unread(self, reason: str, status: int) -> None:
        """Counts a request that was answered before there was one for the application."""
        self.refused(reason)
        self.requests.labels(status).inc()

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)


class CountedAnswers:
    """Counts each answer to a request under ``/v1`` once, by its status, whichever layer or route gives it."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._requests = app, metrics.requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].removeprefix(scope.get("root_path", "")).startswith("/v1/"):
            return await self._app(scope, receive, send)
        answered = False

        async def counted(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = True
                if message["status"] != CLIENT_GONE:
                    self._requests.labels(message["status"]).inc()
            await send(message)

        try:
            await self._app(scope, receive, counted)
        except Exception:  # a fault of ours, which is answered outside of all these layers
            if not answered:
                self._requests.labels(500).inc()
            raise
