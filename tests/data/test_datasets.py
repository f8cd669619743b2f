from __future__ import annotations

import csv
import http.server
import io
import json
import pickle
import re
import shutil
import string
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shvit.card import ClassInfo
from shvit.data.datasets import fingerprint, open_dataset, open_datasets
from shvit.data.formats import tables
from shvit.data.formats.listing import read_rows
from shvit.data.formats.patterns import expand_braces
from shvit.data.splits import split_dataset
from shvit.errors import DataError, ImageError, MissingDependencyError
from shvit.images.encoded import read_encoded
from shvit.images.preprocess import decode
from shvit.install import install_command
from tests.conftest import AS_ANYBODY

WNIDS = ("n01443537", "n02124075")


def encoded(seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_folders(root: Path, classes: dict[str, int], first: int = 0) -> None:
    for label, (name, count) in enumerate(classes.items()):
        for i in range(count):
            file = root / name / "more" / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(encoded(first + 100 * label + i))


@pytest.fixture
def folder(tmp_path) -> Path:
    write_folders(tmp_path / "train", dict.fromkeys(WNIDS, 5))
    write_folders(tmp_path / "val", dict.fromkeys(WNIDS, 2), first=50)
    return tmp_path


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("SHVIT_CACHE", str(folder))
    return folder


def write_parquet(path: Path, labels: list, names: list[str] | None = None, columns=("image", "label")) -> None:
    images = [{"bytes": encoded(i), "path": f"{i}.png"} for i in range(len(labels))]
    table = pa.table({columns[0]: images, columns[1]: labels})
    if names is not None:
        features = {columns[0]: {"_type": "Image"}, columns[1]: {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=3)


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def labels_of(images) -> list[str]:
    return [images.classes[label].label for label in images.labels]


# Class folders


def test_class_folders(folder):
    (folder / "classes.json").write_text(json.dumps([{"label": 0, "wnid": WNIDS[0], "name": "goldfish"}]))
    (folder / "train" / WNIDS[0] / "._0.png").write_bytes(b"what some systems leave behind")
    train, val = open_dataset(folder, "train"), open_dataset(folder, "val")
    assert (len(train), len(val)) == (10, 4)
    assert train.labels.tolist() == [0] * 5 + [1] * 5
    assert [(each.label, each.wnid) for each in train.classes] == [("goldfish", WNIDS[0]), (WNIDS[1], WNIDS[1])]
    assert train.read(6) == encoded(101)
    assert train.source(6) == str(folder / "train" / "n02124075" / "more" / "1.png")


@pytest.mark.parametrize("name", ["val", "validation", "Valid", "test"])
def test_the_names_of_a_validation_folder(folder, name):
    (folder / "val").rename(folder / name)
    assert len(open_dataset(folder, "val")) == 4


def test_one_level_of_classes_may_have_a_train_among_them(tmp_path):
    for name in ("bus", "car", "train"):
        (tmp_path / name).mkdir()
        for i in range(4):
            (tmp_path / name / f"{i}.png").write_bytes(encoded(i))
    train, val, note = open_datasets(tmp_path, seed=3, val_share=0.25)
    assert [each.label for each in train.classes] == ["bus", "car", "train"]
    assert (len(train), len(val)) == (9, 3)
    assert note == "no validation split: 25 % of each class held out (3 images), seed 3"


def test_a_file_name_that_is_not_text(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Path(tmp_path, name, "caf\udce9.png").write_bytes(encoded(0))
    images = open_dataset(tmp_path, "train")
    assert images.read(1) == encoded(0)


def test_what_cannot_be_a_dataset_says_what_was_expected(tmp_path, folder):
    def error(path, split="train") -> str:
        with pytest.raises(DataError) as caught:
            open_dataset(path, split)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert error(tmp_path / "nothing") == f"{tmp_path / 'nothing'}: No such file or directory"
    (tmp_path / "empty" / "n03000000").mkdir(parents=True)
    assert "empty: no images in the folders of its classes, such as 'n03000000'; add some" in error(tmp_path / "empty")
    only_train = tmp_path / "only"
    (only_train / "train").mkdir(parents=True)
    assert "no val split; looked for a folder, files or a split named val, validation" in error(only_train, "val")
    assert "expected one sub-folder for each class, found none" in error(only_train)
    text = tmp_path / "notes.txt"
    text.write_text("")
    assert "expected a folder, or files of one of the formats .parquet, .tar, .csv" in error(text)
    assert "no file matches" in error(tmp_path / "*.tar")


def test_what_may_not_be_read_is_named(folder):
    closed = folder / "train" / WNIDS[1]
    file = folder / "val" / WNIDS[0] / "more" / "0.png"
    closed.chmod(0)
    file.chmod(0)
    program = f"""
from shvit.data.datasets import open_dataset
for attempt in (lambda: open_dataset({str(folder)!r}, "train"), lambda: open_dataset({str(folder)!r}, "val").read(0)):
    try:
        attempt()
    except ValueError as error:
        print(type(error).__name__, error)
"""
    told = subprocess.run([*AS_ANYBODY, sys.executable, "-c", program], capture_output=True, text=True, check=True)
    closed.chmod(0o700)
    assert told.stdout.splitlines() == [
        f"DataError {closed}: Permission denied; give this user the right to read it",
        f"ImageError {file}: Permission denied",
    ]


def test_images_that_are_too_large_or_shrink_are_refused(tmp_path, monkeypatch):
    file = tmp_path / "a.png"
    file.write_bytes(b"12345")
    with pytest.raises(ImageError, match="x: 4 of 9 bytes are there"):
        read_encoded(file, "x", offset=1, size=9)
    monkeypatch.setattr("shvit.images.encoded.MAX_IMAGE_BYTES", 4)
    with pytest.raises(ImageError, match="x: 5 bytes, at most 4 are accepted"):
        read_encoded(file, "x")


def test_the_fingerprint_follows_images_and_labels(folder):
    before = fingerprint(open_dataset(folder, "train"))
    assert fingerprint(open_dataset(folder, "train")) == before
    (folder / "train" / WNIDS[0] / "more" / "0.png").write_bytes(encoded(99))
    assert fingerprint(open_dataset(folder, "train")) != before


# Tables


@pytest.mark.parametrize("mapped", [False, True], ids=["in memory", "mapped"])
def test_parquet_shards_are_one_dataset(tmp_path, monkeypatch, cache, mapped):
    if mapped:
        monkeypatch.setattr(tables, "IN_MEMORY_BYTES", 0)
    write_parquet(tmp_path / "train-00000-of-00002.parquet", [0, 1, 1, 0], ["cat", "dog"])
    write_parquet(tmp_path / "train-00001-of-00002.parquet", [1], ["cat", "dog"])
    dataset = open_dataset(tmp_path, "train")
    for images in (dataset, pickle.loads(pickle.dumps(dataset))):
        assert labels_of(images) == ["cat", "dog", "dog", "cat", "dog"]
        assert [images.read(index) for index in range(5)] == [encoded(i) for i in (0, 1, 2, 3, 0)]
        assert images.source(4) == f"{tmp_path}:0.png"
    assert len(list(cache.glob("tables/*.arrow"))) == mapped
    assert len(pickle.dumps(dataset)) < 1000


def test_parquet_as_the_hub_lays_it_out(tmp_path):
    write_parquet(tmp_path / "data" / "train-0.parquet", [1, 0], ["cat", "dog"], columns=("img", "fine_label"))
    write_parquet(tmp_path / "data" / "test-0.parquet", [0], ["cat", "dog"], columns=("img", "fine_label"))
    train, val, note = open_datasets(tmp_path)
    assert (labels_of(train), labels_of(val), note) == (["dog", "cat"], ["cat"], None)


def test_parquet_labels_as_text_or_as_numbers(tmp_path):
    write_parquet(tmp_path / "text.parquet", ["dog", "ape", "dog"])
    assert labels_of(open_dataset(tmp_path / "text.parquet", "train")) == ["dog", "ape", "dog"]
    (tmp_path / "classes.txt").write_text("dog\nape\ncat\n")
    write_parquet(tmp_path / "number.parquet", [2, 0])
    for name in ("text", "number"):
        images = open_dataset(tmp_path / f"{name}.parquet", "train")
        assert [each.label for each in images.classes] == ["dog", "ape", "cat"]
    assert images.labels.tolist() == [2, 0]


@pytest.mark.parametrize(
    ("labels", "names", "columns", "expected"),
    [
        ([0, 7], ["cat", "dog"], ("image", "label"), "row 1: label 7 is out of range, expected 0 to 1"),
        ([0, -1], ["cat", "dog"], ("image", "label"), "row 1: label -1 is out of range"),
        ([0, 10**12], None, ("image", "label"), "row 1: label 1000000000000 is out of range"),
        ([0, None], None, ("image", "label"), "1 images have no label"),
        ([0.5, 1.5], None, ("image", "label"), "labels are double; expected whole numbers, text, or lists of these"),
        ([], ["cat"], ("image", "label"), "there are no images in it"),
        ([0, 1], None, ("picture", "label"), "expected a column named 'image', or one column of type Image"),
    ],
)
def test_bad_tables(tmp_path, labels, names, columns, expected):
    if labels:
        write_parquet(tmp_path / "a.parquet", labels, names, columns)
    else:
        schema = pa.schema([("image", pa.struct([("bytes", pa.binary())])), ("label", pa.int64())])
        pq.write_table(schema.empty_table(), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=expected):
        open_dataset(tmp_path / "a.parquet", "train")


def test_a_damaged_parquet_file_is_named(tmp_path):
    (tmp_path / "train.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match=r"train\.parquet: cannot be read as a table of images and labels"):
        open_dataset(tmp_path, "train")


def test_a_row_without_image_bytes_is_one_broken_image(tmp_path):
    pq.write_table(
        pa.table({"image": [{"bytes": None, "path": "/etc/hostname"}], "label": [0]}), tmp_path / "a.parquet"
    )
    with pytest.raises(ImageError, match="the row holds no image, only its path"):
        open_dataset(tmp_path / "a.parquet", "train").read(0)


@pytest.fixture
def two_splits(tmp_path):
    """The ``datasets`` library's own object."""
    datasets = pytest.importorskip("datasets", reason="the optional datasets library is not installed")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})

    def split(labels: list[int]):
        images = [{"bytes": encoded(i), "path": None} for i in range(len(labels))]
        return datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)

    return datasets.DatasetDict({"train": split([1, 0, 1]), "test": split([0, 1])})


def test_a_folder_that_the_datasets_library_saved(tmp_path, two_splits):
    two_splits.save_to_disk(tmp_path / "saved")
    train, val, note = open_datasets(tmp_path / "saved")
    assert (labels_of(train), labels_of(val), note) == (["dog", "cat", "dog"], ["cat", "dog"], None)
    assert [train.read(index) for index in range(3)] == [encoded(i) for i in range(3)]
    assert labels_of(open_dataset(tmp_path / "saved" / "train", "train")) == labels_of(train)
    (tmp_path / "saved" / "train" / "data-00000-of-00001.arrow").write_bytes(b"gone")
    with pytest.raises(DataError, match=r"data-00000-of-00001\.arrow: cannot be read as a table"):
        open_dataset(tmp_path / "saved", "train")


def test_a_dataset_by_name(tmp_path, two_splits, monkeypatch):
    import datasets

    # The library takes a folder of the name for the dataset, so that nothing has to be fetched.
    for split, images in two_splits.items():
        (tmp_path / "user" / "pets").mkdir(parents=True, exist_ok=True)
        images.to_parquet(tmp_path / "user" / "pets" / f"{split}-00000.parquet")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    train, val, _ = open_datasets("hf://user/pets")
    assert (labels_of(train), labels_of(val)) == (["dog", "cat", "dog"], ["cat", "dog"])
    assert train.read(2) == encoded(2)
    with pytest.raises(DataError, match=r"hf://a//b: expected hf://user/name"):
        open_dataset("hf://a//b", "train")


def test_a_dataset_by_name_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        MissingDependencyError,
        match="hf://user/pets: needs the datasets library.*" + re.escape(install_command("datasets")),
    ):
        open_dataset("hf://user/pets", "train")


