"""``shvit serve`` as replicas on a Ray cluster: what ``deploy/ray_serve.yaml`` starts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from shvit.errors import MissingDependencyError, ServerError
from shvit.install import install_command
from shvit.serve.settings import Settings
from shvit.shipped import DEFAULT_MODEL

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

try:
    from ray import serve
except ImportError as error:
    raise MissingDependencyError(
        f"serving on Ray needs {error.name}, which is not installed: {install_command('ray', 'serve')}"
    ) from None


def application(args: Mapping[str, Any]) -> Any:
    """The application that Ray Serve runs; each replica loads the models and batches for itself.

    Args:
        args: of the configuration file: ``models``, as ``shvit serve --model`` takes them (files must lie on every
            node), and the fields of ``shvit.serve.settings.Settings``.

    Returns:
        Ray Serve's ``Application``.

    Raises:
        ServerError: an unknown argument.
        ValueError: a setting that cannot be.
    """
    known = {field.name for field in fields(Settings)}
    if unknown := sorted(set(args) - known - {"models"}):
        raise ServerError(f"{', '.join(unknown)}: no such argument; expected models, {', '.join(sorted(known))}")
    models = args.get("models", [DEFAULT_MODEL])
    settings = Settings(**{"threads": 1, **{name: value for name, value in args.items() if name != "models"}})

    def build() -> Any:
        from shvit.serve.app import create_app
        from shvit.serve.server import load_models

        return create_app(load_models(models, settings), settings)

    return serve.deployment(name="Predictor")(serve.ingress(build)()).bind()
