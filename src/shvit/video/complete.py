"""Complete mode: every frame of files, or those asked for, as fast as it goes; a killed run can go on."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from shvit.atomic import free_name
from shvit.card import Card
from shvit.drawing.annotate import annotate
from shvit.errors import VideoError
from shvit.images.sources import SourceError
from shvit.predicting.classifier import Classifier
from shvit.tasks import Answering, task_of
from shvit.video.classify import Classified, PrepareFrame, classified, frame_preparation
from shvit.video.encode import open_encoder
from shvit.video.events import Event, EventSettings, EventTracker, event_from_json, event_to_json, in_order
from shvit.video.frames import Damage, Frame, Position, ReadOptions, Video
from shvit.video.history import ScoreHistory
from shvit.video.output import FrameRows, Journal

CHECKPOINT = 1.0
"""Seconds between two notes in the journal: so much work at most is done again after a kill."""

DRAWN = 3
"""Labels drawn on an annotated video."""


@dataclass(frozen=True)
class Options:
    """What is asked of a run."""

    events: EventSettings = field(default_factory=EventSettings)
    fps: float | None = None
    """At most so many frames a second."""
    keyframes: bool = False
    fast: bool = False
    """Nearly the same pixels, sooner."""
    answering: Answering = field(default_factory=Answering)
    """What is written of each frame, and whether one that shows nothing known is called so."""
    pictures: bool = False
    """Keep what the page shows: a picture of each event's peak, and the scores over time."""


