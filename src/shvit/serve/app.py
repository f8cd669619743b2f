"""The HTTP application: what is asked, refused, and answered."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from shvit._version import __version__
from shvit.predicting.classifier import Classifier
from shvit.serve.access import SECURITY_HEADERS, OwnSiteOnly, SecurityHeaders, TokenRequired, own_names
from shvit.serve.batching import ENGINE_FAILED, EngineFailure, Served
from shvit.serve.bodies import (
    JSON,
    MULTIPART,
    Base64Image,
    Base64Images,
    GoneError,
    RefusedError,
)
from shvit.serve.embed import PARAMETERS as EMBED_PARAMETERS
from shvit.serve.embed import EmbedAnswer, WantedEmbedding
from shvit.serve.explain import Kind, Wanted
from shvit.serve.metrics import CLIENT_GONE, CountedAnswers
from shvit.serve.reference import reference_page
from shvit.serve.refusals import REFUSED_BY_PROTOCOL, refusal
from shvit.serve.service import RefusedWhenFull, Service, json_response
from shvit.serve.settings import Settings
from shvit.serve.teaching import add_teaching
from shvit.serve.workers import NoWorkerError
from shvit.tasks import Answering
from shvit.web import PAGE, SAMPLES

logger = logging.getLogger("shvit.serve")

DESCRIPTION = """\
Send images to `/v1/predict`: one as the body, several as files of a form, or base64 in JSON.
Each image has its result or its error, as `shvit predict --format jsonl` prints them.
"""


_SHARE = re.compile(r"0?\.\d{1,20}|0|1|1\.0{1,20}|0\.|\d(\.\d{1,20})?[eE]-0?[1-9]\d{0,2}", re.ASCII)
"""A number from 0 to 1, such as 0.5 or 5e-05."""

PARAMETERS = ("top_k", "min_score", "unknown", "model")
"""Of a prediction; a misspelt one is not passed over, since the answer would look as if it had been heard."""

_TRUTHS = {"true": True, "1": True, "false": False, "0": False}


class PredictionAnswer(BaseModel):
    label: str
    class_id: int
    wnid: str | None
    score: float
    accepted: bool | None = Field(None, description="Whether the score reaches the threshold, where there is one.")


class ResultAnswer(BaseModel):
    """What became of one image: predictions, best first, or an error."""

    source: str
    predictions: list[PredictionAnswer] | None = None
    decision: Literal["answer", "unsure", "unknown"] | None = Field(
        None, description="What to make of the scores, where the model's card says when they are answers."
    )
    known: bool | None = Field(None, description="Whether the picture shows one of the classes, where that is told.")
    unknown_score: float | None = Field(None, description="What `known` was decided by; higher is stranger.")
    error: str | None = None


class PredictAnswer(BaseModel):
    model: str
    results: list[ResultAnswer]


class ErrorAnswer(BaseModel):
    error: str
    results: list[ResultAnswer] | None = None


ERRORS = {
    400: "The body is not what its Content-Type says.",
    401: "The token is missing or wrong.",
    404: "There is no such model.",
    403: "A page of another site sent it; `--cors-origin` allows that.",
    408: "The body did not arrive in time.",
    413: "The body is too large, or has more images than the server takes at once.",
    415: "The Content-Type is not one that images come in.",
    421: "The Host is not one of the server's names; `--allowed-host` adds one.",
    422: "A parameter is wrong, or none of the images can be read; `results` says why of each.",
    500: "The engine failed; `results`, if there are any, says of which images.",
    503: "The queue is full; try again after `Retry-After` seconds.",
}


def create_app(models: dict[str, Classifier], settings: Settings, listens_at: str = "0.0.0.0") -> FastAPI:
    """The application. Its threads run from the ASGI server's start-up to its shutdown.

    Args:
        models: by name; the first is used where a request names none.
        settings: those that concern requests; engines and threads are the classifiers' own.
        listens_at: the address that its server listens at; ``0.0.0.0`` for all.

    Raises:
        MissingDependencyError, ExportError: ``settings.teach``, and ONNX Runtime Web cannot be had.
    """
    service = Service(models, settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.batcher.start(asyncio.get_running_loop())
        yield
        await asyncio.to_thread(service.batcher.stop)
        service.close()

    app = FastAPI(
        title="shvit",
        version=__version__,
        description=DESCRIPTION,
        docs_url=None,  # FastAPI's page loads its scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.service = service
    _add_errors(app, service)
    _add_predict(app, service)
    _add_embed(app, service)
    _add_explain(app, service)
    _add_models(app, service)
    _add_operations(app, service)
    if settings.teach:
        add_teaching(app, service)
    if settings.pages is None:
        app.mount("/samples", StaticFiles(directory=SAMPLES), name="samples")
    # Not a mount, which would take other methods on the routes above for paths of its own.
    app.router.default = StaticFiles(directory=settings.pages or PAGE, html=True)
    app.add_middleware(RefusedWhenFull, service=service)
    if settings.token is not None:
        app.add_middleware(TokenRequired, token=settings.token, refused=service.metrics.refused)
    else:
        app.add_middleware(
            OwnSiteOnly,
            is_own=own_names(listens_at, settings.allowed_hosts),
            origins=settings.cors_origins,
            refused=service.metrics.refused,
        )
    app.add_middleware(CountedAnswers, metrics=service.metrics)  # CORS' own answers, to browsers, are no requests
    if settings.cors_origins:
        from starlette.middleware.cors import CORSMiddleware

        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=["Retry-After"],
        )
    app.add_middleware(SecurityHeaders)
    return app


def _image_body() -> dict[str, Any]:
    """What ``Service`` reads itself, as OpenAPI describes it."""
    binary = {"schema": {"type": "string", "format": "binary"}}
    form = {"type": "object", "properties": {"images": {"type": "array", "items": binary["schema"], "minItems": 1}}}
    content = {
        "image/*": binary,
        "application/octet-stream": binary,
        MULTIPART: {"schema": {**form, "required": ["images"]}},
        JSON: {"schema": {"$ref": "#/components/schemas/Base64Images"}},
    }
    return {"requestBody": {"required": True, "content": content}}


ModelName = Annotated[str | None, Query(description="One of those that `/v1/models` lists; else the first.")]


def _add_predict(app: FastAPI, service: Service) -> None:
    class PredictRoute(APIRoute):
        """Reads the parameters itself: FastAPI's way to them takes as long as all else that is done for a request."""

        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            async def handle(request: Request) -> Response:
                query = request.query_params
                return await service.predict(request, _answering(query), query.get("model"))

            return handle

    router = APIRouter(route_class=PredictRoute)

    @router.post(
        "/v1/predict",
        summary="Classify images",
        response_model=PredictAnswer,
        responses={status: {"description": text, "model": ErrorAnswer} for status, text in ERRORS.items()},
        openapi_extra=_image_body(),
    )
    async def predict(
        top_k: Annotated[int, Query(ge=1, description="Labels for each image; at most as many as there are.")] = 5,
        min_score: Annotated[
            float | None, Query(ge=0, le=1, description="From which score on a label is an answer; else the card's.")
        ] = None,
        unknown: Annotated[
            bool, Query(description="Whether a picture of none of the classes is called unknown, where the card can.")
        ] = True,
        model: ModelName = None,
    ) -> Response:
        raise AssertionError("PredictRoute answers; this one's signature is what the reference shows")

    app.include_router(router)
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        """FastAPI's, with the schema of the body that ``predict`` reads itself."""
        if app.openapi_schema is None:
            schemas = plain()["components"]["schemas"]
            for each in (Base64Image, Base64Images):
                schema = each.model_json_schema(ref_template="#/components/schemas/{model}")
                schema.pop("$defs", None)
                schemas[each.__name__] = schema
        return plain()

    app.openapi = openapi  # type: ignore[method-assign]


