"""Photographs without labels, in folders as people have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shvit.card import Preprocessing
from shvit.evaluation.samples import are_unlabelled, photographs
from shvit.images.preprocess import decode

from ..conftest import SAMPLES


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three photographs, the first a second time, a folder that is called like one, and what a disk station leaves."""
    for number, path in enumerate(sorted(SAMPLES.glob("*.jpg"))[:3]):
        decode(path).resize((64, 64)).save(tmp_path / f"{number}.png")
    (tmp_path / "again.png").write_bytes((tmp_path / "0.png").read_bytes())
    (tmp_path / "folder.jpg").mkdir()
    thumbnails = tmp_path / "@eaDir"
    thumbnails.mkdir()
    (thumbnails / "0.jpg").write_bytes(b"")
    return tmp_path


def test_copies_and_folders_are_no_photographs(folder):
    told: list[str] = []
    pixels = photographs(folder, Preprocessing((32, 32)), told.append)
    assert pixels.shape == (3, 32, 32, 3) and len(np.unique(pixels, axis=0)) == 3
    assert told == [f"{folder}: 1 of 4 photographs are copies of others and are left out"]


def test_thumbnails_beside_photographs_are_no_classes(folder):
    assert are_unlabelled(folder)
    (folder / "cat").mkdir()
    (folder / "cat" / "0.jpg").write_bytes(b"")
    assert not are_unlabelled(folder)


def test_a_list_beside_photographs_labels_them(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    assert are_unlabelled(tmp_path)
    (tmp_path / "prices.csv").write_text("path,price\na.png,3\n")
    assert are_unlabelled(tmp_path)
    (tmp_path / "labels.csv").write_text("path,labels\na.png,cat|dog\n")
    assert not are_unlabelled(tmp_path)
