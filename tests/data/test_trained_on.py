"""What weights remember of the images that they were trained on."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from PIL import Image

from shvit.card import Card, ClassInfo, Preprocessing, TrainingSplit
from shvit.data.datasets import open_dataset, open_datasets
from shvit.data.splits import list_digest
from shvit.data.trained_on import (
    REMEMBERED,
    count_trained_on,
    divide_as_trained,
    open_as_trained,
    training_split,
)
from shvit.errors import ModelFileError


@pytest.fixture
def photos(tmp_path) -> Path:
    """Two classes of 50 different pictures."""
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(50):
            Image.new("RGB", (4, 4), (label, i, 0)).save(tmp_path / "photos" / name / f"{i}.png")
    return tmp_path / "photos"


def names(images) -> set[str]:
    return {"/".join(Path(images.source(i)).parts[-2:]) for i in range(len(images))}


def test_the_same_images_are_divided_as_the_training_did_wherever_they_lie(photos, tmp_path, monkeypatch):
    train, val, _ = open_datasets(photos, seed=5, val_share=0.2)
    trained = training_split(train, val)
    assert (trained.seed, trained.val_share, len(trained.remembered)) == (5, 0.2, REMEMBERED)
    shutil.copytree(photos, tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    for path in ("elsewhere", "./elsewhere", photos):
        parts = divide_as_trained(open_dataset(path, "val"), trained)
        assert parts is not None
        assert (names(parts[0]), names(parts[1])) == (names(train), names(val))
        assert count_trained_on(parts[1], trained) == 0
        assert count_trained_on(parts[0], trained) == REMEMBERED
    assert names(open_as_trained(photos, trained, None).val) == names(val)


def test_a_list_of_paths_is_divided_alike_however_its_own_path_is_written(photos, tmp_path, monkeypatch):
    rows = [f"photos/{name}/{i}.png,{name}" for name in ("cat", "dog") for i in range(50)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *rows]))
    train, val, _ = open_datasets(tmp_path / "list.csv", seed=1)
    monkeypatch.chdir(tmp_path)
    for path in ("list.csv", "./list.csv", f"../{tmp_path.name}/list.csv"):
        parts = divide_as_trained(open_dataset(path, "val"), training_split(train, val))
        assert parts is not None and names(parts[1]) == names(val)
        assert names(open_datasets(path, seed=1).val) == names(val)


def test_other_images_are_told_from_those_trained_on(photos):
    train, val, _ = open_datasets(photos)
    trained = training_split(train, val)
    (photos / "cat" / "new.png").write_bytes((photos / "dog" / "0.png").read_bytes())
    more = open_dataset(photos, "val")
    assert divide_as_trained(more, trained) is None
    assert count_trained_on(more, trained) == REMEMBERED
    for file in photos.glob("*/*.png"):  # the same names, other pictures
        Image.new("RGB", (5, 5), (9, int(file.stem) if file.stem.isdigit() else 0, 9)).save(file)
    assert count_trained_on(open_dataset(photos, "val"), trained) == 0


def test_the_digest_follows_names_and_labels(photos):
    before = list_digest(open_dataset(photos, "train"))
    (photos / "cat" / "0.png").rename(photos / "dog" / "x.png")
    assert list_digest(open_dataset(photos, "train")) != before


def test_data_with_splits_remember_images_alone(photos):
    shutil.copytree(photos, photos.parent / "both" / "train")
    shutil.copytree(photos, photos.parent / "both" / "val")
    train, val, _ = open_datasets(photos.parent / "both")
    trained = training_split(train, val)
    assert (trained.seed, trained.val_share, trained.digest) == (None, None, None)
    assert count_trained_on(val, trained) == REMEMBERED, "they are leaked here"


CARD = Card("pets", "shvit_s1", (ClassInfo(0, "cat"), ClassInfo(1, "dog")), Preprocessing())
WHOLE = TrainingSplit(("0" * 32, "f" * 32), 7, 0.25, "a" * 64)


def test_the_card_holds_it_and_refuses_what_is_out_of_bounds():
    card = replace(CARD, training_split=WHOLE)
    assert Card.from_json(card.to_json()) == card
    assert Card.from_json(CARD.to_json()).training_split is None
    for change in (
        {"remembered": ["0" * 32] * 257},
        {"remembered": ["x" * 32]},
        {"remembered": ["0" * 33]},
        {"seed": 2**64},
        {"seed": None},
        {"val_share": 1.0},
        {"val_share": float("nan")},
        {"digest": "a" * 63},
        {"digest": None},
    ):
        raw = json.loads(card.to_json())
        raw["training_split"] = {**asdict(WHOLE), **change}
        with pytest.raises(ModelFileError, match=r"^m: "):
            Card.from_json(json.dumps(raw), "m")
