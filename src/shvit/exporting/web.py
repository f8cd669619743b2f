"""A static folder for the browser: the model file in it, and all that runs it there."""

from __future__ import annotations

from pathlib import Path

from shvit.card import Card
from shvit.modelfile import onnx
from shvit.modelfile.source import Source
from shvit.modelfile.verify import Written
from shvit.web import MODEL
from shvit.web.site import complete_site


def convert(source: Source, path: Path) -> Written:
    """Writes the folder; what is verified is its model file, by ONNX Runtime outside a browser."""
    path.mkdir()
    written = onnx.convert(source, path / MODEL)

    def seal(card: Card) -> None:
        written.seal(card)
        complete_site(path, card)

    return Written(seal, written.load, written.engine)
