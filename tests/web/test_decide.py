"""The browser's scores and decisions beside those of the runtime."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from playwright.sync_api import Page

from shvit.card import Card, ClassInfo, Decision, Preprocessing, Threshold, Unknown
from shvit.tasks import Answering, Judged, task_of
from shvit.web import PAGE

from .conftest import served

DECIDE = """
async ([logits, unknown, card, short]) => {
  const { decide, headline, scoresOf } = await import("/decide.js");
  const result = decide(scoresOf(Float64Array.from(logits), card), unknown, card, short, 2);
  return { ...result, headline: headline(result) };
}
"""

CARD = Card("some", "none", tuple(ClassInfo(place, name) for place, name in enumerate("abcdef")), Preprocessing((8, 8)))
PLAIN = Decision("fp32", "data", 100, temperature=2.0)
DECISIONS = {
    "none": None,
    "temperature": PLAIN,
    "one threshold": replace(PLAIN, min_score=0.4),
    "thresholds": replace(PLAIN, min_score=0.7, thresholds=(Threshold(0, "a", 0.2), Threshold(3, "d", 0.9))),
    "unknown": replace(PLAIN, unknown=Unknown("method", 0.5, 0.95)),
}


@pytest.fixture(scope="module")
def script(browser) -> Iterator[Page]:
    """A page on which the module can be called."""
    with served(PAGE) as address, browser.new_context() as context:
        page = context.new_page()
        page.goto(f"{address}icon.svg")
        yield page


@pytest.mark.parametrize("task", ["classification", "multi_label"])
@pytest.mark.parametrize("decision", DECISIONS)
def test_the_same_scores_and_decisions(script, task, decision):
    card = replace(CARD, task=task, decision=DECISIONS[decision])
    rng = np.random.default_rng(0)
    for place in range(12):
        logits = rng.normal(0, 3, 6).astype(np.float32)
        unknown = float(rng.normal()) if place % 2 else None
        scores = task_of(card).scores(logits[None] / np.float32(1 if card.decision is None else 2))[0]
        expected = task_of(card).result("", Judged(scores, unknown), card, Answering(top_k=2))
        given = [logits.tolist(), unknown, json.loads(card.to_json()), list(card.short_labels)]
        found = script.evaluate(DECIDE, given)
        wanted = expected.to_dict()
        assert [each["label"] for each in found["predictions"]] == [each["label"] for each in wanted["predictions"]]
        for ours, theirs in zip(wanted["predictions"], found["predictions"], strict=True):
            assert theirs["score"] == pytest.approx(ours["score"], abs=1e-6)
            assert theirs.get("accepted") == ours.get("accepted")
        assert {key: found.get(key) for key in ("decision", "known")} == {
            key: wanted.get(key) for key in ("decision", "known")
        }
        if found.get("decision") != "unsure":  # which the page says in fewer words
            assert found["headline"] == expected.headline