# Tar shards


def sample(key: str, seed: int, label: str) -> dict[str, bytes]:
    return {f"{key}.png": encoded(seed), f"{key}.cls": label.encode()}


def test_shards_are_read_in_place(tmp_path, cache):
    write_tar(tmp_path / "train-000.tar", {**sample("a/0", 0, "1"), **sample("a/1", 1, "0\n")})
    write_tar(tmp_path / "train-001.tar", {"x.json": b'{"label": 2, "more": []}', "x.PNG": encoded(2)})
    write_tar(tmp_path / "val-000.tar", sample("v", 3, "1"))
    train, val, note = open_datasets(tmp_path)
    assert note is None
    assert train.labels.tolist() == [1, 0, 2]
    assert [each.label for each in val.classes] == ["0", "1", "2"]
    assert [train.read(index) for index in (2, 0, 1)] == [encoded(i) for i in (2, 0, 1)]
    assert train.source(2) == f"{tmp_path / 'train-001.tar'}:x.PNG"
    assert len(list(cache.glob("shards/*.parquet"))) == 3
    again = open_dataset(f"{tmp_path}/train-{{000..001}}.tar", "train")
    assert again.labels.tolist() == [1, 0, 2]
    assert [again.read(index) for index in range(3)] == [train.read(index) for index in range(3)]
    assert len(open_dataset(f"{tmp_path}/*-000.tar", "val")) == 1


