"""Pictures with their embeddings, wherever they come from: a file of embeddings, a folder, a labelled dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from shvit.data.protocol import ImageDataset
from shvit.data.stratify import has_several
from shvit.embeddings.table import Embeddings, EmbeddingsInfo, read_embeddings, read_info
from shvit.engines.base import FILE_ENGINES
from shvit.errors import ArgumentError, DataError, ImageError, ShvitError
from shvit.images.sources import SourceError
from shvit.predicting.embedder import Embedder, Embedding
from shvit.predicting.embeddings import EmbeddingOptions
from shvit.shipped import NETWORKS, SHIPPED_MODELS
from shvit.similarity.sheet import Read, of_files

TAUGHT = ".embeddings.parquet"
"""How the name of embeddings ends that ``shvit teach`` keeps beside a model file."""


@dataclass(frozen=True, eq=False)
class Pictures:
    """Embeddings, and how to see what they are of."""

    name: str
    embeddings: Embeddings
    read: Read
    """By a place among the embeddings."""
    failed: Sequence[str] = ()
    """Pictures that could not be embedded, and why."""


def is_embeddings(path: str | Path) -> bool:
    """Whether a file or a folder of parts says that it holds embeddings; what is in it may still be damaged."""
    try:
        return Path(path).exists() and read_info(path) is not None
    except DataError:
        return False


def embeddings_file(path: str | Path) -> tuple[Pictures, Embeddings]:
    """The pictures of a file, and all views of them that it has.

    Raises:
        DataError: as of ``read_embeddings``, or there are none in it.
    """
    views = read_embeddings(path)
    embeddings = views.pictures()
    if not len(embeddings):
        failed = f"; all {embeddings.failed:,} pictures failed" if embeddings.failed else ""
        raise DataError(f"{path}: no embeddings{failed}")
    return of_files_named(str(path), embeddings), views


def of_files_named(name: str, embeddings: Embeddings) -> Pictures:
    """Those of a file, which are read by the names that it has for them."""
    return Pictures(name, embeddings, of_files(embeddings.sources))


def files(
    name: str, sources: Sequence[str | SourceError], embedder: Embedder, advance: Callable[[int], None]
) -> Pictures:
    """Embeds picture files; each that fails is told of in ``failed``.

    Args:
        name: of all of them, for messages.
        advance: told of so many more that are done.

    Raises:
        DataError: there are none, or all failed.
    """
    paths = [each for each in sources if isinstance(each, str)]
    failed = [str(each) for each in sources if isinstance(each, SourceError)]
    found, more = _collected(embedder.stream(paths), paths, advance)
    failed += more
    read = of_files(paths)
    return Pictures(name, _table(name, found, paths, None, embedder, failed), lambda at: read(found[at][0]), failed)


def dataset(images: ImageDataset, embedder: Embedder, advance: Callable[[int], None]) -> Pictures:
    """Embeds a labelled dataset; the labels are the classes' names.

    Raises:
        DataError: a picture may have any number of labels, there are none, or all failed.
    """
    if has_several(images.labels):
        raise DataError(f"{images.name}: its pictures have any number of labels; expected one for each")
    sources = [images.source(place) for place in range(len(images))]
    labels = [images.classes[label].label for label in images.labels.tolist()]
    unread: dict[int, str] = {}

    def encoded() -> Iterator[bytes]:
        for place in range(len(images)):
            try:
                yield images.read(place)
            except ImageError as error:
                unread[place] = str(error).removeprefix(f"{sources[place]}: ")
                yield b""

    found, failed = _collected(embedder.stream(encoded()), sources, advance, unread)
    table = _table(images.name, found, sources, labels, embedder, failed)
    return Pictures(images.name, table, lambda at: images.read(found[at][0]), failed)


def _collected(
    embeddings: Iterable[Embedding],
    sources: Sequence[str],
    advance: Callable[[int], None],
    unread: Mapping[int, str] = MappingProxyType({}),
) -> tuple[list[tuple[int, Embedding]], list[str]]:
    """Those that came out, with their places among ``sources``; and of the others the reasons.

    Args:
        unread: of the places that nothing could be read of, why.
    """
    found, failed = [], []
    for place, embedding in enumerate(embeddings):
        if embedding.values is not None:
            found.append((place, embedding))
        else:
            reason = unread.get(place) or str(embedding.error).removeprefix(f"{embedding.source}: ")
            failed.append(f"{sources[place]}: {reason}")
        advance(1)
    return found, failed


def _table(
    name: str,
    found: Sequence[tuple[int, Embedding]],
    sources: Sequence[str],
    labels: Sequence[str] | None,
    embedder: Embedder,
    failed: Sequence[str],
) -> Embeddings:
    if not found:
        raise DataError(f"{name}: no pictures to compare" + (f"; the first failed: {failed[0]}" if failed else ""))
    return Embeddings(
        embedder.info,
        [sources[place] for place, _ in found],
        [str(each.sha256) for _, each in found],
        None if labels is None else [labels[place] for place, _ in found],
        None,
        np.stack([each.values for _, each in found if each.values is not None]),
        len(failed),
    )


def embedder_for(info: EmbeddingsInfo, model: str | None, threads: int | None, name: str) -> Embedder:
    """What gives embeddings of the same kind.

    Args:
        model: a model file or a name; default: the taught file that the embeddings lie beside, or the shipped or
            published model that ``info`` names. Whatever else it names is not opened and not fetched: the file of
            embeddings may be anybody's.
        name: of the embeddings' file.

    Raises:
        ArgumentError: no model goes by the name in ``info``, so that it has to be given.
        DataError: the model gives others.
    """
    options = EmbeddingOptions(info.normalized, info.flip, info.stages)
    chosen = model or _taught_file(name)
    if chosen is None and info.model not in (*SHIPPED_MODELS, *NETWORKS):
        raise ArgumentError(
            f"{name}: was made by the model {info.model!r}, which is no published one; give its file with --model"
        )
    try:
        embedder = Embedder(chosen or info.model, options, threads=threads)
    except ShvitError as error:
        if model is not None:
            raise
        raise ArgumentError(
            f"{name}: was made by the model {info.model!r}, which cannot be had by this name ({error}); give its file "
            "with --model"
        ) from None
    if difference := info.difference(embedder.info):
        raise DataError(f"{name}: cannot be searched with {embedder.path}: {difference}; give its model with --model")
    return embedder


def _taught_file(embeddings: str) -> Path | None:
    """The model file that ``shvit teach`` wrote these embeddings beside."""
    stem = embeddings.removesuffix(TAUGHT)
    there = (Path(stem + suffix) for suffix in (".onnx", *FILE_ENGINES))
    return next((path for path in there if path.is_file()), None) if stem != embeddings else None


def together(first: Pictures, second: Pictures) -> Read:
    """Reads the first one's pictures by their places, and then the second one's."""
    count = len(first.embeddings)
    return lambda place: first.read(place) if place < count else second.read(place - count)
