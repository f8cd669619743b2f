"""Pictures with any number of labels: every format, what is refused, and how they are divided."""

from __future__ import annotations

import csv
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from shvit.data.check import check_datasets, label_sets
from shvit.data.datasets import open_dataset, open_datasets
from shvit.data.formats import coco
from shvit.data.formats.coco import coco_images
from shvit.data.splits import list_digest, split_dataset
from shvit.data.stratify import hold_out
from shvit.data.targets import class_counts, for_task, task_of_labels
from shvit.data.trained_on import divide_as_trained, training_split
from shvit.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("SHVIT_CACHE", str(tmp_path_factory.mktemp("cache")))


def put_images(folder: Path, count: int) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    for place in range(count):
        pixels = np.random.default_rng(place).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{place}.png")
    return [f"{place}.png" for place in range(count)]


def write_csv(file: Path, rows) -> Path:
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return file


def sets(images) -> list[set[str]]:
    return [{images.classes[each].label for each in np.flatnonzero(row)} for row in images.labels]


@pytest.mark.parametrize("header", [("path", "labels"), ("file", "tags"), ("Image", "Classes"), ("path", "label")])
def test_csv(tmp_path, header):
    put_images(tmp_path, 4)
    file = tmp_path / "labels.csv"
    write_csv(file, [header, ("0.png", "cat|dog"), ("1.png", " dog "), ("2.png", ""), ("3.png", "ape||cat")])
    for path in (file, tmp_path):  # the file, or the folder that it lies in
        images = open_dataset(path, "train")
        assert (images.labels.dtype, task_of_labels(images)) == (bool, "multi_label")
        assert sets(images) == [{"cat", "dog"}, {"dog"}, set(), {"ape", "cat"}]
        assert len(images.read(3)) > 0


def test_a_column_called_label_has_one_for_each_picture(tmp_path):
    put_images(tmp_path, 2)
    file = write_csv(tmp_path / "list.csv", [("path", "label"), ("0.png", "cat"), ("1.png", "")])
    with pytest.raises(DataError, match="line 3: no path or no label"):
        open_dataset(file, "train")


def test_labels_csv_goes_before_folders_called_like_splits(tmp_path):
    put_images(tmp_path / "train", 2)
    put_images(tmp_path / "val", 2)
    rows = [(f"{split}/{place}.png", "a|b", split) for split in ("train", "val") for place in range(2)]
    write_csv(tmp_path / "labels.csv", [("path", "labels", "split"), *rows])
    train, val, note = open_datasets(tmp_path)
    assert (len(train), len(val), note) == (2, 2, None)


def test_nobody_has_a_label(tmp_path):
    put_images(tmp_path, 2)
    file = write_csv(tmp_path / "labels.csv", [("path", "labels"), ("0.png", ""), ("1.png", "|")])
    with pytest.raises(DataError, match="none of its 2 images has a label"):
        open_dataset(file, "train")


def test_an_image_in_two_lines_with_other_labels(tmp_path):
    put_images(tmp_path, 2)
    rows = [("path", "labels"), ("0.png", "cat|dog"), ("1.png", "cat"), ("0.png", "dog|cat"), ("1.png", "dog")]
    with pytest.raises(DataError, match=r"line 5: 1\.png has other labels than in line 3; give all"):
        open_dataset(write_csv(tmp_path / "labels.csv", rows), "train")
    assert len(open_dataset(write_csv(tmp_path / "labels.csv", rows[:4]), "train")) == 3


def test_unknown_names_are_told(tmp_path):
    put_images(tmp_path, 2)
    (tmp_path / "classes.txt").write_text("cat\ndog\nyak\n")
    file = write_csv(tmp_path / "labels.csv", [("path", "labels"), ("0.png", "cat"), ("1.png", "cat|zebra")])
    with pytest.raises(DataError, match=r"line 3: label 'zebra' is not in classes\.txt"):
        open_dataset(file, "train")
    write_csv(file, [("path", "labels"), ("0.png", "cat"), ("1.png", "")])
    images = open_dataset(file, "train")
    assert [each.label for each in images.classes] == ["cat", "dog", "yak"]  # two without positives
    assert class_counts(images.labels, 3).tolist() == [1, 0, 0]


