"""Where a video's frames and events are written, so that a run that is killed can go on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import IO, Any

from shvit.atomic import atomic_path, beside, clear_partials, json_bytes, put_in_place
from shvit.display import as_text
from shvit.errors import ArgumentError, MissingDependencyError, VideoError
from shvit.install import install_command

FRAME_FORMATS = (".jsonl", ".parquet")

_ROWS = 4096
"""Rows of a Parquet row group."""


class FrameRows:
    """Rows of frames, kept beside the file in one line of JSON each until all are there.

    Args:
        path: ``.jsonl`` or ``.parquet``; written whole at the end.
        keep: keep this many bytes of what an earlier run left; 0 begins anew.

    Raises:
        ValueError: another suffix.
        MissingDependencyError: Parquet needs pyarrow.
        VideoError: what an earlier run left is gone, or shorter than it was.
    """

    def __init__(self, path: Path, keep: int = 0) -> None:
        check_frames_path(path)
        self.path, self._aside = path, working_file(path)
        try:
            self._file: IO[bytes] = self._aside.open("rb+" if keep else "wb")
        except FileNotFoundError:
            if not keep:
                raise
            raise VideoError(
                f"{self._aside}: the earlier run's rows are not there any more; begin anew without --resume"
            ) from None
        if keep > self._file.seek(0, os.SEEK_END):
            self._file.close()
            raise VideoError(f"{self._aside}: shorter than when the earlier run wrote it; begin anew without --resume")
        self.rewind(keep)

    def write(self, row: dict[str, Any]) -> None:
        self._file.write(json_bytes(row) + b"\n")

    def flush(self) -> None:
        """Lets whoever follows the unfinished file see all rows so far."""
        self._file.flush()

    def size(self) -> int:
        """Bytes so far, all of them on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def rewind(self, size: int) -> None:
        """Forgets what was written after the first ``size`` bytes."""
        _cut(self._file, size)

    def finish(self) -> None:
        """Gives the file its name."""
        self.size()
        self._file.close()
        if self.path.suffix == ".jsonl":
            put_in_place(self._aside, self.path)
            return
        with atomic_path(self.path) as aside:
            _to_parquet(self._aside, aside)
        self._aside.unlink()

    def close(self) -> None:
        self._file.close()


def _cut(file: IO[bytes], size: int) -> None:
    """Ends a file after ``size`` bytes and goes on writing there: ``truncate`` alone leaves the position behind it."""
    file.seek(size)
    file.truncate()


def check_frames_path(path: Path) -> None:
    """Raises: ValueError, MissingDependencyError: rows of frames cannot be written to a file of this name."""
    if path.suffix not in FRAME_FORMATS:
        raise ArgumentError(f"{path}: expected a file that ends in {' or '.join(FRAME_FORMATS)}")
    if path.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401 - whether it is there
        except ImportError:
            raise MissingDependencyError(
                f"{path}: Parquet needs pyarrow, which is not installed: {install_command('video')}"
            ) from None


def working_file(path: Path) -> Path:
    """Where the rows are until all are there."""
    return beside(path, ".partial")


def _to_parquet(rows: Path, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    named = [("label", pa.string()), ("class_id", pa.int32()), ("wnid", pa.string())]
    labels = pa.list_(pa.struct([*named, ("score", pa.float32()), ("accepted", pa.bool_())]))
    schema = pa.schema(
        [
            ("source", pa.string()),
            ("index", pa.int64()),
            ("time", pa.float64()),
            ("predictions", labels),
            ("error", pa.string()),
            ("decision", pa.string()),
            ("known", pa.bool_()),
            ("unknown_score", pa.float32()),
        ]
    )
    with (
        rows.open("rb") as file,
        path.open("wb") as sink,  # a name need not be text, which pyarrow takes it for
        pq.ParquetWriter(sink, schema, compression="zstd") as writer,
    ):
        for group in _groups(file):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))


def _groups(lines: IO[bytes]) -> Iterator[list[dict[str, Any]]]:
    while group := [json.loads(line) for line in islice(lines, _ROWS)]:
        for row in group:  # Parquet's text is UTF-8
            row |= {key: as_text(value) for key, value in row.items() if isinstance(value, str)}
        yield group


def journal_files(output: Path) -> tuple[Path, Path]:
    """Where the journal of a run with this output is."""
    return beside(output, ".journal"), beside(output, ".finished")


