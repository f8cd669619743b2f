from __future__ import annotations

import pytest

from shvit.atomic import atomic_path, clear_partials


def test_a_file_is_whole_or_as_it_was(tmp_path):
    path = tmp_path / "a.txt"
    with atomic_path(path) as aside:
        aside.write_text("first")
        assert not path.exists()
    assert path.read_text() == "first"
    with pytest.raises(RuntimeError), atomic_path(path) as aside:
        aside.write_text("half of the sec")
        raise RuntimeError
    assert path.read_text() == "first"
    assert [each.name for each in tmp_path.iterdir()] == ["a.txt"]


def test_others_may_read_what_a_writer_made_private(tmp_path):
    """As safetensors does, which a web server under another user could then not serve."""
    (tmp_path / "plain").touch()
    with atomic_path(tmp_path / "weights") as aside:
        aside.unlink()
        aside.touch(mode=0o600)
    assert (tmp_path / "weights").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_what_a_killed_process_left_is_cleared_and_nothing_else(tmp_path):
    mine, others = tmp_path / "a[1].json", {".b.json.17.partial", ".a1.json.17.partial", "a[1].json"}
    for name in (".a[1].json.17.partial", ".a[1].json.4711.partial", *others):
        (tmp_path / name).touch()
    clear_partials(mine)
    assert {each.name for each in tmp_path.iterdir()} == others
