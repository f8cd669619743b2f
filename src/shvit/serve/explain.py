"""Pictures of what a served model looked at."""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from shvit.predicting.classifier import Classifier

if TYPE_CHECKING:
    from PIL import Image

    from shvit.predicting.explain import Explainer, Explanation

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
            ArgumentError: there is no such stage, block, point or class.
        """
        from shvit.predicting.explain import Explainer  # here, so that a server starts without it

        with self._lock:
            if self._explainer is None:
                self._explainer = Explainer(self._classifier.path, threads=1)  # as many run as there are decoders
        encoded = io.BytesIO()
        # The default compression takes several times as long.
        _draw(self._explainer.explain(image), wanted).save(encoded, "PNG", compress_level=1)
        return encoded.getvalue()


def _draw(explanation: Explanation, wanted: Wanted) -> Image.Image:
    from shvit.drawing.overlay import MAX_SIDE, attention_map, class_activation_map, draw_map, draw_sheet, fit

    if wanted.kind == "sheet":
        maps = [attention_map(explanation, stage, point=wanted.point) for stage in explanation.stages]
        return draw_sheet(explanation, [*maps, class_activation_map(explanation, wanted.class_id)])
    if wanted.kind == "cam":
        shown = class_activation_map(explanation, wanted.class_id)
    else:
        stage = wanted.stage or min(explanation.stages, default=0)
        shown = attention_map(explanation, stage, wanted.block, wanted.point)
    side = min(MAX_SIDE, max(explanation.image.size))
    return draw_map(*fit(explanation.image, explanation.region, side), shown)
