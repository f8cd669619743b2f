"""What the network looked at, on the page, in a real browser: by a real server, and by the browser itself."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import onnx
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from shvit import Classifier, Explainer
from shvit.drawing.overlay import COLOURS, Map, attention_map, class_activation_map, draw_map
from shvit.modelfile.onnx import set_card
from shvit.predicting.explain import Explanation
from shvit.shipped import DEFAULT_MODEL
from shvit.web import SAMPLES
from shvit.web.site import complete_site

from ..serve.conftest import running
from .conftest import is_ready, labels, problem, served, visiting


@contextmanager
def visiting_server(browser, *models) -> Iterator[Page]:
    arguments = [word for model in models for word in ("--model", model)]
    with running(*arguments) as server, visiting(browser) as page:
        page.goto(server.url)
        is_ready(page, "on this server")
        yield page


@pytest.fixture(scope="module", params=["server", "browser"])
def visitor(request, browser, site) -> Iterator[Page]:
    if request.param == "server":
        with visiting_server(browser, DEFAULT_MODEL) as page:
            yield page
    else:
        with served(site) as address, visiting(browser) as page:
            page.goto(address)
            is_ready(page, "in this browser")
            yield page


@pytest.fixture
def coffee(visitor) -> Page:
    """A picture on the stage, without a map."""
    visitor.get_by_role("button", name="coffee").first.click()
    labels(visitor, "coffee.jpg · ")
    return visitor


@pytest.fixture(scope="module")
def explanation() -> Explanation:
    return Explainer().explain(SAMPLES / "coffee.jpg")


def source(page: Page) -> str:
    return page.locator("#looked").get_attribute("src") or ""


def pixels(page: Page) -> np.ndarray:
    """Those of the map that is shown."""
    encoded = page.locator("#looked").evaluate(
        """async (image) => {
          await image.decode();
          const canvas = document.createElement("canvas");
          [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
          canvas.getContext("2d").drawImage(image, 0, 0);
          return canvas.toDataURL().split(",")[1];
        }"""
    )
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")).astype(int)


def is_drawn(page: Page, explanation: Explanation, shown: Map) -> None:
    """The picture is the library's, to a level here and there: engines' builds round at different places."""
    drawn = pixels(page)
    expected = np.asarray(draw_map(explanation.image, explanation.region, shown)).astype(int)
    assert drawn.shape == expected.shape
    apart = np.abs(drawn - expected)
    assert apart.mean() <= 0.1
    assert apart.max() <= 3


def test_a_map_over_the_picture_and_back(coffee, explanation):
    looked = coffee.locator("#looked")
    expect(looked).to_be_hidden()
    coffee.get_by_label("class map").check()
    expect(looked).to_have_attribute("alt", "coffee.jpg, cam")
    expect(looked).to_be_visible()
    # It lies on the picture: both are fitted into the stage and have the same proportions.
    shape = "(image) => image.naturalWidth / image.naturalHeight"
    assert looked.evaluate(shape) == pytest.approx(coffee.locator("#picture").evaluate(shape), rel=0.01)
    assert looked.bounding_box() == coffee.locator("#picture").bounding_box()
    is_drawn(coffee, explanation, class_activation_map(explanation))
    legend = coffee.locator("#legend")
    expect(legend).to_contain_text("speaks least for the first label speaks most Dark edges:", use_inner_text=True)
    expect(legend).to_be_visible()
    coffee.get_by_label("picture", exact=True).check()
    expect(looked).to_be_hidden()
    expect(legend).to_be_hidden()


def test_pressing_a_place_shows_its_attention(coffee, explanation):
    coffee.get_by_label("attention").check()
    expect(coffee.locator("#looked")).to_have_class("asks")
    is_drawn(coffee, explanation, attention_map(explanation, 2))
    expect(coffee.locator("#legend")).to_contain_text("no attention twice an even share, or more", use_inner_text=True)
    colours = coffee.locator("#legend i").evaluate("(bar) => getComputedStyle(bar).backgroundImage")
    stops = [tuple(map(int, each)) for each in re.findall(r"rgb\((\d+), (\d+), (\d+)\)", colours)]
    assert stops == [tuple(bytes.fromhex(each)) for each in COLOURS.split()]
    before = source(coffee)
    looked = coffee.locator("#looked")
    box = looked.bounding_box()
    width, height = explanation.image.size
    scale = min(box["width"] / width, box["height"] / height)
    x, y = width * 0.55, height * 0.3
    looked.click(
        position={
            "x": (box["width"] - width * scale) / 2 + x * scale,
            "y": (box["height"] - height * scale) / 2 + y * scale,
        }
    )
    expect(looked).not_to_have_attribute("src", before)
    is_drawn(coffee, explanation, attention_map(explanation, 2, point=(x, y)))


def test_a_place_that_the_network_does_not_see(coffee):
    coffee.get_by_label("attention").check()
    expect(coffee.locator("#looked")).to_have_class("asks")
    box = coffee.locator("#looked").bounding_box()
    coffee.locator("#looked").click(position={"x": box["width"] / 2, "y": box["height"] - 2})
    expect(problem(coffee)).to_contain_text("outside of what the network sees, x from")
    coffee.get_by_role("button", name="Dismiss").click()
    expect(coffee.locator("#looked")).to_be_visible()


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


def test_a_served_model_that_cannot_be_explained(browser, colour_model):
    with visiting_server(browser, DEFAULT_MODEL, colour_model) as page:
        page.get_by_role("button", name="coffee").click()
        page.get_by_label("Model", exact=True).select_option("colours")
        expect(page.locator("#labels li")).to_have_count(3)
        page.get_by_label("attention").check()
        expect(problem(page)).to_contain_text("the graph does not name what explanations need")
        expect(page.get_by_label("picture", exact=True)).to_be_checked()
        page.get_by_role("button", name="Dismiss").click()
        page.get_by_label("Model", exact=True).select_option(DEFAULT_MODEL)
        expect(page.locator("#labels li")).to_have_count(5)


def test_a_padded_pictures_map_lies_on_all_of_it(page, site, tmp_path):
    folder = tmp_path / "site"
    shutil.copytree(site, folder)
    proto = onnx.load(folder / "model.onnx")
    card = Classifier().card
    card = replace(card, preprocessing=replace(card.preprocessing, resize_mode="pad"))
    set_card(proto, card)
    onnx.save(proto, folder / "model.onnx")
    complete_site(folder, card)
    explanation = Explainer(folder / "model.onnx").explain(SAMPLES / "coffee.jpg")
    assert explanation.region.top < -10 and explanation.region.bottom > explanation.image.height + 10
    with served(folder) as address:
        page.goto(address)
        is_ready(page, "in this browser")
        page.get_by_role("button", name="coffee").click()
        found = labels(page, "coffee.jpg · ")
        expected = {each.short_label: each.score for each in explanation.predictions}
        assert found == pytest.approx(expected, abs=0.01)
        page.get_by_label("class map").check()
        expect(page.locator("#looked")).to_be_visible()
        is_drawn(page, explanation, class_activation_map(explanation))


def test_a_packed_model_that_cannot_be_explained(page, site, colour_model, tmp_path):
    folder = tmp_path / "site"
    shutil.copytree(site, folder)
    shutil.copyfile(colour_model, folder / "model.onnx")
    complete_site(folder, Classifier(colour_model).card)
    assert json.loads((folder / "config.json").read_text())["models"][0]["explain"] is None
    with served(folder) as address:
        page.goto(address)
        is_ready(page, "in this browser")
        page.get_by_role("button", name="coffee").click()
        labels(page, "coffee.jpg · ")
        expect(page.locator("#explain")).to_be_hidden()
