from __future__ import annotations

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shvit.card import ClassInfo
from shvit.errors import DataError
from shvit.evaluation.labels import (
    LabelledImages,
    dataset_labels,
    evenly_spaced,
    labels_from_file,
    match_classes,
)

MODEL = (
    ClassInfo(0, "goldfish, Carassius auratus", "n01443537"),
    ClassInfo(1, "crane", "n02012849"),
    ClassInfo(2, "crane", "n03126707"),
    ClassInfo(3, "Egyptian cat", "n02124075"),
)


class Images:
    """A dataset of names alone."""

    def __init__(
        self, names: list[str], classes: tuple[ClassInfo, ...] = MODEL, labels: list[int] | None = None
    ) -> None:
        self.name, self.names, self.classes = "photos", names, classes
        self.labels = np.array(labels or [0] * len(names))

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> bytes:
        return self.names[index].encode()

    def source(self, index: int) -> str:
        return self.names[index]


def of_classes(*classes: tuple[str, str | None]) -> Images:
    """One image of each."""
    infos = tuple(ClassInfo(i, name, wnid) for i, (name, wnid) in enumerate(classes))
    return Images([f"{i}.png" for i in range(len(infos))], infos, list(range(len(infos))))


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        ([("Katze", "n02124075"), ("Goldfisch", "n01443537")], ([3, 0], "WordNet id")),
        ([("Egyptian cat", None), ("goldfish, Carassius auratus", None)], ([3, 0], "name")),
        ([("egyptian_cat", None), ("Goldfish", None)], ([3, 0], "first synonym")),
        # ImageNet-V2's folders, in the order a listing gives: 10 would come before 2.
        ([("0", None), ("3", None), ("2", None)], ([0, 3, 2], "number")),
    ],
)
def test_classes_are_matched_whatever_their_number_and_order(classes, expected):
    assert match_classes(of_classes(*classes), MODEL, "m.onnx") == expected


def test_a_models_own_numeric_names_win_over_class_numbers():
    digits = tuple(ClassInfo(i, name) for i, name in enumerate(("9", "0")))
    assert match_classes(of_classes(("0", None), ("9", None)), digits, "m.onnx") == ([1, 0], "name")


@pytest.mark.parametrize(
    ("model", "data"),
    [
        (("1", "2", "3"), ("0", "1")),
        (("1", "2", "3"), ("0",)),
        (("01", "02", "03"), ("1", "2")),
        (("1", "10", "2"), ("0", "1", "2")),
    ],
)
def test_a_number_that_is_no_name_is_no_place_among_other_numbers(model, data):
    """Class 0 of a model of 1, 2 and 3 is called 1: each would be measured as its neighbour."""
    digits = tuple(ClassInfo(i, name) for i, name in enumerate(model))
    with pytest.raises(DataError, match=f"the data has .*; the model knows {', '.join(model)}; leave their images out"):
        match_classes(of_classes(*((name, None) for name in data)), digits, "m.onnx")


def test_a_class_without_images_need_not_be_known():
    images = of_classes(("tractor", None), ("Egyptian cat", None))
    images.labels[:] = 1
    assert match_classes(images, MODEL, "m.onnx") == ([-1, 3], "name")
    assert dataset_labels(images, [-1, 3]) == {0: (3,), 1: (3,)}


def test_two_classes_of_the_data_are_not_one_of_the_models():
    with pytest.raises(DataError, match="the data has cat"):
        match_classes(of_classes(("Cat", None), ("cat", None)), (ClassInfo(0, "Cat"), ClassInfo(1, "dog")), "m.onnx")


def test_a_model_without_names_takes_as_many_classes_in_their_order():
    unnamed = tuple(ClassInfo(i, f"class {i}") for i in range(2))
    assert match_classes(of_classes(("cat", None), ("dog", None)), unnamed, "m.pth") == ([0, 1], "position")
    with pytest.raises(DataError, match=r"3 of its 3 classes are not among the 2 of m\.pth"):
        match_classes(of_classes(("cat", None), ("dog", None), ("emu", None)), unnamed, "m.pth")


def test_other_classes_are_refused_with_examples_of_both():
    images = of_classes(("Goldfish", None), ("tractor", None), ("barn", "n02793495"))
    expected = (
        "photos: 2 of its 3 classes are not among the 4 of m.onnx: the data has tractor, n02793495 (barn); the model "
        "knows n01443537 (goldfish), n02012849 (crane), n03126707 (crane), ..."
    )
    with pytest.raises(DataError, match=re.escape(expected)):
        match_classes(images, MODEL, "m.onnx")


def test_a_name_that_two_classes_share_matches_neither():
    with pytest.raises(DataError, match="1 of its 1 classes"):
        match_classes(of_classes(("crane", None)), MODEL, "m.onnx")


