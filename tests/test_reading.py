from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from shvit import reading
from shvit.reading import (
    MAX_LINE_BYTES,
    check_utf8,
    find_separator,
    listed_paths,
    open_table,
    read_regular,
    read_text,
    utf8_path,
    why_irregular,
)


def listed(data: bytes) -> list[str]:
    return list(listed_paths(io.TextIOWrapper(io.BytesIO(data), encoding="ascii")))


def test_a_text_is_read_without_its_byte_order_mark_and_whatever_its_line_ends(tmp_path):
    file = tmp_path / "list.txt"
    file.write_bytes("\ufeffä\r\nb\rc\n".encode())
    assert read_text(file) == "ä\nb\nc\n"
    with open_table(file) as lines:
        assert lines.read() == "ä\r\nb\rc\n"
    file.write_bytes(b"\xff")
    with pytest.raises(UnicodeDecodeError):
        read_text(file)
    with pytest.raises(OSError, match="1 bytes, at most 0 are accepted"):
        read_text(file, 0)


@pytest.mark.timeout(30)
def test_only_what_is_there_and_no_file_is_irregular(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "broken").symlink_to("nothing")
    os.mkfifo(tmp_path / "pipe")
    assert [why_irregular(tmp_path / each) for each in ("file", "link", "broken", "none")] == [""] * 4
    assert why_irregular(tmp_path / "pipe").startswith("is a pipe (FIFO); expected a regular file")
    assert why_irregular(tmp_path) == "Is a directory"
    with pytest.raises(IsADirectoryError):
        read_regular(tmp_path, 10)


@pytest.mark.timeout(30)
def test_what_takes_a_files_place_after_it_was_looked_at_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    really = os.stat
    monkeypatch.setattr(os, "stat", lambda path, **options: really(tmp_path / "file", **options))
    with pytest.raises(OSError, match="is a pipe"):
        read_regular(tmp_path / "pipe", 10)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_a_list_is_read_as_windows_and_others_write_it(encoding, tmp_path):
    text = "a.jpg\r\n\r\n猫/ü.jpg\r\nlast"
    data = ("\ufeff" * (encoding == "utf-16-be") + text).encode(encoding)
    assert listed(data) == ["a.jpg", "猫/ü.jpg", "last"]
    (tmp_path / "list.txt").write_bytes(data)
    assert read_text(tmp_path / "list.txt").split() == ["a.jpg", "猫/ü.jpg", "last"]
    with open_table(tmp_path / "list.txt") as table:
        assert table.read() == text


def test_names_in_lists_and_tables_keep_bytes_that_are_no_utf8(tmp_path):
    if os.name != "nt":
        assert listed(b"caf\xe9.jpg\n") == ["caf\udce9.jpg"]
    (tmp_path / "list.csv").write_bytes(b"caf\xe9.jpg\n")
    with open_table(tmp_path / "list.csv") as table:
        cell = table.read()
    assert cell == "caf\udce9.jpg\n"
    check_utf8("café")
    with pytest.raises(UnicodeDecodeError):
        check_utf8(cell)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("a\nb\n".encode("utf-16-le"), "line 1: has a NUL; expected paths, one a line"),
        (b"a.jpg\0b.jpg\0", "leave -print0 out"),
        (b"a\n" + b"x" * (MAX_LINE_BYTES + 1), "line 2: longer than the 65,536 bytes that are accepted"),
        (b"\xff\xfea", "begins as UTF-16, but is not"),
    ],
)
def test_what_is_no_list_is_refused(data, why):
    with pytest.raises(ValueError, match=f"standard input.*{why}"):
        listed(data)


def test_a_list_in_utf16_is_bounded(monkeypatch):
    monkeypatch.setattr(reading, "MAX_TEXT_BYTES", 100)
    with pytest.raises(OSError, match="more than the 100 bytes that are accepted"):
        listed(("a\n" * 100).encode("utf-16"))


@pytest.mark.parametrize(
    ("first", "separator"),
    [
        ("path,label", ","),
        ("Path;Label;split\r\n", ";"),
        ('"label"\tpath\n', "\t"),
        ("path,label;more", ","),
        ("path;name", ","),
        ("path,label,a;b", ","),
        ("", ","),
    ],
)
def test_the_separator_of_a_table_is_what_its_first_line_tells(first, separator):
    table = io.StringIO(first, newline="")
    assert find_separator(table, ("path", "label")) == separator
    assert table.read() == first


def test_a_name_that_is_no_utf8_has_another_while_a_library_reads(tmp_path):
    file = tmp_path / "caf\udce9.bin"
    try:
        file.write_bytes(b"content")
    except OSError:
        pytest.skip("names are text on this system")
    with utf8_path(file) as named:
        str(named).encode()
        assert (named.read_bytes(), named.suffix) == (b"content", ".bin")
    assert not named.parent.exists()
    with utf8_path(Path("plain")) as named:
        assert named == Path("plain")