def _add_embed(app: FastAPI, service: Service) -> None:
    errors = {**ERRORS, 422: "A parameter is wrong, none of the images can be read, or the model has no embeddings."}

    @app.post(
        "/v1/embed",
        summary="The features of images, by which alike ones are near each other",
        responses={
            200: {"description": "The embedding, or the results.", "model": EmbedAnswer},
            **{status: {"description": text, "model": ErrorAnswer} for status, text in errors.items()},
        },
        openapi_extra=_image_body(),
    )
    async def embed(
        request: Request,
        normalize: Annotated[bool, Query(description="Each of length 1, for cosines.")] = False,
        flip: Annotated[bool, Query(description="The mean of the image's and its mirror image's.")] = False,
        model: ModelName = None,
    ) -> Response:
        _check_names(request.query_params, EMBED_PARAMETERS)
        return await service.embed(request, WantedEmbedding(normalize, flip, model))


def _add_explain(app: FastAPI, service: Service) -> None:
    errors = {**ERRORS, 422: "A parameter is wrong, the image cannot be read, or the model cannot be explained."}

    @app.post(
        "/v1/explain",
        summary="What a model looked at, over the image",
        response_class=Response,
        responses={
            200: {"description": "The picture.", "content": {"image/png": {}}},
            **{status: {"description": text, "model": ErrorAnswer} for status, text in errors.items()},
        },
        openapi_extra=_image_body(),
    )
    async def explain(
        request: Request,
        kind: Annotated[Kind, Query(description="`cam` is what speaks for a class; `sheet` is all.")] = "sheet",
        stage: Annotated[int | None, Query(ge=1, description="Of the attention: 2 or 3; else 2.")] = None,
        block: Annotated[int | None, Query(description="Of that stage, from 1; else the last.")] = None,
        x: Annotated[float | None, Query(description="With `y`: the pixel whose token's attention is shown.")] = None,
        y: Annotated[float | None, Query(description="From the upper edge.")] = None,
        class_id: Annotated[int | None, Query(description="The class that `cam` is of; else the first.")] = None,
        model: ModelName = None,
    ) -> Response:
        if (x is None) != (y is None):
            raise RefusedError(422, "parameter", "x and y: expected both or none")
        point = None if x is None or y is None else (x, y)
        return await service.explain(request, Wanted(kind, stage, block, point, class_id), model)


