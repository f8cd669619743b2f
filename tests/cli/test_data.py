from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shvit.card import Preprocessing
from shvit.cli import main as entry
from shvit.data.check import NEAR_CONSTANT, check_datasets
from shvit.data.datasets import open_datasets
from shvit.data.picture_shapes import examine_shapes, lost_to_crop
from shvit.errors import DataError
from shvit.images.preprocess import kept_region, resize_and_crop
from shvit.network.sides import sides


def picture(seed: int, size: tuple[int, int] = (24, 20)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


@pytest.fixture
def photos(tmp_path) -> Path:
    """Two classes; three training and two validation images of each, all of them different."""
    seed = 0
    for split, count in (("train", 3), ("val", 2)):
        for name in ("cat", "dog"):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for i in range(count):
                picture(seed).save(tmp_path / "photos" / split / name / f"{i}.png")
                seed += 1
    return tmp_path / "photos"


@pytest.fixture
def shvit(monkeypatch, capsys):
    monkeypatch.setitem(entry.COMMANDS, "data", "look a dataset over before training on it")

    def call(*arguments: object) -> tuple[int, str, str]:
        status = entry.main(["data", "check", *map(str, arguments)])
        return status, *capsys.readouterr()

    return call


def report_of(output: str) -> dict:
    return json.loads(output)


def test_a_clean_dataset(shvit, photos):
    status, output, errors = shvit(photos, "--workers", 1)
    assert (status, errors) == (0, "")
    assert "6 train and 4 val images of 2 classes" in output
    assert "no problems found" in output
    status, output, _ = shvit(photos, "--format", "json", "--workers", 1)
    report = report_of(output)
    assert status == 0
    assert (report["problems"], report["broken"], report["duplicates"], report["note"]) == ([], [], [], None)
    train = report["splits"]["train"]
    assert train["width"] == {"min": 24, "median": 24.0, "max": 24}
    assert train["height"] == {"min": 20, "median": 20.0, "max": 20}
    assert (train["formats"], train["modes"]) == ({"PNG": 6}, {"RGB": 6})
    assert [(each["label"], each["images"]) for each in train["class_counts"]] == [("cat", 3), ("dog", 3)]


@pytest.mark.parametrize(
    ("sizes", "lost", "advice"),
    [
        ([(40, 30), (30, 40), (45, 30), (32, 32)], "25%", None),
        ([(160, 90)] * 8 + [(40, 30)], "44%", "--image-size 160x288"),
        ([(30, 90), (32, 90), (30, 84), (30, 90)], "66%", "--image-size 384x128"),
        ([(160, 90), (90, 160), (160, 90), (90, 160)], "44%", "--resize-mode pad"),
        ([(300, 30), (30, 40), (60, 30), (32, 32)], "38%", "--resize-mode pad"),
    ],
)
def test_shapes_of_which_a_crop_cuts_off_much(shvit, tmp_path, sizes, lost, advice):
    folder = tmp_path / "shapes"
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (folder / split / name).mkdir(parents=True)
        for place, size in enumerate(sizes):
            name = ("cat", "dog")[place % 2]
            picture(len(sizes) * (split == "val") + place, size).save(folder / split / name / f"{place}.png")
    (folder / "val" / "cat" / "broken.png").write_bytes(b"")  # has no shape
    status, output, _ = shvit(folder, "--workers", 1)
    assert status == 1  # for the broken one alone
    assert ("cuts off" in output) == (advice is not None)
    if advice is not None:
        assert f"a square crop of the centre cuts off {lost} of a picture in the median" in " ".join(output.split())
        assert f"  train with: {advice}\n" in output
    shapes = report_of(shvit(folder, "--workers", 1, "--format", "json")[1])["shapes"]
    assert f"{shapes['median_lost']:.0%}" == lost
    chosen = None if advice is None else advice.split()[0].removeprefix("--").replace("-", "_")
    assert shapes["advice"] == {"resize_mode": "pad"}.get(chosen, chosen)


def test_a_folder_without_a_whole_picture_has_no_shapes(shvit, photos):
    for each in photos.rglob("*.png"):
        each.write_bytes(b"")
    status, output, _ = shvit(photos, "--workers", 1, "--format", "json")
    assert (status, report_of(output)["shapes"]) == (1, None)


@given(
    shapes=st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 3000)), min_size=1, max_size=8),
    size=st.tuples(st.integers(1, 400), st.integers(1, 400)),
)
def test_what_a_crop_loses_is_what_preprocessing_does_not_keep(shapes, size):
    widths, heights = np.array(shapes).T
    lost = lost_to_crop(widths, heights, size)
    for (width, height), each in zip(shapes, lost, strict=True):
        left, top, right, bottom = kept_region(width, height, Preprocessing(size, crop_ratio=1.0))
        rows, columns = resize_and_crop(width, height, Preprocessing(size, crop_ratio=1.0))
        rounding = 1 / min(rows.resized, columns.resized) + 1e-6  # of the longer side to whole pixels
        assert each == pytest.approx(1 - (right - left) * (bottom - top) / (width * height), abs=rounding)
    report = examine_shapes(widths, heights)
    assert 0 <= report.median_lost < 1 and 0 <= report.pictures_losing_much <= 1
    assert max(sides(report.image_size)) <= 2048 and all(side % 32 == 0 for side in sides(report.image_size))
    assert report.advice is not None or report.pictures_losing_much <= 0.1


