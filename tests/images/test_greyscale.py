"""Measurements as pictures: what stands for "no data" leaves the rest as it is."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin

from shvit.errors import ImageError
from shvit.images.greyscale import GDAL_NO_DATA
from shvit.images.preprocess import decode


def tiff(values: np.ndarray, no_data: str | None = None) -> bytes:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    if no_data is not None:
        tags[GDAL_NO_DATA] = no_data
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "TIFF", tiffinfo=tags)
    return buffer.getvalue()


def shown(values: np.ndarray, no_data: str | None = None) -> np.ndarray:
    return np.asarray(decode(tiff(values, no_data)))[..., 0]


def scene(dtype: str, low: float, high: float) -> np.ndarray:
    """Waves from ``low`` to ``high``, both of which are there, not in the corners."""
    y, x = np.mgrid[:40, :60]
    waves = np.sin(x / 7) * np.cos(y / 5)
    waves = (waves - waves.min()) / (waves.max() - waves.min())
    return (low + waves * (high - low)).astype(dtype)


def without_outliers(values: np.ndarray) -> np.ndarray:
    """What was shown before any value was left out: from the least to the greatest."""
    values = values.astype(np.float64)
    low, high = values.min(), values.max()
    return np.rint((values - low) * (255 / (high - low) if high > low else 0)).astype(np.uint8)


FLOAT_FILLS = [np.nan, np.inf, -np.inf, -9999, -999, -3.4e38, 3.4028235e38, 1e20, 9.96921e36, -32768, -1e6, 123456.0]


@pytest.mark.parametrize("area", [(slice(0, 1), slice(0, 1)), (slice(0, 20), slice(0, 20)), (slice(0, 39), slice(0))])
@pytest.mark.parametrize("fill", FLOAT_FILLS)
@pytest.mark.parametrize(("low", "high"), [(0, 1), (-1, 1), (0, 255)])
def test_floats_are_scaled_by_the_values_of_the_picture(fill, low, high, area):
    values = scene("float32", low, high)
    marked = values.copy()
    marked[area] = fill
    kept = np.ones(values.shape, bool)
    kept[area] = False
    expected = without_outliers(np.where(kept, values, values[20, 30]))
    assert np.array_equal(shown(marked)[kept], expected[kept])
    assert set(shown(marked)[~kept]) <= {0, 255}


@given(
    fills=st.lists(st.sampled_from([*FLOAT_FILLS[:10], -5e7, 4e9, 4.1e9]), min_size=1, max_size=4, unique=True),
    low=st.floats(-100, 100),
    width=st.floats(1, 500),
    place=st.integers(0, 40 * 60 - 20),
)
def test_several_kinds_of_them_at_once(fills, low, width, place):
    values = scene("float32", low, low + width)
    marked = values.copy().ravel()
    marked[place : place + 20] = np.resize(fills, 20)
    kept = np.ones(marked.size, bool)
    kept[place : place + 20] = False
    kept = kept.reshape(values.shape)
    expected = without_outliers(np.where(kept, values, values[kept][0]))
    assert np.array_equal(shown(marked.reshape(values.shape))[kept], expected[kept])


@given(st.integers(0, 2**32 - 1), st.sampled_from(["normal", "uniform", "levels", "steps", "one spot"]))
def test_other_pictures_are_shown_from_their_least_to_their_greatest_value(seed, kind):
    random = np.random.default_rng(seed)
    values = {
        "normal": lambda: random.normal(size=(12, 9)) * 10.0 ** random.integers(-30, 18),
        "uniform": lambda: random.uniform(-9999, random.choice([0, 9999, 1e9]), (12, 9)),
        "levels": lambda: random.choice([-9999.0, 0, 5, 9999, 1e6], (12, 9)),
        "steps": lambda: random.integers(-9999, 10_000, (12, 9)),
        "one spot": lambda: np.eye(12)[:, :9] * (np.arange(9) == 4) * random.uniform(1, 1e9),
    }[kind]().astype(np.float32)
    if kind == "levels":  # 0 and 5 beside 10⁶ are one level, and no one knows whether 10⁶ is a measurement
        values[values == -9999] = 2e5
        values[values == 9999] = 4e5
    assert np.array_equal(shown(values), without_outliers(values))


@pytest.mark.parametrize("text", ["-9999", "-9999.0 ", "-9.999e3"])
@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        ("float32", -9998, -9000),
        ("int16", -9000, 3000),
        ("int32", -9000, 10**6),
        ("int32", 0, 200),
        ("int32", 0, 60000),
    ],
)
def test_the_value_that_the_file_names_is_left_out(dtype, low, high, text):
    values = scene(dtype, low, high)
    marked = values.copy()
    marked[:5, :5] = -9999
    result = shown(marked, text)
    assert np.array_equal(result[5:], shown(values)[5:])
    assert not result[:5, :5].any()


@pytest.mark.parametrize(("dtype", "fill"), [("int16", -32768), ("int32", -(2**31)), ("int32", 2**31 - 1)])
@pytest.mark.parametrize("high", [200, 3000])
def test_integers_that_stand_for_no_data(dtype, fill, high):
    values = scene(dtype, 0, high)
    marked = values.copy()
    marked[:5, :5] = fill
    assert np.array_equal(shown(marked)[5:], shown(values)[5:])


def test_no_data_of_sixteen_bits_is_black_and_the_rest_as_it_was():
    values = scene("uint16", 500, 40000)
    marked = values.copy()
    marked[:5, :5] = 65535
    assert np.array_equal(shown(marked)[5:], np.rint(values / 257)[5:])
    assert shown(marked)[0, 0] == 255 and shown(marked, "65535")[0, 0] == 0


@pytest.mark.parametrize("text", ["nan", "none", "", "1" * 5000, "inf", "1e999", "9999 9999"])
def test_a_tag_that_is_no_number_or_no_value_of_it_changes_nothing(text):
    values = scene("float32", 0, 1)
    assert np.array_equal(shown(values, text), without_outliers(values))


@pytest.mark.parametrize("values", [np.full((4, 4), np.nan), np.full((4, 4), np.inf), np.full((4, 4), -9999.0)])
def test_a_picture_of_nothing_else_fails_and_says_why(values):
    with pytest.raises(ImageError, match=r": none of its values can be shown; all are infinite, not a number"):
        shown(values.astype(np.float32), "-9999")


def test_an_orientation_does_not_lose_the_tag():
    values = scene("float32", 0, 1)
    values[:5, :5] = -7
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[GDAL_NO_DATA], tags[274] = "-7", 3
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "TIFF", tiffinfo=tags)
    upright = np.asarray(decode(buffer.getvalue()))[..., 0]
    assert np.array_equal(upright, shown(values, "-7")[::-1, ::-1])
    assert np.array_equal(upright, np.asarray(decode(Image.open(buffer)))[..., 0])
