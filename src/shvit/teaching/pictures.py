"""Pictures as a network sees them: in a few views each, as pooled features."""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from shvit.calibration.outputs import BATCH, Network
from shvit.card import Preprocessing
from shvit.data.broken import BrokenImage
from shvit.data.protocol import ImageDataset
from shvit.errors import DataError, ImageError
from shvit.images.preprocess import decode, preprocess

VIEWS = ("centre", "flip", "crop 1", "crop 2")
"""The first is what the network sees when it is used. The others are learned from too: its mirror image, and two parts
of the picture. They make a taught model right for half a point more."""

MANY, VERY_MANY = 5_000, 20_000
"""Pictures from which on there are two views of each, and one: each view takes as long as a prediction."""

CROP_SHARE, CROP_RATIO = (0.35, 1.0), (3 / 4, 4 / 3)
"""A crop's share of the picture's pixels, and its shape, of the input's."""

AHEAD = 4
"""Pictures that are decoded ahead for each thread."""


def views_for(pictures: int) -> int:
    """How many of ``VIEWS`` there are of each of so many pictures."""
    return 1 if pictures >= VERY_MANY else 2 if pictures >= MANY else len(VIEWS)


@dataclass(frozen=True, eq=False)
class Pictures:
    """N pictures of classes, and the features of their V views; each has another content."""

    sources: list[str]
    sha256: list[str]
    """Of the encoded pictures, in hexadecimal."""
    labels: list[str]
    """What they show."""
    features: np.ndarray
    """``float16 (N, V, channels)``."""

    def __len__(self) -> int:
        return len(self.sources)

    def of(self, places: Sequence[int]) -> Pictures:
        """Some of them."""
        return Pictures(
            [self.sources[each] for each in places],
            [self.sha256[each] for each in places],
            [self.labels[each] for each in places],
            self.features[np.asarray(places, np.int64)],
        )

    def and_others(self, others: Pictures) -> Pictures:
        return Pictures(
            self.sources + others.sources,
            self.sha256 + others.sha256,
            self.labels + others.labels,
            np.concatenate([self.features, others.features]),
        )


class Seen(NamedTuple):
    """What came of a dataset."""

    pictures: Pictures
    copies: tuple[str, ...]
    """Pictures that are copies of another one of the same class, which are left out."""
    conflicting: tuple[str, ...]
    """Pictures that lie in several classes, which are all left out."""
    broken: tuple[BrokenImage, ...]
    """Those that cannot be read."""


class _Prepared(NamedTuple):
    place: int
    """In the dataset."""
    sha256: str
    views: np.ndarray | None
    """``uint8 (V, H, W, 3)``; ``None`` of a picture whose features are known."""


def look_at(
    images: ImageDataset,
    network: Network,
    preprocessing: Preprocessing,
    views: int,
    known: Mapping[str, np.ndarray],
    threads: int,
    advance: Callable[[int], None],
) -> Seen:
    """Features of all pictures of a dataset with one label each; of each content once.

    Args:
        views: of each picture.
        known: features ``float16 (V, channels)`` by SHA-256, of pictures that need not be looked at again.
        threads: that decode.
        advance: told of each picture that is done.

    Raises:
        DataError: features are larger than ``float16`` can hold.
    """
    labels = [images.classes[label].label for label in images.labels.tolist()]
    places: dict[str, int] = {}
    copies, conflicting, broken = [], set[str](), list[BrokenImage]()
    clashing = set[str]()
    waiting: list[_Prepared] = []
    # As large as all of them may need, and taken from the system as it is filled.
    rows = np.empty((0, views, 0), np.float16)

    def keep(chosen: list[int], found: np.ndarray) -> None:
        nonlocal rows
        if not len(rows):
            rows = np.empty((len(images), *found.shape[1:]), np.float16)
        rows[chosen] = found

    def run_waiting() -> None:
        if waiting:
            features = network.run(np.concatenate([each.views for each in waiting if each.views is not None])).features
            assert features is not None  # of a file without, nothing is taught
            keep([each.place for each in waiting], in_half(features, network.path).reshape(len(waiting), views, -1))
            waiting.clear()

    for each in _prepared(images, preprocessing, views, known, threads):
        advance(1)
        if isinstance(each, BrokenImage):
            broken.append(each)
            continue
        first = places.setdefault(each.sha256, each.place)
        if first != each.place:
            if labels[first] == labels[each.place]:
                copies.append(images.source(each.place))
            else:
                clashing.add(each.sha256)
                conflicting |= {images.source(first), images.source(each.place)}
        elif each.views is None:
            keep([each.place], known[each.sha256][None])
        else:
            waiting.append(each)
            if len(waiting) * views >= BATCH:
                run_waiting()
    run_waiting()
    kept = {digest: place for digest, place in places.items() if digest not in clashing}
    chosen = list(kept.values())
    pictures = Pictures(
        [images.source(place) for place in chosen],
        list(kept),
        [labels[place] for place in chosen],
        rows if len(chosen) == len(rows) else rows[chosen],
    )
    return Seen(pictures, tuple(copies), tuple(sorted(conflicting)), tuple(broken))


