"""One page about the videos of a run: a timeline, the events with a picture each, damage. Needs no other file."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shvit.atomic import write_text
from shvit.card import Card
from shvit.errors import MissingDependencyError
from shvit.predicting.classifier import top_predictions
from shvit.video.complete import Summary
from shvit.video.events import Event, EventSettings, clock

try:
    import jinja2
except ImportError as error:
    raise MissingDependencyError(
        "the summary page needs jinja2, which is not installed; install it with: pip install 'shvit[video]'"
    ) from error

LANES = 16
"""Labels in a timeline: those with the most time in events."""

EVENTS = 300
"""Events shown of one video; each has a picture of some kilobytes."""


def write_report(path: Path, summaries: Sequence[Summary], card: Card, settings: EventSettings) -> None:
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
        videos=[_video(place, each, card) for place, each in enumerate(summaries)],
    )
    write_text(page, path)


def _video(place: int, summary: Summary, card: Card) -> dict[str, Any]:
    length = summary.seconds or 1.0

    def percent(seconds: float) -> float:
        return round(100 * min(seconds / length, 1.0), 3)

    shown = [
        {
            "anchor": f"event-{place}-{number}",
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
    means = [] if summary.sums is None else top_predictions(summary.sums / summary.frames, card, 5)
    return {
        **vars(summary),
        "shown": shown,
        "damage": damage,
        "labels": means,
        "lanes": [
            {"label": label, "events": [each for each in shown if each["label"] == label]}
            for label in _longest(summary.events, card)
        ],
    }


def _longest(events: Sequence[Event], card: Card) -> list[str]:
    """Labels with the most time in events, in the order in which they first appear."""
    times: dict[int, float] = {}
    for each in events:
        times[each.class_id] = times.get(each.class_id, 0.0) + each.end - each.start
    longest = set(sorted(times, key=lambda class_id: -times[class_id])[:LANES])
    return [card.short_labels[class_id] for class_id in times if class_id in longest]
