"""Images to embeddings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from shvit._version import __version__
from shvit.card import Card
from shvit.engines import BATCH_SIZE
from shvit.engines.base import FILE_ENGINES, as_model_output_error
from shvit.engines.onnx_graph import backbone_digest
from shvit.errors import ModelOutputError
from shvit.images.decoding import Decoding
from shvit.images.preprocess import ImageSource, describe, image_sources
from shvit.predicting.embeddings import EmbeddingOptions, EmbeddingsInfo, finished_embedding
from shvit.predicting.loaded import LoadedModel, Running
from shvit.predicting.outputs import check_rows
from shvit.predicting.pickling import digest_of
from shvit.shipped import DEFAULT_MODEL


@dataclass(frozen=True, eq=False)
class Embedding:
    """What became of one image."""

    source: str
    """Its path, or a description of what is no path."""
    sha256: str | None
    """Of the encoded image, 64 hexadecimal digits; of pixels, of their bytes. ``None`` where they cannot be read."""
    values: np.ndarray | None = field(default=None, repr=False)
    """``(values,)`` in the options' ``dtype``, finite; ``None`` where there is an error."""
    error: str | None = None
    """Why there is no embedding."""


def backbone_of(path: Path, card: Card) -> str:
    """``EmbeddingsInfo.backbone`` of a model file.

    The parts of what is not ONNX are not told apart: it is that of the whole file, or where it was taught, of the file
    that it was taught from.
    """
    onnx = path.suffix.lower() not in FILE_ENGINES
    digest = backbone_digest(path.read_bytes()) if onnx else card.taught and card.taught.backbone
    return digest or digest_of(path)


class Embedder(LoadedModel):
    """A model file, ready to give the features that its head judges by.

    Pictures that are alike have embeddings that are near each other, also those of classes that the model knows
    nothing of. It is pickled as ``Classifier`` is.

    Args:
        model: a name (``shvit_s4``, ``hf://user/repository``, a shipped model's), or the path of a model file that
            ``shvit export`` wrote, of any format. With ``stages=2`` it is an ONNX file.
        options: how embeddings are made.
        engine, threads, batch_size, decoding: as of ``Classifier``.

    Raises:
        ModelFileError: the file cannot be used, or has no head that embeddings could be taken before.
        MissingDependencyError: the engine, or what fast decoding needs, is not installed or too old.
        ArgumentError: an option has an unsupported value.

    Example:
        >>> embedder = Embedder(options=EmbeddingOptions(normalize=True))
        >>> first, second = embedder.embed(["cat.jpg", "kitten.jpg"])
        >>> float(first.values @ second.values)
        0.83
    """

    info: EmbeddingsInfo
    """What its embeddings are of, and what they may be compared with."""

    def __init__(
        self,
        model: str | Path = DEFAULT_MODEL,
        options: EmbeddingOptions = EmbeddingOptions(),  # noqa: B008 - it cannot be changed
        engine: str = "auto",
        threads: int | None = None,
        batch_size: int = BATCH_SIZE,
        decoding: Decoding = "exact",
    ) -> None:
        running = {"engine": engine, "threads": threads, "batch_size": batch_size, "decoding": decoding}
        super().__init__(
            model, Running(engine, threads, batch_size, decoding), options.stages, {"options": options, **running}
        )
        self.options = options
        self.info = EmbeddingsInfo(
            model=self.card.name,
            model_sha256=digest_of(self._path),
            backbone=backbone_of(self._path, self.card),
            values=self._embed(np.zeros((1, *self._input), np.uint8)).shape[1],
            dtype=options.dtype,
            normalized=options.normalize,
            flip=options.flip,
            stages=options.stages,
            version=__version__,
        )

    def __repr__(self) -> str:
        return f"Embedder({str(self.path)!r}, {self.options}, engine={self.engine!r}, values={self.values})"

    @property
    def values(self) -> int:
        """Numbers in one embedding."""
        return self.info.values

    def embed_batch(self, batch: np.ndarray) -> np.ndarray:
        """Embeddings of prepared images.

        Args:
            batch: ``uint8 (N, H, W, 3)``, RGB, as ``preprocess`` returns them.

        Returns:
            ``float32 (N, values)``, finite.

        Raises:
            ArgumentError: the batch has another type or shape.
            ModelOutputError: the graph fails, or returns what cannot be embeddings.
        """
        return self._embed(self._checked(batch))

    def embed(self, images: ImageSource | Iterable[ImageSource]) -> list[Embedding]:
        """One result an image, in order; one that cannot be read, or that the graph fails on, gives an error.

        Args:
            images: paths, encoded bytes, PIL images or arrays ``uint8 (H, W, 3)``; one, or several of them.

        Raises:
            ImageTypeError: it is none of these, such as ``None`` or a set.
        """
        return list(self.stream(images))

    def stream(self, images: ImageSource | Iterable[ImageSource], batch_size: int | None = None) -> Iterator[Embedding]:
        """Like ``embed``, for any number of images: results come as soon as their batch is done.

        Args:
            batch_size: another one than the embedder's.
        """
        for image, digest, found in self._run_stream(image_sources(images), batch_size, self._kept, with_digests=True):
            if isinstance(found, str):
                yield Embedding(describe(image), digest, error=found)
            else:
                yield Embedding(describe(image), digest, found)

    def _kept(self, batch: np.ndarray) -> np.ndarray:
        """As they are kept; what is too large for that is an error, not infinite."""
        with np.errstate(over="ignore"):
            found = self._embed(batch).astype(self.options.dtype, copy=False)
        if not np.isfinite(found).all():
            raise ModelOutputError(
                f"{self._path}: the embedding has a value that {self.options.dtype} cannot hold; take float32"
            )
        return found

    def _embed(self, batch: np.ndarray) -> np.ndarray:
        found = self._pooled(batch)
        mirrored = self._pooled(np.ascontiguousarray(batch[:, :, ::-1])) if self.options.flip else None
        return finished_embedding(found, mirrored, self.options.normalize)

    def _pooled(self, batch: np.ndarray) -> np.ndarray:
        with as_model_output_error(self._path):
            outputs = self._engine.run(batch)
        parts = []
        for name in self._features:
            found = check_rows(outputs.get(name), len(batch), self._path, "features")
            if found.ndim != (2 if name == self._features[-1] else 4):
                raise ModelOutputError(f"{self._path}: the graph returned features of shape {found.shape}")
            parts.append(found if found.ndim == 2 else found.mean((2, 3)))
        return np.concatenate(parts, axis=1)
