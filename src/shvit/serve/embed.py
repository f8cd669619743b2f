"""Answers with embeddings: from what the graph says of the images of a request to JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel, Field

from shvit.predicting.classifier import Classifier
from shvit.predicting.embedder import backbone_of
from shvit.predicting.embeddings import finished_embedding
from shvit.serve.batching import ENGINE_FAILED, EngineFailure, Outcome
from shvit.serve.bodies import RefusedError
from shvit.tasks import Judged

PARAMETERS = ("normalize", "flip", "model")
"""Of a request for embeddings; another one is not passed over."""


class EmbeddingAnswer(BaseModel):
    """What became of one image of several."""

    source: str
    embedding: list[float] | None = None
    error: str | None = None


class EmbedAnswer(BaseModel):
    """Of an image that was the body its ``embedding``, else ``results``."""

    model: str
    backbone: str = Field(description="Embeddings with the same one may be compared, whatever the models' classes.")
    values: int = Field(description="Numbers in an embedding.")
    normalized: bool
    flip: bool
    embedding: list[float] | None = None
    results: list[EmbeddingAnswer] | None = None


@dataclass(frozen=True)
class WantedEmbedding:
    """What a request asks for."""

    normalize: bool = False
    flip: bool = False
    model: str | None = None

    @property
    def runs(self) -> int:
        """How often each image goes through the engine."""
        return 2 if self.flip else 1


class ModelEmbeddings:
    """Of one served model: whether it gives embeddings, and what they may be compared with."""

    def __init__(self, name: str, classifier: Classifier) -> None:
        self.name = name
        self._backbone = backbone_of(classifier.path, classifier.card) if classifier.gives_embeddings else None

    def check(self) -> None:
        """Raises: RefusedError: it has none."""
        if self._backbone is None:
            raise RefusedError(422, "no_embedding", f"model {self.name}: no head that embeddings could be taken before")

    def answer(
        self, sources: Sequence[str], outcomes: Sequence[Outcome | None], wanted: WantedEmbedding, alone: bool
    ) -> tuple[dict[str, Any], int]:
        """The answer and its status: 200 if any image has an embedding; else as for a prediction.

        Args:
            outcomes: of each image; with ``flip`` then of each mirror image.
            alone: the image was the body.
        """
        status, results = 422, []
        for place, source in enumerate(sources):
            found = _values(outcomes[place :: len(sources)], wanted)
            if isinstance(found, np.ndarray):
                results.append({"source": source, "embedding": found.tolist()})
                continue
            if isinstance(found, EngineFailure):
                status = 500
            results.append({"source": source, "error": ENGINE_FAILED if isinstance(found, EngineFailure) else found})
        good = [each["embedding"] for each in results if "embedding" in each]
        about: dict[str, Any] = {"model": self.name, "backbone": self._backbone}
        if not good:
            first = f"{results[0]['source']}: {results[0]['error']}"
            what = first if len(results) == 1 else f"none of the images has an embedding: {first}"
            return {"error": what, **about, "results": results}, status
        about |= {"values": len(good[0]), "normalized": wanted.normalize, "flip": wanted.flip}
        return ({**about, "embedding": good[0]} if alone else {**about, "results": results}), 200


def _values(outcomes: Sequence[Outcome | None], wanted: WantedEmbedding) -> np.ndarray | str | EngineFailure:
    """One image's embedding, or why it has none."""
    rows = []
    for outcome in outcomes:
        if not isinstance(outcome, Judged):
            assert outcome is not None  # the job is done
            return outcome
        assert outcome.embedding is not None  # the model gives them
        rows.append(outcome.embedding[None])
    return finished_embedding(rows[0], rows[1] if wanted.flip else None, wanted.normalize)[0]
