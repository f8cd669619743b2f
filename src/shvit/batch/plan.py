"""What a run is to do, pinned in its output folder when it starts, so that a later start can only go on with it."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from shvit._version import __version__
from shvit.batch.inputs import Sampling
from shvit.batch.listing import STDIN, Item, Kind, Unit, cut, list_items
from shvit.batch.stores import Output, open_binary, settled
from shvit.engines import BATCH_SIZE
from shvit.errors import BatchError, check_positive
from shvit.hub.resolve import resolve_model
from shvit.images.decoding import Decoding
from shvit.predicting.classifier import Classifier
from shvit.predicting.embedder import Embedder
from shvit.predicting.embeddings import EmbeddingOptions
from shvit.predicting.loaded import LoadedModel
from shvit.shipped import DEFAULT_MODEL
from shvit.tasks import Answering

PLAN = "_shvit/plan.json"
LISTING = "_shvit/listing.parquet"
"""Readers of Parquet folders leave out what begins with an underscore."""

UNIT_SIZE = 1024
"""Inputs in a unit: seconds of work, so that little is lost with a worker, and a file of some 50 kB."""

_SCHEMA = 1

_LISTING = pa.schema(
    [
        ("path", pa.binary()),  # a file's name need not be text
        ("rows", pa.int64()),
        ("row_group", pa.int32()),
        ("first_row", pa.int64()),
        ("size", pa.int64()),
    ]
)


@dataclass(frozen=True)
class BatchSettings:
    """What the user asks for. All of it decides what the rows hold, so all of it is pinned."""

    sources: tuple[str, ...]
    """Files, folders, patterns; paths or URLs; ``-`` for those in ``listed``."""
    model: str = DEFAULT_MODEL
    """A model file, or a name, as ``Classifier`` takes them."""
    kind: Kind | None = None
    """What to take of the sources; ``None`` for the one kind that they hold."""
    column: str | None = None
    """Of Parquet files, the one with the images; ``None`` for the only one that can be."""
    fps: float | None = None
    """Frames a second of a video at most; ``None`` for all."""
    keyframes: bool = False
    """Of a video, only the frames that stand by themselves."""
    top_k: int = 5
    """Labels of each input."""
    min_score: float | None = None
    """From which score on a label is an answer; ``None`` for the card's thresholds."""
    unknown: bool = True
    """Whether an input of none of the classes is called unknown, where the card can tell."""
    embedding: bool = False
    """Also the pooled features that the head judges by, ``float32 (channels,)``."""
    embeddings: EmbeddingOptions | None = None
    """Rows of embeddings made so, as ``shvit.embeddings`` reads them, in place of labels."""
    engine: str = "auto"
    decoding: Decoding = "exact"
    batch_size: int = BATCH_SIZE
    """Images in one inference."""
    unit_size: int = UNIT_SIZE
    """Inputs in a file of the output, as far as the source can be cut so."""
    listed: tuple[str, ...] = field(default=(), repr=False)
    """What ``-`` stands for."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "unit_size"):
            check_positive(name, getattr(self, name))
        self.answering  # noqa: B018 - checks its values
        if self.fps is not None:
            check_positive("fps", self.fps)

    @property
    def answering(self) -> Answering:
        return Answering(self.top_k, self.min_score, self.unknown)

    def asked(self) -> dict[str, Any]:
        """All that decides what the rows hold, as it is pinned in JSON: the model by its contents, the list by its
        digest.

        Raises:
            ModelFileError: there is no such model.
        """
        listed = hashlib.sha256("\n".join(self.listed).encode("utf-8", "surrogateescape")).hexdigest()
        return {
            **{each.name: getattr(self, each.name) for each in fields(self)},
            "sources": [source if source == STDIN else settled(source) for source in self.sources],
            "listed": listed if self.listed else None,
            "embeddings": None if self.embeddings is None else asdict(self.embeddings),
            "model": hashlib.sha256(resolve_model(self.model).read_bytes()).hexdigest(),
            "version": __version__,
        }


@dataclass(frozen=True)
class WorkerSetup:
    """All that a worker must know, whatever machine it is on."""

    output: str
    model: Path
    """On the machine that started the run."""
    model_name: str
    """From its card."""
    model_sha256: str
    engine: str
    decoding: Decoding
    batch_size: int
    answering: Answering
    embedding: bool
    embeddings: EmbeddingOptions | None
    kind: Kind
    column: str | None
    sampling: Sampling
    version: str
    """shvit's."""


@dataclass(frozen=True)
class Plan:
    """A run that has been pinned."""

    setup: WorkerSetup
    units: int
    inputs: int | None
    """How many there are, where the listing tells."""
    left_out: Counter[str]
    """Files among them that are not read, as ``walk_files`` counts them."""
    output: Output

    def read_units(self, without: set[int]) -> Iterator[Unit]:
        """Its units in order, but for those; one at a time is in memory."""
        with open_binary(self.output.path(LISTING)) as stream, pq.ParquetFile(stream) as listing:
            for number in range(self.units):
                if number not in without:
                    rows = listing.read_row_group(number).to_pylist()
                    yield Unit(number, tuple(Item(os.fsdecode(row.pop("path")), **row) for row in rows))