def test_an_index_is_made_again_when_the_shard_has_changed(tmp_path, cache):
    shard = write_tar(tmp_path / "a.tar", sample("a", 0, "cat"))
    assert len(open_dataset(shard, "train")) == 1
    write_tar(shard, {**sample("a", 0, "cat"), **sample("b", 1, "dog")})
    assert labels_of(open_dataset(shard, "train")) == ["cat", "dog"]
    for index in cache.glob("shards/*"):
        index.write_bytes(b"damaged")
    assert labels_of(open_dataset(shard, "train")) == ["cat", "dog"]


def test_bad_shards(tmp_path):
    def error(path: Path) -> str:
        with pytest.raises(DataError) as caught:
            open_dataset(path, "train")
        return str(caught.value)

    whole = write_tar(tmp_path / "whole.tar", sample("a", 0, "0")).read_bytes()
    cut = tmp_path / "cut.tar"
    cut.write_bytes(whole[:600])
    assert f"{cut}: not an uncompressed tar file, or cut short" in error(cut)
    with tarfile.open(tmp_path / "packed.tar", "w:gz") as tar:
        tar.add(tmp_path / "whole.tar", "whole.tar")
    assert "packed.tar: not an uncompressed tar file" in error(tmp_path / "packed.tar")
    assert "no label (1 such images); expected a member d/k.cls" in error(
        write_tar(tmp_path / "unlabelled.tar", {"d/k.jpg": b""})
    )
    assert "b.json: expected text, or JSON with a key 'label'" in error(
        write_tar(tmp_path / "json.tar", {"b.png": b"", "b.json": b"[1]"})
    )
    assert "1,048,577 bytes are too many for a label" in error(
        write_tar(tmp_path / "large.tar", {"b.png": b"", "b.cls": b" " * (2**20 + 1)})
    )
    assert "no images in 1 shards" in error(write_tar(tmp_path / "none.tar", {"a.cls": b"0"}))
    link = tmp_path / "link.tar"
    with tarfile.open(link, "w") as tar:
        member = tarfile.TarInfo("a.png")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(member)
    assert "no images" in error(link)