def test_broken_images_are_listed_with_the_reason(shvit, photos):
    broken = photos / "train" / "cat" / "0.png"
    broken.write_bytes(broken.read_bytes()[:300])
    (photos / "val" / "dog" / "text.jpg").write_text("not an image")
    (photos / "val" / "dog" / "gone[1].jpg").symlink_to("nowhere")
    status, output, _ = shvit(photos, "--workers", 2)
    assert status == 1
    assert "images cannot be decoded: 3" in output
    assert f"{broken} [train, cat]: " in output
    assert "text.jpg [val, dog]: not an image, or of a format that is not known" in output
    assert "gone[1].jpg [val, dog]: No such file or directory" in output


def test_duplicates_within_and_across_the_splits(shvit, photos):
    picture(0).save(photos / "train" / "cat" / "copy.bmp")  # 0 is train/cat/0.png: the same pixels, another format
    picture(1).save(photos / "train" / "dog" / "copy.png")
    picture(2).save(photos / "val" / "cat" / "copy.png")
    picture(5).save(photos / "val" / "cat" / "other.png")
    status, output, _ = shvit(photos, "--format", "json", "--workers", 1)
    report = report_of(output)
    found = {
        frozenset(str(Path(each["source"]).relative_to(photos)) for each in group["images"]): (
            group["leaked"],
            group["conflicting"],
        )
        for group in report["duplicates"]
    }
    assert found == {
        frozenset({"train/cat/0.png", "train/cat/copy.bmp"}): (False, False),
        frozenset({"train/cat/1.png", "train/dog/copy.png"}): (False, True),
        frozenset({"train/cat/2.png", "val/cat/copy.png"}): (True, False),
        frozenset({"train/dog/2.png", "val/cat/other.png"}): (True, True),
    }
    assert status == 1
    assert report["problems"] == [
        "2 images are both in training and in validation, 1 of them with different labels",
        "1 images are in one split more than once, with different labels",
    ]
    for name in ("copy.png", "other.png"):
        (photos / "val" / "cat" / name).unlink()
    (photos / "train" / "dog" / "copy.png").unlink()
    status, output, _ = shvit(photos, "--workers", 1)
    assert status == 0, "the same picture twice with one label does no harm worth failing for"
    assert "images in one split more than once, with the same label: 1" in output


def test_images_with_next_to_nothing_on_them(shvit, photos):
    for spread in (NEAR_CONSTANT, NEAR_CONSTANT + 1):
        pixels = np.full((9, 9, 3), 100, dtype=np.uint8)
        pixels[0, 0, 1] += spread
        Image.fromarray(pixels).save(photos / "train" / "cat" / f"flat{spread}.png")
    report = report_of(shvit(photos, "--format", "json", "--workers", 1)[1])
    assert [Path(each["source"]).name for each in report["near_constant"]] == [f"flat{NEAR_CONSTANT}.png"]


def test_sizes_are_those_of_the_upright_image(shvit, photos):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    picture(90, (400, 100)).save(photos / "train" / "cat" / "turned.jpg", exif=exif)
    report = report_of(shvit(photos, "--format", "json", "--workers", 1)[1])
    assert report["splits"]["train"]["width"]["max"] == 100
    assert report["splits"]["train"]["height"]["max"] == 400
    histogram = report["shorter_side_histogram"]
    assert sum(histogram["counts"]) == 11
    assert (histogram["edges"][0], histogram["edges"][-1]) == (20, 101)
    assert (histogram["counts"][0], histogram["counts"][-1]) == (10, 1)


