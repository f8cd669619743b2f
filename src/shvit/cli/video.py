"""Classify videos, streams and cameras: events, frame by frame, a summary page, annotated copies; needs no PyTorch."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from shvit.atomic import STDOUT, atomic_text, check_outputs, find_target, free_name
from shvit.cli.arguments import (
    add_answering,
    add_model,
    answering,
    check_folder_name,
    check_format_of,
    check_not_read,
    check_written_as,
    positive,
)
from shvit.display import json_text, notice, printable, say, terminal
from shvit.engines import BATCH_SIZE, ENGINES
from shvit.errors import ArgumentError
from shvit.hub.resolve import resolve_model
from shvit.images.sources import SourceError, expand_sources
from shvit.predicting.classifier import Classifier
from shvit.shipped import SHIPPED_MODELS
from shvit.video.events import Event, EventSettings, clock

if TYPE_CHECKING:
    from shvit.video.complete import Options, VideoSummary
    from shvit.video.frames import Video
    from shvit.video.output import FrameRows, Journal

STATUS = 5.0
"""Seconds between two lines about a live run."""

EPILOG = """\
examples:
  shvit video clip.mp4                                       events in the terminal
  shvit video videos/ --format jsonl --output events.jsonl   a folder, all levels
  shvit video clip.mp4 --report clip.html --frames clip.parquet --save-video labelled/
  shvit video long.mp4 --frames long.jsonl --fps 5 --resume  go on after a kill
  shvit video clip.mp4 --fast-decode --threads 1             nearly the same pixels, sooner
  shvit video rtsp://camera/stream --frames labels.jsonl     live: newest frame first, reconnects
  shvit video /dev/video0 --duration 60

events: each label's scores are averaged over the last --smoothing seconds (an exponential mean that knows the time
between frames). An event begins when that reaches --enter and ends when it is below --leave; two of a label with at
most --max-gap seconds between them are one; what is then shorter than --min-duration is dropped. More: docs/video.md

exit status: 0 all fine, 1 some videos failed or are damaged (what can be read is done), 2 wrong usage
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    defaults = EventSettings()
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="file, folder, glob, - for paths on stdin; or one stream (rtsp://, http://, ...) or camera (/dev/video0)",
    )
    add_model(parser)
    parser.add_argument("--engine", choices=ENGINES, default="auto", help="as in shvit predict (default: auto)")
    parser.add_argument(
        "--threads", type=positive, metavar="N", help="of the engine, of decoding, of resizing (default: all)"
    )
    parser.add_argument("--batch-size", type=positive, default=BATCH_SIZE, metavar="N", help="default: %(default)s")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument(
        "--live",
        action="store_true",
        help="always the newest frame, the others are dropped; what streams and cameras get anyway",
    )
    mode.add_argument("--complete", action="store_true", help="every frame; what files get anyway")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--fps", type=_above_zero, metavar="N", help="at most N frames of each second (default: all)")
    which.add_argument("--keyframes", action="store_true", help="only frames that stand by themselves")
    parser.add_argument(
        "--fast-decode",
        action="store_true",
        help="decode and resize to nearly the same pixels, sooner",
    )
    events = parser.add_argument_group("events")
    for name, field, text in (
        ("--smoothing", "smoothing", "time constant of the mean over a label's scores; 0: none"),
        ("--enter", "enter", "smoothed score at which an event begins"),
        ("--leave", "leave", "smoothed score below which it ends"),
        ("--min-duration", "minimum", "shorter events are dropped"),
        ("--max-gap", "gap", "two events of a label no further apart are one"),
    ):
        value = getattr(defaults, field)
        kind = "SCORE" if field in ("enter", "leave") else "SECONDS"
        events.add_argument(
            name, dest=field, type=float, default=value, metavar=kind, help=f"{text} (default: {value})"
        )
    output = parser.add_argument_group("output")
    output.add_argument("--format", choices=("table", "jsonl"), default="table", help="of the events (default: table)")
    output.add_argument(
        "--output", type=Path, metavar="FILE", help="write the events here; default: -, which is stdout"
    )
    output.add_argument("--frames", type=Path, metavar="FILE", help="write every frame's labels: .jsonl or .parquet")
    add_answering(output, "frame")
    output.add_argument("--report", type=Path, metavar="FILE", help="write a page with a timeline and pictures (.html)")
    output.add_argument("--save-video", type=Path, metavar="DIR", help="write copies with the labels drawn in (.mp4)")
    output.add_argument(
        "--resume", action="store_true", help="go on where a killed run with the same --frames (or --output) stood"
    )
    live = parser.add_argument_group("live")
    live.add_argument("--duration", type=_above_zero, metavar="SECONDS", help="stop after so long (default: never)")
    live.add_argument(
        "--reconnect",
        type=_not_negative,
        default=10,
        metavar="N",
        help="attempts in a row, ever further apart, to get a lost source back (default: %(default)s)",
    )


