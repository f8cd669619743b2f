"""Asking a server what a ``Classifier`` or an ``Embedder`` would be asked; the answers are the same objects."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass, field
from typing import Any, TypeVar

from shvit.errors import ArgumentError, ImageError, MissingDependencyError, ServerError
from shvit.images.preprocess import ImageSource, decode, describe, encoded_bytes, image_sources
from shvit.install import install_command
from shvit.predicting.embedder import Embedding
from shvit.predicting.embeddings import EmbeddingOptions
from shvit.serve.questions import Question, embedding_question, prediction_question
from shvit.tasks import Answering
from shvit.tasks.results import Result

try:
    import httpx2
except ImportError as error:
    raise MissingDependencyError(
        f"the client needs httpx2, which is not installed; install it with: {install_command('serve')}"
    ) from error

T = TypeVar("T")

BATCH_SIZE = 8
"""Images of one request at most: few enough for the queue of any server."""

BATCH_BYTES = 16 * 2**20
"""Bytes of a request to a server that does not say how many it takes: what one takes that was told nothing."""

FORM_BYTES = 512
"""Of a form beside its files' own bytes, for each file and its end: more than the boundary and the headers have."""

CONCURRENCY = 4
"""Requests of one call that ``AsyncClient`` has under way at the same time."""

LONGEST_WAIT = 30.0
"""Seconds that a server's Retry-After is heeded up to."""


_MODELS = {"method": "GET", "url": "/v1/models"}
"""The request that a server's models and limits are answered to."""


@dataclass(frozen=True)
class _Limits:
    """Of one request."""

    images: int = BATCH_SIZE
    bytes: int = BATCH_BYTES
    stated: bool = False
    """Whether the server says so; else what is larger is sent all the same, alone."""


@dataclass
class _Part:
    """Images of a call that go into one request."""

    places: list[int] = field(default_factory=list)
    """Of each, in the call."""
    names: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    form: int = FORM_BYTES
    """Bytes of all as a form."""

    def add(self, place: int, name: str, body: bytes) -> None:
        self.places.append(place)
        self.names.append(name)
        self.bodies.append(body)
        self.form += len(body) + FORM_BYTES

    def has_room(self, body: bytes, limits: _Limits) -> bool:
        return not self.places or (
            len(self.places) < limits.images and self.form + len(body) + FORM_BYTES <= limits.bytes
        )

    def halves(self) -> tuple[_Part, _Part]:
        both = _Part(), _Part()
        for number, each in enumerate(zip(self.places, self.names, self.bodies, strict=True)):
            both[2 * number >= len(self.places)].add(*each)
        return both


class _Base:
    """What both clients share: everything but sending and waiting."""

    def __init__(self, url: str, token: str | None, model: str | None, timeout: float, retries: int) -> None:
        if retries < 0:
            raise ArgumentError(f"retries: expected 0 or more, got {retries}")
        self.url, self.model, self.retries = url.rstrip("/"), model, retries
        self._arguments = (url, token, model, timeout, retries)
        self._limits: _Limits | None = None
        """``None`` until the server was asked."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._options: dict[str, Any] = {"base_url": self.url, "timeout": timeout, "headers": headers}

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by what it was made with, the token too; the copy has connections of its own."""
        return type(self), self._arguments

    def _limits_in(self, response: httpx2.Response) -> _Limits:
        """What a server says with its models; of an older one, or one that refuses, what any takes."""
        limits = _Limits()
        if response.status_code != 200:
            return limits
        try:
            stated = response.json()["limits"]
            images, size = stated["images"], stated["bytes"]
        except (ValueError, KeyError, TypeError, RecursionError):
            pass
        else:
            if all(type(each) is int and each > 0 for each in (images, size)):
                limits = _Limits(min(images, BATCH_SIZE), size, stated=True)
        self._limits = limits
        return limits

    def _request(self, part: _Part, question: Question[Any]) -> dict[str, Any]:
        """A request, as httpx2 takes it."""
        params = {**question.params, **({"model": self.model} if self.model else {})}
        request: dict[str, Any] = {"method": "POST", "url": question.route, "params": params}
        if len(part.bodies) == 1:  # no form to be taken apart
            return {**request, "content": part.bodies[0], "headers": {"Content-Type": "application/octet-stream"}}
        return {**request, "files": [("images", (f"{place}", body)) for place, body in enumerate(part.bodies)]}

    def _patience(self, response: httpx2.Response, attempt: int) -> float | None:
        """Seconds after which to send a request again; ``None`` if this is its answer."""
        if response.status_code != 503 or attempt >= self.retries:
            return None
        try:
            seconds = float(response.headers.get("Retry-After", "1"))
        except ValueError:  # a date
            return 1.0
        return min(seconds, LONGEST_WAIT) if seconds >= 0 else 0.0  # it may be no number

    def _results(self, part: _Part, response: httpx2.Response, question: Question[T]) -> list[T]:
        """Raises: ServerError: the server refused, or is not one of ours."""
        if response.status_code == 413 and len(part.names) == 1:
            # From a proxy it may be, which answers in a form of its own.
            return [question.failed(part.names[0], _too_large(part.bodies[0], "than the server, or a proxy, takes"))]
        answer = self._json(response)
        if "embedding" in answer:  # of one image
            answer = {"results": [answer]}
        if "results" not in answer:
            raise ServerError(f"{self.url}: {response.status_code}: {answer.get('error', response.reason_phrase)}")
        try:
            return [question.read(*each) for each in zip(part.names, part.bodies, answer["results"], strict=True)]
        except (AttributeError, KeyError, TypeError, ValueError):
            raise ServerError(
                f"{self.url}: {response.status_code}, and not a result for each of {len(part.names)} images as "
                "shvit serve gives them"
            ) from None

    def _models(self, response: httpx2.Response) -> list[dict[str, Any]]:
        answer = self._json(response)
        if "models" not in answer:
            raise ServerError(f"{self.url}: {response.status_code}: {answer.get('error', response.reason_phrase)}")
        return answer["models"]

    def _json(self, response: httpx2.Response) -> dict[str, Any]:
        try:
            answer = response.json()
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise ServerError(f"{self.url}: {response.status_code} {response.reason_phrase}, and not JSON")
        return answer

    def _failed(self, error: httpx2.HTTPError) -> ServerError:
        return ServerError(f"{self.url}: {str(error) or type(error).__name__}")


