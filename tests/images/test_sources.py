from __future__ import annotations

import io
import os
from collections import Counter
from pathlib import Path

import pytest

from shvit.images.sources import SourceError, describe_left_out, expand_sources, walk_files
from shvit.install import install_command


@pytest.fixture
def tree(tmp_path, monkeypatch) -> Path:
    for name in (
        "a.jpg",
        "b.PNG",
        "notes.txt",
        "deep/er/c.webp",
        ".hidden.jpg",
        ".git/d.jpg",
        "empty/x.txt",
        "[1].jpg",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def expand(*sources: str, stdin: str = "") -> list[str]:
    return [
        f"{each.source}! {each.reason.split(' (')[0]}" if isinstance(each, SourceError) else each
        for each in expand_sources(sources, io.StringIO(stdin))
    ]


def test_a_folder_gives_its_images_at_all_levels_in_order(tree):
    assert expand(".") == ["[1].jpg", "a.jpg", "b.PNG", "deep/er/c.webp"]


def test_a_file_is_taken_whatever_its_name(tree):
    assert expand("notes.txt", "gone.jpg", "[1].jpg") == ["notes.txt", "gone.jpg", "[1].jpg"]


def test_globs(tree):
    assert expand("*.jpg") == ["[1].jpg", "a.jpg"]
    assert expand("**/*.webp") == ["deep/er/c.webp"]
    assert expand("*.tif") == ["*.tif! no file matches"]


def test_a_folder_without_images_is_an_error_of_its_own(tree):
    assert expand("empty", "a.jpg") == ["empty! no images in this folder; not read: 1 .txt", "a.jpg"]


def test_paths_on_stdin(tree):
    assert expand("-", stdin="a.jpg\n\ndeep\r\n b.PNG") == ["a.jpg", "deep/er/c.webp", " b.PNG"]


def test_a_loop_of_links_ends(tree):
    (tree / "deep" / "loop").symlink_to(tree)
    assert expand("deep") == ["deep/er/c.webp"]


def test_a_list_may_begin_with_a_byte_order_mark(tree):
    assert expand("-", stdin="\ufeffa.jpg\r\nb.PNG\n") == ["a.jpg", "b.PNG"]
    assert expand("-", stdin="\ufeff\r\na.jpg\n\ufeffb.PNG") == ["a.jpg", "\ufeffb.PNG"]  # only at the start


def test_what_a_folder_holds_that_is_not_read_is_counted_by_suffix(tree):
    for name in ("1.HEIC", "deep/2.heic", "README", ".DS_Store", "odd.\x1b[2J", "x." + "y" * 60):
        (tree / name).touch()
    (tree / "linked").symlink_to(tree / "deep")
    (tree / "deep" / "gone").symlink_to(tree / "nowhere")
    (tree / "gone.jpg").symlink_to(tree / "nowhere.jpg")  # an input, which fails
    others = Counter[str]()
    assert tree / "gone.jpg" in list(walk_files(tree, {".jpg", ".png", ".webp"}, others))
    assert others == {
        ".heic": 2,
        ".txt": 2,
        "other name": 3,
        "link to a folder": 1,
        "broken link": 1,
    }


def test_a_folder_tells_what_it_holds_that_is_not_read(tree):
    (tree / "deep" / "2.mov").touch()
    lines: list[str] = []
    assert len(list(expand_sources([".", "deep", "a.jpg"], io.StringIO(), notice=lines.append))) == 6
    assert [line.split(" (")[0] for line in lines] == [".: not read: 2 .txt, 1 .mov", "deep: not read: 1 .mov"]
    [error] = expand_sources(["empty"], io.StringIO(), notice=lines.append)
    assert str(error).startswith("empty: no images in this folder; not read: 1 .txt (") and len(lines) == 2


def test_only_heic_asks_for_its_package(tree, monkeypatch):
    monkeypatch.setattr("shvit.images.sources.HEIF_INSTALLED", False)
    assert install_command("heif") in describe_left_out(Counter({".heic": 1}))
    assert "pip install" not in describe_left_out(Counter({".txt": 1}))
    many = describe_left_out(Counter({f".{number}": number for number in range(1, 12)}))
    assert many.startswith("not read: 11 .11, 10 .10, ") and "6 of other kinds" in many
    assert describe_left_out(Counter()) == ""


@pytest.mark.timeout(30)
def test_what_a_folder_or_a_pattern_gives_is_a_file(tree):
    os.mkfifo(tree / "deep" / "pipe.jpg")
    (tree / "deep" / "zero.jpg").symlink_to("/dev/zero")
    (tree / "deep" / "gone.jpg").symlink_to("nothing")
    (tree / "deep" / "whole.jpg").symlink_to("../a.jpg")
    found = [
        "deep/gone.jpg",
        "deep/pipe.jpg! is a pipe",
        "deep/whole.jpg",
        "deep/zero.jpg! is a device; expected a regular file",
    ]
    assert expand("deep") == [*found, "deep/er/c.webp"]
    assert expand("deep/*.jpg") == found
    assert expand("deep/pipe.jpg") == ["deep/pipe.jpg"]  # who opens it tells
