"""What every export goes through: the written file is run on real images beside its network, or it is not left."""

from __future__ import annotations

import logging
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image

from shvit.atomic import atomic_folder
from shvit.card import Card, Metric, Preprocessing, Verification
from shvit.errors import ExportError, ShvitError
from shvit.images.preprocess import decode, preprocess
from shvit.modelfile.report import ExportReport
from shvit.modelfile.source import BATCH, Infer, Source, batches_of
from shvit.shipped import verification_images

TOLERANCE = {"fp32": 1e-4, "fp16": 1e-2, "int8": 0.3}
"""Largest accepted difference of a logit, relative to the largest logit, at each precision. What int8 costs is
better measured on labelled images; here it is only told from a graph that is wrong."""

ENOUGH_IMAGES = 200
"""Images that a file is verified on, at least."""


@dataclass(frozen=True)
class Written:
    """What a converter has written, not yet under its final name."""

    seal: Callable[[Card], None]
    """Writes the card into the file, or beside it; may be called again with another."""
    load: Callable[[], Infer] | None
    """Loads the file; ``None`` where nothing on this machine can run it."""
    engine: str | None
    """What ``load`` loads it into, with its version."""
    notes: str | None = None
    """What was checked instead."""


Convert = Callable[[Source, Path], Written]
"""Writes a network's file under the path given."""

Assess = Callable[[Path], tuple[Metric, ...]]
"""Measures a written file; may raise ``ExportError``."""


def write_verified(
    source: Source,
    path: Path,
    format: str,
    convert: Convert,
    images: np.ndarray | None = None,
    assess: Assess | None = None,
) -> ExportReport:
    """Writes a file aside, runs it beside its network, puts the outcome into its card, and only then names it.

    Args:
        images: to verify on, preprocessed, ``uint8 (N, H, W, 3)``; crops of the package's photographs when not given.
        assess: takes the file's measure before it is named, in place of ``TOLERANCE``; the figures replace the card's
            metrics.

    Raises:
        ExportError: the file cannot be written, or its outputs differ from the network's by more than ``TOLERANCE``.
            No file is left.
        MissingDependencyError: the converter is not installed.
    """
    if images is None:
        images = photograph_crops(source.card.preprocessing)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(path) as aside:
            written = convert(source, aside)
            written.seal(source.card)
            try:
                tolerance = math.inf if assess else TOLERANCE[source.precision]
                verification = verify(source, written, format, images, tolerance)
            except ExportError as error:
                raise ExportError(f"{path}: {error}") from None
            card = replace(source.card, verification=verification)
            if assess is not None:
                card = replace(card, metrics=assess(aside))
            written.seal(card)
            size = sum(each.stat().st_size for each in aside.parent.rglob("*") if each.is_file())
    except ShvitError:
        raise
    except OSError as error:
        raise ExportError(f"{path}: cannot be written: {error.strerror or error}") from None
    except Exception as error:  # each converter has its own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ExportError(f"{path}: the conversion to {format} failed: {reason[:200]}") from error
    return ExportReport(path, size, card, verification.images, verification.max_difference, verification.top1_agreement)


def verify(source: Source, written: Written, format: str, images: np.ndarray, tolerance: float) -> Verification:
    """Runs a written file beside its network.

    Raises:
        ExportError: an output differs by more than ``tolerance``; the message does not name the file.
    """
    if written.load is None:
        return Verification(format, source.precision, notes=written.notes)
    infer = written.load()
    difference, agreement = _compare(source, infer, images, tolerance)
    notes = None
    if source.dynamic_size:
        sizes = [images.shape[1:3], *_other_sizes(*images.shape[1:3])]
        for size in sizes[1:]:
            further, _ = _compare(source, infer, _resized(images[:BATCH], size), tolerance)
            difference = max(difference, further)
        notes = "takes images of any size; run at " + ", ".join(f"{height}x{width}" for height, width in sizes)
    return Verification(format, source.precision, written.engine, len(images), difference, agreement, notes)