def test_numbers_beyond_the_models_classes_are_refused():
    with pytest.raises(DataError, match="2 of its 2 classes"):
        match_classes(of_classes(("0", None), ("4", None)), MODEL, "m.onnx")


def test_chosen_images_are_a_dataset_of_their_own():
    images = Images(["a", "b", "c"], labels=[0, 1, 3])
    chosen = LabelledImages(images, dataset_labels(images, [0, 1, 2, 3]), np.array([2, 0]))
    assert (len(chosen), chosen.read(0), chosen.source(1), chosen.labels.tolist()) == (2, b"c", "a", [3, 0])
    assert chosen.accepted[2] == (3,)


def write(path, content) -> str:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_imagenet_real(tmp_path):
    real = write(tmp_path / "real.json", [[3], [], [1, 2], [0]])
    images = Images(
        [
            "val/n02012849/ILSVRC2012_val_00000003.JPEG",
            "val/n01443537/ILSVRC2012_val_00000002.JPEG",
            "data:ILSVRC2012_val_00000001_n02124075.JPEG",  # as the hub's Parquet names it
        ]
    )
    assert labels_from_file(real, images, MODEL) == {0: (1, 2), 2: (3,)}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.json", {"a.jpg": 3, "more/b.jpg": ["n01443537", "Egyptian cat"], "z.jpg": 1}),
        ("labels.csv", "file,label\na.jpg,3\nmore/b.jpg,goldfish\nmore/b.jpg,egyptian_cat\n"),
        ("labels.csv", "file;label\na.jpg;3\nmore/b.jpg;goldfish\nmore/b.jpg;egyptian_cat\n"),
        ("labels.csv", "file\tlabel\na.jpg\t3\nmore/b.jpg\tgoldfish\nmore/b.jpg\tegyptian_cat\n"),
        ("LABELS.CSV", "\ufefflabel,file,note\n 3,a,x\nn01443537,more/b.jpg,\nn02124075,more/b.jpg,\n"),
    ],
)
def test_labels_by_file_name(tmp_path, name, content):
    images = Images(["/data/x/a.jpg", "/data/less/b.jpg", r"C:\data\more\b.jpg"])
    assert labels_from_file(write(tmp_path / name, content), images, MODEL) == {0: (3,), 2: (0, 3)}


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("l.json", "{", "expected JSON"),
        ("l.json", "3", "expected an object from file name to label"),
        ("l.json", {"a.jpg": 4}, r"a\.jpg: 4 is not a class number below 4"),
        ("l.json", {"a.jpg": -1}, "-1 is not a class number"),
        ("l.json", {"a.jpg": True}, "True is not a class number"),
        ("l.json", {"a.jpg": [["n01443537"]]}, "is not a class number"),
        ("l.json", {"a.jpg": "crane"}, "'crane' is not a class number below 4, a WordNet id or a name"),
        (
            "l.json",
            {"b.jpg": 1},
            r"has no label for any of the 1 images of photos: the file has b\.jpg; the images are",
        ),
        ("l.json", {}, "the file has no entries"),
        ("l.csv", "", "expected the columns file and label, got none"),
        ("l.csv", "image,label\na.jpg,3\n", "expected the columns file and label, got image, label"),
    ],
)
def test_label_files_that_cannot_be_used(tmp_path, name, content, expected):
    with pytest.raises(DataError, match=expected) as caught:
        labels_from_file(write(tmp_path / name, content), Images(["a.jpg"]), MODEL)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_a_number_in_a_label_file_is_a_name_where_classes_are_called_so(tmp_path):
    file, images = tmp_path / "labels.csv", Images(["a.png"])
    digits = tuple(ClassInfo(i, str(i + 1)) for i in range(3))
    file.write_text("file,label\na.png,1\n")
    assert labels_from_file(file, images, digits) == {0: (0,)}
    file.write_text("file,label\na.png,0\n")
    with pytest.raises(DataError, match="'0' is not a class number below 3, a WordNet id or a name"):
        labels_from_file(file, images, digits)


def test_a_label_file_that_is_missing_or_no_text(tmp_path):
    with pytest.raises(DataError, match=r"gone\.json: cannot be read: No such file"):
        labels_from_file(tmp_path / "gone.json", Images(["a"]), MODEL)
    (tmp_path / "l.json").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(DataError, match="not a text file"):
        labels_from_file(tmp_path / "l.json", Images(["a"]), MODEL)


@given(count=st.integers(1, 500), limit=st.none() | st.integers(1, 600))
def test_evenly_spaced(count, limit):
    chosen = evenly_spaced(range(count), limit)
    assert len(set(chosen.tolist())) == len(chosen) == min(count, limit or count)
    gaps = np.diff(chosen)
    assert (gaps > 0).all()
    assert not len(gaps) or gaps.max() - gaps.min() <= 1
