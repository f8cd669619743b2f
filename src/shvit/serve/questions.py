"""What the client asks of each image, and how the answers are read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from shvit.errors import ArgumentError
from shvit.predicting.embedder import Embedding
from shvit.predicting.embeddings import EmbeddingOptions
from shvit.tasks import Answering
from shvit.tasks.results import Prediction, Result

T = TypeVar("T")


@dataclass(frozen=True)
class Question(Generic[T]):
    """What is asked of each image."""

    route: str
    params: dict[str, Any]
    read: Callable[[str, bytes, dict[str, Any]], T]
    """From an image's name, its bytes as they were sent and what the server says of it; raises as ``_result``."""
    failed: Callable[[str, str], T]
    """From its name and why there is no answer."""


def prediction_question(answering: Answering) -> Question[Result]:
    params: dict[str, Any] = {"top_k": answering.top_k}
    if answering.min_score is not None:
        params["min_score"] = f"{answering.min_score:.17f}"
    if not answering.unknown:
        params["unknown"] = "false"
    return Question("/v1/predict", params, _result, lambda name, error: Result(name, error=error))


def embedding_question(options: EmbeddingOptions) -> Question[Embedding]:
    """Raises: ArgumentError: a server does not give such."""
    if options.stages != 1:
        raise ArgumentError(f"stages: a server gives embeddings of the last stage, 1, not {options.stages}")
    params = {name: "true" for name in ("normalize", "flip") if getattr(options, name)}

    def read(name: str, body: bytes, answer: dict[str, Any]) -> Embedding:
        digest = hashlib.sha256(body).hexdigest()
        if (error := answer.get("error")) is not None:
            return Embedding(name, digest, error=str(error))
        values = np.array(answer["embedding"], options.dtype)
        if values.ndim != 1 or not np.isfinite(values).all():
            raise ValueError("no embedding")
        return Embedding(name, digest, values)

    return Question("/v1/embed", params, read, lambda name, error: Embedding(name, None, error=error))


def _result(name: str, body: bytes, answer: dict[str, Any]) -> Result:
    """What a server says of an image; what a newer one says besides is passed over.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: it is none of ours.
    """
    if (error := answer.get("error")) is not None:
        return Result(name, error=str(error))
    known, unknown_score = answer.get("known"), answer.get("unknown_score")
    return Result(
        name,
        tuple(
            Prediction(
                str(each["label"]),
                int(each["class_id"]),
                each["wnid"],
                float(each["score"]),
                accepted=None if (accepted := each.get("accepted")) is None else bool(accepted),
            )
            for each in answer["predictions"]
        ),
        known=None if known is None else bool(known),
        unknown_score=None if unknown_score is None else float(unknown_score),
    )