class Client(_Base):
    """A server's models, asked like a ``Classifier``.

    Args:
        url: the server's, such as ``http://127.0.0.1:8000``.
        token: what the server asks for, if it does.
        model: one of the server's models; its first when not given.
        timeout: seconds that it may be silent.
        retries: how often a request that the server was too busy for (503) is sent again, after its Retry-After.

    Example:
        >>> with shvit.Client("http://127.0.0.1:8000") as client:
        ...     client.predict("cat.jpg")[0].predictions[0].label
        'Egyptian cat'
    """

    def __init__(
        self, url: str, token: str | None = None, model: str | None = None, timeout: float = 60.0, retries: int = 8
    ) -> None:
        super().__init__(url, token, model, timeout, retries)
        self._http = httpx2.Client(**self._options)

    def predict(
        self,
        images: ImageSource | Iterable[ImageSource],
        top_k: int = 5,
        *,
        min_score: float | None = None,
        unknown: bool = True,
    ) -> list[Result]:
        """Labels of one image or several, one result each, in order, as ``Classifier.predict`` gives them.

        Arrays and PIL images are sent as PNG. An image that cannot be read, here or there, or is larger than the server
        takes, gives a result with ``error``; the others are not affected. The first call asks the server how much it
        takes in a request.

        Raises:
            ImageTypeError: as of ``Classifier.predict``.
            ServerError: the server cannot be reached, refuses, or is still too busy after all retries.
        """
        return self._ask_all(images, prediction_question(Answering(top_k, min_score, unknown)))

    def embed(
        self,
        images: ImageSource | Iterable[ImageSource],
        options: EmbeddingOptions = EmbeddingOptions(),  # noqa: B008 - it cannot be changed
    ) -> list[Embedding]:
        """One embedding an image, in order, as ``Embedder.embed`` gives them; ``sha256`` is of the bytes that are sent.

        Args:
            options: of the last stage; ``stages=2`` a server does not give.

        Raises:
            ImageTypeError, ServerError: as of ``predict``.
            ArgumentError: options that a server does not have.
        """
        return self._ask_all(images, embedding_question(options))

    def models(self) -> list[dict[str, Any]]:
        """What the server says of each of its models.

        Raises:
            ServerError: it cannot be reached, or refuses.
        """
        return self._models(self._send(_MODELS))

    def _ask_all(self, images: ImageSource | Iterable[ImageSource], question: Question[T]) -> list[T]:
        sources = image_sources(images)
        if isinstance(sources, Sized) and not len(sources):
            return []
        limits = self._limits or self._limits_in(self._send(_MODELS))
        results: dict[int, T] = {}
        for part in _split(sources, limits, results, question.failed):
            results.update(zip(part.places, self._ask(part, question), strict=True))
        return [results[place] for place in sorted(results)]

    def _ask(self, part: _Part, question: Question[T]) -> list[T]:
        request = self._request(part, question)
        attempt = 0
        while (patience := self._patience(response := self._send(request), attempt)) is not None:
            time.sleep(patience)
            attempt += 1
        if response.status_code == 413 and len(part.places) > 1:
            return [result for half in part.halves() for result in self._ask(half, question)]
        return self._results(part, response, question)

    def _send(self, request: dict[str, Any]) -> httpx2.Response:
        try:
            return self._http.request(**request)
        except httpx2.HTTPError as error:
            raise self._failed(error) from None

    def close(self) -> None:
        """Closes its connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class AsyncClient(_Base):
    """``Client`` for programs on asyncio; the requests of one call are under way together.

    Example:
        >>> async with shvit.AsyncClient("http://127.0.0.1:8000") as client:
        ...     results = await client.predict(["cat.jpg", "dog.jpg"])
    """

    def __init__(
        self, url: str, token: str | None = None, model: str | None = None, timeout: float = 60.0, retries: int = 8
    ) -> None:
        super().__init__(url, token, model, timeout, retries)
        self._http = httpx2.AsyncClient(**self._options)
        self._free = asyncio.Semaphore(CONCURRENCY)

    async def predict(
        self,
        images: ImageSource | Iterable[ImageSource],
        top_k: int = 5,
        *,
        min_score: float | None = None,
        unknown: bool = True,
    ) -> list[Result]:
        """As ``Client.predict``. Files are read in a thread."""
        return await self._ask_all(images, prediction_question(Answering(top_k, min_score, unknown)))

    async def embed(
        self,
        images: ImageSource | Iterable[ImageSource],
        options: EmbeddingOptions = EmbeddingOptions(),  # noqa: B008 - it cannot be changed
    ) -> list[Embedding]:
        """As ``Client.embed``. Files are read in a thread."""
        return await self._ask_all(images, embedding_question(options))

    async def models(self) -> list[dict[str, Any]]:
        """As ``Client.models``."""
        return self._models(await self._send(_MODELS))

    async def _ask_all(self, images: ImageSource | Iterable[ImageSource], question: Question[T]) -> list[T]:
        sources = image_sources(images)
        if isinstance(sources, Sized) and not len(sources):
            return []
        limits = self._limits or self._limits_in(await self._send(_MODELS))
        results: dict[int, T] = {}
        parts = await asyncio.to_thread(lambda: list(_split(sources, limits, results, question.failed)))
        answers = await asyncio.gather(*(self._ask(part, question) for part in parts))
        for part, answer in zip(parts, answers, strict=True):
            results.update(zip(part.places, answer, strict=True))
        return [results[place] for place in sorted(results)]

    async def _ask(self, part: _Part, question: Question[T]) -> list[T]:
        request = self._request(part, question)
        attempt = 0
        async with self._free:
            while (patience := self._patience(response := await self._send(request), attempt)) is not None:
                await asyncio.sleep(patience)
                attempt += 1
        if response.status_code == 413 and len(part.places) > 1:
            return [result for half in part.halves() for result in await self._ask(half, question)]
        return self._results(part, response, question)

    async def _send(self, request: dict[str, Any]) -> httpx2.Response:
        try:
            return await self._http.request(**request)
        except httpx2.HTTPError as error:
            raise self._failed(error) from None

    async def aclose(self) -> None:
        """Closes its connections."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()