def _compare(source: Source, infer: Infer, images: np.ndarray, tolerance: float) -> tuple[float, float]:
    """The largest difference of a logit, and the share of the images with the same first label."""
    # The first image alone: where batches may be of any size, two sizes are tried.
    outputs = np.concatenate([infer(each) for each in (images[:1], *batches_of(images[1:]))])
    expected = source.logits(images)
    largest = float(np.abs(expected).max())
    if not 0 < largest < math.inf:
        raise ExportError(f"the network's outputs are useless: the largest logit is {largest:g}; check its weights")
    if outputs.shape != expected.shape:
        raise ExportError(f"the exported graph gives outputs {outputs.shape}, the network {expected.shape}")
    difference = float(np.abs(outputs - expected).max() / largest)
    agreement = float((outputs.argmax(1) == expected.argmax(1)).mean())
    if not difference <= tolerance:
        raise ExportError(
            f"the exported graph differs from the network by {difference:.2g} of the largest logit on {len(images)} "
            f"images of {images.shape[1]}x{images.shape[2]}; at most {tolerance:g} is accepted with {source.precision}"
        )
    return difference, agreement


def _other_sizes(height: int, width: int) -> tuple[tuple[int, int], ...]:
    """A smaller one, and a larger one that is not square and no multiple of the network's stride."""
    return (height // 2 + 1, width // 2 + 1), (height + height // 4 + 3, width + width // 3 + 7)


def _resized(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.stack([np.asarray(Image.fromarray(each).resize(size[::-1])) for each in images])


def in_batches_of(size: int, infer: Infer) -> Infer:
    """Any number of images through a graph that takes ``size`` of them; the last are filled up with black ones."""

    def run(images: np.ndarray) -> np.ndarray:
        outputs = []
        for start in range(0, len(images), size):
            batch = images[start : start + size]
            filled = np.concatenate([batch, np.zeros((size - len(batch), *batch.shape[1:]), batch.dtype)])
            outputs.append(infer(filled)[: len(batch)].copy())
        return np.concatenate(outputs)

    return run


def photograph_crops(preprocessing: Preprocessing, parts_of_each: int = 17) -> np.ndarray:
    """The package's photographs, up to 16 overlapping crops of half their size of each, and all these mirrored.

    Args:
        parts_of_each: the whole photograph and its crops, 1 to 17.

    Returns:
        ``uint8 (N, H, W, 3)``, with all parts N is at least ``ENOUGH_IMAGES``.
    """
    pixels = []
    for path in verification_images():
        image = decode(path)
        width, height = image.size
        parts = [image]
        for place in range(parts_of_each - 1):
            left, top = (place % 4) * width // 6, (place // 4) * height // 6
            parts.append(image.crop((left, top, left + width // 2, top + height // 2)))
        for part in parts:
            prepared = preprocess(part, preprocessing)
            pixels += [prepared, prepared[:, ::-1]]
    return np.stack(pixels)


def with_version(*packages: str) -> str:
    """Packages with their versions, as a card names what ran a file."""
    return ", ".join(f"{each} {version(each)}" for each in packages)


def write_beside(path: Path, card: Card) -> None:
    """The card as ``NAME.card.json``, for a format without metadata of its own."""
    path.with_suffix(".card.json").write_text(card.to_json(), encoding="utf-8")


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing on the terminal, also from native code: converters tell of their progress and of machines not there.

    Warnings and log records, which may have other ways out, are dropped too.
    """
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(stream) for stream in (1, 2)]
    try:
        with Path(os.devnull).open("w") as nothing, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for stream in (1, 2):
                os.dup2(nothing.fileno(), stream)
            yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for stream, copied in zip((1, 2), kept, strict=True):
            os.dup2(copied, stream)
            os.close(copied)
        logging.disable(disabled)
