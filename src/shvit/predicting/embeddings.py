"""What embeddings are of: how they are asked for, and what of them may be compared with what."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from shvit.card.fields import build, check_fields, refuse_constant
from shvit.errors import ArgumentError, DataError

DType = Literal["float32", "float16"]

MAX_VALUES = 65_536
"""Of one embedding; the largest network has 560 in its last stage."""

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class EmbeddingOptions:
    """How embeddings are asked for.

    Raises:
        ArgumentError: ``stages`` is neither 1 nor 2, or there is no such ``dtype``.
    """

    normalize: bool = False
    """Each of length 1, so that the product of two is their cosine."""
    flip: bool = False
    """The mean of the image's and its mirror image's, in twice the time."""
    stages: int = 1
    """1: the mean over the positions of the last stage's output, which the head judges by. 2: that of the last two
    stages, the earlier one first."""
    dtype: DType = "float32"
    """In files: ``float16`` takes half the room."""

    def __post_init__(self) -> None:
        if self.stages not in (1, 2):
            raise ArgumentError(f"stages: expected 1 or 2, got {self.stages!r}")
        if self.dtype not in ("float32", "float16"):
            raise ArgumentError(f"dtype: expected float32 or float16, got {self.dtype!r}")


@dataclass(frozen=True)
class EmbeddingsInfo:
    """What embeddings were made by, and how.

    Raises:
        ArgumentError: a value cannot be: the message names it.
    """

    model: str
    """The name in the model's card."""
    model_sha256: str
    """Of the model file, 64 hexadecimal digits."""
    backbone: str
    """Of all before the head: two model files with the same one give the same embeddings, whatever their heads."""
    values: int
    """Numbers in one embedding."""
    dtype: DType
    """As they are kept."""
    normalized: bool
    """They have length 1."""
    flip: bool
    """They are the mean of the image's and its mirror image's."""
    stages: int
    """How many of the last stages they are of, 1 or 2."""
    version: str
    """shvit's."""

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("model_sha256", "backbone"):
            if not _DIGEST.fullmatch(getattr(self, name)):
                raise ArgumentError(f"{name}: expected 64 hexadecimal digits, got {getattr(self, name)[:70]!r}")
        if not 1 <= self.values <= MAX_VALUES:
            raise ArgumentError(f"values: expected 1 to {MAX_VALUES:,}, got {self.values}")
        EmbeddingOptions(self.normalized, self.flip, self.stages, self.dtype)

    def difference(self, other: EmbeddingsInfo) -> str | None:
        """Why embeddings of the two must not be compared or put together, in words; ``None`` where they may.

        How they are kept, and what the head of the model was, makes no difference.
        """
        if self.backbone != other.backbone:
            return (
                f"they are of different networks, {self.model} ({self.model_sha256[:12]}) and {other.model} "
                f"({other.model_sha256[:12]})"
            )
        for name, meaning in (
            ("stages", "last stages"),
            ("flip", "mean with the mirror image"),
            ("normalized", "length 1"),
            ("values", "values"),
        ):
            mine, its = getattr(self, name), getattr(other, name)
            if mine != its:
                if isinstance(mine, bool):
                    mine, its = ("yes" if each else "no" for each in (mine, its))
                return f"they were made in different ways ({meaning}: {mine} and {its})"
        return None

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes, source: str) -> EmbeddingsInfo:
        """Args: source: what errors call it, such as the file's name.

        Raises:
            DataError: it is no JSON, or a field is missing, of a wrong type or out of its range.
        """
        try:
            return build(cls, json.loads(text, parse_constant=refuse_constant), "embeddings")
        except (ValueError, RecursionError) as error:
            raise DataError(f"{source}: what it says of its embeddings cannot be read: {error}") from None


def finished_embedding(found: np.ndarray, mirrored: np.ndarray | None, normalize: bool) -> np.ndarray:
    """Pooled features as they are given out.

    Args:
        found: ``float32 (N, values)``.
        mirrored: of the mirror images, to take the mean with.
        normalize: to length 1; features that are all zero stay so.
    """
    if mirrored is not None:
        found = (found + mirrored) / 2
    return unit_rows(found) if normalize else found


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """``float32 (N, values)``, each of length 1; of length 0 stays as it is."""
    rows = rows.astype(np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1)
