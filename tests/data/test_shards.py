"""Tar shards with more under a key than an image and its label."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shvit.data.datasets import open_dataset, open_datasets
from shvit.data.unread import left_out
from shvit.errors import DataError


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("SHVIT_CACHE", str(tmp_path_factory.mktemp("cache")))


def picture(value: int, kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), value, dtype=np.uint8)).save(buffer, kind)
    return buffer.getvalue()


PHOTOGRAPH, MASK = picture(200), picture(1, "PNG")


def shard(path: Path, extensions: dict[str, bytes], keys: int = 4, more: tuple[tuple[str, bytes], ...] = ()) -> Path:
    """Keys cat0, dog1, cat2, ... with these members each, in this order."""
    members = [(f"d/{('cat', 'dog')[i % 2]}{i}.{end}", data) for i in range(keys) for end, data in extensions.items()]
    with tarfile.open(path, "w") as tar:
        for name, data in (*members, *more):
            member = tarfile.TarInfo(name)
            value = name[2:5].encode() if data == b"LABEL" else data
            member.size = len(value)
            tar.addfile(member, io.BytesIO(value))
    return path


def refusal(path: Path, image_key: str | None = None) -> str:
    with pytest.raises(DataError) as caught:
        open_dataset(path, "train", image_key)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "extensions",
    [
        {"cls": b"LABEL", "jpg": PHOTOGRAPH, "seg.png": MASK},
        {"seg.png": MASK, "JPG": PHOTOGRAPH, "cls": b"LABEL"},
        {"json": b'{"caption": "no label"}', "depth.tif": MASK, "jpg": PHOTOGRAPH, "seg.png": MASK, "cls": b"LABEL"},
        {"only.jpg": PHOTOGRAPH, "cls": b"LABEL", "txt": b"a caption", "npy": b"1"},
    ],
)
def test_a_mask_is_not_taken_for_the_photograph(tmp_path, extensions):
    path = shard(tmp_path / "a.tar", extensions)
    for _ in range(2):  # the second time out of the cache
        images = open_dataset(path, "train")
        assert [images.read(i) for i in range(len(images))] == [PHOTOGRAPH] * 4
        assert [images.classes[label].label for label in images.labels] == ["cat", "dog"] * 2
        assert not left_out(images)
    if "seg.png" in extensions:
        assert open_dataset(path, "train", "seg.png").read(3) == MASK


def test_several_images_under_a_key_are_refused_by_name_and_chosen(tmp_path):
    two = shard(tmp_path / "two.tar", {"left.jpg": PHOTOGRAPH, "right.jpg": MASK, "cls": b"LABEL"})
    text = refusal(two)
    assert (
        f"{two}: d/cat0 has several images, left.jpg, right.jpg (4 such keys); choose one, such as --image-key left.jpg"
        in text
    )
    for key, expected in (("left.jpg", PHOTOGRAPH), (".RIGHT.jpg", MASK)):
        assert [open_datasets(two, image_key=key).train.read(i) for i in range(2)] == [expected] * 2
    assert "no image has the extension up.jpg; there are left.jpg, right.jpg" in refusal(two, "up.jpg")
    both = shard(tmp_path / "both.tar", {"jpg": PHOTOGRAPH, "png": MASK, "cls": b"LABEL"})
    assert "has several images, jpg, png" in refusal(both)
    assert "has several images, jpg, png" in refusal(both, "jpg,png")
    assert open_dataset(both, "train", "png,webp").read(0) == MASK


def test_a_key_with_only_a_longer_extension_among_others_with_a_single_one(tmp_path):
    more = (("d/cat8.seg.png", MASK), ("d/cat8.cls", b"LABEL"))
    path = shard(tmp_path / "a.tar", {"jpg": PHOTOGRAPH, "cls": b"LABEL"}, more=more)
    assert "d/cat8 has only seg.png, where other keys have an image with a single extension (1 such key)" in refusal(
        path
    )
    images = open_dataset(path, "train", "jpg")
    assert (len(images), left_out(images)) == (4, {"sample without jpg": 1})
    # In another shard of the same dataset it is the same.
    shard(tmp_path / "b-0.tar", {"jpg": PHOTOGRAPH, "cls": b"LABEL"})
    shard(tmp_path / "b-1.tar", {"seg.png": MASK, "cls": b"LABEL"})
    assert "b-1.tar: d/cat0 has only seg.png" in refusal(f"{tmp_path}/b-*.tar")


def test_one_name_twice(tmp_path):
    path = shard(tmp_path / "a.tar", {"jpg": PHOTOGRAPH, "cls": b"LABEL"}, more=(("d/cat0.jpg", MASK),))
    assert "d/cat0 has the image jpg more than once (1 such key)" in refusal(path)
    assert "more than once" in refusal(path, "jpg")
    path = shard(tmp_path / "b.tar", {"jpg": PHOTOGRAPH, "cls": b"LABEL"}, more=(("d/cat0.cls", b"cow"),))
    assert "d/cat0.cls: is there twice, with different labels" in refusal(path)


def test_what_a_shard_holds_that_is_not_read(tmp_path):
    more = (
        ("d/cat6.cr2", b"x"),
        ("d/cat6.cls", b"LABEL"),
        ("d/cat8.cls", b"LABEL"),
        ("d/README", b""),
        ("d/x.nef", b""),
    )
    path = shard(tmp_path / "a.tar", {"jpg": PHOTOGRAPH, "cls": b"LABEL"}, more=more)
    with tarfile.open(path, "a") as tar:
        member = tarfile.TarInfo("d/cat7.jpg")
        member.type, member.linkname = tarfile.LNKTYPE, "d/cat0.jpg"
        tar.addfile(member)
    for _ in range(2):
        train, val, _ = open_datasets(path)
        assert left_out(train, val) == {".cr2": 1, ".nef": 1, "label without an image": 1, "link in a tar file": 1}


def test_the_option_is_for_shards(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jpg").write_bytes(PHOTOGRAPH)
    assert "--image-key chooses among the images of tar shards; leave it out" in refusal(tmp_path, "jpg")
