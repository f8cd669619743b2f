"""Pictures in views, and what is looked at twice, or not at all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shvit.card import Preprocessing
from shvit.images.preprocess import preprocess
from shvit.teaching.pictures import VIEWS, views_for, views_of

SIDES = st.integers(1, 300)


@given(SIDES, SIDES, st.integers(0, 2**64 - 1), st.sampled_from(["crop", "squash", "pad"]))
def test_views_are_inputs_of_the_network(width, height, seed, mode):
    picture = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))
    preprocessing = Preprocessing((32, 48), 1.0, mode)
    views = views_of(picture, preprocessing, len(VIEWS), seed)
    assert views.dtype == np.uint8 and views.shape == (len(VIEWS), 32, 48, 3)
    centre = preprocess(picture, preprocessing)
    assert (views[0] == centre).all() and (views[1] == centre[:, ::-1]).all()
    assert (views == views_of(picture, preprocessing, len(VIEWS), seed)).all()
    assert (views_of(picture, preprocessing, 1, seed) == views[:1]).all()


def test_crops_are_parts_of_the_picture():
    """Of a gradient, a part has a narrower range of levels, and is not always the same."""
    levels = np.broadcast_to(np.linspace(0, 255, 256, dtype=np.uint8)[None, :, None], (256, 256, 3))
    picture, means = Image.fromarray(np.ascontiguousarray(levels)), []
    for seed in range(50):
        crop = views_of(picture, Preprocessing((64, 64), 1.0), 4, seed)[2].astype(int)
        assert 255 * 0.3 < crop.max() - crop.min() <= 255
        assert (np.diff(crop[0, :, 0]) >= 0).all()  # as it was: the other crop is mirrored
        means.append(crop.mean())
    assert max(means) - min(means) > 60


@pytest.mark.parametrize(("pictures", "views"), [(10, 4), (4_999, 4), (5_000, 2), (19_999, 2), (20_000, 1)])
def test_many_pictures_have_fewer_views(pictures, views):
    assert views_for(pictures) == views
