"""Live mode: always the newest frame, so that the delay is bounded; a source that goes away is opened again."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from shvit.errors import ModelOutputError, VideoError
from shvit.predicting.classifier import Classifier
from shvit.video.classify import Classified, frame_preparation
from shvit.video.complete import Options, VideoSummary, draw, frame_row, track
from shvit.video.containers import is_live
from shvit.video.encode import VideoEncoder
from shvit.video.events import Event, EventTracker
from shvit.video.frames import READ_TIMEOUT, Damage, Frame, ReadOptions, Video
from shvit.video.output import FrameRows

FIRST_WAIT = 0.5
"""Seconds before the first attempt to reconnect, on average; doubled for each that fails."""

LONGEST_WAIT = 30.0

_REMEMBERED = 100_000
"""Latencies that the percentiles are of: the last so many."""


@dataclass(frozen=True)
class SourceLost:
    """The source went away; what comes after is another beginning."""

    reason: str


@dataclass
class LiveStatistics:
    """How a live run went. Written by the reading thread and by the classifying one, each its own fields."""

    received: int = 0
    """Frames decoded."""
    classified: int = 0
    connections: int = 0
    damaged: int = 0
    """Frames and packets with errors, as after a loss on the network."""
    unusable: int = 0
    """Frames that cannot be converted to RGB, or that the model's graph fails on."""
    lost: str | None = None
    """Why it was given up."""
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    """Seconds from a frame's data being handed over to this process until its scores are there."""
    started: float = field(default_factory=time.monotonic)

    def to_dict(self) -> dict[str, Any]:
        """Frames a second, drops, and the latency's percentiles in milliseconds."""
        seconds = time.monotonic() - self.started
        latency = None
        if self.latencies:
            p50, p95 = np.percentile(list(self.latencies), (50, 95))
            latency = {"p50": round(1000 * float(p50), 2), "p95": round(1000 * float(p95), 2)}
        return {
            "seconds": round(seconds, 3),
            "received": self.received,
            "classified": self.classified,
            "dropped": max(self.received - self.classified, 0),
            "fps": round(self.classified / seconds, 2) if seconds else 0.0,
            "connections": self.connections,
            "damaged": self.damaged + self.unusable,
            "latency_ms": latency,
            "lost": self.lost,
        }


