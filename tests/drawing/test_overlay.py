from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shvit import Explainer
from shvit.card import Preprocessing
from shvit.drawing.overlay import (
    OUTSIDE,
    attention_map,
    class_activation_map,
    colour_table,
    draw_map,
    draw_sheet,
    draw_with_scale,
    fit,
    overlay,
)
from shvit.images.preprocess import Region, kept_region

from ..conftest import SAMPLES

GREY = 100


def oklab(colours: np.ndarray) -> np.ndarray:
    """sRGB in [0, 255], ``(N, 3)``, to Björn Ottosson's perceptual colour space."""
    values = colours / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    to_cones = [[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.6300]]
    to_lab = [[0.2105, 0.7936, -0.0041], [1.9780, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]]
    return np.cbrt(linear @ np.array(to_cones).T) @ np.array(to_lab).T


def test_equal_differences_look_equal_and_the_order_shows_in_lightness_alone():
    table = oklab(colour_table().astype(float))
    steps = np.linalg.norm(np.diff(table[::5], axis=0), axis=1)
    assert steps.min() > 0.85 * steps.mean() and steps.max() < 1.15 * steps.mean()
    lightness = table[::5, 0]
    assert (np.diff(lightness) > 0).all() and lightness[0] < 0.25 and lightness[-1] > 0.95
    # As somebody without red cones, or without green ones, sees it (Viénot et al. 1999, in linear RGB).
    linear = (colour_table()[::5] / 255.0) ** 2.2
    for blind in ([[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
                  [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]]):  # fmt: skip
        seen = oklab(np.clip(linear @ np.array(blind).T, 0, 1) ** (1 / 2.2) * 255)
        assert (np.diff(seen[:, 0]) > 0).all()
        assert np.linalg.norm(np.diff(seen, axis=0), axis=1).min() > 0.3 * steps.mean()


@settings(max_examples=60)
@given(data=st.data(), width=st.integers(80, 400), height=st.integers(80, 400))
def test_a_maps_peak_lies_on_its_part_of_the_image_and_the_rest_is_dark(data, width, height):
    left, top = data.draw(st.floats(0, width / 2)), data.draw(st.floats(0, height / 2))
    right, bottom = data.draw(st.floats(left + 40, width)), data.draw(st.floats(top + 40, height))
    rows, columns = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    row, column = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, columns - 1))
    values = np.zeros((rows, columns))
    values[row, column] = 1
    drawn = overlay(
        Image.new("RGB", (width, height), (GREY,) * 3), values, Region(left, top, right, bottom), (0, 1), alpha=1
    )
    pixels = np.asarray(drawn).astype(int)
    middle = (
        top + (row + 0.5) / rows * (bottom - top),
        left + (column + 0.5) / columns * (right - left),
    )
    brightness = pixels.sum(-1)
    assert (brightness[int(middle[0]), int(middle[1])]) > 0.7 * colour_table()[-1].sum()
    outside = np.ones((height, width), bool)
    outside[round(top) : round(bottom), round(left) : round(right)] = False
    assert (pixels[outside] == round(GREY * OUTSIDE)).all()
    assert not (pixels[~outside] == round(GREY * OUTSIDE)).all(-1).any()


def test_without_alpha_the_picture_stays_and_the_original_is_untouched():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8))
    before = image.tobytes()
    assert overlay(image, np.eye(3), alpha=0).tobytes() == before
    assert overlay(image, np.eye(3)).tobytes() != before
    assert image.tobytes() == before


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 3000), (3000, 1), (7, 5)])
def test_pictures_of_any_size_are_drawn(width, height):
    explanation = Explainer(threads=1).explain(Image.new("RGB", (width, height), "red"))
    shown = class_activation_map(explanation)
    assert draw_map(explanation.image, explanation.region, shown).size == (width, height)
    scaled = draw_with_scale(explanation, shown)
    assert scaled.width >= width and scaled.width > 200 and scaled.height > height + 60
    sheet = draw_sheet(explanation, [attention_map(explanation, 2), shown])
    assert sheet.width > 600 and sheet.height > 100


