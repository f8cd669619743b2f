"""Live sources: real streams on loopback, that end, are lost and come back."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import pytest

pytest.importorskip("av", reason="needs shvit[video]")

from shvit.video.live import LiveSource, LiveStatistics, Lost

from ..conftest import PATIENCE, free_port
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


def test_a_stream_over_http_for_a_while(program, colour_model, tmp_path):
    port, frames, page = free_port(), tmp_path / "frames.jsonl", tmp_path / "page.html"
    files = ("--frames", frames, "--report", page, "--save-video", tmp_path)
    command = shvit_live(f"http://127.0.0.1:{port}", "--model", colour_model, "--duration", 4, *files)
    with running(http_stream(program("ffmpeg"), port, "red", 30)), running(command, **PIPES) as process:
        stdout, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, stderr
    event, video = lines(stdout)
    assert event["event"]["label"] == "red"
    live = video["video"]["live"]
    assert live["connections"] >= 1
    assert live["classified"] > 20
    assert live["received"] == live["classified"] + live["dropped"]
    assert 0 < live["latency_ms"]["p50"] <= live["latency_ms"]["p95"]
    assert live["latency_ms"]["p50"] < 100
    assert 3.5 < live["seconds"] < 10
    rows = lines(frames.read_text())
    assert len(rows) == live["classified"]
    times = [each["time"] for each in rows]
    assert times == sorted(times)
    assert "frames/s" in page.read_text()
    assert [each.suffix for each in tmp_path.glob("*.mp4")] == [".mp4"]


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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_silent_source_does_not_keep_a_signal_waiting(colour_model, number):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        command = shvit_live(f"http://127.0.0.1:{silent.getsockname()[1]}/x", "--model", colour_model)
        with running(command, **PIPES) as process:
            silent.settimeout(30)
            connection, _ = silent.accept()
            time.sleep(0.2)
            asked = time.monotonic()
            process.send_signal(number)
            stdout, stderr = process.communicate(timeout=PATIENCE)
            assert time.monotonic() - asked < 5
            connection.close()
    assert (process.returncode, stderr) == (0, "")
    assert json.loads(stdout)["video"]["frames"] == 0


def test_rtsp(program, in_ci, colour_model, tmp_path):
    python, port = Path("/usr/bin/python3"), free_port()
    probe = "import gi; gi.require_version('GstRtspServer', '1.0')"
    if not python.exists() or subprocess.run([python, "-c", probe], capture_output=True).returncode:
        (pytest.fail if in_ci else pytest.skip)("needs GStreamer's RTSP server (gir1.2-gst-rtsp-server-1.0)")
    command = shvit_live(f"rtsp://127.0.0.1:{port}/camera", "--model", colour_model, "--duration", 4, "--fps", 10)
    server = [python, Path(__file__).with_name("rtsp_server.py"), port]
    with running(server, stdout=subprocess.PIPE, text=True) as serving:
        assert serving.stdout.readline() == "ready\n"
        with running(command, **PIPES) as process:
            stdout, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, stderr
    event, video = lines(stdout)
    assert event["event"]["label"] == "blue"
    assert 5 < video["video"]["live"]["received"] <= 45
    assert video["video"]["live"]["connections"] == 1


def test_a_slow_classifier_gets_the_newest_frame_and_the_others_are_dropped(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", coloured(("red", 50)))
    statistics = LiveStatistics()
    began, seen, ages = time.monotonic(), [], []
    wait = 0.15  # for each, four frames long
    for frame in LiveSource(str(clip), statistics, reconnect=3):
        assert not isinstance(frame, Lost)
        seen.append(frame.index)
        ages.append(time.monotonic() - frame.arrival)
        time.sleep(wait)
    assert seen == sorted(set(seen))
    assert statistics.received == 50
    assert len(seen) < 40
    # The median, since one may be late on a busy machine; those of a queue would grow to 5 seconds.
    assert median(ages) < 0.5, "frames were old when they were handed over"
    assert time.monotonic() - began > 1.8  # played at its own speed


def test_more_than_one_live_source_is_wrong_usage(colour_model):
    command = shvit_live("http://127.0.0.1:1/a", "http://127.0.0.1:1/b", "--model", colour_model)
    with running(command, **PIPES) as process:
        _, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert "expected one source, got 2" in stderr