class Journal:
    """How far a run has come, in two files beside its output; gone when the run is done.

    What is found is only ever added to one of them, so that a note costs the same after ten hours as after one. The
    other is written anew each time: how much of the first counts, and the state of the video that is not finished.

    Args:
        output: what it is beside of.
        settings: what has to be the same for an earlier run to go on.
        resume: go on from what an earlier run wrote, if there is such; else begin anew.

    Raises:
        VideoError: the earlier run was another one, or its journal is damaged.
    """

    earlier: dict[str, Any] | None
    """What the earlier run wrote: ``rows``, ``finished``, ``current``, and what it ``found`` in that one so far."""

    def __init__(self, output: Path, settings: dict[str, Any], resume: bool) -> None:
        self._path, self._finished_path = journal_files(output)
        self._settings = json.loads(json.dumps(settings))
        self.earlier = self._read() if resume else None
        if self.earlier is None:
            self.remove()
        kept = self.earlier["finished_bytes"] if self.earlier else 0
        self._begun = self.earlier["begun"] if self.earlier else 0
        self._finished: IO[bytes] = self._finished_path.open("rb+" if kept else "wb")
        _cut(self._finished, kept)

    def _read(self) -> dict[str, Any] | None:
        try:
            state = json.loads(self._path.read_text(encoding="utf-8"))
            settings, rows, kept = dict(state["settings"]), state["rows"], state["finished_bytes"]
            finished = self._finished_path.read_bytes()
            if not (type(rows) is type(kept) is int and rows >= 0 and 0 <= kept <= len(finished)):
                raise ValueError(f"{rows} bytes of rows, {kept} of {len(finished)} bytes of finished videos")
            state["finished"], state["found"], state["begun"] = _videos(finished[:kept])
            state["current"]  # that it is there
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise self._damaged(error) from None
        for name, value in self._settings.items():
            if settings.get(name) != value:
                raise VideoError(
                    f"{self._path}: the earlier run had {name} {settings.get(name)}, this one has {value}; repeat it "
                    "as it was, or begin anew without --resume"
                )
        return state

    @contextmanager
    def understanding(self) -> Iterator[None]:
        """What goes wrong inside is the earlier run's notes' fault: another version's are not as this one's.

        Raises:
            VideoError: as said.
        """
        try:
            yield
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise self._damaged(error) from None

    def _damaged(self, error: Exception) -> VideoError:
        return VideoError(f"{self._path}: cannot be read ({error}); begin anew without --resume")

    def found(self, values: dict[str, list[Any]]) -> None:
        """Notes more of what a video that is not finished has, once ``write`` is called after it.

        Args:
            values: lists by the names that they have in the video's summary, which will be given without these.
        """
        self._finished.write(json.dumps({"found": values}).encode() + b"\n")

    def finished(self, summary: dict[str, Any]) -> None:
        """Notes what became of a video, once ``write`` is called after it."""
        self._finished.write(json.dumps(summary).encode() + b"\n")
        self._begun = self._finished.tell()

    def forget(self, noted: bool) -> None:
        """Forgets what was found in the video that is not finished.

        Args:
            noted: what the earlier run noted as well.
        """
        _cut(self._finished, self.earlier["finished_bytes"] if self.earlier and not noted else self._begun)

    def write(self, rows: int, current: dict[str, Any] | None) -> None:
        """Notes how far the run has come.

        Args:
            rows: bytes of the rows that belong to it.
            current: the state of a video that is not finished.
        """
        self._finished.flush()
        os.fsync(self._finished.fileno())
        state = {
            "settings": self._settings,
            "rows": rows,
            "finished_bytes": self._finished.tell(),
            "current": current,
        }
        with atomic_path(self._path) as aside:
            aside.write_text(json.dumps(state), encoding="utf-8")

    def remove(self) -> None:
        for path in (self._path, self._finished_path):
            with suppress(FileNotFoundError):
                path.unlink()
        clear_partials(self._path)

    def close(self) -> None:
        self._finished.close()


def _videos(lines: bytes) -> tuple[list[dict[str, Any]], dict[str, list[Any]], int]:
    """Finished videos, what was found in the one after them, and where its lines begin.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: these are not a journal's lines.
    """
    finished: list[dict[str, Any]] = []
    found: dict[str, list[Any]] = {}
    place = begun = 0
    for line in lines.splitlines(keepends=True):
        place += len(line)
        values = json.loads(line)
        if "found" in values:
            for name, more in values["found"].items():
                found.setdefault(name, []).extend(more)
            continue
        finished.append({**values, **{name: earlier + values[name] for name, earlier in found.items()}})
        found, begun = {}, place
    return finished, found, begun