def write_parquet(file: Path, labels: pa.Array, feature: dict | list | None = None, column: str = "labels") -> Path:
    put_images(file.parent / "pictures", len(labels))
    images = [{"bytes": (file.parent / "pictures" / f"{i}.png").read_bytes(), "path": ""} for i in range(len(labels))]
    table = pa.table({"image": images, column: labels})
    if feature is not None:
        features = {"image": {"_type": "Image"}, column: feature}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, file, row_group_size=2)
    return file


NAMES = {"names": ["ape", "cat", "dog"], "_type": "ClassLabel"}


@pytest.mark.parametrize(
    ("labels", "feature", "column"),
    [
        ([["cat", "dog"], [], ["ape"]], None, "labels"),
        ([[1, 2], [], [0]], {"_type": "List", "feature": NAMES}, "labels"),
        ([[1, 2], [], [0]], {"_type": "Sequence", "feature": NAMES}, "anything"),
        ([[1, 2], [], [0]], [NAMES], "label"),
    ],
)
def test_parquet(tmp_path, labels, feature, column):
    images = open_dataset(write_parquet(tmp_path / "a.parquet", pa.array(labels), feature, column), "train")
    assert sets(images) == [{"cat", "dog"}, set(), {"ape"}]


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ([[1], None, [0]], "1 images have no label"),
        ([[1], [None, 0]], r"1 labels in its lists are missing \(null\)"),
        ([[1], [7]], "row 1: label 7 is out of range, expected 0 to 2"),
        (pa.array([[], []], pa.list_(pa.int64())), "none of its 2 images has a label"),
        ([[1.5], [2.0]], "labels are double"),
    ],
)
def test_damaged_parquet(tmp_path, labels, reason):
    feature = {"_type": "List", "feature": NAMES}
    file = write_parquet(tmp_path / "a.parquet", pa.array(labels), feature)
    with pytest.raises(DataError, match=reason):
        open_dataset(file, "train")


@pytest.mark.parametrize("names", [[0, 1, 2], "abc", {"a": 0}])
def test_damaged_names_in_parquet(tmp_path, names):
    feature = {"_type": "List", "feature": {"names": names, "_type": "ClassLabel"}}
    with pytest.raises(DataError, match="names of its classes are damaged"):
        open_dataset(write_parquet(tmp_path / "a.parquet", pa.array([[1], [0]]), feature), "train")


def annotations(**changes) -> dict:
    """Three pictures: two kinds of object, one, none; a third kind that is nowhere."""
    found = {
        "info": {"description": 'a "quoted" [bracket]'},
        "images": [{"id": 10 * place, "file_name": f"{place}.png"} for place in range(3)],
        "annotations": [
            {"id": 1, "image_id": 0, "category_id": 5, "bbox": [1, 2, 3, 4]},
            {"id": 2, "image_id": 0, "category_id": 2, "segmentation": [[0.5] * 5000]},
            {"id": 3, "image_id": 0, "category_id": 2, "iscrowd": 1},
            {"id": 4, "image_id": 10, "category_id": 2},
        ],
        "categories": [{"id": 5, "name": "zebra"}, {"id": 2, "name": "person"}, {"id": 9, "name": "kite"}],
    }
    return {**found, **changes}


def write_coco(root: Path, split: str = "train2017", **changes) -> Path:
    put_images(root / split, 3)
    file = root / "annotations" / f"instances_{split}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(annotations(**changes), indent=2))
    return file


def test_coco(tmp_path):
    file = write_coco(tmp_path)
    for path in (file, tmp_path):
        images = open_dataset(path, "train")
        assert [each.label for each in images.classes] == ["person", "zebra", "kite"]  # by their numbers
        assert sets(images) == [{"person", "zebra"}, {"person"}, set()]
        assert images.source(1) == str(tmp_path / "train2017" / "1.png")
    write_coco(tmp_path, "val2017")
    train, val, note = open_datasets(tmp_path)
    assert (len(train), len(val), note) == (3, 3, None)
    assert val.source(0) == str(tmp_path / "val2017" / "0.png")


