"""Smoothing and hysteresis, by properties that hold for any scores."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shvit.video.events import Event, EventSettings, EventTracker, clock, in_order

CLASSES = 3


def events_of(times, scores, settings: EventSettings, split: int | None = None) -> list[Event]:
    """All events of a video; with ``split``, the tracker is put into JSON and back after so many frames."""
    tracker = EventTracker(settings, scores.shape[1])
    found = []
    for place, time in enumerate(times):
        duration = times[place + 1] - time if place + 1 < len(times) else 0.04
        if place == split:
            state = json.loads(json.dumps(tracker.state()))
            tracker = EventTracker(settings, scores.shape[1])
            tracker.restore(state)
        found += tracker.update(time, duration, scores[place], lambda place=place: str(place).encode())
    return in_order(found + tracker.finish())


@st.composite
def videos(draw):
    steps = draw(st.lists(st.floats(0.01, 2.0), min_size=1, max_size=60))
    times = np.cumsum([0.0, *steps]).tolist()
    seed, persistence = draw(st.integers(0, 2**16)), draw(st.floats(0, 1))
    random = np.random.default_rng(seed)
    logits = random.normal(0, 3, (len(times), CLASSES))
    for place in range(1, len(times)):  # as in a video, most frames are like the last
        logits[place] = np.where(random.random() < persistence, logits[place - 1], logits[place])
    scores = np.exp(logits)
    return times, (scores / scores.sum(1, keepdims=True)).astype(np.float32)


@st.composite
def settings(draw):
    leave, enter = sorted(draw(st.tuples(st.floats(0, 1), st.floats(0, 1))))
    return EventSettings(
        smoothing=draw(st.sampled_from([0.0, 0.1, 0.5, 3.0])),
        enter=enter,
        leave=leave,
        minimum=draw(st.floats(0, 2)),
        gap=draw(st.floats(0, 3)),
    )


@given(videos(), settings())
def test_events_are_ordered_apart_long_enough_and_inside_the_video(video, chosen):
    times, scores = video
    found = events_of(times, scores, chosen)
    assert found == in_order(found)
    for event in found:
        assert 0 <= event.start <= event.peak_time < event.end <= times[-1] + 0.04
        assert event.end - event.start >= chosen.minimum
        assert event.peak_score >= chosen.enter
        assert float(event.picture) == times.index(event.peak_time)
    for class_id in range(CLASSES):
        own = [each for each in found if each.class_id == class_id]
        assert all(later.start - earlier.end > chosen.gap for earlier, later in itertools.pairwise(own))


@given(videos(), settings())
def test_without_smoothing_they_are_the_stretches_that_thresholds_cut_out(video, chosen):
    """Against a plain statement of the rules, over whole arrays."""
    chosen = EventSettings(0.0, chosen.enter, chosen.leave, chosen.minimum, chosen.gap)
    times, scores = video
    expected = []
    for class_id in range(CLASSES):
        stretches, inside = [], False
        for time, score in zip(times, scores[:, class_id].astype(float).tolist(), strict=True):
            if not inside and score >= chosen.enter:
                stretches.append([time, None])
                inside = True
            elif inside and score < chosen.leave:
                stretches[-1][1] = time
                inside = False
        if inside:
            stretches[-1][1] = times[-1] + 0.04
        joined = []
        for stretch in stretches:
            if joined and stretch[0] - joined[-1][1] <= chosen.gap:
                joined[-1][1] = stretch[1]
            else:
                joined.append(stretch)
        expected += [(class_id, a, b) for a, b in joined if b - a >= chosen.minimum]
    assert sorted((each.class_id, each.start, each.end) for each in events_of(times, scores, chosen)) == expected


@given(videos(), settings(), st.data())
def test_a_tracker_goes_on_from_its_state_exactly(video, chosen, data):
    times, scores = video
    split = data.draw(st.integers(0, len(times) - 1))
    assert events_of(times, scores, chosen, split) == events_of(times, scores, chosen)


@given(videos(), settings(), st.permutations(range(CLASSES)))
def test_labels_do_not_depend_on_each_other(video, chosen, order):
    times, scores = video
    found = events_of(times, scores[:, order], chosen)
    renamed = in_order([Event(order[each.class_id], *list(vars(each).values())[1:]) for each in found])
    assert renamed == events_of(times, scores, chosen)


@given(videos(), settings(), st.integers(1, 1000))
def test_a_later_beginning_moves_the_events_and_nothing_else(video, chosen, shift):
    """In exact arithmetic: steps and shift are multiples of 1/64 s."""
    times, scores = video
    grid = np.cumsum([0, *np.maximum(np.round(np.diff(times) * 64), 1)]) / 64
    chosen = EventSettings(chosen.smoothing, chosen.enter, chosen.leave, round(chosen.minimum), round(chosen.gap))
    here, there = (events_of((grid + moved).tolist(), scores, chosen) for moved in (0, shift))
    assert [(each.class_id, each.start + shift, each.peak_score) for each in here] == [
        (each.class_id, each.start, each.peak_score) for each in there
    ]


@given(st.floats(0.05, 2), st.integers(1, 20))
def test_smoothing_is_in_seconds_whatever_the_frame_rate(smoothing, per_second):
    """A label that goes from 0 to 1: what the smoothed score is a second later does not depend on the rate."""
    tracker = EventTracker(EventSettings(smoothing=smoothing), 2)
    tracker.update(0.0, 0.1, np.array([1.0, 0.0], np.float32))
    for place in range(1, per_second + 1):
        tracker.update(place / per_second, 0.1, np.array([0.0, 1.0], np.float32))
    assert tracker.smoothed[1] == pytest.approx(1 - np.exp(-1 / smoothing), abs=1e-6)


def test_a_flicker_is_no_event_and_a_wink_does_not_end_one():
    times = (np.arange(100) / 25).tolist()
    scores = np.zeros((100, 2), np.float32)
    scores[10:12, 0] = 1  # 80 ms of the first
    scores[30:60, 1] = scores[65:90, 1] = 1  # 200 ms out of sight
    (event,) = events_of(times, scores, EventSettings(smoothing=0.1))
    assert event.class_id == 1
    assert event.start == pytest.approx(30 / 25, abs=0.1)
    assert event.end == pytest.approx(90 / 25, abs=0.2)
    assert event.peak_score > 0.99


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"smoothing": -1}, "smoothing: expected 0 or more, got -1"),
        ({"gap": float("nan")}, "gap: expected 0 or more, got nan"),
        ({"enter": 0.2, "leave": 0.3}, "expected leave ≤ enter ≤ 1, got 0.3 and 0.2"),
        ({"enter": 1.5}, "expected leave ≤ enter ≤ 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(values, expected):
    with pytest.raises(ValueError, match=expected):
        EventSettings(**values)


def test_clock():
    assert [clock(each) for each in (0, 61.239, 59.999, 3723.5)] == ["0:00.00", "1:01.24", "1:00.00", "1:02:03.50"]