@dataclass
class VideoSummary:
    """What became of one video."""

    source: str
    width: int = 0
    height: int = 0
    codec: str = ""
    frames: int = 0
    seconds: float = 0.0
    """Of the video, to the end of the last frame."""
    elapsed: float = 0.0
    """Of work; after a resumed run, of the last part only."""
    events: list[Event] = field(default_factory=list)
    damage: list[Damage] = field(default_factory=list)
    sums: np.ndarray | None = None
    """Each label's scores added up over the frames, ``float64 (classes)``."""
    history: ScoreHistory = field(default_factory=ScoreHistory)
    """Scores over time, if the page is asked for."""
    error: str | None = None
    """Why it could not be read at all."""
    live: dict[str, Any] | None = None
    """Of a live source: what it was like."""

    @property
    def failed(self) -> bool:
        return self.error is not None or bool(self.damage)

    def add(self, frame: Frame, scores: np.ndarray) -> None:
        """Counts a frame in."""
        self.width, self.height = frame.size
        self.frames += 1
        self.seconds = frame.time + frame.duration
        self.sums = scores.astype(np.float64) if self.sums is None else self.sums + scores

    def to_json(self, events: int = 0, damage: int = 0) -> dict[str, Any]:
        """For the journal, without the first so many events and stretches of damage, which are there already."""
        return {
            **asdict(replace(self, events=[], damage=[])),
            "events": [event_to_json(each) for each in self.events[events:]],
            "damage": [asdict(each) for each in self.damage[damage:]],
            "sums": None if self.sums is None else self.sums.tolist(),
            "history": self.history.to_json(),
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> VideoSummary:
        return cls(
            **{
                **values,
                "events": in_order([event_from_json(each) for each in values["events"]]),
                "damage": [Damage(**each) for each in values["damage"]],
                "sums": None if values["sums"] is None else np.array(values["sums"], np.float64),
                "history": ScoreHistory.from_json(values["history"]),
            }
        )


class CompleteRun:
    """Analyses videos one after the other.

    Args:
        rows: takes a row for each frame.
        journal: notes how far the run has come.
        save_video: a folder for copies with the labels drawn in.
        advance: told, now and then, the seconds of the current video that are done.
    """

    def __init__(
        self,
        classifier: Classifier,
        options: Options,
        rows: FrameRows | None = None,
        journal: Journal | None = None,
        save_video: Path | None = None,
        advance: Callable[[Video, float], None] = lambda video, seconds: None,
    ) -> None:
        self._classifier, self._options = classifier, options
        self._prepare = frame_preparation(classifier.card.preprocessing, options.fast)
        self._rows, self._journal, self._save_video, self._advance = rows, journal, save_video, advance
        self._earlier = (journal.earlier if journal is not None else None) or {}
        self._finished: dict[str, VideoSummary] = {}
        """What became of videos in the earlier run."""
        if journal is not None and self._earlier:
            with journal.understanding():
                self._finished = {each["source"]: VideoSummary.from_json(each) for each in self._earlier["finished"]}
                if self._earlier["current"] is not None:
                    self._where_it_stood(self._earlier["current"])
        self._noted = time.monotonic()
        self._in_journal = (0, 0)
        """Of the current video's events and stretches of damage, how many the journal has."""

    def run(self, sources: Iterable[str | SourceError]) -> Iterator[VideoSummary]:
        """One summary for each source, in order; those that an earlier run had finished are given as they were."""
        for source in sources:
            if isinstance(source, SourceError):
                yield VideoSummary(source.source, error=source.reason)
                continue
            if source in self._finished:
                yield self._finished[source]
                continue
            summary = self._analyse(source)
            if self._journal is not None:
                self._journal.finished(summary.to_json(*self._in_journal))
            self._note(None)
            summary.events = in_order(summary.events)
            yield summary

    def _analyse(self, source: str) -> VideoSummary:
        current = self._earlier.pop("current", None)
        if current is not None and current["summary"]["source"] == source:
            for seek in (True, False):
                try:
                    return self._go_on(current, seek)
                except _ChangedError:
                    self._rewind(self._earlier["rows"], current)
        if current is not None:
            self._rewind(current["rows_start"], None)
        self._in_journal = (0, 0)
        start = self._rows.size() if self._rows is not None else 0
        summary, began = VideoSummary(source), time.perf_counter()
        try:
            with self._open(source) as video:
                tracker = EventTracker(self._options.events, len(self._classifier.classes))
                self._follow(video, iter(video), summary, tracker, start)
        except VideoError as error:
            summary.error = str(error).removeprefix(f"{source}: ")
            self._write({"source": source, "error": summary.error})
        summary.elapsed = time.perf_counter() - began
        return summary

    def _go_on(self, current: dict[str, Any], seek: bool) -> VideoSummary:
        """Takes up a video where an earlier run noted that it stood.

        Raises:
            _ChangedError: the frame that it stood at is not there, or not the same.
        """
        began, found = time.perf_counter(), self._earlier["found"]
        summary, position, tracker = self._where_it_stood(current)
        self._in_journal = (len(found.get("events", ())), len(found.get("damage", ())))
        try:
            with self._open(summary.source, position, seek) as video:
                items = iter(video)
                first = next(items, None)
                if not isinstance(first, Frame) or _fingerprint(first, self._prepare) != current["fingerprint"]:
                    raise _ChangedError
                self._follow(video, items, summary, tracker, current["rows_start"])
        except VideoError as error:
            raise _ChangedError from error
        summary.elapsed = time.perf_counter() - began
        return summary

    def _where_it_stood(self, current: dict[str, Any]) -> tuple[VideoSummary, Position, EventTracker]:
        """What the earlier run had of the video that it was at.

        Raises:
            ValueError, KeyError, TypeError, AttributeError, IndexError: its notes are not as this version writes them.
        """
        values, found = current["summary"], self._earlier["found"]
        summary = VideoSummary.from_json({**values, **{name: each + values[name] for name, each in found.items()}})
        position = Position(**current["position"])
        tracker = EventTracker(self._options.events, len(self._classifier.classes))
        tracker.restore(current["tracker"])
        numbers = (
            position.index,
            position.pts or 0,
            position.origin or 0,
            current["rows_start"],
            current["fingerprint"],
        )
        if not all(isinstance(each, int) for each in numbers):
            raise TypeError(f"no whole numbers: {numbers}")
        return summary, position, tracker

    def _open(self, source: str, start: Position | None = None, seek: bool = True) -> Video:
        options = self._options
        threads = self._classifier.threads
        reading = ReadOptions(options.fps, options.keyframes, threads, fast=options.fast, start=start, seek=seek)
        return Video(source, reading)

    def _follow(
        self,
        video: Video,
        items: Iterator[Frame | Damage],
        summary: VideoSummary,
        tracker: EventTracker,
        rows_start: int,
    ) -> None:
        """From the next frame to the end of the video."""
        summary.codec = video.codec
        with ExitStack() as stack:
            encoder = None
            if self._save_video is not None:
                path = free_name(self._save_video, video_stem(summary.source), "mp4")
                encoder = stack.enter_context(open_encoder(path, self._classifier.threads))
            for each in stack.enter_context(closing(classified(items, self._classifier, self._prepare))):
                if isinstance(each, Damage):
                    add_damage(summary.damage, each)
                    self._write({"source": summary.source, "time": round(each.time, 6), "error": each.reason})
                    continue
                frame = each.frame
                summary.events += track(each, self._classifier.card, tracker, summary, self._options)
                self._write(frame_row(summary.source, each, self._classifier, self._options))
                if encoder is not None:
                    encoder.write(draw(each, tracker, self._classifier, self._options.answering), frame.time)
                if time.monotonic() - self._noted >= CHECKPOINT:
                    self._advance(video, frame.time)
                    self._note_found(summary)
                    self._note(
                        {
                            "summary": summary.to_json(*self._in_journal),
                            "position": asdict(frame.position),
                            "fingerprint": zlib.crc32(each.pixels.tobytes()),
                            "tracker": tracker.state(),
                            "rows_start": rows_start,
                        }
                    )
        summary.events += tracker.finish()

    def _rewind(self, rows: int, current: dict[str, Any] | None) -> None:
        """Back to so many bytes of rows, and to where the earlier run stood in its video, or to before that video."""
        if self._rows is not None:
            self._rows.rewind(rows)
        if self._journal is not None:
            self._journal.forget(noted=current is None)
        self._note(current)

    def _write(self, row: dict[str, Any]) -> None:
        if self._rows is not None:
            self._rows.write(row)

    def _note_found(self, summary: VideoSummary) -> None:
        """Adds to the journal what the current video has by now; not the last damage, which may still grow."""
        events, damage = self._in_journal
        settled = max(len(summary.damage) - 1, damage)
        values = summary.to_json(events, damage)
        found = {"events": values["events"], "damage": values["damage"][: settled - damage]}
        if self._journal is not None and any(found.values()):
            self._journal.found(found)
        self._in_journal = (len(summary.events), settled)

    def _note(self, current: dict[str, Any] | None) -> None:
        """Writes down how far the run has come; first the rows, then that they are there."""
        self._noted = time.monotonic()
        if self._journal is not None:
            self._journal.write(self._rows.size() if self._rows is not None else 0, current)


class _ChangedError(Exception):
    """The video is not as the journal says."""


def _fingerprint(frame: Frame, prepare: PrepareFrame) -> int:
    return zlib.crc32(prepare(frame).tobytes())


def frame_row(source: str, each: Classified, classifier: Classifier, options: Options) -> dict[str, Any]:
    """A frame as a line of JSON holds it."""
    card = classifier.card
    found = task_of(card).result(source, each.judged, card, options.answering).to_dict()
    return {
        "source": source,
        "index": each.frame.index,
        "time": round(each.frame.time, 6),
        **found,
        "predictions": [{**one, "score": round(one["score"], 6)} for one in found["predictions"]],
    }


def track(each: Classified, card: Card, tracker: EventTracker, summary: VideoSummary, options: Options) -> list[Event]:
    """Counts a frame in; returns the events that are complete by now.

    What is unknown opens no event: no label counts as seen.
    """
    frame, scores = each.frame, each.judged.scores
    if task_of(card).known(each.judged, card, options.answering) is False:
        scores = np.zeros_like(scores)
    events = tracker.update(frame.time, frame.duration, scores, each.picture if options.pictures else None)
    summary.add(frame, scores)
    if options.pictures and tracker.smoothed is not None:
        summary.history.add(frame.time, tracker.smoothed)
    return events


def draw(each: Classified, tracker: EventTracker, classifier: Classifier, answering: Answering) -> Any:
    """The frame with its first labels and their smoothed scores, a PIL image; that it is unknown stands above them."""
    from PIL import Image

    assert tracker.smoothed is not None
    task, card = task_of(classifier.card), classifier.card
    found = task.result("", each.judged, card, answering)
    heading = found.headline if found.known is False else None
    return annotate(Image.fromarray(each.frame.image), task.predictions(tracker.smoothed, card, DRAWN), heading)


def add_damage(damage: list[Damage], new: Damage) -> None:
    """Adds it, unless the same was said less than a second before: a damaged stretch is one thing."""
    last = damage[-1] if damage else None
    if last is not None and last.reason == new.reason:
        until = last.time if last.until is None else last.until
        if new.time - until <= 1.0:
            damage[-1] = Damage(last.time, new.reason, new.time)
            return
    damage.append(new)


def video_stem(source: str) -> str:
    """What a copy of a video is called, but for the suffix."""
    return Path(source.rstrip("/")).stem or "video"
