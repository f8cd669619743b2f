"""Pictures of what a served model looked at."""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass
from typing import Literal

from shvit.media.overlay import Map, attention_map, class_activation_map, draw_map, draw_sheet, fit
from shvit.runtime.classifier import Classifier
from shvit.runtime.explain import Explainer, Explanation

MAX_SIDE = 1024
"""Pixels of an answer's longer side at most; larger pictures are shrunk to it."""

Kind = Literal["attention", "cam", "sheet"]


@dataclass(frozen=True)
class Wanted:
    """What a request asks to see, as ``shvit explain`` takes it."""

    kind: Kind
    stage: int | None
    block: int | None
    point: tuple[float, float] | None
    class_id: int | None


class ModelExplainer:
    """Explanations of one served model. Its graph, with the extra outputs, is loaded when it is first asked for."""

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier
        self._explainer: Explainer | None = None
        self._lock = threading.Lock()

    def draw(self, image: bytes, wanted: Wanted) -> bytes:
        """A PNG of the image with a map over it; called in a decoder's thread.

        Raises:
            ShvitError: the image cannot be read, or the model cannot be explained.
            ValueError: there is no such stage, block, point or class.
        """
        with self._lock:
            if self._explainer is None:
                self._explainer = Explainer(self._classifier.path, threads=1)  # as many run as there are decoders
        explanation = self._explainer.explain(image)
        if wanted.kind == "sheet":
            maps = [attention_map(explanation, stage, point=wanted.point) for stage in explanation.stages]
            picture = draw_sheet(explanation, [*maps, class_activation_map(explanation, wanted.class_id)])
        else:
            shown = _map(explanation, wanted)
            smaller = min(1.0, MAX_SIDE / max(explanation.image.size))
            side = round(max(explanation.image.size) * smaller)
            picture = draw_map(*fit(explanation.image, explanation.region, side), shown)
        encoded = io.BytesIO()
        picture.save(encoded, "PNG", compress_level=1)  # the default takes several times as long
        return encoded.getvalue()


def _map(explanation: Explanation, wanted: Wanted) -> Map:
    if wanted.kind == "cam":
        return class_activation_map(explanation, wanted.class_id)
    stage = wanted.stage or min(explanation.stages, default=0)
    return attention_map(explanation, stage, wanted.block, wanted.point)
