"""Pictures moved by a table."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from shvit.cli.main import main
from shvit.data.apply import ASIDE, Change, Move, apply_moves, plan_changes, read_changes, read_undo, write_undo
from shvit.errors import DataError


@pytest.fixture
def photos(tmp_path) -> Path:
    root = tmp_path / "photos"
    for name in ("cat/a.jpg", "cat/b.jpg", "dog/a.jpg", "dog/deep/c.jpg"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return root


def contents(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in sorted(root.rglob("*")) if path.is_file()}


def table(path: Path, *rows: tuple[object, ...], header: str = "source,action,from,to") -> Path:
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def test_moves_between_class_folders_and_undoes_it(photos, tmp_path, capsys):
    before = contents(photos)
    path = table(
        tmp_path / "labels.csv",
        (photos / "cat/a.jpg", "move", "cat", "dog"),  # dog/a.jpg is taken
        (photos / "cat/b.jpg", "keep", "cat", "dog"),
        (photos / "dog/deep/c.jpg", "Set-aside", "dog", ""),
    )
    assert main(["data", "apply", str(path), str(photos)]) == 0
    assert contents(photos) == before
    assert "2 pictures to move, 1 kept; nothing was done yet" in capsys.readouterr().out
    assert main(["data", "apply", str(path), str(photos), "--yes"]) == 0
    assert contents(photos) == {
        f"{ASIDE}/dog/deep/c.jpg": "dog/deep/c.jpg",
        "cat/b.jpg": "cat/b.jpg",
        "dog/a-2.jpg": "cat/a.jpg",
        "dog/a.jpg": "dog/a.jpg",
    }
    undo = tmp_path / "labels-undo.json"
    assert main(["data", "apply", "--undo", str(undo), str(photos), "--yes"]) == 0
    assert contents(photos) == before


def test_within_a_split(tmp_path):
    source = tmp_path / "data/train/cat/x.jpg"
    source.parent.mkdir(parents=True)
    source.touch()
    (tmp_path / "data/train/dog").mkdir()
    plan = plan_changes([Change(2, str(source), "move", "cat", "dog")], tmp_path / "data")
    assert [(move.source, move.target) for move in plan.moves] == [("train/cat/x.jpg", "train/dog/x.jpg")]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("cat/a.jpg", "move", "cat", "dgo"), "did you mean 'dog'?"),
        (("cat/a.jpg", "move", "cat", ".."), "no folder of class '..'"),
        (("cat/a.jpg", "move", "cat", "../photos/dog"), "no folder of class"),
        (("cat/a.jpg", "move", "cat", ""), "no folder of class ''"),
        (("cat/a.jpg", "move", "dog", "cat"), "does not lie in the folder of class 'dog'"),
        (("cat/gone.jpg", "move", "cat", "dog"), "moved or renamed since"),
        (("../outside.jpg", "set aside", "", ""), "does not lie in"),
        (("cat/../../outside.jpg", "set aside", "", ""), "does not lie in"),
        (("cat/link.jpg", "set aside", "", ""), "is no file of its own"),
        (("cat", "set aside", "", ""), "is not there"),
        (("out/x.jpg", "set aside", "", ""), "does not lie in"),
        (("cat/a.jpg", "move", "cat", "out"), "leads out of"),
        (("cat/\0.jpg", "set aside", "", ""), ""),
    ],
)
def test_refuses_what_leaves_the_folder_or_is_not_there(photos, tmp_path, change, reason):
    (tmp_path / "outside.jpg").touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/x.jpg").touch()
    (photos / "cat/link.jpg").symlink_to(photos / "cat/a.jpg")
    (photos / "out").symlink_to(tmp_path / "elsewhere")
    source, *rest = change
    plan = plan_changes([Change(2, f"{photos}/{source}", *rest)], photos)
    assert not plan.moves
    assert reason in plan.refused[0]
    assert "line 2" in plan.refused[0]


def test_a_picture_in_two_lines_stays(photos):
    lines = [Change(line, str(photos / "cat/a.jpg"), "set aside", "cat", "") for line in (2, 3)]
    plan = plan_changes(lines, photos)
    assert not plan.moves
    assert "several lines" in plan.refused[0]


def test_nothing_is_overwritten_that_came_up_meanwhile(photos):
    plan = plan_changes([Change(2, str(photos / "cat/b.jpg"), "move", "cat", "dog")], photos)
    (photos / "dog/b.jpg").write_text("new")
    assert apply_moves(plan.moves, photos) == 0
    assert (photos / "dog/b.jpg").read_text() == "new"
    assert (photos / "cat/b.jpg").read_text() == "cat/b.jpg"


def test_reads_tables_of_spreadsheets(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("Source;Action;From;To;more\r\n'=x.jpg;SET ASIDE;a;;1\r\n")
    assert read_changes(path) == [Change(2, "=x.jpg", "set aside", "a", "")]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no column 'source'"),
        ("source,from,to\n", "no column 'action'"),
        ("source,action,from,to\nx,delete,a,b\n", "line 2: action 'delete'; expected keep, move or set aside"),
    ],
)
def test_refuses_tables(tmp_path, text, reason):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=reason):
        read_changes(path)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": "shvit data apply, undo", "moves": [["a"]]}', "[" * 100_000]
)
def test_refuses_what_is_no_undo_file(photos, tmp_path, text):
    path = tmp_path / "undo.json"
    path.write_text(text)
    with pytest.raises(DataError, match="no undo file"):
        read_undo(path, photos)


def test_an_undo_file_leads_nowhere_else(photos, tmp_path):
    (tmp_path / "secret.jpg").touch()
    path = tmp_path / "undo.json"
    moves = [["../secret.jpg", "cat/x.jpg"], ["cat/a.jpg", "../x.jpg"], [str(tmp_path / "secret.jpg"), "cat/y.jpg"]]
    path.write_text(json.dumps({"format": "shvit data apply, undo", "moves": moves}))
    plan = read_undo(path, photos)
    assert not plan.moves
    assert len(plan.refused) == 3


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_names_that_are_no_utf8(photos, tmp_path):
    name = os.fsdecode(b"caf\xe9.jpg")
    (photos / "cat" / name).write_text("x")
    path = tmp_path / "t.csv"
    path.write_bytes(b"source,action,from,to\n" + os.fsencode(str(photos / "cat" / name)) + b",move,cat,dog\n")
    plan = plan_changes(read_changes(path), photos)
    write_undo(plan.moves, tmp_path / "undo.json")
    assert apply_moves(plan.moves, photos) == 1
    assert (photos / "dog" / name).read_text() == "x"
    back = read_undo(tmp_path / "undo.json", photos)
    assert apply_moves(back.moves, photos) == 1
    assert (photos / "cat" / name).read_text() == "x"


@pytest.mark.parametrize("there", ["photos/dog/a.jpg", "labels-undo.json"])
def test_an_undo_file_writes_over_nothing(photos, tmp_path, capsys, there):
    (tmp_path / "labels-undo.json").write_text("of another day")
    path = table(tmp_path / "labels.csv", (photos / "cat/b.jpg", "move", "cat", "dog"))
    before = contents(tmp_path)
    assert main(["data", "apply", str(path), str(photos), "--yes", "--undo-file", str(tmp_path / there)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert contents(tmp_path) == before


def test_a_name_that_is_too_long_is_one_line_that_cannot_be_done(photos, tmp_path, capsys):
    rows = [(photos / "cat" / ("x" * 300), "move", "cat", "dog"), (photos / "cat/b.jpg", "move", "cat", "dog")]
    path = table(tmp_path / "labels.csv", *rows)
    assert main(["data", "apply", str(path), str(photos), "--yes"]) == 1
    assert "error: line 2: " in capsys.readouterr().err
    assert (photos / "dog/b.jpg").read_text() == "cat/b.jpg"
    undo = json.loads((tmp_path / "labels-undo.json").read_text())
    undo["moves"].append(["x" * 300, "dog/c.jpg"])
    (tmp_path / "labels-undo.json").write_text(json.dumps(undo))
    assert main(["data", "apply", "--undo", str(tmp_path / "labels-undo.json"), str(photos), "--yes"]) == 1
    assert (photos / "cat/b.jpg").read_text() == "cat/b.jpg"


def test_where_it_ends_half_way_the_way_back_is_named(photos, tmp_path, capsys):
    (photos / ASIDE).write_text("no folder")
    rows = [(photos / "cat/b.jpg", "move", "cat", "dog"), (photos / "cat/a.jpg", "set aside", "cat", "")]
    path = table(tmp_path / "labels.csv", *rows)
    assert main(["data", "apply", str(path), str(photos), "--yes"]) == 2
    assert f"--undo {tmp_path / 'labels-undo.json'}" in capsys.readouterr().err
    assert main(["data", "apply", "--undo", str(tmp_path / "labels-undo.json"), str(photos), "--yes"]) == 1
    assert (photos / "cat/b.jpg").read_text() == "cat/b.jpg"


def test_ended_by_the_user_no_empty_file_is_left(photos, monkeypatch):
    before = contents(photos)

    def ended(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", ended)
    with pytest.raises(KeyboardInterrupt):
        apply_moves([Move("cat/b.jpg", "dog/b.jpg")], photos)
    assert contents(photos) == before


@pytest.mark.parametrize("name", ["dog/\0", "dog/\ud800"])
def test_an_undo_file_with_names_that_no_file_can_have(photos, tmp_path, capsys, name):
    before = contents(photos)
    path = tmp_path / "undo.json"
    path.write_text(json.dumps({"format": "shvit data apply, undo", "moves": [["cat/a.jpg", name]]}))
    assert main(["data", "apply", "--undo", str(path), str(photos), "--yes"]) == 1
    assert "only what does is moved" in capsys.readouterr().err
    assert contents(photos) == before
