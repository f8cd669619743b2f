from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shvit.card import MAX_SIDE
from shvit.errors import ArgumentError
from shvit.network.sides import in_words, sides

numbers = st.integers(1, MAX_SIDE)


@given(numbers, numbers)
def test_what_is_said_is_read_again(height, width):
    assert sides((height, width)) == sides([height, width]) == (height, width)
    assert sides(in_words((height, width))) == (height, width)
    assert sides(f" {height}×{width} ") == sides(f"{height}X{width}") == (height, width)
    assert sides(height) == sides(np.int64(height)) == sides(str(height)) == (height, height)
    assert ("x" in in_words((height, width))) == (height != width)


@pytest.mark.parametrize(
    "wrong",
    ["160x", "x160", "0x320", "160x0", "160x320x3", "4096x64", "2049", 2049, 0, -64, "-64", "1e2", "٣x٣", "", "wide",
     "9" * 100, 64.0, True, None, (64,), (64, 64, 64), (64, 0.5), (0, 64), (True, 64), {64}],
)  # fmt: skip
def test_what_is_no_size_is_named(wrong):
    with pytest.raises(ArgumentError) as error:
        sides(wrong)
    assert str(error.value).startswith("image_size: expected a side of 1 to 2048 pixels, such as 224, or height and")
    assert str(error.value).endswith(repr(str(wrong)[:60])) and len(str(error.value)) < 220
