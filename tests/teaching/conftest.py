from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ..calibration.conftest import tiny, tiny_card, tiny_file

__all__ = ["tiny", "tiny_card", "tiny_file"]

COLOURS = {"red": (200, 40, 40), "green": (40, 180, 60), "blue": (50, 60, 210), "grey": (128, 128, 128)}


@pytest.fixture(scope="package", autouse=True)
def _few_made_pictures():
    """Some of them take a fraction of a second, and not six."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shvit.teaching.teach.MADE_EACH", 12)
        yield


def draw(folder: Path, colours: tuple[str, ...], each: int, seed: int = 0) -> Path:
    """Pictures of grainy colours, a folder for each."""
    rng = np.random.default_rng(seed)
    for colour in colours:
        (folder / colour).mkdir(parents=True, exist_ok=True)
        for place in range(each):
            height, width = rng.integers(40, 120, 2)
            level = rng.uniform(0.85, 1.1) * np.array(COLOURS[colour]) + rng.normal(0, 15, (height, width, 3))
            picture = Image.fromarray(np.clip(level, 0, 255).astype(np.uint8))
            picture.save(folder / colour / f"{seed}-{place:02}.png")
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """24 pictures each of three classes; tests must not change them."""
    return draw(tmp_path_factory.mktemp("photos") / "photos", ("red", "green", "blue"), 24)


@pytest.fixture(scope="package")
def taught(tmp_path_factory, photos, tiny_file, _few_made_pictures) -> Path:
    """A file that was taught these; tests must not change it, nor what is kept beside it."""
    from shvit.teaching.teach import teach

    path = tmp_path_factory.mktemp("taught") / "mine.onnx"
    teach(photos, tiny_file, path)
    return path