def test_coco_beside_the_pictures_of_each_split(tmp_path):
    for split in ("train", "valid"):
        put_images(tmp_path / split, 3)
        (tmp_path / split / "_annotations.coco.json").write_text(json.dumps(annotations()))
    train, val, _ = open_datasets(tmp_path)
    assert sets(train) == sets(val) == [{"person", "zebra"}, {"person"}, set()]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"annotations": [{"image_id": 0, "category_id": 4}]}, "an annotation has category_id 4, which is not listed"),
        ({"annotations": [{"image_id": 1, "category_id": 2}]}, "an annotation has image_id 1, which is not listed"),
        ({"annotations": [{"image_id": 0}]}, "no 'category_id'"),
        ({"annotations": [3]}, r"annotations\[0\]: expected an object"),
        ({"annotations": [{"image_id": "0", "category_id": 2}]}, "image_id: expected a whole number"),
        ({"categories": [{"id": 2, "name": "a"}, {"id": 5, "name": "a"}]}, "names category 'a' twice"),
        ({"categories": [{"id": 2, "name": "a"}, {"id": 2, "name": "b"}]}, r"categories\[1\]: no name, or an id"),
        ({"images": [{"id": 0, "file_name": "a\0b"}]}, r"images\[0\]: no file_name"),
        ({"images": [{"id": 0, "file_name": "a" * 5000}]}, r"images\[0\]: no file_name of 1 to 4,096 characters"),
        ({"images": [{"id": 0, "file_name": "\ud800.png"}]}, "has half of a character"),
        ({"images": [{"id": 0, "file_name": "a" * 300}], "annotations": []}, "is neither in"),
        ({"images": []}, "lists no images"),
        ({"images": 3}, "no list 'images'"),
        ({"images": [{"id": 0, "file_name": "x.png"}], "annotations": []}, "x.png is neither in"),
    ],
)
def test_damaged_annotations(tmp_path, changes, reason):
    file = write_coco(tmp_path, **changes)
    with pytest.raises(DataError, match=reason):
        coco_images(file)


def test_an_absolute_path_says_nothing_of_where_the_others_are(tmp_path):
    put_images(tmp_path / "elsewhere", 1)
    absolute = str(tmp_path / "elsewhere" / "0.png")
    names = [{"id": 0, "file_name": absolute}, {"id": 10, "file_name": "1.png"}]
    file = write_coco(tmp_path, "a", images=names)
    (tmp_path / "a").rename(tmp_path / "images")
    images = coco_images(file)
    assert [images.source(each) for each in range(2)] == [absolute, str(tmp_path / "images" / "1.png")]
    assert coco_images(write_coco(tmp_path, "a", images=names[:1], annotations=[])).source(0) == absolute