def _split(
    images: Iterable[ImageSource], limits: _Limits, failed: dict[int, T], fail: Callable[[str, str], T]
) -> Iterator[_Part]:
    """The requests that a call takes.

    Args:
        failed: given the results, by place, of images that cannot even be sent, as ``fail`` makes them.
    """
    part = _Part()
    for place, source in enumerate(images):
        name = describe(source)
        try:
            body = _encode(source, name)
        except ImageError as error:
            failed[place] = fail(name, str(error).removeprefix(f"{name}: "))
            continue
        if limits.stated and len(body) > limits.bytes:
            failed[place] = fail(name, _too_large(body, f"than the {limits.bytes:,} that the server takes"))
            continue
        if not part.has_room(body, limits):
            yield part
            part = _Part()
        part.add(place, name, body)
    if part.places:
        yield part


def _too_large(body: bytes, than: str) -> str:
    return f"has {len(body):,} bytes as it is sent, more {than}"


def _encode(source: ImageSource, name: str) -> bytes:
    """What is sent of an image.

    Raises:
        ImageError: there is nothing to send.
    """
    encoded = encoded_bytes(source, name)
    if encoded is not None:
        if not encoded:
            raise ImageError(f"{name}: the file is empty")
        return encoded
    buffer = io.BytesIO()
    decode(source).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
