"""What the page decides, beside the library."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shvit.card import Card, ClassInfo, Decision, Preprocessing, Threshold, Unknown
from shvit.tasks import TASKS, Answering, Judged, task_of
from shvit.web import PAGE

from .conftest import served

DECIDE = """
async (cases) => {
  const { scoresOf, decide, headline } = await import("/decide.js");
  return cases.map(({ logits, unknown, card, short, topK }) => {
    const result = decide(scoresOf(Float64Array.from(logits), card), unknown, card, short, topK);
    return { ...result, headline: headline(result) };
  });
}
"""

shares = st.floats(0, 1, width=32)
limits = st.builds(Unknown, st.just("m"), st.floats(-3, 3, width=32), st.just(0.95))


@st.composite
def cases(draw) -> tuple[Card, list[float], float | None, int]:
    labels = draw(st.lists(st.sampled_from(["ox, cattle", "fly", "sea cow", "ant"]), min_size=1, max_size=4))
    classes = tuple(
        ClassInfo(place, label, draw(st.none() | st.just("n01234567"))) for place, label in enumerate(labels)
    )
    decision = draw(
        st.none()
        | st.builds(
            Decision,
            st.just("fp32"),
            st.just("d"),
            st.just(9),
            temperature=st.sampled_from([1.0, 0.01, 0.5, 3.0, 100.0]),
            min_score=st.none() | shares,
            unknown=st.none() | limits,
        )
    )
    if decision is not None:
        own = draw(st.sets(st.sampled_from(range(len(classes)))))
        thresholds = tuple(Threshold(each, classes[each].label, draw(shares)) for each in sorted(own))
        decision = replace(decision, thresholds=thresholds)
    task = draw(st.sampled_from(list(TASKS)))
    card = Card("n", "shvit_s1", classes, Preprocessing(), task=task, decision=decision)
    logits = draw(st.lists(st.integers(-40, 40).map(lambda each: each / 8), min_size=len(labels), max_size=len(labels)))
    strange = draw(st.none() | st.floats(-3, 3, width=32))
    return card, logits, strange, draw(st.integers(1, 5))


def of_python(card: Card, logits: list[float], strange: float | None, top_k: int) -> dict:
    temperature = 1.0 if card.decision is None else card.decision.temperature
    scores = task_of(card).scores(np.array(logits, np.float64) / temperature)
    result = task_of(card).result("a.png", Judged(scores, strange), card, Answering(top_k))
    found = result.to_dict()
    return {
        "predictions": [
            {**each, "short_label": one.short_label}
            for each, one in zip(found["predictions"], result.predictions, strict=True)
        ],
        **{key: found[key] for key in ("decision", "known", "unknown_score") if key in found},
        "headline": result.headline,
    }


def test_the_page_decides_as_the_library_does(browser):
    drawn: list[tuple[Card, list[float], float | None, int]] = []

    @settings(max_examples=400)
    @given(cases())
    def draw(case) -> None:
        drawn.append(case)

    draw()
    asked = [
        {"logits": logits, "unknown": strange, "card": json.loads(card.to_json()), "short": list(card.short_labels),
         "topK": top_k}
        for card, logits, strange, top_k in drawn
    ]  # fmt: skip
    with served(PAGE) as address, browser.new_context() as context:
        page = context.new_page()
        page.goto(f"{address}icon.svg")
        found = page.evaluate(DECIDE, asked)
    decisions = set()
    for answer, case in zip(found, drawn, strict=True):
        expected = of_python(*case)
        scores = [[each.pop("score") for each in one["predictions"]] for one in (answer, expected)]
        assert scores[0] == pytest.approx(scores[1], rel=1e-9, abs=1e-300)
        assert answer == expected, asdict(case[0])
        decisions.add((case[0].task, expected.get("decision")))
    assert decisions >= {("classification", each) for each in (None, "answer", "unsure", "unknown")}
    assert decisions >= {("multi_label", each) for each in ("answer", "unsure", "unknown")}