def test_a_picture_listed_twice_has_the_objects_of_both(tmp_path):
    names = [{"id": 0, "file_name": "0.png"}, {"id": 10, "file_name": "0.png"}, {"id": 20, "file_name": "1.png"}]
    objects = [{"image_id": 0, "category_id": 5}, {"image_id": 10, "category_id": 2}]
    assert sets(coco_images(write_coco(tmp_path, images=names, annotations=objects))) == [{"person", "zebra"}, set()]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"images": [', '{"images": [{}', '{"images" [', "[" * 100_000])
def test_what_is_no_annotations(tmp_path, text):
    file = tmp_path / "instances_train.json"
    file.write_text(text)
    with pytest.raises(DataError, match="expected COCO's JSON"):
        coco_images(file)


def test_annotations_are_bounded(tmp_path, monkeypatch):
    file = write_coco(tmp_path)
    monkeypatch.setattr(coco, "MAX_ENTRY", 10_000)
    with pytest.raises(DataError, match=r"an entry of more than 10,000 characters"):
        coco_images(file)
    monkeypatch.setattr(coco, "MAX_BYTES", 100)
    with pytest.raises(DataError, match="at most 100 are accepted"):
        open_dataset(file, "train")


def test_outlines_do_not_fill_the_memory(tmp_path):
    object_ = {"image_id": 0, "category_id": 2, "segmentation": [[1.25] * 2000]}
    file = write_coco(tmp_path, annotations=[object_] * 300)
    tracemalloc.start()
    coco_images(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3.5 * file.stat().st_size


def test_too_many_labels_are_refused_before_memory_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr("shvit.data.targets.MAX_TARGET_BYTES", 5)
    put_images(tmp_path, 3)
    file = write_csv(tmp_path / "labels.csv", [("path", "labels"), ("0.png", "a|b"), ("1.png", ""), ("2.png", "")])
    with pytest.raises(DataError, match="3 images of 2 classes are"):
        open_dataset(file, "train")


def test_held_out_shares_of_rare_and_frequent_labels():
    rng = np.random.default_rng(0)
    rates = np.array([0.6, 0.3, 0.1, 0.02, 0.004])
    labels = rng.random((2000, 5)) < rates
    held = hold_out(labels, 0.2, rng.permutation(2000).astype(np.uint64))
    counts, kept = labels.sum(0), labels[held].sum(0)
    assert abs(held.mean() - 0.2) < 0.01
    assert (np.abs(kept - 0.2 * counts) <= 1 + 0.02 * counts).all()
    empty = ~labels.any(axis=1)
    assert abs(held[empty].mean() - 0.2) < 0.02


def test_a_rare_label_is_in_both_parts():
    labels = np.zeros((60, 2), dtype=bool)
    labels[:, 0] = True
    labels[[3, 40], 1] = True
    held = hold_out(labels, 0.1, np.arange(60, dtype=np.uint64))
    assert labels[held, 1].sum() == 1
    assert held.sum() == 6


@pytest.mark.parametrize("share", [0.1, 0.3, 0.9])
def test_every_label_has_images_to_train_on(share):
    rng = np.random.default_rng(0)
    for _ in range(300):
        images = int(rng.integers(2, 40))
        labels = rng.random((images, 9)) < rng.choice([0.05, 0.3, 0.95])
        held = hold_out(labels, share, rng.permutation(images).astype(np.uint64))
        assert (labels.any(axis=0) == labels[~held].any(axis=0)).all()


def test_the_same_images_are_held_out_in_any_order(tmp_path):
    put_images(tmp_path, 30)
    rows = [
        (f"{place}.png", "|".join(name for name, every in (("a", 2), ("b", 3)) if place % every == 0))
        for place in range(30)
    ]
    names = []
    for order in (rows, rows[::-1]):
        file = write_csv(tmp_path / "labels.csv", [("path", "labels"), *order])
        _, val, note = open_datasets(file)
        names.append({val.source(each) for each in range(len(val))})
        assert "no validation split" in note
    assert names[0] == names[1]
    images = open_dataset(file, "train")
    train, val = split_dataset(images)
    known = training_split(train, val)
    again = divide_as_trained(open_dataset(file, "train"), known)
    assert again is not None
    assert [again[1].source(i) for i in range(len(again[1]))] == [val.source(i) for i in range(len(val))]
    write_csv(file, [("path", "labels"), ("0.png", "a"), *rows[1:]])
    assert list_digest(open_dataset(file, "train")) != known.digest  # a label changed


def test_one_label_for_a_picture_as_one_of_several(tmp_path):
    for name in ("cat", "dog"):
        put_images(tmp_path / name, 10)
    train, val, _ = open_datasets(tmp_path, task="multi_label")
    assert train.labels.shape == (18, 2)
    assert (train.labels.sum(axis=1) == 1).all()
    assert val.labels.sum(axis=0).tolist() == [1, 1]
    write_csv(tmp_path / "labels.csv", [("path", "labels"), ("cat/0.png", "a|b"), ("dog/0.png", "a")])
    with pytest.raises(DataError, match="any number of labels, and the task classification"):
        for_task(open_dataset(tmp_path, "train"), "classification")


def test_validation_is_aligned_by_name(tmp_path):
    put_images(tmp_path, 4)
    write_csv(tmp_path / "train.csv", [("path", "labels"), ("0.png", "ape|cat"), ("1.png", "dog")])
    write_csv(tmp_path / "val.csv", [("path", "labels"), ("2.png", "dog|cat"), ("3.png", "")])
    train, val, _ = open_datasets(tmp_path)
    assert val.classes == train.classes
    assert sets(val) == [{"cat", "dog"}, set()]


def test_check(tmp_path):
    put_images(tmp_path, 4)
    (tmp_path / "copy.png").write_bytes((tmp_path / "0.png").read_bytes())
    rows = [("0.png", "a|b"), ("1.png", "b|a|c"), ("2.png", ""), ("3.png", "c"), ("copy.png", "a")]
    file = write_csv(tmp_path / "list.csv", [("path", "labels"), *rows])
    report = check_datasets({"train": open_dataset(file, "train")}, 1)
    assert report.splits["train"].class_counts.tolist() == [3, 2, 2]
    split = report.to_dict()["splits"]["train"]
    assert (split["without_labels"], split["labels_per_image"]["max"]) == (1, 3)
    assert split["together"][0] == {"labels": ["a", "b"], "images": 2}
    assert report.problems == ["1 images are in one split more than once, with different labels"]
    json.dumps(report.to_dict())
    assert label_sets(np.eye(3, dtype=bool)).together == ()