@pytest.fixture
def server(tmp_path):
    """Serves the folder ``served``; of ``short-*`` it sends half and hangs up."""
    root = tmp_path / "served"
    root.mkdir()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            file = root / self.path.lstrip("/")
            if not file.is_file():
                self.send_error(404)
                return
            data = file.read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if file.name.startswith("short") else data)

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.05,), daemon=True).start()
        yield root, f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_shards_by_url(server, cache):
    root, address = server
    for i in range(2):
        write_tar(root / f"pets-{i:02}.tar", {**sample("a", i, "cat"), **sample("b", 5 + i, "dog")})
    pattern = f"{address}/pets-{{00..01}}.tar"
    images = open_dataset(pattern, "train")
    assert labels_of(images) == ["cat", "dog", "cat", "dog"]
    assert images.read(3) == encoded(6)
    assert images.source(3) == f"{address}/pets-01.tar:b.png"
    shutil.rmtree(root)
    assert open_dataset(pattern, "train").read(3) == encoded(6)  # from the cache
    assert len(list(cache.glob("downloads/*"))) == 2


def test_a_download_that_fails_leaves_nothing(server, cache, monkeypatch):
    root, address = server
    write_tar(root / "short-0.tar", sample("a", 0, "cat"))
    write_tar(root / "whole-0.tar", sample("a", 0, "cat"))

    def error(name: str) -> str:
        with pytest.raises(DataError) as caught:
            open_dataset(f"{address}/{name}", "train")
        assert str(caught.value).startswith(f"{address}/{name}: ")
        assert not list(cache.glob("downloads/*")) and not list(cache.glob("downloads/.*"))
        return str(caught.value)

    assert "the connection ended after 5,120 of 10,240 bytes; try again" in error("short-0.tar")
    assert "cannot be fetched: HTTP Error 404: Not Found" in error("missing.tar")
    (root / "page.tar").write_text("<html>Please log in</html>")
    assert "not an uncompressed tar file" in error("page.tar")
    monkeypatch.setattr("shvit.data.cache.MAX_DOWNLOAD_BYTES", 10_000)
    assert "10,240 bytes or more, but 10,000 are accepted" in error("whole-0.tar")
    with pytest.raises(DataError, match=r"ftp://host/a\.tar: expected a path or an address that begins with http"):
        open_dataset("ftp://host/a.tar", "train")


