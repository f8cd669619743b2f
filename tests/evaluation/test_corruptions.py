from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from shvit.evaluation.corruptions import (
    CORRUPTIONS,
    CorruptedImages,
    _convolve,
    brightness,
    corrupt,
    elastic_transform,
)
from shvit.evaluation.evaluate import SEVERITIES
from shvit.images.preprocess import decode

from ..conftest import SAMPLES
from .test_labels import Images


@pytest.fixture(scope="module")
def photograph() -> Image.Image:
    return decode(SAMPLES / "coffee.jpg").resize((160, 140))


def difference(a: Image.Image, b: Image.Image) -> float:
    return float(np.abs(np.asarray(a, float) - np.asarray(b, float)).mean())


@pytest.mark.parametrize("side", [160, 64])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_repeats_and_grows_with_its_severity(photograph, name, side):
    image = photograph.resize((side, side))
    corrupted = [corrupt(image, name, severity, seed=4) for severity in SEVERITIES]
    assert all(each.size == image.size and each.mode == "RGB" for each in corrupted)
    assert difference(corrupt(image, name, 3, seed=4), corrupted[2]) == 0
    changes = [difference(image, each) for each in corrupted]
    assert changes[0] > 0
    # Of elastic_transform the large warps of severities 1 and 2 give way to fine ones, as in ImageNet-C.
    assert changes[0] < changes[4] or name == "elastic_transform"


@pytest.mark.parametrize("name", ["gaussian_noise", "motion_blur", "snow", "frost", "fog", "elastic_transform"])
def test_randomness_is_the_seeds(photograph, name):
    assert difference(corrupt(photograph, name, 4, seed=1), corrupt(photograph, name, 4, seed=2)) > 0


@settings(max_examples=30)
@given(
    name=st.sampled_from(list(CORRUPTIONS)),
    width=st.integers(1, 40),
    height=st.integers(1, 300),
    severity=st.integers(1, 5),
)
def test_every_shape_stays_as_it_is(name, width, height, severity):
    image = Image.new("RGB", (width, height), (10, 0, 200))
    assert corrupt(image, name, severity, seed=0).size == (width, height)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_black_image_stays_an_image(name):
    assert corrupt(Image.new("RGB", (40, 30)), name, 5, seed=0).size == (40, 30)


def test_large_images_are_reduced_first():
    image = decode(SAMPLES / "coffee.jpg")  # 512 by 341
    assert corrupt(image, "contrast", 1, seed=0).size == (384, 256)


def test_noise_has_the_papers_deviation():
    grey = Image.new("RGB", (200, 200), (128, 128, 128))
    for severity, deviation in ((1, 0.08), (3, 0.18)):
        assert np.std(np.asarray(corrupt(grey, "gaussian_noise", severity, seed=0)) / 255) == pytest.approx(
            deviation, rel=0.02
        )
    struck = np.asarray(corrupt(grey, "impulse_noise", 5, seed=0)) != 128
    assert struck.mean() == pytest.approx(0.27, abs=0.01)
    # Photons are counted: the variance is the mean over their number.
    assert np.var(np.asarray(corrupt(grey, "shot_noise", 2, seed=0)) / 255) == pytest.approx(0.5 / 25, rel=0.05)


def test_convolution_agrees_with_scipys():
    random = np.random.default_rng(0)
    pixels, kernel = random.random((12, 9, 3)), random.random((5, 7))
    expected = ndimage.convolve(pixels, kernel[..., None] / kernel.sum(), mode="mirror")
    assert np.allclose(_convolve(pixels, kernel), expected)


def test_motion_blur_draws_a_streak_of_a_bright_point():
    points = np.zeros((129, 129, 3), np.uint8)
    points[64, 64] = 255
    streak = np.asarray(corrupt(Image.fromarray(points), "motion_blur", 1, seed=0))[..., 0]
    y, x = np.nonzero(streak)
    assert x.max() - x.min() > 5
    angle = np.degrees(np.arctan2(y - 64, x - 64))[(x != 64) & (np.hypot(x - 64, y - 64) > 5)]
    assert np.ptp(angle) < 20  # a line, and to one side only


def test_brightness_keeps_hue_and_saturation():
    import colorsys

    before = (0.4, 0.2, 0.1)
    after = brightness(np.array([[before]]), 0.3, np.random.default_rng(0))[0, 0]
    hue, saturation, value = colorsys.rgb_to_hsv(*before)
    assert colorsys.rgb_to_hsv(*after) == pytest.approx((hue, saturation, value + 0.3))


def test_elastic_transform_without_displacement_is_the_identity():
    pixels = np.random.default_rng(0).random((20, 30, 3))
    assert np.allclose(elastic_transform(pixels, (0, 0, 0), np.random.default_rng(0)), pixels)


def test_corrupted_images_are_seeded_by_their_place():
    photograph = (SAMPLES / "coffee.jpg").read_bytes()
    images = Images(["a", "b"])
    images.read = lambda index: photograph
    corrupted = CorruptedImages(images, "gaussian_noise", 2)
    assert corrupted.read(0) == corrupted.read(0) != corrupted.read(1)
    assert decode(corrupted.read(1)).tobytes() == corrupt(decode(photograph), "gaussian_noise", 2, seed=1).tobytes()
