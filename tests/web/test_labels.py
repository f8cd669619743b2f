"""What the page calls classes, beside the library."""

from __future__ import annotations

from dataclasses import asdict

from shvit import Classifier
from shvit.web import PAGE

from ..test_card import SHORT_LABELS
from .conftest import served

SHORTEN = """
async (cases) => {
  const { shortLabels } = await import("/labels.js");
  return cases.map((classes) => shortLabels(classes));
}
"""


def test_the_page_calls_classes_what_the_library_calls_them(browser):
    card = Classifier(threads=1).card
    cases = [[{"label": label, "wnid": wnid} for label, wnid in named] for named, _ in SHORT_LABELS]
    with served(PAGE) as address, browser.new_context() as context:
        page = context.new_page()
        page.goto(f"{address}icon.svg")
        *found, shipped = page.evaluate(SHORTEN, [*cases, [asdict(each) for each in card.classes]])
    assert found == [expected for _, expected in SHORT_LABELS]
    assert shipped == list(card.short_labels)
    assert not any("," in each for each in shipped)
