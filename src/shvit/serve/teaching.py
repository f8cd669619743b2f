"""What the page needs to teach: the model files, which run in the browser then, and what runs them there."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles

from shvit.serve.bodies import RefusedError
from shvit.serve.service import Service
from shvit.web.onnxruntime_web import runtime_folder


def add_teaching(app: FastAPI, service: Service) -> None:
    """Adds the routes.

    Raises:
        MissingDependencyError, ExportError: ONNX Runtime Web cannot be had.
    """
    app.mount("/ort", StaticFiles(directory=runtime_folder()), name="ort")

    @app.get(
        "/v1/models/{name}/file",
        summary="The model file, which the page teaches on",
        response_class=Response,
        responses={200: {"content": {"application/octet-stream": {}}}, 404: {"description": "There is no such file."}},
    )
    async def file(name: str) -> FileResponse:
        served = service.models.get(name)
        if served is None or served.classifier.path.suffix.lower() != ".onnx":
            names = [each.name for each in service.models.values() if each.classifier.path.suffix.lower() == ".onnx"]
            expected = f"expected one of {', '.join(names)}" if names else "this server has no ONNX files"
            raise RefusedError(404, "no_model", f"model: {expected}, got {name!r}")
        return FileResponse(served.classifier.path, media_type="application/octet-stream")