def in_half(features: np.ndarray, source: Path) -> np.ndarray:
    """Features as ``float16``, as they are kept.

    Args:
        source: where they come from, for the error.

    Raises:
        DataError: one is larger than that can hold.
    """
    with np.errstate(over="ignore"):
        half = features.astype(np.float16, copy=False)
    if not np.isfinite(half).all():
        raise DataError(f"{source}: gives features above 65,504, which half precision cannot hold; take another model")
    return half


def _prepared(
    images: ImageDataset, preprocessing: Preprocessing, views: int, known: Mapping[str, np.ndarray], threads: int
) -> Iterator[_Prepared | BrokenImage]:
    """All pictures in order, decoded in threads a little ahead."""
    prepare = partial(_prepare, images, preprocessing, views, known)
    waiting: deque[Future[_Prepared | BrokenImage]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="shvit-decode") as pool:
        try:
            for index in range(len(images)):
                waiting.append(pool.submit(prepare, index))
                if len(waiting) >= AHEAD * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for each in waiting:
                each.cancel()


def _prepare(
    images: ImageDataset, preprocessing: Preprocessing, views: int, known: Mapping[str, np.ndarray], index: int
) -> _Prepared | BrokenImage:
    name = images.source(index)
    try:
        data = images.read(index)
        digest = hashlib.sha256(data).hexdigest()
        if digest in known:
            return _Prepared(index, digest, None)
        picture = decode(data, name=name)
    except ImageError as error:
        return BrokenImage(index, name, str(error).removeprefix(f"{name}: "))
    return _Prepared(index, digest, views_of(picture, preprocessing, views, int(digest[:16], 16)))


def views_of(picture: Image.Image, preprocessing: Preprocessing, views: int, seed: int) -> np.ndarray:
    """The first so many of ``VIEWS``, ``uint8 (views, H, W, 3)``; of one seed always the same crops."""
    centre = preprocess(picture, preprocessing)
    found = [centre, centre[:, ::-1]][:views]
    rng = np.random.default_rng(seed)
    for place in range(views - 2):
        crop = _crop(picture, preprocessing.image_size, rng)
        found.append(crop[:, ::-1] if place % 2 else crop)
    return np.stack(found)


def _crop(picture: Image.Image, image_size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A part of a picture, resized to the input."""
    height, width = image_size
    share = rng.uniform(*CROP_SHARE) * picture.width * picture.height
    shape = width / height * math.exp(rng.uniform(math.log(CROP_RATIO[0]), math.log(CROP_RATIO[1])))
    across, down = min(picture.width, math.sqrt(share * shape)), min(picture.height, math.sqrt(share / shape))
    left, top = rng.uniform(0, picture.width - across), rng.uniform(0, picture.height - down)
    # Rounding must not take the box past the edge by a hair: Pillow refuses that.
    box = (left, top, min(left + across, picture.width), min(top + down, picture.height))
    return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC, box))
