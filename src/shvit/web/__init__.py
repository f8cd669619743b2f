"""The web page, one for both: served beside the HTTP API, or a static folder that predicts in the browser.

``page/`` has no build step: what is there is what a browser gets. ``config.json`` tells it where predictions come from.
"""

from __future__ import annotations

from pathlib import Path

from shvit.shipped import ASSETS

PAGE = Path(__file__).parent / "page"
"""What belongs at a site's root."""

SAMPLES = ASSETS / "photographs"
"""What belongs at ``samples/`` below it."""

MODEL = "model.onnx"
"""The model file in a static folder."""

__all__ = ["MODEL", "PAGE", "SAMPLES"]
