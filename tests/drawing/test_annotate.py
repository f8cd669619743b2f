from __future__ import annotations

import pytest
from PIL import Image

from shvit.drawing.annotate import annotate
from shvit.tasks.results import Prediction


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (640, 480), (3000, 40)])
def test_annotation_draws_on_a_copy_of_any_size(size):
    image = Image.new("RGB", size, (9, 99, 199))
    drawn = annotate(
        image, [Prediction("tabby, tabby cat", 1, "n02123045", 0.75, "tabby"), Prediction("dog", 2, None, 0.25)]
    )
    assert image.getcolors() == [(size[0] * size[1], (9, 99, 199))]
    assert drawn.mode == "RGB"
    assert len(drawn.getcolors(maxcolors=10**7)) >= 3  # the picture, the panel, a bar
    assert max(drawn.size) >= max(size)


def test_the_short_label_is_drawn():
    image = Image.new("RGB", (640, 480))
    drawn = [
        annotate(image, [Prediction(*names[:1], 1, None, 0.5, *names[1:])]).tobytes()
        for names in (("tabby, tabby cat", "tabby"), ("tabby",), ("tabby, tabby cat",))
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_caption_is_below():
    image = Image.new("RGB", (640, 480), (9, 99, 199))
    drawn = annotate(image, [], caption="truth: tabby")
    assert drawn.crop((0, 20, 640, 440)).getcolors() == [(640 * 420, (9, 99, 199))]
    assert len(drawn.crop((0, 440, 320, 480)).getcolors(maxcolors=10**6)) >= 3  # the picture, the panel, letters