def test_a_file_url_is_read_where_it_lies(tmp_path, cache):
    shard = write_tar(tmp_path / "my pets.tar", sample("a", 0, "cat"))
    assert open_dataset(shard.as_uri(), "train").read(0) == encoded(0)
    assert not list(cache.glob("downloads/*"))


brace_parts = st.one_of(
    st.text("ab-_/.0", max_size=3),
    st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(0, 3), st.integers(0, 3)).map(
        lambda x: f"{{{str(x[0]).zfill(x[2])}..{str(x[1]).zfill(x[3])}}}"
    ),
    st.lists(st.text("xy1", max_size=2), min_size=2, max_size=3).map(lambda x: f"{{{','.join(x)}}}"),
)


@settings(max_examples=60)
@given(st.lists(brace_parts, min_size=1, max_size=3).map("".join))
def test_braces_stand_for_what_they_do_in_a_shell(pattern):
    if shutil.which("bash") is None:
        pytest.skip("no bash to compare with")
    told = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' p{pattern}"], capture_output=True, text=True, check=True
    ).stdout.split("\0")[:-1]
    assert expand_braces(f"p{pattern}") == list(dict.fromkeys(told))


def test_a_pattern_for_too_many_shards_is_refused():
    with pytest.raises(DataError, match="stands for 1,000,000,000,000 shards, at most 100,000"):
        expand_braces("{1..1000000}-{1..1000000}.tar")


# CSV


def write_csv(file: Path, rows: list[tuple]) -> Path:
    with file.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(rows)
    return file


def put_images(root: Path, count: int) -> list[str]:
    (root / "images").mkdir()
    for i in range(count):
        (root / "images" / f"{i}.png").write_bytes(encoded(i))
    return [f"images/{i}.png" for i in range(count)]


