"""What a model file says of images: logits and pooled features, before anything is decided."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shvit.card import Card, Decision
from shvit.data.broken import BrokenImage, none_readable
from shvit.data.prepared import prepared_batches
from shvit.engines import load_engine
from shvit.engines.base import as_model_output_error
from shvit.errors import ImageError, ModelFileError, ModelOutputError
from shvit.evaluation.labels import LabelledImages
from shvit.images.preprocess import ImageSource, decode, preprocess
from shvit.modelfile.features import load_with_features
from shvit.modelfile.finished import FinishedFile
from shvit.predicting.loaded import read_card
from shvit.predicting.outputs import check_rows
from shvit.tasks import task_of

BATCH = 4
"""Images that are run together: more take more memory and, with features that fit into no cache, more time."""

SAMPLE = 16
"""Images that are kept to compare a written file with."""


@dataclass(frozen=True)
class Outputs:
    """Of N images."""

    logits: np.ndarray
    """``float32 (N, classes)``."""
    features: np.ndarray | None
    """``float32 (N, channels)``; ``None`` of a file that has none."""

    def __len__(self) -> int:
        return len(self.logits)

    def of(self, chosen: np.ndarray) -> Outputs:
        """Some of the images, by a mask or their places."""
        return Outputs(self.logits[chosen], None if self.features is None else self.features[chosen])


@dataclass(frozen=True)
class LabelledOutputs:
    """Of a dataset."""

    outputs: Outputs
    targets: np.ndarray
    """What is right for each image, as its task's ``losses`` takes it."""
    broken: tuple[BrokenImage, ...]
    """Images that could not be read."""
    sample: np.ndarray
    """Some of the images, prepared, ``uint8 (M, H, W, 3)``."""


class Network:
    """A model file with its features, on the engine that runs its format.

    Args:
        file: what is to be calibrated or taught.
        path: where it lies.
        threads: of one inference.

    Raises:
        ModelFileError: its card cannot be read.
    """

    path: Path
    """Where it lies."""
    card: Card
    """The file's, without a decision: that is fitted anew."""
    earlier: Decision | None
    """What was fitted before; ``None`` where nothing was, or what cannot be read: that is why it is fitted again."""

    def __init__(self, file: FinishedFile, path: Path, threads: int | None) -> None:
        self.path = path
        self._features: str | None = None
        if file.features is not None:
            self._engine, (self._features,) = load_with_features(file.engine, path, threads)
        else:
            self._engine = load_engine(file.engine, path, threads)
        self.card = read_card(self._engine.metadata, path, with_decision=False)
        try:
            self.earlier = read_card(self._engine.metadata, path).decision
        except ModelFileError:
            self.earlier = None

    def run(self, batch: np.ndarray) -> Outputs:
        """Args: batch: ``uint8 (N, H, W, 3)``, prepared."""
        with as_model_output_error(self.path):
            found = self._engine.run(batch)
        logits = check_rows(next(iter(found.values())), len(batch), self.path, "output")
        if logits.shape[1] != len(self.card.classes):
            raise ModelOutputError(f"{self.path}: the graph returned output of shape {logits.shape}")
        features = None
        if self._features is not None:
            features = check_rows(found[self._features], len(batch), self.path, "features")
        return Outputs(logits, features)

    def run_labelled(self, images: LabelledImages, workers: int, advance: Callable[[int], None]) -> LabelledOutputs:
        """All images of a dataset.

        Raises:
            DataError: not one could be read.
        """
        parts: list[Outputs] = []
        labels: list[Sequence[int]] = []
        broken: list[BrokenImage] = []
        sample = None
        batches = prepared_batches(images, self.card.preprocessing, BATCH, workers)
        with closing(batches):
            for batch in batches:
                broken += batch.broken
                if len(batch.indices):
                    sample = batch.images[:SAMPLE].copy() if sample is None else sample
                    parts.append(self.run(batch.images))
                    labels += [images.accepted[index] for index in images.indices[batch.indices].tolist()]
                advance(len(batch.indices) + len(batch.broken))
        if sample is None:
            raise none_readable(images, broken)
        targets = task_of(self.card).targets(labels, len(self.card.classes))
        return LabelledOutputs(_joined(parts), targets, tuple(broken), sample)

    def run_pictures(
        self, sources: Iterable[ImageSource], advance: Callable[[int], None]
    ) -> tuple[Outputs | None, list[str]]:
        """Pictures without labels.

        Returns:
            What the network says, and why others could not be read.
        """
        parts: list[Outputs] = []
        waiting: list[np.ndarray] = []
        broken = []
        for source in sources:
            try:
                waiting.append(preprocess(decode(source), self.card.preprocessing))
            except ImageError as error:
                broken.append(str(error))
            advance(1)
            if len(waiting) == BATCH:
                parts.append(self.run(np.stack(waiting)))
                waiting.clear()
        if waiting:
            parts.append(self.run(np.stack(waiting)))
        return (_joined(parts) if parts else None), broken


def _joined(parts: list[Outputs]) -> Outputs:
    features = None
    if parts[0].features is not None:
        features = np.concatenate([each.features for each in parts if each.features is not None])
    return Outputs(np.concatenate([each.logits for each in parts]), features)
