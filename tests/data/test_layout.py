"""Folders as people have them: which are splits, which are classes, and what is refused with the way to go on."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shvit.data.datasets import open_dataset, open_datasets
from shvit.data.splits import split_and_rest
from shvit.data.unread import describe_unread, left_out, missing_pictures
from shvit.errors import DataError
from shvit.install import install_command


def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((4, 4, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


PNG = png()


def put(root: Path, *folders: str, count: int = 2) -> Path:
    """Folders of pictures; braces as ``a/{b,c}`` stand for several."""
    for folder in folders:
        before, _, rest = folder.partition("{")
        inside, _, after = rest.partition("}")
        for name in inside.split(","):
            if "{" in after:
                put(root, f"{before}{name}{after}", count=count)
                continue
            place = root / f"{before}{name}{after}"
            place.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                (place / f"{i}.png").write_bytes(PNG)
    return root


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        open_datasets(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def classes_of(path: Path) -> tuple[list[str], bool]:
    """The classes, and whether a split had to be made."""
    train, _, note = open_datasets(path)
    return [each.label for each in train.classes], note is not None


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("training_set", "test_set"),
        ("Training", "Testing"),
        ("TRAIN", "VAL"),
        ("train_images", "val_images"),
        ("Train Set", "dev"),
        ("train-data", "test-data"),
        ("train2017", "val2017"),
        ("trainset", "testset"),
        ("TrainImages", "ValidationImages"),
        ("seg_train", "seg_test"),
        ("pets-training", "pets-validation"),
    ],
)
def test_well_known_names_of_splits(tmp_path, train, val):
    put(tmp_path, f"{train}/{{cat,dog}}", f"{val}/{{cat,dog}}", "seg_pred/{}", count=3)
    assert classes_of(tmp_path) == (["cat", "dog"], False)
    assert [len(open_dataset(tmp_path, split)) for split in ("train", "val")] == [6, 6]
    assert open_dataset(tmp_path, "val").source(0).startswith(str(tmp_path / val))


@pytest.mark.parametrize(
    "name",
    ["bullet train", "test_tube", "trainer", "training shoes", "contest", "validator", "n01443537", "Teststraße"],
)
def test_names_that_only_contain_a_split(tmp_path, name):
    assert (split_and_rest(name) or ("", "-"))[1] != ""
    put(tmp_path, f"{name}/{{}}", "car/{}")
    assert classes_of(tmp_path) == (sorted([name, "car"]), True)


@pytest.mark.parametrize("folders", ["{bus,car,train}", "{car,test}", "{cat,test,train}", "{dev,ops}"])
def test_classes_that_are_called_like_splits(tmp_path, folders):
    put(tmp_path, f"{folders}")
    assert classes_of(tmp_path) == (folders.strip("{}").split(","), True)


@pytest.mark.parametrize(
    ("folders", "meant"),
    [
        (("pets/train/{cat,dog}", "pets/val/{cat,dog}"), "pets"),
        (("pets/Training/{cat,dog}", "pets/test_set/{cat,dog}"), "pets"),
        (("pets/train/{cat,dog}",), "pets"),
        (("a/b/pets/{cat,dog}",), "a/b/pets"),
        (("pets/{cat,dog}", "__MACOSX/pets/{cat,dog}", ".ipynb_checkpoints/{}"), "pets"),
        (("a/pets/{train,val}/{cat,dog}",), "a/pets"),
    ],
)
def test_one_folder_too_many_is_refused_with_the_right_one(tmp_path, folders, meant):
    put(tmp_path, *folders)
    assert refusal(tmp_path).endswith(f"did you mean {tmp_path / meant}?")
    assert classes_of(tmp_path / meant)[0] == ["cat", "dog"]


def test_several_datasets_in_one_folder(tmp_path):
    put(tmp_path, "{birds,pets}/{train,val}/{cat,dog}")
    assert f"did you mean {tmp_path / 'birds'} (or pets/)?" in refusal(tmp_path)


def test_splits_inside_classes_are_refused(tmp_path):
    put(tmp_path, "{cat,dog}/{train,val}")
    assert "cat/ holds train/ and val/, so it has splits inside classes" in refusal(tmp_path)


def test_class_and_split_in_one_name_are_refused(tmp_path):
    put(tmp_path, "{cat_train,cat_test,dog_train,dog_test}")
    assert "name class and split at once" in refusal(tmp_path)


@pytest.mark.parametrize("folders", ["fold{0,1,2}/{cat,dog}", "{Art,Clipart}/{cat,dog,cow}"])
def test_folders_that_all_hold_the_same_are_parts_of_a_dataset(tmp_path, folders):
    put(tmp_path, folders)
    text = refusal(tmp_path)
    assert "all hold the same folders, cat/" in text
    first = min(path.name for path in tmp_path.iterdir())
    assert f"give {tmp_path / first};" in text
    names = sorted(path.name for path in tmp_path.iterdir())
    (tmp_path / "classes.txt").write_text("\n".join(names))
    assert classes_of(tmp_path) == (names, True), "the way out that the message names"


def test_images_may_lie_deeper_in_a_class(tmp_path):
    put(tmp_path, "{cat,dog}/images", "dog/more/and/{more}")
    assert classes_of(tmp_path) == (["cat", "dog"], True)
    assert len(open_dataset(tmp_path, "train")) == 6


def test_a_split_beside_folders_that_may_be_classes_is_asked_about(tmp_path):
    put(tmp_path, "train/{steam,diesel}", "car/{suv,limousine}")
    assert f"to take the images of train/ alone, give {tmp_path / 'train'}" in refusal(tmp_path)
    (tmp_path / "classes.txt").write_text("car\ntrain\n")
    assert classes_of(tmp_path) == (["car", "train"], True)


def test_two_folders_called_like_one_split(tmp_path):
    put(tmp_path, "{Train,train,val}/{cat,dog}")
    assert "Train/ and train/ are all called like the train split" in refusal(tmp_path)


def test_a_split_around_one_folder(tmp_path):
    put(tmp_path, "{train,val}/pets/{cat,dog}")
    assert f"move them up, so that they lie in {tmp_path / 'train'}" in refusal(tmp_path)


def test_splits_without_class_folders(tmp_path):
    put(tmp_path, "{train,val,test}")
    assert "expected one sub-folder for each class, found none" in refusal(tmp_path)


def test_train_and_test_alone_validate_with_test(tmp_path):
    put(tmp_path, "{train,test}/{cat,dog}")
    train, val, note = open_datasets(tmp_path)
    assert (note, train.name, val.name) == (None, str(tmp_path / "train"), str(tmp_path / "test"))


def test_one_class_is_refused(tmp_path):
    put(tmp_path, "only/{}", "csv/images")
    assert refusal(tmp_path / "csv") == f"{tmp_path / 'csv'}: all images are of one class, 'images'; " + (
        "a classifier needs two or more to tell apart"
    )
    (tmp_path / "csv" / "a.csv").write_text("path,label\nimages/0.png,cat\nimages/1.png,cat\n")
    assert "all images are of one class, 'cat'" in refusal(tmp_path / "csv" / "a.csv")


# What is not read


def test_what_is_not_read_is_counted_by_suffix(tmp_path):
    put(tmp_path, "{cat,dog}")
    for name in ("a.CR2", "b.cr2", "c.txt", "IMG_1", "d.xyz", ".hidden", "Thumbs.db", "gone"):
        (tmp_path / "cat" / name).write_bytes(PNG) if name != "gone" else (tmp_path / "cat" / name).symlink_to("x")
    (tmp_path / "loose.jpg").write_bytes(PNG)
    found = left_out(*open_datasets(tmp_path)[:2])
    assert found == Counter(
        {".cr2": 2, ".txt": 1, "other name": 1, ".xyz": 1, "broken link": 1, "image outside the class folders": 1}
    )
    assert missing_pictures(found) == 6
    text = describe_unread(found)
    assert "2 .cr2 not read (convert to JPEG or PNG)" in text
    assert f"HEIC needs: {install_command('heif')}" in describe_unread({".heic": 3})


def test_links_to_folders_are_followed_once(tmp_path):
    put(tmp_path / "data", "{cat,dog}")
    put(tmp_path, "elsewhere/{more}")
    cat = tmp_path / "data" / "cat"
    (tmp_path / "elsewhere" / "more" / "back").symlink_to(tmp_path)
    for name, target in (
        ("more", tmp_path / "elsewhere"),
        ("same", tmp_path / "elsewhere" / "more"),
        ("up", cat.parent),
    ):
        (cat / name).symlink_to(target)
    (cat / "self").symlink_to(".")
    images = open_dataset(tmp_path / "data", "train")
    assert [Path(images.source(i)).relative_to(cat.parent).as_posix() for i in range(len(images))] == [
        "cat/0.png",
        "cat/1.png",
        "cat/more/more/0.png",
        "cat/more/more/1.png",
        "dog/0.png",
        "dog/1.png",
    ]
    assert left_out(images) == {"link to a folder that is read already": 4}


def test_links_instead_of_class_folders(tmp_path):
    put(tmp_path / "data", "{cat,dog}")
    put(tmp_path, "cows")
    (tmp_path / "data" / "cow").symlink_to(tmp_path / "cows")
    assert classes_of(tmp_path / "data") == (["cat", "cow", "dog"], True)
    (tmp_path / "cows").rename(tmp_path / "bulls")
    assert "cow: is a link to" in refusal(tmp_path / "data")
    (tmp_path / "data" / "cow").unlink()
    (tmp_path / "data" / "loop").symlink_to("..")
    assert "loop: is a link to a folder that it lies in" in refusal(tmp_path / "data")


def test_a_validation_folder_that_is_a_link_to_nothing_is_not_made_up_for(tmp_path):
    put(tmp_path, "train/{cat,dog}")
    (tmp_path / "val").symlink_to("gone")
    assert "val: is a link to gone, where there is nothing" in refusal(tmp_path)
