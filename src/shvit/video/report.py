"""One page about the videos of a run: a timeline, the events with a picture each, damage. Needs no other file."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shvit.atomic import write_text
from shvit.card import Card
from shvit.errors import MissingDependencyError
from shvit.install import install_command
from shvit.tasks import task_of
from shvit.video.complete import VideoSummary
from shvit.video.events import Event, EventSettings, clock

try:
    import jinja2
except ImportError as error:
    raise MissingDependencyError(
        f"the summary page needs jinja2, which is not installed; install it with: {install_command('video')}"
    ) from error

LANES = 16
"""Labels in a timeline: those with the most time in events."""

EVENTS = 300
"""Events shown of one video; each has a picture of some kilobytes."""

CURVE = (1000, 100)
"""Width and height of a curve's drawing, which is stretched to its place."""

HOUR, DAY = 3600, 86_400
STEPS = (
    *(0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 900, 1800),
    *(HOUR, 2 * HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR, DAY),
)
"""Seconds between the times that are written below a timeline."""

INTERVALS = 3
"""Of these, at most: so many fit side by side on 320 pixels."""


def write_report(path: Path, summaries: Sequence[VideoSummary], card: Card, settings: EventSettings) -> None:
    """Writes the page, whole or not at all."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("shvit.video", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = lambda share: f"{share:.1%}"
    environment.filters["clock"] = clock
    title = summaries[0].source if len(summaries) == 1 else f"{len(summaries)} videos"
    page = environment.get_template("report.html.jinja").render(
        title=title,
        model=card.name,
        settings=settings,
        height=lambda score: round(CURVE[1] * (1 - score)),
        videos=[_video(place, each, card) for place, each in enumerate(summaries)],
    )
    write_text(page, path)


def _video(place: int, summary: VideoSummary, card: Card) -> dict[str, Any]:
    length = summary.seconds or 1.0

    def percent(seconds: float) -> float:
        return round(100 * min(seconds / length, 1.0), 3)

    shown = [
        {
            "anchor": f"event-{place}-{number}",
            "class_id": each.class_id,
            "label": card.short_labels[each.class_id],
            "start": each.start,
            "end": each.end,
            "peak": each.peak_time,
            "score": each.peak_score,
            "left": percent(each.start),
            "width": percent(each.end - each.start),
            "picture": base64.b64encode(each.picture).decode() if each.picture else None,
        }
        for number, each in enumerate(summary.events[:EVENTS])
    ]
    damage = [
        {
            "time": each.time,
            "until": each.until,
            "reason": each.reason,
            "left": min(percent(each.time), 99.5),
            "width": percent((each.until or each.time) - each.time),
        }
        for each in summary.damage
    ]
    means = [] if summary.sums is None else task_of(card).predictions(summary.sums / summary.frames, card)
    return {
        **vars(summary),
        "shown": shown,
        "damage": damage,
        "labels": means,
        "ticks": [{"left": percent(each), "text": text} for each, text in ticks(length)],
        "lanes": [
            {
                "label": card.short_labels[class_id],
                "events": [each for each in shown if each["class_id"] == class_id],
                "curve": curve_path(summary.history.curve(class_id), length),
            }
            for class_id in _longest(summary.events)
        ],
    }


def _longest(events: Sequence[Event]) -> list[int]:
    """Classes with the most time in events, in the order in which they first appear."""
    times: dict[int, float] = {}
    for each in events:
        times[each.class_id] = times.get(each.class_id, 0.0) + each.end - each.start
    longest = set(sorted(times, key=lambda class_id: -times[class_id])[:LANES])
    return [class_id for class_id in times if class_id in longest]


def ticks(length: float) -> list[tuple[float, str]]:
    """Round times of a video so long, in seconds, and what to write there: few enough for a telephone."""
    step = next((each for each in STEPS if length / each <= INTERVALS), None)
    if step is None:  # whole days
        step = DAY * math.ceil(length / DAY / INTERVALS)
    times = [number * step for number in range(int(length / step + 1e-9) + 1)]
    if step >= HOUR:
        return [(each, f"{each / HOUR:g} h") for each in times]
    return [(each, clock(each).removesuffix(".00") if step >= 1 else clock(each)) for each in times]


def curve_path(points: Sequence[tuple[float, float]], length: float) -> str:
    """A curve as an SVG path in ``CURVE``'s pixels, from the first point to the last; scores go up from 0 to 1."""
    width, height = CURVE
    placed = [(round(width * min(time / length, 1)), round(height * (1 - min(score, 1)))) for time, score in points]
    # Of points at one height the first and the last make the line.
    kept = [
        each
        for place, each in enumerate(placed)
        if not (0 < place < len(placed) - 1 and placed[place - 1][1] == each[1] == placed[place + 1][1])
    ]
    return "M" + "L".join(f"{x},{y}" for x, y in kept) if len(kept) > 1 else ""