def test_between_the_cells_a_map_has_no_edges_and_none_beyond_its_values():
    values = np.array([[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0.2, 0], [0, 0, 0, 0]], float)
    drawn = np.asarray(overlay(Image.new("RGB", (400, 400)), values, limits=(-1, 2), alpha=1))
    table = [tuple(each) for each in colour_table().tolist()]
    levels = {table.index(tuple(each)) for each in drawn.reshape(-1, 3).tolist()}
    assert (min(levels), max(levels)) == (85, 170)  # of the values 0 and 1

    drawn = np.asarray(overlay(Image.new("RGB", (400, 400)), values, limits=(0, 1), alpha=1))
    across = np.array([table.index(tuple(each)) for each in drawn[150].tolist()])
    slopes = np.diff(across[6::8])
    assert abs(slopes).max() > 20  # from nothing to the peak within a cell of 100 pixels
    assert abs(np.diff(slopes)).max() <= 14  # a peak of straight lines would turn by 40


@given(
    size=st.tuples(st.integers(1, 200), st.integers(1, 200)),
    beyond=st.tuples(*[st.floats(0, 100)] * 4),
    cells=st.tuples(st.integers(1, 5), st.integers(1, 5)),
)
def test_of_a_map_that_reaches_beyond_the_image_what_is_on_it_is_drawn(size, beyond, cells):
    """As on a larger image, of which it is then cut out."""
    (width, height), (left, top, right, bottom) = size, (round(each) for each in beyond)
    values = np.random.default_rng(0).random(cells)
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8))
    drawn = np.asarray(overlay(image, values, Region(-left, -top, width + right, height + bottom))).astype(int)
    larger = Image.new("RGB", (left + width + right, top + height + bottom))
    larger.paste(image, (left, top))
    expected = np.asarray(overlay(larger, values))[top : top + height, left : left + width].astype(int)
    assert drawn.shape == (height, width, 3)
    assert np.abs(drawn - expected).max() <= 3  # the map's colours are steps: a value on the edge of two


def test_a_padded_pictures_map_is_drawn_on_all_of_it_and_costs_what_the_picture_costs():
    image = Image.new("RGB", (30_000, 2), (GREY,) * 3)
    region = kept_region(30_000, 2, Preprocessing((128, 128), resize_mode="pad"))
    assert region.bottom - region.top == 256  # two pixels are one of the input
    values = np.zeros((4, 4))
    values[:, 3] = 1
    drawn = np.asarray(overlay(image, values, region, (0, 1), 1.0))
    assert drawn.shape == (2, 30_000, 3)
    assert (drawn[:, 0] == colour_table()[0]).all() and (drawn[:, -1] == colour_table()[-1]).all()


def test_a_map_without_preferences_is_of_one_middling_colour():
    explanation = Explainer(threads=1).explain(SAMPLES / "coffee.jpg")
    for weights in explanation.attention.values():
        weights[...] = 1 / weights[0, 0].size
    even = attention_map(explanation, 2)
    np.testing.assert_allclose(even.values, 1, rtol=1e-6)
    assert even.limits == (0, 2)


def test_the_token_that_asks_is_framed():
    explanation = Explainer(threads=1).explain(SAMPLES / "coffee.jpg")
    point = explanation.center(2, (1, 3))
    shown = attention_map(explanation, 2, point=point)
    assert shown.token == (1, 3) and shown.detail == "of token 1,3 of 4 by 4"
    np.testing.assert_allclose(shown.values / shown.values.size, explanation.attention_map(2, token=(1, 3)))
    drawn, plain = (
        np.asarray(draw_map(explanation.image, explanation.region, each)).astype(int)
        for each in (shown, replace(shown, token=None))
    )
    changed = np.argwhere((drawn != plain).any(-1))
    left, top, right, bottom = explanation.region
    cell = ((bottom - top) / 4, (right - left) / 4)
    np.testing.assert_allclose(changed.min(0), (top + cell[0], left + 3 * cell[1]), atol=1.5)
    np.testing.assert_allclose(changed.max(0) + 1, (top + 2 * cell[0], right), atol=1.5)


def test_fitting_keeps_the_region_in_its_place():
    image, region = fit(Image.new("RGB", (400, 100)), Region(100, 0, 300, 100), 200)
    assert image.size == (200, 50)
    assert region == (50, 0, 150, 50)


@pytest.mark.parametrize(
    ("values", "alpha", "message"),
    [(np.zeros(3), 0.5, r"\(rows, columns\)"), (np.zeros((0, 2)), 0.5, "shape"), (np.eye(2), 1.5, "alpha")],
)
def test_what_cannot_be_drawn_is_refused(values, alpha, message):
    with pytest.raises(ValueError, match=message):
        overlay(Image.new("RGB", (9, 9)), values, alpha=alpha)