def _check_names(query: QueryParams, known: tuple[str, ...]) -> None:
    """Raises: RefusedError: there is another parameter than these."""
    if others := [each for each in query if each not in known]:
        raise RefusedError(422, "parameter", f"{others[0]!r}: expected one of {', '.join(known)}")


def _answering(query: QueryParams) -> Answering:
    """Raises: RefusedError: one of the parameters has a wrong value."""
    _check_names(query, PARAMETERS)
    top_k, min_score, unknown = query.get("top_k", "5"), query.get("min_score"), query.get("unknown", "true")
    if not (top_k.isascii() and top_k.isdigit() and len(top_k) < 10 and int(top_k) > 0):
        raise RefusedError(422, "parameter", f"top_k: expected a positive number, got {top_k!r}")
    if min_score is not None and not _SHARE.fullmatch(min_score):
        raise RefusedError(422, "parameter", f"min_score: expected 0 to 1, got {min_score!r}")
    if unknown.lower() not in _TRUTHS:
        raise RefusedError(422, "parameter", f"unknown: expected true or false, got {unknown!r}")
    return Answering(int(top_k), None if min_score is None else float(min_score), _TRUTHS[unknown.lower()])


def _add_models(app: FastAPI, service: Service) -> None:
    @app.get("/v1/models", summary="The models and what their cards say, and how much a request may hold")
    async def models() -> Response:
        limits = {"images": service.settings.queue, "bytes": service.settings.max_body}
        described = [_describe(service, each) for each in service.models.values()]
        return json_response({"models": described, "limits": limits})

    @app.get(
        "/v1/models/{name}",
        summary="One model, with its classes",
        responses={404: {"description": ERRORS[404], "model": ErrorAnswer}},
    )
    async def model(name: str) -> Response:
        if name not in service.models:
            raise RefusedError(404, "no_model", f"model: expected one of {', '.join(service.models)}, got {name!r}")
        return json_response(_describe(service, service.models[name], classes=True))


def _describe(service: Service, served: Served, classes: bool = False) -> dict[str, Any]:
    """What a model's card says; of one that cannot be written as JSON only that, so that the others are shown."""
    classifier = served.classifier
    model = {
        "name": served.name,
        "default": served.name == service.default,
        "engine": classifier.engine,
        "threads": classifier.threads,
        "decoding": classifier.decoding,
        "number_of_classes": len(classifier.classes),
    }
    try:
        card = asdict(classifier.card)
        shown = {"card": {key: value for key, value in card.items() if key != "classes"}}
        if classes:
            shown["classes"] = card["classes"]
        json_response(shown)
    except (ValueError, TypeError, RecursionError) as error:
        logger.warning("%s: its card cannot be shown: %s", served.name, error)
        return {**model, "error": "the card cannot be written as JSON"}
    return {**model, **shown}


def _add_operations(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", summary="Whether the process works", responses={503: {"description": "Restart it."}})
    async def healthz() -> JSONResponse:
        alive, stuck = service.batcher.alive, service.batcher.stuck
        status = "ok" if alive else f"{stuck} decoders are stuck" if stuck else "a thread has ended"
        return JSONResponse({"status": status, "stuck_decoders": stuck}, 200 if alive else 503)

    @app.get("/readyz", summary="Whether it takes requests", responses={503: {"description": "It is ending."}})
    async def readyz() -> JSONResponse:
        ready = service.batcher.alive and not service.draining
        return JSONResponse({"status": "ready" if ready else "not ready"}, 200 if ready else 503)

    @app.get("/metrics", summary="Figures for Prometheus", response_class=Response)
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(reference_page(app.openapi()))


def _add_errors(app: FastAPI, service: Service) -> None:
    """Every error is ``{"error": "one line"}``."""

    def answer(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
        return JSONResponse({"error": message}, status, headers)

    @app.exception_handler(RefusedError)
    async def refused(request: Request, error: RefusedError) -> Response:
        service.metrics.refused(error.reason)
        return refusal(error)

    @app.exception_handler(GoneError)
    async def gone(request: Request, error: GoneError) -> Response:
        if not getattr(request.state, REFUSED_BY_PROTOCOL, False):
            service.metrics.refused("client_gone")
        return Response(status_code=CLIENT_GONE)

    @app.exception_handler(EngineFailure)
    async def failed(request: Request, error: EngineFailure) -> Response:
        return answer(500, ENGINE_FAILED)

    @app.exception_handler(NoWorkerError)
    async def stuck(request: Request, error: NoWorkerError) -> Response:
        service.metrics.refused("stuck")
        return answer(503, "all decoders are stuck; the server must be restarted", {"Retry-After": "10"})

    @app.exception_handler(Exception)
    async def fault(request: Request, error: Exception) -> Response:
        """A fault of ours. uvicorn logs it; the answer comes from outside of the application's other layers."""
        named = {name.decode(): value.decode() for name, value in SECURITY_HEADERS}
        return answer(500, "the server failed; its log says how", named)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        service.metrics.refused("parameter")
        first = error.errors()[0]
        return answer(422, f"{first['loc'][-1]}: {first['msg']}")

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        return answer(error.status_code, error.detail, dict(error.headers) if error.headers else None)
