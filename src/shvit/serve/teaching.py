"""What the page needs to teach: the model files, which run in the browser then, and what runs them there."""

from __future__ import annotations

from pathlib import Path

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
    # What was loaded: by the same name there may be another file by now, which may be meant for nobody.
    loaded = {name: _identity(served.classifier.path) for name, served in service.models.items()}
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
        if _identity(served.classifier.path) != loaded[name]:
            raise RefusedError(
                404, "no_model", f"model {name}: its file was changed or removed since the server started"
            )
        return FileResponse(served.classifier.path, media_type="application/octet-stream")


def _identity(path: Path) -> tuple[int, ...] | None:
    """Of the file that lies there; ``None`` where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
