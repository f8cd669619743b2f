from __future__ import annotations

import os

import pytest

from shvit.reading import open_table, read_regular, read_text, why_irregular


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
