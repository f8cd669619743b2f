"""The page beside the HTTP API, in a real browser, with a real server."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from shvit import Classifier
from shvit.shipped import DEFAULT_MODEL
from shvit.web import SAMPLES

from ..serve.conftest import TOKEN, running
from .conftest import is_ready, labels, noise, problem, visiting


@pytest.fixture(scope="module")
def address(colour_model) -> Iterator[str]:
    with running("--model", DEFAULT_MODEL, "--model", colour_model) as server:
        yield server.url


@pytest.fixture(scope="module")
def visitor(browser, address) -> Iterator[Page]:
    """Somebody who came with the first test and has stayed."""
    with visiting(browser) as page:
        page.goto(address)
        is_ready(page, "on this server")
        yield page


def test_a_sample(visitor):
    visitor.get_by_role("button", name="coffee", exact=True).click()
    found = labels(visitor, "coffee.jpg · ")
    (result,) = Classifier(engine="onnxruntime").predict(SAMPLES / "coffee.jpg")
    assert list(found) == [each.short_label for each in result.predictions]
    assert list(found.values()) == pytest.approx([each.score for each in result.predictions], abs=0.01)


def test_the_camera(visitor):
    visitor.get_by_role("button", name="Start camera").click()
    assert next(iter(labels(visitor, "Camera"))) == "espresso"
    expect(visitor.locator("#fps")).not_to_have_text("–")
    assert float(visitor.locator("#fps").inner_text()) > 0
    visitor.get_by_role("button", name="Stop camera").click()
    expect(visitor.locator("#video")).to_be_hidden()


def test_another_model(visitor):
    visitor.get_by_role("button", name="astronaut").click()
    labels(visitor, "astronaut.jpg · ")
    visitor.get_by_label("Model", exact=True).select_option("colours")
    expect(visitor.locator("#where")).to_contain_text("colours, on this server")
    expect(visitor.locator("#labels li")).to_have_count(3)
    assert set(labels(visitor, "astronaut.jpg · ")) == {"red", "green", "blue"}
    visitor.get_by_label("Model", exact=True).select_option(DEFAULT_MODEL)
    expect(visitor.locator("#labels li")).to_have_count(5)


def test_what_another_model_answers_late_is_not_shown(browser, address):
    with visiting(browser) as page:
        page.goto(address)
        is_ready(page, "on this server")
        held = []
        page.route(f"**/v1/predict*model={DEFAULT_MODEL}*", lambda route: held.append(route))
        page.get_by_role("button", name="astronaut").click()
        expect(page.locator("#source")).to_have_text("astronaut.jpg …")
        page.get_by_label("Model", exact=True).select_option("colours")
        assert set(labels(page, "astronaut.jpg · ")) == {"red", "green", "blue"}
        (late,) = held
        with page.expect_response(late.request.url):
            late.continue_()
        page.get_by_role("button", name="coffee").click()
        assert set(labels(page, "coffee.jpg · ")) == {"red", "green", "blue"}
        page.locator("#strip").get_by_role("button", name="astronaut.jpg").click()
        assert set(labels(page, "astronaut.jpg · ")) == {"red", "green", "blue"}


def test_another_model_labels_every_picture_of_the_visit(page, address):
    page.goto(address)
    is_ready(page, "on this server")
    page.locator("#file").set_input_files([SAMPLES / "cat.jpg", SAMPLES / "rocket.jpg"])
    strip = page.locator("#strip")
    expect(strip.get_by_role("button", name="rocket.jpg")).not_to_contain_text("…")
    page.get_by_label("Model", exact=True).select_option("colours")
    assert set(labels(page, "cat.jpg · ")) == {"red", "green", "blue"}
    expect(strip.get_by_role("button", name="rocket.jpg")).to_contain_text(re.compile("red|green|blue"))
    strip.get_by_role("button", name="rocket.jpg").click()
    assert set(labels(page, "rocket.jpg · ")) == {"red", "green", "blue"}


def test_what_is_no_picture(visitor):
    picture = {"name": "notes.jpg", "mimeType": "image/jpeg", "buffer": b"not a picture"}
    visitor.locator("#file").set_input_files([picture])
    expect(problem(visitor)).to_have_text("notes.jpg: not an image, or of a format that is not known")
    expect(visitor.locator("#source")).to_have_text("notes.jpg: no labels")
    visitor.get_by_role("button", name="Dismiss").click()
    expect(visitor.get_by_role("alert")).to_be_hidden()


def test_a_server_that_is_busy_is_asked_again(visitor):
    refusals = [{"status": 503, "headers": {"Retry-After": "1"}, "json": {"error": "the queue is full"}}] * 2
    visitor.route("**/v1/predict*", lambda route: route.fulfill(**refusals.pop()) if refusals else route.continue_())
    visitor.get_by_role("button", name="rocket").click()
    assert labels(visitor, "rocket.jpg · ")
    assert refusals == []
    expect(visitor.get_by_role("alert")).to_be_hidden()
    visitor.unroute("**/v1/predict*")


def test_a_server_that_asks_for_a_token(page):
    with running(environment={"SHVIT_TOKEN": TOKEN}) as server:
        page.goto(server.url)
        expect(problem(page)).to_contain_text("The server asks for a token.")
        page.get_by_label("Token").fill(TOKEN)
        page.get_by_label("Token").press("Enter")
        is_ready(page, "on this server")
        expect(page.get_by_role("alert")).to_be_hidden()
        page.get_by_role("button", name="coffee").click()
        assert next(iter(labels(page, "coffee.jpg · "))) == "espresso"
    page.locator("#file").set_input_files(SAMPLES / "cat.jpg")
    expect(problem(page)).to_contain_text("The server does not answer. Is it still running?")
    expect(page.get_by_role("button", name="Try again")).to_be_visible()


def test_a_camera_that_is_asked_for_twice_is_opened_once(page, address):
    page.goto(address)
    is_ready(page, "on this server")
    asked = page.evaluate(
        """() => {
          const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
          window.asked = 0;
          navigator.mediaDevices.getUserMedia = (wanted) => (window.asked++, open(wanted));
          for (const _ of [1, 2]) document.getElementById("camera").click();
          return window.asked;
        }"""
    )
    assert asked == 1
    assert labels(page, "Camera")


def test_a_camera_that_may_not_be_used(browser, address):
    # Headless Chromium grants what the flags grant; the browser's own refusal is given in their place.
    refuse = "navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', 'NotAllowedError'))"
    with browser.new_context() as context:
        context.add_init_script(refuse)
        page = context.new_page()
        page.goto(address)
        page.get_by_role("button", name="Start camera").click()
        expect(problem(page)).to_contain_text("The camera may not be used: allow it")
        expect(page.get_by_role("button", name="Start camera")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_on_a_phone(browser, address, scheme):
    with browser.new_context(viewport={"width": 360, "height": 740}, color_scheme=scheme) as context:
        page = context.new_page()
        page.goto(address)
        is_ready(page, "on this server")
        page.get_by_role("button", name="coffee").click()
        labels(page, "coffee.jpg · ")
        page.get_by_text("About this model").click()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        poor = page.evaluate(CONTRASTS)
        assert poor == []


CONTRASTS = """
() => {
  const channel = (value) => (value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  const luminance = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map((each) => channel(each / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    const colour = getComputedStyle(element).backgroundColor;
    return colour === "rgba(0, 0, 0, 0)" ? ground(element.parentElement) : colour;
  };
  const texts = [...document.querySelectorAll("body *")].filter(
    (each) => each.checkVisibility() && [...each.childNodes].some((node) => node.nodeType === 3 && node.data.trim()),
  );
  return texts.flatMap((each) => {
    const [low, high] = [getComputedStyle(each).color, ground(each)].map(luminance).sort((a, b) => a - b);
    const ratio = (high + 0.05) / (low + 0.05);
    return ratio < 4.5 ? [`${each.tagName} ${each.id} ${each.textContent.trim()} ${ratio}`] : [];
  });
}
"""


def test_everything_is_reached_and_named_by_keyboard(page: Page, address):
    page.goto(address)
    is_ready(page, "on this server")
    names = []
    for _ in range(14):
        page.keyboard.press("Tab")
        names.append(
            page.evaluate(
                "document.activeElement.ariaLabel || document.activeElement.innerText || "
                "document.activeElement.querySelector('img')?.alt || ''"
            ).split("\n")[0]
        )
    assert names[:13] == [
        "Skip to the labels",
        "Try",
        "Teach",
        DEFAULT_MODEL,
        "Dark colours",
        "Drop pictures here",
        "Choose…",
        "Start camera",
        "coffee",
        "rocket",
        "motorcycle",
        "cat",
        "astronaut",
    ]
    assert "About this model" in names
    page.get_by_role("button", name="Dark colours").press("Space")
    expect(page.get_by_role("button", name="Dark colours")).to_have_attribute("aria-pressed", "true")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 20, 21)"
    page.reload()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_a_picture_of_nothing_is_unknown(visitor):
    (expected,) = Classifier(engine="onnxruntime").predict(noise())
    assert expected.decision == "unknown"
    visitor.get_by_label("Model", exact=True).select_option(DEFAULT_MODEL)
    visitor.locator("#file").set_input_files([{"name": "noise.png", "mimeType": "image/png", "buffer": noise()}])
    labels(visitor, "noise.png · ")
    expect(visitor.locator("#best")).to_have_text(expected.headline)
    visitor.get_by_role("button", name="coffee", exact=True).click()
    labels(visitor, "coffee.jpg · ")
    expect(visitor.locator("#best")).to_have_text("espresso")


def test_a_camera_held_at_nothing_says_unknown(noisy_browser, address):
    with visiting(noisy_browser) as page:
        page.goto(address)
        is_ready(page, "on this server")
        page.get_by_role("button", name="Start camera").click()
        labels(page, "Camera")
        expect(page.locator("#best")).to_contain_text("unknown (nearest: ")
        page.get_by_role("button", name="Stop camera").click()