def _above_zero(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected more than 0, got {text}")
    return value


def _not_negative(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected 0 or more, got {text}")
    return value


def run(args: argparse.Namespace) -> int:
    check_folder_name("--save-video", args.save_video)
    check_not_read("--save-video", args.save_video, args.sources)
    from shvit.images.sources import VIDEO_EXTENSIONS
    from shvit.video.complete import Options
    from shvit.video.containers import is_live
    from shvit.video.output import check_frames_path

    settings = EventSettings(args.smoothing, args.enter, args.leave, args.minimum, args.gap)
    sources = list(expand_sources(args.sources, sys.stdin, VIDEO_EXTENSIONS, "videos", notice))
    live = args.live or (any(isinstance(each, str) and is_live(each) for each in sources) and not args.complete)
    _check(args, live, sources)
    _check_outputs(args, live, sources)
    options = Options(
        settings, args.fps, args.keyframes, args.fast_decode, answering(args), pictures=args.report is not None
    )
    check_written_as("--report", args.report, "HTML", (".html", ".htm"))
    check_format_of("--output", args.output, args.format, {".jsonl": "jsonl"})
    if args.frames is not None:
        check_frames_path(args.frames)
    if args.report is not None:
        import shvit.video.report  # noqa: F401 - what it needs is missing now, not after the work
    if args.save_video is not None:
        args.save_video.mkdir(parents=True, exist_ok=True)
    classifier = Classifier(args.model, args.engine, args.threads, args.batch_size)
    with ExitStack() as stack:
        write = WRITERS[args.format](stack.enter_context(_events_output(args.output)), classifier)
        if live:
            summaries = [_run_live(args, str(sources[0]), classifier, options, write)]
        else:
            summaries = _run_complete(args, sources, classifier, options, write)
    if args.report is not None:
        from shvit.video.report import write_report

        write_report(args.report, summaries, classifier.card, settings)
    failed = sum(each.failed for each in summaries)
    if failed and not live:
        say(f"{failed} of {len(summaries)} videos failed or are damaged", sys.stderr)
    return 1 if failed else 0


def _check(args: argparse.Namespace, live: bool, sources: list[str | SourceError]) -> None:
    """Raises: ValueError: options that do not go together; VideoError: there is no such live source."""
    from shvit.video.containers import check_source

    if live and len(sources) != 1:
        raise ArgumentError(f"live: expected one source, got {len(sources)}; start one process for each")
    if live and isinstance(sources[0], SourceError):
        raise ArgumentError(str(sources[0]))
    if live and args.resume:
        raise ArgumentError("--resume: what a live source showed is gone; it is for files")
    if live and args.keyframes:
        raise ArgumentError("--keyframes: not of a live source; use --fps")
    if not live and args.duration is not None:
        raise ArgumentError("--duration: only of live sources")
    if args.resume and args.frames is None and _file_of_events(args) is None:
        raise ArgumentError("--resume: needs --frames or --output with a file, beside which the run is noted")
    if args.resume and args.save_video is not None:
        raise ArgumentError("--resume: an annotated video cannot be gone on with; leave out --save-video")
    if live:
        check_source(str(sources[0]))


def _file_of_events(args: argparse.Namespace) -> Path | None:
    """The file that the events are written to; ``None`` where nothing can be kept beside them, as of a FIFO."""
    if args.output is None or str(args.output) == STDOUT or find_target(args.output).through:
        return None
    return args.output


def _check_outputs(args: argparse.Namespace, live: bool, sources: list[str | SourceError]) -> None:
    """Raises: ValueError: an output cannot be written to, or is an input."""
    from shvit.video.output import journal_files, working_file

    outputs = [("--output", args.output), ("--frames", args.frames), ("--report", args.report)]
    if args.frames is not None:
        outputs.append(("--frames", working_file(args.frames)))
    if not live and (beside := args.frames or _file_of_events(args)) is not None:
        outputs += [("the journal of the run,", path) for path in journal_files(beside)]
    inputs = [each for each in sources if isinstance(each, str)]
    check_outputs(outputs, [SHIPPED_MODELS.get(args.model, args.model), *inputs])
    if args.report is not None and not args.report.parent.is_dir():  # it is opened after all work
        raise ArgumentError(f"--report {args.report}: no such folder: {args.report.parent}")


@contextmanager
def _events_output(path: Path | None) -> Iterator[IO[str]]:
    with ExitStack() as stack:
        try:
            output = stack.enter_context(atomic_text(path or STDOUT))
        except OSError as error:
            raise ArgumentError(f"--output {path}: {error.strerror}") from None
        yield output


def _run_complete(
    args: argparse.Namespace,
    sources: list[str | SourceError],
    classifier: Classifier,
    options: Options,
    write: Writer,
) -> list[VideoSummary]:
    from shvit.video.complete import CompleteRun
    from shvit.video.output import FrameRows, Journal

    beside = args.frames or _file_of_events(args)
    summaries = []
    with ExitStack() as stack:
        journal: Journal | None = None
        rows: FrameRows | None = None
        if beside is not None:
            journal = stack.enter_context(
                contextlib.closing(Journal(beside, _what_must_be_the_same(args, options), args.resume))
            )
        if args.frames is not None:
            kept = journal.earlier["rows"] if journal is not None and journal.earlier else 0
            rows = stack.enter_context(contextlib.closing(FrameRows(args.frames, kept)))
        advance = stack.enter_context(_progress())
        work = CompleteRun(classifier, options, rows, journal, args.save_video, advance)
        for summary in work.run(sources):
            for event in summary.events:
                write.event(summary.source, event)
            write.summary(summary)
            summaries.append(summary)
        if rows is not None:
            rows.finish()
        if journal is not None:
            journal.remove()
    return summaries


def _what_must_be_the_same(args: argparse.Namespace, options: Options) -> dict[str, Any]:
    model = resolve_model(args.model)
    return {
        "sources": args.sources,
        "model": f"{args.model} ({hashlib.sha256(model.read_bytes()).hexdigest()[:16]})",
        "engine": args.engine,
        **{key: value for key, value in asdict(options).items() if key != "answering"},
        **asdict(options.answering),
        "frames": None if args.frames is None else str(args.frames),
    }


def _run_live(
    args: argparse.Namespace, source: str, classifier: Classifier, options: Options, write: Writer
) -> VideoSummary:
    from shvit.video.complete import video_stem
    from shvit.video.encode import open_encoder
    from shvit.video.live import LiveSource, LiveStatistics, follow
    from shvit.video.output import FrameRows

    def report(line: str) -> None:
        say(f"{source}: {line}", sys.stderr)

    statistics = LiveStatistics()
    live = LiveSource(source, statistics, classifier.threads, args.fps, args.reconnect, report)
    said = time.monotonic()

    def status() -> None:
        nonlocal said
        if time.monotonic() - said >= STATUS:
            said = time.monotonic()
            report(_live_line(statistics.to_dict()))

    with ExitStack() as stack:
        for each in (signal.SIGINT, signal.SIGTERM):
            stack.callback(signal.signal, each, signal.signal(each, lambda number, stack_frame: live.stop()))
        if args.duration is not None:
            timer = threading.Timer(args.duration, live.stop)
            timer.daemon = True
            timer.start()
            stack.callback(timer.cancel)
        rows = encoder = None
        if args.frames is not None:
            rows = stack.enter_context(contextlib.closing(FrameRows(args.frames)))
        if args.save_video is not None:
            encoder = stack.enter_context(
                open_encoder(free_name(args.save_video, video_stem(source), "mp4"), classifier.threads)
            )
        summary = follow(
            live, source, classifier, options, rows, encoder, lambda event: write.event(source, event), status
        )
        write.summary(summary)
        if rows is not None:
            if summary.error is not None:
                rows.write({"source": source, "error": summary.error})
            rows.finish()
    return summary


def _live_line(figures: dict[str, Any]) -> str:
    latency = figures["latency_ms"]
    delay = f", latency {latency['p50']} ms median, {latency['p95']} ms 95th percentile" if latency else ""
    return (
        f"{figures['seconds']:.1f} s: {figures['classified']} frames, {figures['fps']} a second, "
        f"{figures['dropped']} dropped, {figures['connections']} connection{'s' * (figures['connections'] != 1)}{delay}"
    )


@contextmanager
def _progress() -> Iterator[Callable[[Video, float], None]]:
    """A bar of the current video's time on stderr where somebody watches."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=terminal(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("", total=None, speed="")
        current: Video | None = None
        began, began_at = time.monotonic(), 0.0

        def advance(video: Video, seconds: float) -> None:
            nonlocal current, began, began_at
            now = time.monotonic()
            if video is not current:
                current, began, began_at = video, now, seconds
                bar.reset(task, description=printable(Path(video.source).name), total=video.duration)
            speed = f"{(seconds - began_at) / (now - began):.1f}× real time" if now > began else ""
            bar.update(task, completed=seconds, speed=speed)

        yield advance


class Writer:
    """Prints events, and what became of each video.

    Args:
        output: where to.
    """

    def __init__(self, output: IO[str], classifier: Classifier) -> None:
        self._output, self._card = output, classifier.card

    def event(self, source: str, event: Event) -> None:
        raise NotImplementedError

    def summary(self, summary: VideoSummary) -> None:
        raise NotImplementedError


class JSONLines(Writer):
    """A line for each event, one for each stretch of damage, and one for each video."""

    def event(self, source: str, event: Event) -> None:
        info = self._card.classes[event.class_id]
        self._print(
            {
                "source": source,
                "event": {
                    "label": info.label,
                    "class_id": info.class_id,
                    "wnid": info.wnid,
                    "start": round(event.start, 6),
                    "end": round(event.end, 6),
                    "peak_score": round(event.peak_score, 6),
                    "peak_time": round(event.peak_time, 6),
                },
            }
        )

    def summary(self, summary: VideoSummary) -> None:
        for each in summary.damage:
            until = {} if each.until is None else {"until": round(each.until, 6)}
            self._print(
                {"source": summary.source, "damage": {"time": round(each.time, 6), **until, "reason": each.reason}}
            )
        values: dict[str, Any] = {
            "frames": summary.frames,
            "seconds": round(summary.seconds, 6),
            "events": len(summary.events),
        }
        if summary.error is not None:
            values["error"] = summary.error
        if summary.live is not None:
            values["live"] = summary.live
        self._print({"source": summary.source, "video": values})

    def _print(self, values: dict[str, Any]) -> None:
        print(json_text(values), file=self._output, flush=True)


class Table(Writer):
    """An event a line, and a line about the video after them; plain text."""

    def __init__(self, output: IO[str], classifier: Classifier) -> None:
        super().__init__(output, classifier)
        colour = output.isatty() and "NO_COLOR" not in os.environ
        self._bold, self._green, self._red, self._reset = (
            ("\033[1m", "\033[32m", "\033[31m", "\033[0m") if colour else ("",) * 4
        )

    def event(self, source: str, event: Event) -> None:
        when = f"{clock(event.start):>10} – {clock(event.end):<10}"
        label = printable(self._card.short_labels[event.class_id])
        print(f"{when} {self._green}{event.peak_score:6.1%}{self._reset} {label}", file=self._output, flush=True)

    def summary(self, summary: VideoSummary) -> None:
        for each in summary.damage:
            until = "" if each.until is None else f" – {clock(each.until)}"
            line = f"{clock(each.time):>10}{until} {self._red}damage: {printable(each.reason)}{self._reset}"
            print(line, file=self._output)
        if summary.error is not None:
            about = f"{self._red}error: {printable(summary.error)}{self._reset}"
        elif summary.live is not None:
            about = _live_line(summary.live)
        else:
            speed = f", {summary.seconds / summary.elapsed:.1f}× real time" if summary.elapsed else ""
            events = "1 event" if len(summary.events) == 1 else f"{len(summary.events)} events"
            about = f"{clock(summary.seconds)}, {summary.frames} frames, {events}{speed}"
        print(f"{self._bold}{printable(summary.source)}{self._reset}: {about}", file=self._output, flush=True)


WRITERS: dict[str, Callable[[IO[str], Classifier], Writer]] = {"table": Table, "jsonl": JSONLines}
