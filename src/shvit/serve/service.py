"""What the requests of one application share: models, room for images, and the way from a request to its answer."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Request, Response
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from shvit.errors import ArgumentError, ImageError, ShvitError
from shvit.images.preprocess import describe
from shvit.predicting.classifier import Classifier
from shvit.serve.batching import ENGINE_FAILED, Batcher, DecoderJob, EngineFailure, Job, Served, public_reason
from shvit.serve.bodies import JSON, MULTIPART, GoneError, Held, RefusedError, Upload, images_in, media_type
from shvit.serve.embed import ModelEmbeddings, WantedEmbedding
from shvit.serve.explain import ModelExplainer, Wanted
from shvit.serve.metrics import Metrics
from shvit.serve.refusals import IMAGE_ROUTES, RETRY_AFTER, content_length, refusal
from shvit.serve.settings import Settings
from shvit.serve.workers import TookTooLongError
from shvit.tasks import Answering, Judged, task_of
from shvit.tasks.results import Result

PARSED_AT_ONCE = 256 * 1024
"""Bytes of a body that is taken apart in the event loop; larger ones are in a thread."""


class Service:
    """What the requests of one application share."""

    def __init__(self, models: dict[str, Classifier], settings: Settings) -> None:
        """
        Args:
            models: by name; the first is used where a request names none.
        """
        if not models:
            raise ArgumentError("models: expected at least one")
        self.settings = settings
        self.waiting = 0
        """Images accepted and not yet answered."""
        self.held = Held(settings.max_held)
        self.metrics = Metrics(lambda: self.waiting, lambda: self.batcher.stuck)
        self.models = {name: Served(name, classifier, self.metrics) for name, classifier in models.items()}
        self.explainers = {name: ModelExplainer(classifier) for name, classifier in models.items()}
        self.embeddings = {name: ModelEmbeddings(name, classifier) for name, classifier in models.items()}
        self.default = next(iter(self.models))
        threads = max(classifier.threads for classifier in models.values())
        self.batcher = Batcher(
            list(self.models.values()), threads, settings.max_delay_ms / 1000, settings.decode_timeout
        )
        self._parser = ThreadPoolExecutor(1, "shvit-parse")
        self.draining = False
        """Whether the server is about to end: what was accepted is still done."""

    async def predict(self, request: Request, answering: Answering, model: str | None) -> Response:
        """One request, from its header to its answer.

        Raises:
            RefusedError: it is not done.
            GoneError: the client went away.
        """
        began = time.perf_counter()
        served = self._served(model)
        async with self._uploads(request) as uploads:
            job = await self._run(served, uploads, 1, request.receive)
        response = _answer(served, uploads, job, answering)
        if response.status_code == 200:
            self.metrics.request_seconds.observe(time.perf_counter() - began)
        return response

    async def embed(self, request: Request, wanted: WantedEmbedding) -> Response:
        """Like ``predict``, to embeddings; a mirror image takes a place of its own."""
        began = time.perf_counter()
        served = self._served(wanted.model)
        embeddings = self.embeddings[served.name]
        embeddings.check()
        async with self._uploads(request, wanted.runs) as uploads:
            job = await self._run(served, uploads, wanted.runs, request.receive)
        alone = media_type(request.headers.get("content-type", "")) not in (JSON, MULTIPART)
        answer, status = embeddings.answer([_source(each) for each in uploads], job.outcomes, wanted, alone)
        if status == 200:
            self.metrics.request_seconds.observe(time.perf_counter() - began)
        return json_response(answer, status)

    async def explain(self, request: Request, wanted: Wanted, model: str | None) -> Response:
        """Like ``predict``, of one image, to a picture of what the model looked at."""
        served = self._served(model)
        async with self._uploads(request) as uploads:
            if len(uploads) > 1:
                raise RefusedError(413, "too_many", f"{len(uploads)} images; one is explained in a request")
            explainer = self.explainers[served.name]
            job = self.batcher.submit_decoder_job(uploads[0].data, lambda image: explainer.draw(image, wanted))
            try:
                await self._until_done(job, 1, request.receive)
                picture = job.done.result()
            except TookTooLongError as error:
                raise RefusedError(422, "not_explained", f"{_source(uploads[0])}: {error}") from None
            except ShvitError as error:
                text = str(error).replace(str(served.classifier.path), f"model {served.name}")
                reason = public_reason(text, uploads[0].data)
                if isinstance(error, ImageError):
                    reason = f"{_source(uploads[0])}: {reason}"
                raise RefusedError(422, "not_explained", reason) from None
        if picture is None:
            raise GoneError
        return Response(picture, media_type="image/png")

    def _served(self, model: str | None) -> Served:
        served = self.models.get(model or self.default)
        if served is None:
            raise RefusedError(404, "no_model", f"model: expected one of {', '.join(self.models)}, got {model!r}")
        return served

    @asynccontextmanager
    async def _uploads(self, request: Request, runs: int = 1) -> AsyncIterator[list[Upload]]:
        """The images of a request's body, for which there is room; their bytes count as held until the block ends.

        Args:
            runs: places that each of them takes.
        """
        content_type = request.headers.get("content-type", "")
        kind = media_type(content_type)
        encoding = request.headers.get("content-encoding", "identity")
        if encoding.lower() != "identity":
            raise RefusedError(415, "unsupported", f"Content-Encoding: expected none, got {encoding!r}")
        body = await self.held.read_body(
            request.receive, content_length(request.headers), self.settings.max_body, self.settings.timeout
        )
        size = len(body)
        try:
            parts = (body, kind, content_type, self.settings.queue // runs)
            if size <= PARSED_AT_ONCE or kind not in (JSON, MULTIPART):
                uploads = images_in(*parts)
            else:
                uploads = await asyncio.get_running_loop().run_in_executor(self._parser, images_in, *parts)
            del body, parts
            if runs * len(uploads) > self.settings.queue:  # there will never be room
                raise RefusedError(413, "too_many", f"an image takes {runs} places of {self.settings.queue}")
            if self.waiting + runs * len(uploads) > self.settings.queue:
                raise self.full()
            yield uploads
        finally:
            self.held.release(size)

    def close(self) -> None:
        self._parser.shutdown(wait=False)

    def full(self) -> RefusedError:
        """That there is no room for more images."""
        return RefusedError(
            503, "queue_full", f"the queue is full ({self.settings.queue} images); try again in {RETRY_AFTER} s"
        )

    async def _run(self, served: Served, uploads: Sequence[Upload], runs: int, receive: Receive) -> Job:
        """Args: runs: 2 for the images and then their mirror images.

        Raises:
            GoneError: the client went away; what was not begun is not done.
        """
        job = self.batcher.submit(served, [upload.data for upload in uploads], with_mirrored=runs == 2)
        try:
            await self._until_done(job, runs * len(uploads), receive)
        finally:
            job.images.clear()  # they hold the job too, and would be there until the garbage collector comes
        if job.cancelled:
            raise GoneError
        return job

    async def _until_done(self, work: Job | DecoderJob, images: int, receive: Receive) -> None:
        """Cancels it when the client goes away."""
        self.waiting += images
        watch = asyncio.ensure_future(_until_gone(receive))
        watch.add_done_callback(lambda _: work.cancel())
        try:
            await work.done
        finally:
            self.waiting -= images
            watch.cancel()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _source(upload: Upload) -> str:
    return upload.name or (describe(upload.data) if isinstance(upload.data, bytes) else "<base64>")


def _answer(served: Served, uploads: Sequence[Upload], job: Job, answering: Answering) -> Response:
    """200 if any image has its labels; else 500 if the engine failed on one, and 422 if none can be read."""
    card = served.classifier.card
    task, results, failed, status = task_of(card), [], [], 422
    for upload, outcome in zip(uploads, job.outcomes, strict=True):
        source = _source(upload)
        if isinstance(outcome, Judged):
            results.append(task.result(source, outcome, card, answering).to_dict())
            continue
        if isinstance(outcome, EngineFailure):
            outcome, status = ENGINE_FAILED, 500
        failed.append(f"{source}: {outcome}")
        results.append(Result(source, error=outcome).to_dict())
    answer: dict[str, Any] = {"model": served.name, "results": results}
    if len(failed) < len(results):
        return json_response(answer)
    what = failed[0] if len(failed) == 1 else f"none of the images has labels: {failed[0]}"
    return json_response({"error": what, **answer}, status)


def json_response(value: Any, status: int = 200) -> Response:
    """Raises: ValueError: it holds a number that JSON has not."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return Response(text.encode("utf-8", "replace"), status, media_type="application/json")


class RefusedWhenFull:
    """Answers 503 to images that there is no room for, before anything else is done for them.

    A server at three times its load refuses two of three requests: what each of them costs is what the others lose.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service
        self._error = service.full()
        self._answer = refusal(self._error)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        service = self._service
        if (
            service.waiting >= service.settings.queue
            and scope["type"] == "http"
            and scope["method"] == "POST"
            and scope["path"].removeprefix(scope.get("root_path", "")) in IMAGE_ROUTES
        ):
            declared = content_length(Headers(scope=scope))
            if declared is None or declared <= service.settings.max_body:
                service.metrics.refused(self._error.reason)
                return await self._answer(scope, receive, send)
        await self._app(scope, receive, send)
