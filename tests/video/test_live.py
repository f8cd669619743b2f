"""Live sources: real streams on loopback, that end, are lost and come back."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("av", reason="needs shvit[video]")

from shvit.video.frames import Frame, Position
from shvit.video.live import LiveSource, LiveStatistics, SourceLost
from shvit.video.output import working_file

from ..conftest import PATIENCE, free_port, wait_until
from .clips import coloured, write_clip
from .test_command import lines


@contextmanager
def running(command: list[object], **options) -> Iterator[subprocess.Popen]:
    process = subprocess.Popen(list(map(str, command)), **options)
    try:
        yield process
    finally:
        process.kill()
        process.wait(timeout=PATIENCE)


def http_stream(ffmpeg: str, port: int, colour: str, seconds: float) -> list[object]:
    """A colour as MPEG-TS over HTTP, in real time, for one client."""
    source = f"color=c={colour}:s=64x48:r=25"
    encoder = ["-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-g", 10]
    return [
        *(ffmpeg, "-v", "error", "-re", "-f", "lavfi", "-i", source, "-t", seconds, *encoder),
        *("-f", "mpegts", "-listen", 1, f"http://127.0.0.1:{port}"),
    ]


def shvit_live(*arguments: object) -> list[object]:
    return [sys.executable, "-m", "shvit", "video", *arguments, "--format", "jsonl", "--threads", 1]


PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}


def stop_after(rows: int, frames: Path, process: subprocess.Popen) -> tuple[str, str]:
    """Asks it to end once it has written so many frames; what it printed."""
    so_far = working_file(frames)
    wait_until(lambda: (so_far.exists() and so_far.read_bytes().count(b"\n") >= rows) or process.poll() is not None)
    process.send_signal(signal.SIGTERM)
    return process.communicate(timeout=PATIENCE)


def test_a_stream_over_http_for_a_while(program, colour_model, tmp_path):
    port, frames, page = free_port(), tmp_path / "frames.jsonl", tmp_path / "page.html"
    files = ("--frames", frames, "--report", page, "--save-video", tmp_path)
    command = shvit_live(f"http://127.0.0.1:{port}", "--model", colour_model, *files)
    with running(http_stream(program("ffmpeg"), port, "red", PATIENCE)), running(command, **PIPES) as process:
        stdout, stderr = stop_after(25, frames, process)
    assert process.returncode == 0, stderr
    event, video = lines(stdout)
    assert event["event"]["label"] == "red"
    live = video["video"]["live"]
    assert live["connections"] >= 1
    assert live["classified"] >= 25
    assert live["received"] == live["classified"] + live["dropped"]
    assert 0 < live["latency_ms"]["p50"] <= live["latency_ms"]["p95"]
    rows = lines(frames.read_text())
    assert len(rows) == live["classified"]
    times = [each["time"] for each in rows]
    assert times == sorted(times)
    assert "frames/s" in page.read_text()
    assert [each.suffix for each in tmp_path.glob("*.mp4")] == [".mp4"]


def test_a_run_of_a_given_duration_ends_by_itself(program, colour_model):
    port = free_port()
    command = shvit_live(f"http://127.0.0.1:{port}", "--model", colour_model, "--duration", 2)
    with running(http_stream(program("ffmpeg"), port, "red", 2 * PATIENCE)), running(command, **PIPES) as process:
        stdout, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, stderr
    assert lines(stdout)[-1]["video"]["live"]["seconds"] >= 2


def test_a_stream_that_goes_away_and_comes_back(program, colour_model, tmp_path):
    port, ffmpeg, frames = free_port(), program("ffmpeg"), tmp_path / "frames.jsonl"
    command = shvit_live(f"http://127.0.0.1:{port}", "--model", colour_model, "--frames", frames)
    with running(command, **PIPES) as process:
        for colour in ("red", "blue"):  # the first attempts find nobody there
            with running(http_stream(ffmpeg, port, colour, 2.5)) as server:
                server.wait(timeout=PATIENCE)
        process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, stderr
    *events, video = lines(stdout)
    assert [each["event"]["label"] for each in events] == ["red", "blue"]
    assert events[0]["event"]["end"] < events[1]["event"]["start"]
    assert video["video"]["live"]["connections"] == 2
    assert "attempt 1 of 10" in stderr
    assert "Traceback" not in stderr
    assert len(lines(frames.read_text())) == video["video"]["frames"]


def test_a_source_that_never_comes_is_given_up(colour_model):
    command = shvit_live(f"http://127.0.0.1:{free_port()}", "--model", colour_model, "--reconnect", 1)
    with running(command, **PIPES) as process:
        stdout, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "Connection refused" in lines(stdout)[-1]["video"]["error"]
    assert "given up after 1 attempts" in stderr


SILENT_FOREVER = f"""
import sys, shvit.video.frames
shvit.video.frames.READ_TIMEOUT = {10.0 * PATIENCE}
from shvit.cli.main import main
sys.exit(main())
"""
"""The command, with so much patience for a source that it does not end for want of that."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_silent_source_does_not_keep_a_signal_waiting(colour_model, number):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        _, _, *rest = shvit_live(f"http://127.0.0.1:{silent.getsockname()[1]}/x", "--model", colour_model)
        with running([sys.executable, "-c", SILENT_FOREVER, *rest[1:]], **PIPES) as process:
            silent.settimeout(PATIENCE)
            connection, _ = silent.accept()
            process.send_signal(number)
            stdout, stderr = process.communicate(timeout=PATIENCE)
            connection.close()
    assert (process.returncode, stderr) == (0, "")
    assert json.loads(stdout)["video"]["frames"] == 0


