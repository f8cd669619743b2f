from __future__ import annotations

import numpy as np
from PIL import Image

from shvit.data.datasets import open_datasets
from shvit.evaluation.int8 import AccuracyJudge

from ..conftest import colour_card


def test_what_validation_lacks_is_told_and_the_others_are_judged(tmp_path, colour_model):
    """Of training's blue, green and red, which are outputs 2, 1 and 0, validation has green and red."""
    colours = {"blue": (20, 20, 200), "green": (20, 200, 20), "red": (200, 20, 20)}
    for name, colour in colours.items():
        for split, count in {"train": 12, "val": 3}.items():
            if (split, name) == ("val", "blue"):
                continue
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.full((32, 48, 3), colour) + number
                Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / split / name / f"{number}.png")
    train, val, _ = open_datasets(tmp_path)
    judge = AccuracyJudge(colour_card(), train, val, 0.5, "m.onnx")
    told: list[str] = []
    judge.observe(colour_model, told.append)
    assert told[0] == (f"{tmp_path / 'val'}: no images of 1 of the 3 classes, of which nothing is measured: blue")
    judgement = judge.judge(colour_model, "shvit eval")
    assert (judgement.metrics[0].value, judgement.too_much) == (1, False)
    assert judgement.summary.startswith("on the 6 validation images it is right for 100.00%")
