"""A run of embeddings whose parts become one file at its end."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from shvit.atomic import clear_partials
from shvit.batch.plan import PLAN, BatchSettings, check_same
from shvit.batch.run import BatchSummary, RunOptions, run_batch
from shvit.batch.stores import Output, is_url, open_binary
from shvit.batch.worker import FAILED, is_part
from shvit.embeddings.table import INFO, EmbeddingsWriter
from shvit.errors import ArgumentError, BatchError
from shvit.predicting.embeddings import EmbeddingsInfo

SUFFIX = ".parquet"
"""Of an output that is one file; any other is a folder of parts."""

PARTS = ".parts"
"""After the file's name, the folder of its parts while there are any."""

RUN = "shvit.run"
"""Key in a file's metadata: what was asked for, as ``BatchSettings.asked`` gives it, in JSON."""


def run_embed(
    settings: BatchSettings,
    output: str,
    options: RunOptions = RunOptions(),  # noqa: B008 - it cannot be changed
    begin: Callable[[int | None, int], None] = lambda total, finished: None,
    advance: Callable[[int], None] = lambda count: None,
) -> BatchSummary:
    """Embeds everything that the sources hold.

    Started again after whatever end, a run goes on. While it runs, its parts are in a folder beside the file that it is
    to be; that stays where an input failed, so that it can be tried again.

    Args:
        settings: with ``embeddings``.
        output: a name that ends with ``.parquet``: the file; any other: a folder of parts. Paths or URLs.
        options, begin, advance: as for ``run_batch``.

    Raises:
        BatchError: it cannot start or go on, or the file is there and is of another run.
        ModelFileError: the model cannot be used.
        MissingDependencyError: as of ``run_batch``.
    """
    if settings.embeddings is None:
        raise ArgumentError("settings: expected some with embeddings")
    if not output.endswith(SUFFIX):
        return run_batch(settings, output, options, begin, advance)
    parts = Output(f"{output}{PARTS}")
    folder, _, name = parts.root.removesuffix(PARTS).rpartition("/")
    place = Output(folder or "/")
    begun = parts.read(PLAN) is not None  # a folder of that name may also be somebody else's
    if not begun and (done := _finished(place, name, settings)) is not None:
        begin(done.inputs, done.inputs)
        return done
    if not is_url(place.root):
        clear_partials(place.path(name))  # of a run that was ended while it put its parts together
    done = run_batch(settings, parts.root, options, begin, advance)
    _join(parts, place, name, settings, done.failed)
    if not done.failed:
        parts.clear(is_part, PLAN.partition("/")[0])
    return done


def _finished(place: Output, name: str, settings: BatchSettings) -> BatchSummary | None:
    """What a file holds that is there already; ``None`` where there is none.

    Raises:
        BatchError: it is of another run, or no file of embeddings.
    """
    try:
        with open_binary(place.path(name)) as stream:
            footer = pq.read_metadata(stream)
        noted = footer.metadata or {}
        asked, failed = json.loads(noted[RUN.encode()]), int(noted[FAILED])
    except FileNotFoundError:
        return None
    except (OSError, pa.ArrowException, KeyError, ValueError, RecursionError):
        raise BatchError(
            f"--output {place.path(name)}: is there already, and not a file of: shvit embed; name another output, or "
            "remove it"
        ) from None
    check_same(asked, settings.asked(), place.path(name))
    return BatchSummary(footer.num_rows, failed, 0, Counter(), 0, 0.0, 0.0)


def _join(parts: Output, place: Output, name: str, settings: BatchSettings, failed: int) -> None:
    """Writes the file: all parts in their order, a few rows at a time."""
    names = sorted(each for each in parts.names() if is_part(each))
    with _opened(parts, names[0]) as first:
        schema = first.schema_arrow
    info = EmbeddingsInfo.from_json(schema.metadata[INFO.encode()], names[0])
    with place.create(name) as path, EmbeddingsWriter(path, info, times="time" in schema.names) as writer:
        for each in names:
            with _opened(parts, each) as part:
                for group in range(part.num_row_groups):
                    writer.write_table(part.read_row_group(group))
        writer.note(RUN, json.dumps(settings.asked()))
        writer.note(FAILED.decode(), str(failed))


@contextmanager
def _opened(parts: Output, name: str) -> Iterator[pq.ParquetFile]:
    with open_binary(parts.path(name)) as stream, pq.ParquetFile(stream) as part:
        yield part
