"""Classes of two splits that differ: in order, in number, in how they are written."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from shvit.card import ClassInfo
from shvit.data.alignment import describe_alignment, describe_missing, match_by_name
from shvit.data.datasets import open_dataset, open_datasets
from shvit.errors import DataError
from tests.data.test_datasets import labels_of, put_images, sample, write_csv, write_folders, write_parquet, write_tar


@pytest.fixture
def cache(tmp_path_factory, monkeypatch) -> None:
    """An empty one, for what is derived from shards."""
    monkeypatch.setenv("SHVIT_CACHE", str(tmp_path_factory.mktemp("cache")))


def write_splits(root: Path, train: list[str], val: list[str]) -> Path:
    write_folders(root / "train", dict.fromkeys(train, 2))
    write_folders(root / "val", dict.fromkeys(val, 1), first=50)
    return root


@pytest.mark.parametrize(
    ("train", "val", "labels"),
    [
        (["a", "b", "c"], ["b", "c"], [1, 2]),
        (["a", "b", "c"], ["a", "c"], [0, 2]),
        (["a", "b", "c"], ["b"], [1]),
        (["1", "10", "2"], ["2", "10"], [1, 2]),
        (["0", "1", "2"], ["1", "2"], [1, 2]),
        (["Zebra", "ape"], ["zebra", "APE"], [1, 0]),  # capitals sort first
        (["Cat", "cat", "dog"], ["cat", "dog"], [1, 2]),
    ],
)
def test_folders_are_aligned_by_name(tmp_path, train, val, labels):
    opened = open_datasets(write_splits(tmp_path, train, val))
    assert opened.val.classes == opened.train.classes
    assert opened.val.labels.tolist() == labels
    named = {opened.val.source(index): opened.val.labels[index] for index in range(len(val))}
    for source, label in named.items():
        assert Path(source).parts[-3].lower() == opened.train.classes[label].label.lower()
    again = pickle.loads(pickle.dumps(opened.val))  # as decoding processes get it
    assert (again.labels.tolist(), again.read(0)) == (labels, opened.val.read(0))


def test_what_is_told_of_the_classes_that_differ(tmp_path):
    same = open_datasets(write_splits(tmp_path / "same", ["a", "b"], ["a", "b"])).val
    assert describe_alignment(same) == ""
    val = open_datasets(write_splits(tmp_path / "less", ["A", "b", "c"], ["b", "a"])).val
    assert describe_alignment(val) == (
        "classes matched by first synonym, whatever its case; "
        "validation: no images of 1 of the 3 classes, of which nothing is measured: c"
    )
    many = tuple(ClassInfo(place, f"c{place}") for place in range(1200))
    assert describe_missing(val.labels, many) == (
        "no images of 1,198 of the 1,200 classes, of which nothing is measured: c2, c3, c4, c5, c6, ..."
    )


def test_a_class_that_training_lacks_is_named_with_the_way_on(tmp_path):
    write_splits(tmp_path, ["ape", "cat"], ["ape", "zebra", "yak"])
    expected = (
        r"val: has class 'yak', which .*train lacks \(2 such classes; training has ape, cat\); add training images of "
        "it, or leave it out of validation, or correct its name"
    )
    with pytest.raises(DataError, match=expected):
        open_datasets(tmp_path)


def test_two_spellings_are_not_one_class(tmp_path):
    """Neither of validation's two is known to be training's one."""
    with pytest.raises(DataError, match="has class 'Cat', which"):
        open_datasets(write_splits(tmp_path, ["cat", "dog"], ["Cat", "cat", "dog"]))


def test_hidden_and_empty_folders(tmp_path):
    write_splits(tmp_path, ["a", "b", "c"], ["b", "c", ".d"])
    (tmp_path / "val" / "a").mkdir()
    (tmp_path / "val" / "unknown").mkdir()  # nothing in it can be measured wrongly
    train, val, _ = open_datasets(tmp_path)
    assert (val.classes, val.labels.tolist()) == (train.classes, [1, 2])
    assert describe_alignment(val).endswith(": a")
    (tmp_path / "val" / "a" / "photo.cr2").touch()
    with pytest.raises(DataError, match=r"no images in the folder of class 'a' \(.*cr2 not read"):
        open_datasets(tmp_path)
    (tmp_path / "val" / "a" / "photo.cr2").unlink()
    (tmp_path / "train" / "d").mkdir()
    with pytest.raises(DataError, match="train: no training images of class 'd'"):
        open_datasets(tmp_path)


def test_wordnet_ids_win_over_names(tmp_path):
    write_splits(tmp_path, ["n01443537", "n02124075", "n07920052"], ["n02124075", "n07920052"])
    (tmp_path / "train" / "classes.json").write_text('[{"label": 1, "wnid": "n02124075", "name": "Egyptian cat"}]')
    val = open_datasets(tmp_path).val
    assert labels_of(val) == ["Egyptian cat", "n07920052"]


def test_parquet_whose_names_are_in_another_order(tmp_path):
    write_parquet(tmp_path / "train.parquet", [0, 1, 2], ["ape", "cat", "dog"])
    write_parquet(tmp_path / "val.parquet", [0, 1, 1], ["dog", "cat", "ape", "zebra"])  # no image of a zebra
    train, val, _ = open_datasets(tmp_path)
    assert val.classes == train.classes
    assert val.labels.tolist() == [2, 1, 1]
    assert pickle.loads(pickle.dumps(val)).labels.tolist() == [2, 1, 1]
    write_parquet(tmp_path / "val.parquet", ["dog", "cat"])
    assert open_datasets(tmp_path).val.labels.tolist() == [2, 1]


def test_csv_files_of_one_folder(tmp_path):
    paths = put_images(tmp_path, 5)
    write_csv(tmp_path / "train.csv", [("path", "label"), *zip(paths, ["ape", "cat", "dog"], strict=False)])
    write_csv(tmp_path / "val.csv", [("path", "label"), (paths[3], "cat"), (paths[4], "dog")])
    val = open_datasets(tmp_path).val
    assert (labels_of(val), describe_alignment(val).rpartition(": ")[2]) == (["cat", "dog"], "ape")
    write_csv(tmp_path / "val.csv", [("path", "label"), (paths[3], "yak")])
    with pytest.raises(DataError, match="no training images of class 'yak'"):
        open_datasets(tmp_path)


@pytest.mark.usefixtures("cache")
def test_numbers_are_their_own_names(tmp_path):
    write_tar(tmp_path / "train.tar", {**sample("a", 0, "0"), **sample("b", 1, "1"), **sample("c", 2, "2")})
    write_tar(tmp_path / "val.tar", {**sample("a", 3, "1")})
    val = open_datasets(tmp_path).val
    assert (val.labels.tolist(), labels_of(val)) == ([1], ["1"])
    assert describe_alignment(val).endswith("2 of the 3 classes, of which nothing is measured: 0, 2")
    write_tar(tmp_path / "val.tar", {**sample("a", 3, "3")})
    with pytest.raises(DataError, match=r"has class '3', which .* lacks \(1 such"):
        open_datasets(tmp_path)


@pytest.mark.usefixtures("cache")
def test_numbers_without_names_are_not_aligned_with_names(tmp_path):
    text = {key: sample(key, seed, label) for seed, (key, label) in enumerate({"a": "ape", "b": "cat"}.items())}
    write_tar(tmp_path / "train.tar", text["a"] | text["b"])
    write_tar(tmp_path / "val.tar", sample("a", 3, "1"))
    expected = r"val\.tar: its classes are numbers without names, but those of .*train\.tar have names \(ape, cat\), so"
    with pytest.raises(
        DataError, match=rf"{expected} they cannot be aligned by name; name the numbers in classes\.txt"
    ):
        open_datasets(tmp_path)
    (tmp_path / "val.tar").rename(tmp_path / "other.tar")
    (tmp_path / "train.tar").rename(tmp_path / "val.tar")
    write_tar(tmp_path / "train.tar", {**sample("a", 0, "0"), **sample("b", 1, "1")})
    with pytest.raises(DataError, match=r"train\.tar: its classes are numbers without names, but those of .*val\.tar"):
        open_datasets(tmp_path)
    (tmp_path / "classes.txt").write_text("ape\ncat\n")
    assert open_datasets(tmp_path).val.labels.tolist() == [0, 1]


def test_classes_called_1_to_3_are_not_the_numbers_0_to_2(tmp_path):
    """Without an image of 0 the numbers 1 and 2 would all be found."""
    write_parquet(tmp_path / "val.parquet", [1, 2])
    images = open_dataset(tmp_path / "val.parquet", "val")
    one_based = tuple(ClassInfo(place, str(place + 1)) for place in range(3))
    assert [each.label for each in match_by_name(images, one_based).unknown] == ["0"]
