"""Reports as a browser shows them, on a telephone and on a desk."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av", reason="needs shvit[video]")

from shvit.card import ClassInfo
from shvit.video.complete import VideoSummary
from shvit.video.events import Event, EventSettings
from shvit.video.history import ScoreHistory
from shvit.video.report import ticks, write_report

from ..conftest import colour_card
from .conftest import visiting

LENGTHS = (0.3, 2.0, 9.99, 61.0, 3599.0, 5 * 3600.0, 99 * 3600.0, 130 * 3600.0)
LONG_NAME = "a name of " + "very" * 30 + " long words"


def video(seconds: float) -> VideoSummary:
    history = ScoreHistory()
    for time in np.linspace(0, seconds, 200, endpoint=False).tolist():
        history.add(time, np.array([1.0, 0.0, 0.5]) if time < seconds / 2 else np.array([0.0, 1.0, 0.5]))
    events = [Event(0, 0.0, seconds / 2, 1.0, 0.0), Event(1, seconds / 2, seconds, 1.0, seconds * 0.9)]
    sums = np.array([100.0, 100.0, 100.0])
    return VideoSummary("x" * 90 + ".mp4", 64, 48, "h264", 200, seconds, events=events, sums=sums, history=history)


@pytest.fixture(scope="module")
def page_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "page.html"
    card = colour_card(classes=(ClassInfo(0, LONG_NAME), ClassInfo(1, "green"), ClassInfo(2, "blue")))
    write_report(path, [video(seconds) for seconds in LENGTHS], card, EventSettings())
    return path


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_the_times_of_a_video_can_be_read_at_any_width(browser, page_file, width):
    with visiting(browser, viewport={"width": width, "height": 800}) as page:
        page.goto(page_file.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == width
        rows = page.locator(".scale").evaluate_all(
            "(scales) => scales.map((scale) => [...scale.children].map((each) => {"
            "  const { left, right } = each.getBoundingClientRect(); return [left, right]; }))"
        )
        assert len(rows) == len(LENGTHS)
        for row in rows:
            assert len(row) >= 2
            assert row[0][0] >= 0 and row[-1][1] <= width
            assert all(one[1] + 4 < other[0] for one, other in itertools.pairwise(row))


@pytest.mark.parametrize("seconds", LENGTHS)
def test_times_are_round_and_few(seconds):
    found = [time for time, _ in ticks(seconds)]
    assert 2 <= len(found) <= 4 and found[0] == 0 and seconds * 0.5 < found[-1] < seconds + 1e-6
    assert len({text for _, text in ticks(seconds)}) == len(found)


def test_how_times_are_written():
    assert [text for _, text in ticks(61)] == ["0:00", "0:30", "1:00"]
    assert [text for _, text in ticks(0.3)] == ["0:00.00", "0:00.10", "0:00.20", "0:00.30"]
    assert [text for _, text in ticks(5 * 3600)] == ["0 h", "2 h", "4 h"]


def test_each_label_with_events_has_its_curve(browser, page_file):
    with visiting(browser) as page:
        page.goto(page_file.as_uri())
        curves = page.locator(".timeline").nth(3).locator("path:not(.limit)")
        assert curves.count() == 2
        shapes = [
            [tuple(map(int, point.split(","))) for point in path[1:].split("L")]
            for path in curves.evaluate_all("(paths) => paths.map((each) => each.getAttribute('d'))")
        ]
    for shape, (before, after) in zip(shapes, ((0, 100), (100, 0)), strict=True):
        assert {y for x, y in shape if x < 490} == {before}
        assert {y for x, y in shape if x > 510} == {after}
        assert len(shape) == 4  # what lies on a line is left out
    assert len(page_file.read_bytes()) < 60_000