@pytest.mark.parametrize("classes", [2, 40])
def test_the_report_as_files(shvit, photos, tmp_path, classes):
    for i in range(classes - 2):
        for split in ("train", "val"):
            (photos / split / f"$class$ {i}").mkdir()
            picture(100 + 2 * i + (split == "val"), (20 + i, 30)).save(photos / split / f"$class$ {i}" / "0.png")
    status, output, _ = shvit(photos, "--output", tmp_path / "new" / "report", "--format", "json", "--workers", 1)
    assert status == 0
    assert report_of((tmp_path / "new" / "report" / "report.json").read_text()) == report_of(output)
    with Image.open(tmp_path / "new" / "report" / "report.png") as drawn:
        assert drawn.size == (1600, 1200)
        pixels = np.asarray(drawn.convert("RGB"))
    for colour in ((0x3B, 0x6E, 0xA5), (0xE0, 0x8A, 0x3C)):  # the bars of both splits
        assert (pixels == colour).all(axis=2).sum() > 1000
    assert sorted(path.name for path in (tmp_path / "new" / "report").iterdir()) == ["report.json", "report.png"]


def test_nothing_but_broken_images(shvit, photos, tmp_path):
    for file in photos.rglob("*.png"):
        file.write_bytes(b"no")
    status, output, _ = shvit(photos, "--output", tmp_path / "report", "--workers", 1)
    assert status == 1
    assert "images cannot be decoded: 10" in output
    assert (tmp_path / "report" / "report.png").exists()


def test_a_split_is_made_where_there_is_none(shvit, photos):
    status, output, _ = shvit(photos / "train", "--seed", 4, "--workers", 1)
    assert status == 0
    assert "4 train and 2 val images of 2 classes" in output
    assert "(no validation split: 10 % of each class held out (2 images), seed 4)" in output


def test_files_that_are_not_read_are_a_problem(shvit, photos):
    for i in range(12):
        (photos / "train" / "cat" / f"{i}.CR2").write_bytes(b"a camera's own format")
    (photos / "val" / "dog" / "notes.txt").write_text("told, but no problem")
    status, output, _ = shvit(photos, "--workers", 1)
    assert status == 1 and "no problems found" not in output
    assert "files not read: 13\n  12 .cr2 not read (convert to JPEG or PNG)\n  1 .txt not read\n" in output
    status, output, _ = shvit(photos, "--format", "json", "--workers", 1)
    report = report_of(output)
    assert report["left_out"] == {".cr2": 12, ".txt": 1}
    assert report["problems"] == ["12 files among the images are not read"]


def test_a_class_without_validation_images_is_told(shvit, photos):
    for file in (photos / "val" / "cat").iterdir():
        file.unlink()
    (photos / "val" / "cat").rmdir()
    status, output, _ = shvit(photos)
    assert status == 0
    assert "(validation: no images of 1 of the 2 classes, of which nothing is measured: cat)" in output
    _, output, _ = shvit(photos, "--format", "json")
    splits = report_of(output)["splits"]
    assert {name: each["classes_without_images"] for name, each in splits.items()} == {"train": [], "val": ["cat"]}
    counts = [(each["label"], each["images"]) for each in splits["val"]["class_counts"]]
    assert counts == [("cat", 0), ("dog", 2)]


def test_wrong_usage(shvit, photos, capsys):
    (photos / "val" / "dog").rename(photos / "val" / "dogs")
    status, output, errors = shvit(photos)
    assert (status, output) == (2, "")
    assert (
        errors.startswith("shvit data: error: ")
        and "val: has class 'dogs', which" in errors
        and errors.count("\n") == 1
    )
    with pytest.raises(SystemExit) as stopped:
        shvit(photos, "--workers", 0)
    assert stopped.value.code == 2


class Fatal:
    """A dataset whose second image ends the process that reads it."""

    def __init__(self, images) -> None:
        self.name, self.classes, self.labels, self._images = "fatal", images.classes, images.labels, images

    def __len__(self) -> int:
        return len(self._images)

    def source(self, index: int) -> str:
        return self._images.source(index)

    def read(self, index: int) -> bytes:
        if index == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return self._images.read(index)


def test_a_worker_that_dies_is_told(photos):
    train, _, _ = open_datasets(photos)
    with pytest.raises(DataError, match="fatal: a process that decodes was ended from outside"):
        check_datasets({"train": Fatal(train)}, workers=2)
