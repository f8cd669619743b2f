"""The browser's pixels beside the runtime's, value by value."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from playwright.sync_api import Page

from shvit.card import Preprocessing
from shvit.images.preprocess import decode, preprocess
from shvit.web import PAGE

from ..conftest import SAMPLES
from .conftest import served

PREPROCESS = """
async ([encoded, width, height, preprocessing]) => {
  const { preprocess } = await import("/preprocess.js");
  const pixels = Uint8ClampedArray.from(atob(encoded), (each) => each.charCodeAt(0));
  const result = preprocess(pixels, width, height, preprocessing);
  let text = "";
  for (let at = 0; at < result.length; at += 8192) text += String.fromCharCode(...result.subarray(at, at + 8192));
  return btoa(text);
}
"""


@pytest.fixture(scope="module")
def script(browser) -> Iterator[Page]:
    """A page on which the module can be called."""
    with served(PAGE) as address, browser.new_context() as context:
        page = context.new_page()
        page.goto(f"{address}icon.svg")
        yield page


def in_browser(script: Page, pixels: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    height, width, _ = pixels.shape
    opaque = np.dstack([pixels, np.full((height, width), 255, np.uint8)])
    encoded = base64.b64encode(opaque.tobytes()).decode()
    result = script.evaluate(PREPROCESS, [encoded, width, height, asdict(preprocessing)])
    return np.frombuffer(base64.b64decode(result), np.uint8).reshape(*preprocessing.image_size, 3)


@given(
    size=st.tuples(st.integers(1, 500), st.integers(1, 500)),
    preprocessing=st.builds(
        Preprocessing,
        image_size=st.tuples(st.integers(1, 260), st.integers(1, 260)),
        crop_ratio=st.floats(0.25, 1),
        resize_mode=st.sampled_from(["crop", "squash", "pad"]),
        interpolation=st.sampled_from(["bicubic", "bilinear", "lanczos"]),
        pad_color=st.tuples(*[st.integers(0, 255)] * 3),
    ),
    seed=st.integers(0, 99),
)
@example(size=(2, 1999), preprocessing=Preprocessing((128, 128)), seed=0)  # so long that only a part is resized
@example(size=(5000, 3), preprocessing=Preprocessing((128, 128)), seed=0)
@example(size=(5000, 3), preprocessing=Preprocessing((128, 96), resize_mode="pad"), seed=0)
@example(size=(300, 901), preprocessing=Preprocessing((160, 320), resize_mode="pad"), seed=0)
@example(size=(300, 900), preprocessing=Preprocessing((128, 128)), seed=0)  # Pillow begins with the columns
@example(size=(128, 128), preprocessing=Preprocessing((128, 128), 1.0), seed=0)  # nothing to do
@settings(max_examples=60, derandomize=True)
def test_noise_comes_out_the_same(script, size, preprocessing, seed):
    width, height = size
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    expected = preprocess(Image.fromarray(pixels), preprocessing)
    np.testing.assert_array_equal(in_browser(script, pixels, preprocessing), expected)


@pytest.mark.parametrize("name", sorted(each.name for each in SAMPLES.glob("*.jpg")))
@pytest.mark.parametrize("size", [128, 224])
def test_photographs_come_out_the_same(script, name, size):
    image = decode(SAMPLES / name)
    preprocessing = Preprocessing((size, size))
    np.testing.assert_array_equal(
        in_browser(script, np.asarray(image), preprocessing), preprocess(image, preprocessing)
    )
