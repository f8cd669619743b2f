"""Some images of a dataset as the network sees them, for calibration and verification."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import numpy as np

from shvit.card import Card, Preprocessing
from shvit.data.datasets import is_listed, open_dataset
from shvit.data.formats.files import is_data
from shvit.data.prepared import prepared_batches
from shvit.data.protocol import ImageDataset
from shvit.data.splits import Subset
from shvit.data.stratify import has_several
from shvit.data.targets import renumbered
from shvit.errors import DataError, ImageError
from shvit.evaluation.labels import evenly_spaced, match_classes
from shvit.images.preprocess import decode, preprocess
from shvit.images.sources import is_image, walk_images
from shvit.modelfile.verify import ENOUGH_IMAGES

CALIBRATION_IMAGES = 512
"""Training images that ranges are taken from."""

FEWEST_CALIBRATION_IMAGES = 32
"""Of fewer, the ranges are those of single images."""

VERIFICATION_IMAGES = 512
"""Of a dataset given, at most this many."""

MOST_PICTURES = 5000
"""Of none of the classes."""

BATCH = 64


def prepared_images(images: ImageDataset, preprocessing: Preprocessing, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """At most ``limit`` images, evenly spaced, ``uint8 (N, H, W, 3)``, and their labels.

    Images that cannot be read are left out.
    """
    chosen = Subset(images, evenly_spaced(range(len(images)), limit))
    batches = list(prepared_batches(chosen, preprocessing, BATCH, workers=0))
    return np.concatenate([batch.images for batch in batches]), np.concatenate([batch.labels for batch in batches])


def calibration_images(images: ImageDataset, card: Card) -> tuple[np.ndarray, np.ndarray]:
    """Images that an int8 file takes its ranges from, ``uint8 (N, H, W, 3)``, and their labels by the card's classes.

    Raises:
        DataError: they are too few, all of one class, or of classes that the card does not know.
    """
    classes, _ = match_classes(images, card.classes, card.name)
    pixels, labels = prepared_images(images, card.preprocessing, CALIBRATION_IMAGES)
    if len(pixels) < FEWEST_CALIBRATION_IMAGES:
        raise DataError(
            f"{images.name}: {len(pixels)} images are too few to calibrate int8 on; give at least "
            f"{FEWEST_CALIBRATION_IMAGES}, better {CALIBRATION_IMAGES}"
        )
    if len(card.classes) > 1 and not has_several(labels) and len(np.unique(labels)) == 1:
        only = images.classes[int(labels[0])].label
        raise DataError(
            f"{images.name}: all images to calibrate int8 on are of the class {only!r}; give images of all classes"
        )
    return pixels, renumbered(labels, classes, len(card.classes))


def verification_pixels(path: str, preprocessing: Preprocessing, image_key: str | None = None) -> np.ndarray:
    """Images of a dataset's validation split to verify an export on, ``uint8 (N, H, W, 3)``.

    Args:
        image_key: as for ``open_dataset``.

    Raises:
        DataError: it cannot be read, or has too few.
    """
    images = open_dataset(path, "val", image_key)
    pixels, _ = prepared_images(images, preprocessing, VERIFICATION_IMAGES)
    if len(pixels) < ENOUGH_IMAGES:
        raise DataError(
            f"{images.name}: {len(pixels)} images are too few to verify an export on; give at least {ENOUGH_IMAGES}"
        )
    return pixels


def are_unlabelled(data: str | Path) -> bool:
    """Whether a folder has photographs in itself, no list of their labels, and no folders of photographs.

    Such folders would be classes.
    """
    folder = Path(data)
    if not folder.is_dir() or not any(is_image(each.name) for each in folder.iterdir() if each.is_file()):
        return False
    if is_listed(folder):
        return False
    inner = (each for each in folder.iterdir() if each.is_dir() and is_data(each.name))
    return not any(is_image(each.name) for each in chain.from_iterable(each.iterdir() for each in inner))


def pictures_in(folder: str | Path) -> list[str]:
    """Pictures of a folder and all below it, whatever their classes: at most ``MOST_PICTURES``, evenly spaced.

    Raises:
        DataError: there are none.
    """
    if not Path(folder).is_dir():
        what = "is a file" if Path(folder).exists() else "no such folder"
        raise DataError(f"--unknown {folder}: {what}; give a folder of pictures of none of the classes")
    found = [str(each) for each in walk_images(Path(folder))]
    if not found:
        raise DataError(
            f"--unknown {folder}: no pictures there; give a folder of pictures that show none of the classes"
        )
    return [found[place] for place in evenly_spaced(range(len(found)), MOST_PICTURES)]


def photographs(data: str | Path, preprocessing: Preprocessing, tell: Callable[[str], None]) -> np.ndarray:
    """The photographs of a folder, at most ``2 * CALIBRATION_IMAGES`` evenly spaced: ``uint8 (N, H, W, 3)``.

    Args:
        tell: told of those that cannot be read and of copies of others, which are left out.

    Raises:
        DataError: none can be read.
    """
    files = sorted(each for each in Path(data).iterdir() if is_image(each.name) and not each.is_dir())
    pixels, broken, known, copies = [], [], set(), 0
    for place in evenly_spaced(range(len(files)), 2 * CALIBRATION_IMAGES):
        try:
            prepared = preprocess(decode(files[place]), preprocessing)
        except ImageError as error:
            broken.append(str(error))
            continue
        digest = hashlib.sha256(prepared.tobytes()).digest()
        if digest in known:  # measured on, it would be one that was calibrated on
            copies += 1
            continue
        known.add(digest)
        pixels.append(prepared)
    if not pixels:
        raise DataError(f"{data}: none of the {len(files)} photographs can be read: {broken[0]}")
    if broken:
        tell(f"{data}: {len(broken)} of {len(files)} photographs cannot be read and are left out, such as {broken[0]}")
    if copies:
        tell(f"{data}: {copies} of {len(files)} photographs are copies of others and are left out")
    return np.stack(pixels)
