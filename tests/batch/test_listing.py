"""Sources to units."""

from __future__ import annotations

import os
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shvit.batch.listing import Item, cut, list_items
from shvit.batch.plan import BatchSettings, make_plan
from shvit.batch.stores import Output
from shvit.errors import BatchError

from .conftest import jpeg, write_folder, write_parquet, write_tar

ITEMS = st.lists(st.builds(Item, st.text(max_size=3), st.none() | st.integers(1, 30)), max_size=60)


@given(ITEMS, st.integers(1, 40))
def test_units_hold_every_item_once_in_order(items, size):
    units = list(cut(items, size))
    assert [item for unit in units for item in unit.items] == items
    assert [unit.number for unit in units] == list(range(len(units)))


@given(ITEMS, st.integers(1, 40))
def test_units_are_as_large_as_they_may_be_and_no_larger(items, size):
    units = list(cut(items, size))
    known = [sum(item.rows or 0 for item in unit.items) for unit in units]
    for unit, rows in zip(units, known, strict=True):
        assert rows <= size or len(unit.items) == 1
        assert len(unit.items) == 1 or all(item.rows is not None for item in unit.items)
    for unit, rows, following in zip(units, known, units[1:], strict=False):
        first = following.items[0].rows
        assert unit.items[0].rows is None or first is None or rows + first > size


@settings(max_examples=20)
@given(
    st.lists(st.binary(min_size=1, max_size=8).filter(lambda name: b"/" not in name and b"\0" not in name), max_size=9)
)
def test_a_plan_gives_back_what_was_listed_whatever_files_are_called(colour_model, tmp_path_factory, names):
    folder = tmp_path_factory.mktemp("names")
    taken = {b"z" + name + b".jpg" for name in names} | {b"a.jpg"}
    for name in taken:
        (folder / os.fsdecode(name)).write_bytes(b"x")
    output = Output(str(tmp_path_factory.mktemp("plan")))
    asked = BatchSettings((str(folder),), str(colour_model), unit_size=2)
    plan, again = make_plan(asked, output), make_plan(asked, output)
    for each in (plan, again):
        units = list(each.read_units(set()))
        paths = [item.path for unit in units for item in unit.items]
        assert sorted(paths) == sorted(str(folder / os.fsdecode(name)) for name in taken)
        assert (len(units), len(paths)) == (plan.units, plan.inputs)
    assert [unit.number for unit in plan.read_units({0, 2})] == [
        number for number in range(plan.units) if number not in (0, 2)
    ]


def test_a_folder_is_walked_at_all_levels_without_what_is_hidden_or_no_image(tmp_path):
    write_folder(tmp_path, 12)
    (tmp_path / ".hidden.jpg").write_bytes(b"x")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git/a.jpg").write_bytes(b"x")
    (tmp_path / "notes.txt").write_bytes(b"x")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "scan.psd").write_bytes(b"x")
    left_out = Counter[str]()
    kind, items = list_items([str(tmp_path)], None, None, left_out)
    assert kind == "images"
    names = [item.path.removeprefix(f"{tmp_path}/") for item in items]
    assert names == ["gone.jpg", *(f"{n // 10:03d}/{n:04d}.jpg" for n in range(12))]
    assert left_out == {".txt": 1, ".psd": 1}


def test_the_kind_is_what_the_files_are_called(tmp_path):
    write_tar(tmp_path / "a.tar", [("x.jpg", jpeg(0))])
    write_tar(tmp_path / "b.tar", [("x.jpg", jpeg(0))])
    kind, items = list_items([str(tmp_path / "*.tar")], None, None)
    assert (kind, [(item.rows, item.path[-5:]) for item in items]) == ("tar", [(None, "a.tar"), (None, "b.tar")])
    write_parquet(tmp_path / "c.parquet", [jpeg(0)] * 9)
    kind, items = list_items([str(tmp_path)], "parquet", None)
    assert (kind, [(item.row_group, item.first_row, item.rows) for item in items]) == (
        "parquet",
        [(0, 0, 4), (1, 4, 4), (2, 8, 1)],
    )
    with pytest.raises(BatchError, match=r"hold tar shards, but also 1 Parquet file: say which are meant with --kind"):
        list(list_items([str(tmp_path)], None, None)[1])


def test_of_pictures_and_videos_in_a_folder_the_pictures_are_taken(tmp_path):
    write_folder(tmp_path, 3)
    for name in ("0.mov", "z.mov"):
        (tmp_path / name).write_bytes(b"x")
    left_out = Counter[str]()
    kind, items = list_items([str(tmp_path)], None, None, left_out)
    assert (kind, len(list(items)), left_out) == ("images", 3, {".mov": 2})
    kind, items = list_items([str(tmp_path)], "video", None)
    assert (kind, len(list(items))) == ("video", 2)
    with pytest.raises(BatchError, match="hold videos, but also 3 images: say which are meant with --kind"):
        list(list_items([str(tmp_path / "0.mov"), str(tmp_path)], None, None)[1])
    for path in tmp_path.glob("*/*.jpg"):
        path.unlink()
    kind, items = list_items([str(tmp_path)], None, None)
    assert (kind, [item.path[-5:] for item in items]) == ("video", ["0.mov", "z.mov"])


def test_a_file_named_by_itself_is_tried_whatever_it_is_called(tmp_path):
    (tmp_path / "picture").write_bytes(jpeg(0))
    kind, items = list_items([str(tmp_path / "picture")], None, None)
    assert (kind, len(list(items))) == ("images", 1)


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        ("nothing", None, "nothing: no such file or folder"),
        ("empty", None, "empty: there are no images, tar shards, Parquet files or videos"),
        ("empty", "tar", "empty: there are no tar shards"),
        ("drawings", None, r"drawings: there are no images, .*; not read: 1 \.psd \("),
        ("*.png", None, r"\*.png: there are no images"),
        ("gopher://host/a", None, "gopher"),
    ],
)
def test_a_source_that_gives_nothing_is_refused(tmp_path, monkeypatch, source, kind, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "drawings").mkdir()
    (tmp_path / "drawings/one.psd").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BatchError, match=message):
        list(list_items([source], kind, None)[1])


def test_a_source_that_gives_nothing_is_told_of_its_own_files_only(tmp_path):
    for name in ("some/one.psd", "empty/notes.txt"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "some/picture.jpg").write_bytes(jpeg(0))
    with pytest.raises(BatchError, match=r"empty: there are no images, .*; not read: 1 \.txt \("):
        list(list_items([str(tmp_path / "some"), str(tmp_path / "empty")], None, None)[1])


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path):
    write_parquet(tmp_path / "a.parquet", [jpeg(0)])
    with pytest.raises(BatchError, match=r"expected a column 'picture' of encoded images .* label \(int64\), image"):
        list(list_items([str(tmp_path)], None, "picture")[1])