def make_plan(settings: BatchSettings, output: Output) -> Plan:
    """Lists the sources and pins the run; where that is done already, checks that it is the same one and goes on.

    Raises:
        BatchError: another run is pinned there, or the sources give nothing.
        ModelFileError: the model cannot be used.
        OSError: a folder cannot be read, or the output cannot be written.
    """
    model = resolve_model(settings.model)
    # Loaded once here, so that a model or an engine that cannot be used is refused before anything is listed.
    loaded = _load(settings, model)
    asked = settings.asked()
    pinned = _read_plan(output)
    if pinned is None:
        if any(name.startswith("part-") for name in output.names()):
            raise BatchError(f"--output {output.root}: holds parts, but not the plan that they are of; name another")
        pinned = {"schema": _SCHEMA, "asked": asked, "engine": loaded.engine, **_list(settings, output)}
        with output.create(PLAN) as path:
            path.write_text(json.dumps(pinned, indent=1) + "\n", encoding="utf-8")
    else:
        check_same(pinned["asked"], asked, output.root)
    setup = WorkerSetup(
        output.root,
        model.absolute(),
        loaded.card.name,
        asked["model"],
        pinned["engine"],
        settings.decoding,
        settings.batch_size,
        settings.answering,
        settings.embedding,
        settings.embeddings,
        pinned["kind"],
        settings.column,
        Sampling(settings.fps, settings.keyframes),
        __version__,
    )
    return Plan(setup, pinned["units"], pinned["inputs"], Counter(pinned.get("left_out", {})), output)


def _load(settings: BatchSettings, model: Path) -> LoadedModel:
    running = (settings.engine, 1, settings.batch_size, settings.decoding)
    if settings.embeddings is not None:
        return Embedder(model, settings.embeddings, *running)
    return Classifier(model, *running, embedding=settings.embedding)


def _read_plan(output: Output) -> dict[str, Any] | None:
    raw = output.read(PLAN)
    if raw is None:
        return None
    try:
        plan = json.loads(raw)
        if plan["schema"] == _SCHEMA:
            return plan
        what = f"is of schema {plan['schema']}, this version reads {_SCHEMA}"
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        what = f"cannot be read: {error!r}"
    raise BatchError(f"{output.path(PLAN)}: {what}; name another output")


def check_same(pinned: dict[str, Any], asked: dict[str, Any], output: str) -> None:
    """Refuses to go on with what was asked for in another way.

    Args:
        pinned, asked: as ``BatchSettings.asked`` gives it, then and now.

    Raises:
        BatchError: they differ; the message says in what.
    """
    for name in asked:
        if pinned.get(name) != asked[name]:
            raise BatchError(
                f"--output {output}: was begun with {_shown(name, pinned.get(name))}, not "
                f"{_shown(name, asked[name])}; go on with what it was begun with, or name another output"
            )


def _shown(name: str, value: Any) -> str:
    if name == "sources":
        return f"the sources {' '.join(value or ())}"
    if name == "model":
        return f"the model file of SHA-256 {str(value)[:12]}"
    if name == "listed":
        return f"the list of SHA-256 {str(value)[:12]} on stdin" if value else "no list on stdin"
    if name == "embeddings":
        said = ", ".join(f"{each.replace('_', ' ')} {it}" for each, it in (value or {}).items())
        return f"embeddings ({said})" if value else "labels"
    return f"{name.replace('_', ' ')} {'unset' if value is None else value}"


def _list(settings: BatchSettings, output: Output) -> dict[str, Any]:
    """Writes the listing, a row group a unit, and counts."""
    left_out = Counter[str]()
    kind, items = list_items(settings.sources, settings.kind, settings.column, left_out, settings.listed)
    if kind == "video":
        import_module("shvit.video.frames")  # says what to install before anything is written
    units, inputs = 0, 0
    unknown = False
    with (
        output.create(LISTING) as path,
        path.open("wb") as sink,  # a name need not be text, which pyarrow takes it for
        pq.ParquetWriter(sink, _LISTING, compression="zstd") as writer,
    ):
        for unit in cut(items, settings.unit_size):
            rows = [{**item._asdict(), "path": os.fsencode(item.path)} for item in unit.items]
            writer.write_table(pa.Table.from_pylist(rows, _LISTING), row_group_size=len(rows))
            units += 1
            unknown = unknown or any(item.rows is None for item in unit.items)
            inputs += sum(item.rows or 0 for item in unit.items)
    return {"kind": kind, "units": units, "inputs": None if unknown else inputs, "left_out": left_out}
