"""What the network looked at, on the page, with a real server in a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from shvit.runtime.models import DEFAULT_MODEL

from ..serve.conftest import running
from .conftest import is_ready, labels, problem, visiting


@pytest.fixture(scope="module")
def visitor(browser, colour_model) -> Iterator[Page]:
    with running("--model", DEFAULT_MODEL, "--model", colour_model) as server, visiting(browser) as page:
        page.goto(server.url)
        is_ready(page, "on this server")
        yield page


@pytest.fixture
def coffee(visitor) -> Page:
    """A picture on the stage, without a map."""
    visitor.get_by_role("button", name="coffee").first.click()
    labels(visitor, "coffee.jpg · ")
    return visitor


def source(page: Page) -> str:
    return page.locator("#looked").get_attribute("src") or ""


def test_a_map_over_the_picture_and_back(coffee):
    looked = coffee.locator("#looked")
    expect(looked).to_be_hidden()
    coffee.get_by_label("class map").check()
    expect(looked).to_have_attribute("alt", "coffee.jpg, cam")
    expect(looked).to_be_visible()
    # It lies on the picture: both are fitted into the stage and have the same proportions.
    shape = "(image) => image.naturalWidth / image.naturalHeight"
    assert looked.evaluate(shape) == pytest.approx(coffee.locator("#picture").evaluate(shape), rel=0.01)
    assert looked.bounding_box() == coffee.locator("#picture").bounding_box()
    coffee.get_by_label("picture", exact=True).check()
    expect(looked).to_be_hidden()


def test_pressing_a_place_shows_its_attention(coffee):
    coffee.get_by_label("attention").check()
    expect(coffee.locator("#looked")).to_have_class("asks")
    before = source(coffee)
    box = coffee.locator("#looked").bounding_box()
    with coffee.expect_request(re.compile(r"/v1/explain")) as asked:
        coffee.locator("#looked").click(position={"x": box["width"] / 2, "y": box["height"] / 2})
    x, y = (int(re.search(rf"[?&]{axis}=(\d+)", asked.value.url)[1]) for axis in "xy")
    width, height = coffee.locator("#picture").evaluate("(image) => [image.naturalWidth, image.naturalHeight]")
    assert abs(x - width / 2) <= 1 and abs(y - height / 2) <= 1
    expect(coffee.locator("#looked")).not_to_have_attribute("src", before)


def test_another_picture_comes_without_a_map(coffee):
    coffee.get_by_label("attention").check()
    expect(coffee.locator("#looked")).to_be_visible()
    coffee.get_by_role("button", name="rocket").first.click()
    labels(coffee, "rocket.jpg · ")
    expect(coffee.locator("#looked")).to_be_hidden()
    expect(coffee.get_by_label("picture", exact=True)).to_be_checked()


def test_maps_over_the_camera_are_renewed_until_they_are_not_wanted(visitor):
    visitor.get_by_role("button", name="Start camera").click()
    assert next(iter(labels(visitor, "Camera"))) == "espresso"
    visitor.get_by_label("attention").check()
    expect(visitor.locator("#looked")).to_have_attribute("alt", "Camera, attention")
    before = source(visitor)
    expect(visitor.locator("#looked")).not_to_have_attribute("src", before)
    visitor.get_by_label("class map").check()
    expect(visitor.locator("#looked")).to_have_attribute("alt", "Camera, cam")
    visitor.get_by_label("picture", exact=True).check()
    expect(visitor.locator("#looked")).to_be_hidden()
    visitor.get_by_label("attention").check()
    expect(visitor.locator("#looked")).to_be_visible()
    visitor.get_by_role("button", name="Stop camera").click()
    expect(visitor.locator("#looked")).to_be_hidden()


def test_a_model_that_cannot_be_explained(coffee):
    coffee.get_by_label("Model", exact=True).select_option("colours")
    expect(coffee.locator("#labels li")).to_have_count(3)
    coffee.get_by_label("attention").check()
    expect(problem(coffee)).to_contain_text("the graph does not name what explanations need")
    expect(coffee.get_by_label("picture", exact=True)).to_be_checked()
    coffee.get_by_role("button", name="Dismiss").click()
    coffee.get_by_label("Model", exact=True).select_option(DEFAULT_MODEL)
    expect(coffee.locator("#labels li")).to_have_count(5)