def test_csv_with_a_split_column(tmp_path):
    paths = put_images(tmp_path, 5)
    rows = zip(paths, ["dog", "cat", "dog", "cat", "ape"], ["train", "train", "Test", "val", "train"], strict=True)
    file = write_csv(tmp_path / "list.csv", [("path", "label", "split"), *rows])
    for path in (file, tmp_path):
        train, val, note = open_datasets(path)
        assert note is None
        assert (labels_of(train), labels_of(val)) == (["dog", "cat", "ape"], ["cat"])
        assert [each.label for each in val.classes] == ["ape", "cat", "dog"]
        assert val.read(0) == encoded(3)


@pytest.mark.parametrize("separator", [";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_csv_as_spreadsheets_write_it(tmp_path, separator, encoding):
    paths = put_images(tmp_path, 2)
    rows = [("Path", "Label"), (paths[0], "chien, grand"), (paths[1], "été")]
    text = "".join(f"{separator.join(row)}\r\n" for row in rows)
    (tmp_path / "train.csv").write_bytes(text.encode(encoding))
    for source in (tmp_path / "train.csv", tmp_path):
        assert labels_of(open_dataset(source, "train")) == ["chien, grand", "été"]


def test_csv_may_name_files_whose_names_are_no_utf8(tmp_path):
    paths = put_images(tmp_path, 2)
    try:
        (tmp_path / paths[0]).rename(tmp_path / "caf\udce9.png")
    except OSError:
        pytest.skip("names are text on this system")
    file = tmp_path / "list.csv"
    file.write_bytes(f"path,label\ncaf\udce9.png,a\n{paths[1]},b\n".encode(errors="surrogateescape"))
    assert open_dataset(file, "train").read(0) == encoded(0)


def test_a_pair_of_csv_files(tmp_path):
    paths = put_images(tmp_path, 3)
    write_csv(tmp_path / "train.csv", [("id", "label", "path"), (7, 1, paths[0]), (8, 0, paths[1])])
    write_csv(tmp_path / "val.csv", [("path", "label"), (paths[2], 0)])
    write_csv(tmp_path / "notes.csv", [("something", "else")])
    train, val, _ = open_datasets(tmp_path)
    assert (train.labels.tolist(), val.labels.tolist()) == ([1, 0], [0])
    assert val.classes == (ClassInfo(0, "0"), ClassInfo(1, "1"))
    assert train.source(1) == str(tmp_path / "images" / "1.png")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "no column 'path' in its first line; expected a first line path,label"),
        ("images/0.png,cat\n", "no column 'path'"),
        ("path,label\n", "lists no images"),
        ("path,label\nimages/0.png\n", "line 2: no path or no label"),
        ('path,label\n"images/0.png\n",cat\n,cat\n', "line 4: no path or no label"),
        ("path,label\nimages/0.png,0\nimages/0.png,-1x\nb,\n", "line 4: no path or no label"),
        ("path,label,split\nimages/0.png,cat,vall\n", "line 2: split 'vall' is not known; expected train, val or test"),
        ("path,label,split\nimages/0.png,cat,val\nimages/0.png,cat,\n", "line 3: no split, but other lines have one"),
        ("path,label\nphotos/0.png,cat\n", r"photos/0\.png: no such file; paths in .*list\.csv are relative"),
        ("path,label\nimages/0.png,\udcff\n", "cannot be read as CSV in UTF-8"),
    ],
)
def test_bad_csv(tmp_path, text, expected):
    put_images(tmp_path, 1)
    (tmp_path / "list.csv").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=expected):
        open_dataset(tmp_path / "list.csv", "train")


def test_csv_labels_are_held_against_the_list_of_classes(tmp_path):
    paths = put_images(tmp_path, 2)
    (tmp_path / "classes.txt").write_text("ape\nbee\n")
    file = write_csv(tmp_path / "list.csv", [("path", "label"), (paths[0], "bee"), (paths[1], "bea")])
    with pytest.raises(DataError, match=r"line 3: label 'bea' is not in classes\.txt"):
        open_dataset(file, "train")
    write_csv(file, [("path", "label"), (paths[0], 1), (paths[1], 2)])
    with pytest.raises(DataError, match="line 3: label 2 is out of range, expected 0 to 1"):
        open_dataset(file, "train")