def test_rtsp(program, in_ci, colour_model, tmp_path):
    python, port = Path("/usr/bin/python3"), free_port()
    probe = "import gi; gi.require_version('GstRtspServer', '1.0')"
    if not python.exists() or subprocess.run([python, "-c", probe], capture_output=True).returncode:
        (pytest.fail if in_ci else pytest.skip)("needs GStreamer's RTSP server (gir1.2-gst-rtsp-server-1.0)")
    options = ("--model", colour_model, "--fps", 10, "--frames", tmp_path / "frames.jsonl")
    command = shvit_live(f"rtsp://127.0.0.1:{port}/camera", *options)
    server = [python, Path(__file__).with_name("rtsp_server.py"), port]
    with running(server, stdout=subprocess.PIPE, text=True) as serving:
        assert serving.stdout.readline() == "ready\n"
        with running(command, **PIPES) as process:
            stdout, stderr = stop_after(15, tmp_path / "frames.jsonl", process)
    assert process.returncode == 0, stderr
    event, video = lines(stdout)
    assert event["event"]["label"] == "blue"
    live = video["video"]["live"]
    assert 15 <= live["received"] <= 10 * (live["seconds"] + 1)
    assert live["connections"] == 1


def test_a_file_is_played_at_its_own_speed_once(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", coloured(("red", 15)))
    statistics = LiveStatistics()
    began, seen = time.monotonic(), []
    for frame in LiveSource(str(clip), statistics, reconnect=3):
        assert not isinstance(frame, SourceLost)
        assert frame.arrival - began >= frame.index / 25 - 0.001
        seen.append(frame.index)
    assert seen == sorted(set(seen))
    assert seen[-1] == 14
    assert statistics.received == 15


class Scripted:
    """A source in place of ``Video``: each opening gives the frames of one script, which may wait for the test."""

    def __init__(self, *scripts: Callable[[], Iterator[int]]) -> None:
        self._scripts = iter(scripts)

    def __call__(self, *arguments: object, **options: object) -> Scripted:
        return self

    def __enter__(self) -> Scripted:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def __iter__(self) -> Iterator[Frame]:
        for number in next(self._scripts)():
            yield Frame(0.0, number, 0.04, Position(number, None, None, 0.0), float(number), None)


def wait(event: threading.Event) -> None:
    assert event.wait(PATIENCE)


@pytest.mark.parametrize("losses", [1, 2, 3])
def test_a_loss_during_work_on_a_frame_lies_between_those_before_and_after_it(monkeypatch, losses):
    """The classifier is at the first frame until the source was lost, came back, and gave another."""
    at_work, came_back, over = threading.Event(), threading.Event(), threading.Event()

    def before() -> Iterator[int]:
        yield 0
        wait(at_work)
        yield 1  # which is dropped: there is a newer one by the time that it could be looked at

    def between() -> Iterator[int]:
        yield 2

    def after() -> Iterator[int]:
        yield 3
        came_back.set()
        wait(over)

    monkeypatch.setattr("shvit.video.live.FIRST_WAIT", 0.0)
    monkeypatch.setattr("shvit.video.live.Video", Scripted(before, *[between] * (losses - 1), after))
    live = LiveSource("http://camera", LiveStatistics())
    seen: list[float | None] = []
    for item in live:
        seen.append(None if isinstance(item, SourceLost) else item.arrival)
        if seen == [0]:
            at_work.set()
            wait(came_back)
        if len(seen) == 3:
            live.stop()
            over.set()
    assert seen == [0, None, 3]


def test_a_slow_classifier_gets_the_newest_frame_and_the_others_are_dropped(monkeypatch):
    """It is at the first frame of ten until the next nine have come, and again."""
    at_work, arrived = [threading.Event() for _ in range(3)], [threading.Event() for _ in range(3)]

    def camera() -> Iterator[int]:
        for turn in range(3):
            yield 10 * turn
            wait(at_work[turn])
            yield from range(10 * turn + 1, 10 * turn + 10)
            arrived[turn].set()

    monkeypatch.setattr("shvit.video.live.Video", Scripted(camera))
    statistics = LiveStatistics()
    live = LiveSource("http://camera", statistics, reconnect=0)
    seen = []
    for frame in live:
        seen.append(frame.arrival)
        turn, place = divmod(int(frame.arrival), 10)
        if place == 0:
            at_work[turn].set()
            wait(arrived[turn])
    assert [each for each in seen if each % 10 == 0] == [0, 10, 20]
    assert {each % 10 for each in seen} <= {0, 9}
    assert statistics.received == 30


def test_the_last_frame_before_a_loss_is_given_before_it(monkeypatch):
    at_work, told, over = threading.Event(), threading.Event(), threading.Event()
    lost = threading.Event()

    def before() -> Iterator[int]:
        yield 0
        wait(at_work)
        yield 1

    def after() -> Iterator[int]:
        lost.set()
        wait(told)
        yield 2
        wait(over)

    monkeypatch.setattr("shvit.video.live.FIRST_WAIT", 0.0)
    monkeypatch.setattr("shvit.video.live.Video", Scripted(before, after))
    live = LiveSource("http://camera", LiveStatistics())
    seen: list[float | None] = []
    for item in live:
        seen.append(None if isinstance(item, SourceLost) else item.arrival)
        if seen == [0]:
            at_work.set()
            wait(lost)
        if isinstance(item, SourceLost):
            told.set()
        if len(seen) == 4:
            live.stop()
            over.set()
    assert seen == [0, 1, None, 2]


def test_more_than_one_live_source_is_wrong_usage(colour_model):
    command = shvit_live("http://127.0.0.1:1/a", "http://127.0.0.1:1/b", "--model", colour_model)
    with running(command, **PIPES) as process:
        _, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert "expected one source, got 2" in stderr