class LiveSource:
    """The newest frame of a source, read by a thread of its own.

    A file is played at its own speed, once. Times are seconds since the first frame arrived, by this machine's clock,
    so that they go on over a loss.

    Args:
        reconnect: attempts in a row after which a source that went away, or never came, is given up.
        report: told of losses and attempts, a line each.
        timeout: seconds that a source may be silent.
    """

    def __init__(
        self,
        source: str,
        statistics: LiveStatistics,
        threads: int = 1,
        fps: float | None = None,
        reconnect: int = 10,
        report: Callable[[str], None] = lambda line: None,
        timeout: float = READ_TIMEOUT,
    ) -> None:
        self._source, self._threads, self._fps, self._timeout = source, threads, fps, timeout
        self._reconnect, self._report = (reconnect if is_live(source) else 0), report
        self.statistics = statistics
        self._stopped = threading.Event()
        self._changed = threading.Condition()
        self._pending: deque[Frame | SourceLost] = deque()
        """What was not given yet, in order: one frame at most, and at most one loss on each side of it."""
        self._ended = False
        self._first_arrival: float | None = None
        self._index, self._time = 0, -1.0
        self._thread = threading.Thread(target=self._read, name="shvit-live", daemon=True)

    def stop(self) -> None:
        """Ends the iteration soon; may be called from a signal handler."""
        self._stopped.set()

    def __iter__(self) -> Iterator[Frame | SourceLost]:
        """Each time the newest frame that has not been given, until the source ends or ``stop`` is called.

        A loss comes between the last frame given from before it and the first from after it.
        """
        self._thread.start()
        try:
            while not self._stopped.is_set():
                with self._changed:
                    # A signal handler cannot notify, so look at the flag now and then.
                    self._changed.wait_for(lambda: self._pending or self._ended, timeout=0.1)
                    item = self._pending.popleft() if self._pending else None
                    ended = self._ended
                if item is not None:
                    yield item
                elif ended:
                    return
        finally:
            self._stopped.set()
            self._thread.join(1.0)  # one that waits for the network is left behind; it holds nothing of ours

    def _read(self) -> None:
        failures = 0
        while not self._stopped.is_set():
            before = self.statistics.received
            reason = self._read_until_lost()
            if self._stopped.is_set():
                break
            if self.statistics.received > before:
                failures = 0
            if self._reconnect == 0 and reason is None:
                break  # the end of a file, or of a stream that need not come back
            reason = reason or "the stream ended"
            self._lose(SourceLost(reason))
            if failures >= self._reconnect:
                self.statistics.lost = reason
                self._report(f"{reason}; given up" + (f" after {failures} attempts" if failures else ""))
                break
            wait = min(FIRST_WAIT * 2**failures, LONGEST_WAIT) * random.uniform(0.5, 1.5)
            failures += 1
            self._report(f"{reason}; attempt {failures} of {self._reconnect} in {wait:.1f} s")
            self._stopped.wait(wait)
        with self._changed:
            self._ended = True
            self._changed.notify()

    def _read_until_lost(self) -> str | None:
        """Reads frames as they come; returns why no more do, ``None`` at an ordinary end."""
        reason = None
        options = ReadOptions(self._fps, threads=self._threads, low_delay=True, timeout=self._timeout)
        try:
            with Video(self._source, options) as video:
                self.statistics.connections += 1
                opened = time.monotonic()
                for item in video:
                    if self._stopped.is_set():
                        return None
                    if isinstance(item, Damage):
                        self.statistics.damaged += 1
                        reason = item.reason if item.reason.startswith("cannot be read") else reason
                        continue
                    reason = None
                    if not is_live(self._source):
                        self._stopped.wait(max(opened + item.time - time.monotonic(), 0))
                        item = replace(item, arrival=time.monotonic())
                    self._put(item)
        except VideoError as error:
            return str(error).removeprefix(f"{self._source}: ")
        return reason

    def _put(self, frame: Frame) -> None:
        self.statistics.received += 1
        if self._first_arrival is None:
            self._first_arrival = frame.arrival
        self._time = max(frame.arrival - self._first_arrival, self._time + 1e-6)  # two may come at once
        with self._changed:
            lost = next((each for each in self._pending if isinstance(each, SourceLost)), None)
            self._pending.clear()
            if lost is not None:
                self._pending.append(lost)
            self._pending.append(replace(frame, time=self._time, index=self._index))
            self._index += 1
            self._changed.notify()

    def _lose(self, lost: SourceLost) -> None:
        with self._changed:
            if not self._pending or not isinstance(self._pending[-1], SourceLost):
                self._pending.append(lost)
            self._changed.notify()


def follow(
    live: LiveSource,
    source: str,
    classifier: Classifier,
    options: Options,
    rows: FrameRows | None = None,
    encoder: VideoEncoder | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
    on_frame: Callable[[], None] = lambda: None,
) -> VideoSummary:
    """Classifies what a live source shows until it ends or is stopped.

    Args:
        on_event: told of each event as soon as it is complete.
        on_frame: called after each frame.
    """
    summary, statistics = VideoSummary(source), live.statistics
    prepare = frame_preparation(classifier.card.preprocessing, options.fast)
    tracker = EventTracker(options.events, len(classifier.classes))
    failure: str | None = None

    def add(events: list[Event]) -> None:
        summary.events += events
        for event in events:
            on_event(event)

    for frame in live:
        if isinstance(frame, SourceLost):
            add(tracker.finish())
            continue
        try:
            pixels = prepare(frame)
        except VideoError:
            statistics.unusable += 1
            continue
        (judged,) = classifier.judge_each(pixels[None])
        if isinstance(judged, ModelOutputError):
            statistics.unusable += 1
            failure = str(judged)
            continue
        each = Classified(frame, pixels, judged)
        statistics.latencies.append(time.monotonic() - frame.arrival)
        statistics.classified += 1
        add(track(each, classifier.card, tracker, summary, options))
        if rows is not None:
            rows.write(frame_row(source, each, classifier, options))
            rows.flush()
        if encoder is not None:
            encoder.write(draw(each, tracker, classifier, options.answering), frame.time)
        on_frame()
    add(tracker.finish())
    summary.live = statistics.to_dict()
    summary.elapsed = summary.live["seconds"]
    summary.error = statistics.lost or failure
    return summary