field = st.text(string.printable + "é字", min_size=1, max_size=12)


@settings(max_examples=60)
@given(rows=st.lists(st.tuples(field, field.filter(str.strip)), min_size=1, max_size=5))
def test_csv_fields_come_back_as_they_were_written(tmp_path_factory, rows):
    file = write_csv(tmp_path_factory.mktemp("csv") / "list.csv", [("label", "path"), *[(b, a) for a, b in rows]])
    written = [(path, tuple(each for part in label.split("|") if (each := part.strip()))) for path, label in rows]
    assert [(row.path, row.labels) for row in read_rows(file).rows] == written


# Splits


class Named:
    """A dataset of nothing but names and labels."""

    def __init__(self, name: str, images: dict[str, int]) -> None:
        self.name, self._names = name, list(images)
        self.labels = np.array(list(images.values()), dtype=np.int64)
        self.classes = tuple(ClassInfo(i, str(i)) for i in range(max(images.values()) + 1))

    def __len__(self) -> int:
        return len(self._names)

    def read(self, index: int) -> bytes:
        return self._names[index].encode()

    def source(self, index: int) -> str:
        return f"{self.name}/{self._names[index]}"


@given(
    counts=st.lists(st.integers(0, 30), min_size=1, max_size=5).filter(lambda counts: max(counts) >= 2),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**32),
    shuffle=st.randoms(use_true_random=False),
)
def test_a_split_is_stratified_disjoint_and_does_not_depend_on_order(counts, share, seed, shuffle):
    images = {f"{label}-{i}.png": label for label, count in enumerate(counts) for i in range(count)}
    train, val = split_dataset(Named("/here", images), share, seed)
    names = [[part.read(index).decode() for index in range(len(part))] for part in (train, val)]
    assert sorted(names[0] + names[1]) == sorted(images)
    assert [images[name] for name in names[1]] == val.labels.tolist()
    for label, count in enumerate(counts):
        held_out = int((val.labels == label).sum())
        assert held_out == 0 if count < 2 else 1 <= held_out < count
        assert abs(held_out - share * count) <= 1
    shuffled = list(images.items())
    shuffle.shuffle(shuffled)
    _, again = split_dataset(Named("/elsewhere", dict(shuffled)), share, seed)
    assert {again.read(index).decode() for index in range(len(again))} == set(names[1])


def test_another_seed_holds_out_other_images():
    images = Named("/here", {f"{i}.png": i % 2 for i in range(100)})
    chosen = [{val.source(i) for i in range(len(val))} for _, val in (split_dataset(images, 0.2, s) for s in (0, 0, 1))]
    assert chosen[0] == chosen[1] != chosen[2]


def test_a_split_that_cannot_be_made():
    with pytest.raises(DataError, match="no class has two images"):
        split_dataset(Named("/here", {"a": 0, "b": 1}))
    with pytest.raises(ValueError, match=r"val_share: expected more than 0 and less than 1, got 1\.5"):
        split_dataset(Named("/here", {"a": 0, "b": 0}), 1.5)


def test_a_class_without_training_images_is_refused(tmp_path):
    paths = put_images(tmp_path, 2)
    file = write_csv(tmp_path / "list.csv", [("path", "label"), (paths[0], 1), (paths[1], 2)])
    with pytest.raises(DataError, match=r"no training images of class '0' \(1 such classes\)"):
        open_datasets(file)


def test_tiny_imagenet(tiny_imagenet):
    train, val, note = open_datasets(tiny_imagenet)
    assert (len(train), len(val), len(train.classes), note) == (100_000, 10_000, 200, None)
    assert train.classes[0].label.startswith("goldfish")
    assert train.classes == val.classes
    assert decode(train.read(99_999)).size == (64, 64)
