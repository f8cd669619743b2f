from __future__ import annotations

import io
from pathlib import Path

import pytest

from shvit.media.sources import SourceError, expand_sources


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
        f"{each.source}! {each.reason}" if isinstance(each, SourceError) else each
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
    assert expand("empty", "a.jpg") == ["empty! no images in this folder", "a.jpg"]


def test_paths_on_stdin(tree):
    assert expand("-", stdin="a.jpg\n\ndeep\r\n b.PNG") == ["a.jpg", "deep/er/c.webp", " b.PNG"]


def test_a_loop_of_links_ends(tree):
    (tree / "deep" / "loop").symlink_to(tree)
    assert expand("deep") == ["deep/er/c.webp"]
