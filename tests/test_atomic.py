from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from shvit.atomic import (
    atomic_folder,
    atomic_path,
    atomic_text,
    check_folder,
    check_outputs,
    clear_partials,
    free_name,
    put_in_place,
    write_json,
    write_text,
)

from .conftest import PATIENCE


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


def test_names_that_are_no_utf8_are_written(tmp_path):
    name = "caf\udce9"
    write_json({"name": name, "猫": 1}, tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"name": name, "猫": 1}
    write_text(f"{name} 猫", tmp_path / "a.html")
    assert (tmp_path / "a.html").read_text(encoding="utf-8") == r"caf\xe9 猫"
    with atomic_text(tmp_path / "a.csv") as file:
        file.write(f"{name} 猫\n")
    assert (tmp_path / "a.csv").read_bytes() == b"caf\xe9 " + "猫\n".encode()


@pytest.mark.parametrize(
    "write", ["write_bytes(b'x' * 9000, path)", "print('x' * 9000, file=stack.enter_context(atomic_text(path)))"]
)
def test_a_full_disk_is_told_of_with_the_files_name(tmp_path, write):
    program = (
        "import resource, sys; from contextlib import ExitStack; from pathlib import Path; from shvit.atomic import *\n"
        "from shvit.atomic import write_bytes\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); path = Path(sys.argv[1])\n"
        f"try:\n    with ExitStack() as stack: {write}\n"
        "except OSError as error: print(error.filename)\n"
    )
    path = tmp_path / "a.csv"
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, timeout=PATIENCE)
    assert (done.stdout.strip(), done.stderr) == (str(path), "")
    assert list(tmp_path.iterdir()) == []


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


def by_path(path: Path) -> None:
    write_text("new", path)


def by_text(path: Path) -> None:
    with atomic_text(path) as file:
        file.write("new")


def by_folder(path: Path) -> None:
    with atomic_folder(path) as aside:
        aside.write_text("new")


def by_moving(path: Path) -> None:
    written = path.with_name("written")
    written.write_text("new")
    try:
        put_in_place(written, path)
    finally:
        written.unlink(missing_ok=True)


every_way = pytest.mark.parametrize("write", [by_path, by_text, by_folder, by_moving])


@every_way
@pytest.mark.parametrize("name", ["file", "sub/file", "gone"])
def test_a_link_stays_and_its_file_is_written(tmp_path, write: Callable[[Path], None], name):
    (tmp_path / "sub").mkdir()
    for earlier in ("file", "sub/file"):
        (tmp_path / earlier).write_text("old")
    (tmp_path / "first").symlink_to("second")
    (tmp_path / "second").symlink_to(name)
    write(tmp_path / "first")
    assert [(tmp_path / each).readlink() for each in ("first", "second")] == [Path("second"), Path(name)]
    assert (tmp_path / name).read_text() == "new"
    assert not (tmp_path / name).is_symlink()
    assert {each.name for each in tmp_path.iterdir()} == {"sub", "file", "first", "second"} | {name.partition("/")[0]}


@every_way
def test_what_cannot_be_written_is_refused_by_the_name_that_was_given(tmp_path, write: Callable[[Path], None]):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match=r"symbolic link.*/a'"):
        write(tmp_path / "a")
    with closing(socket.socket(socket.AF_UNIX)) as server:
        here = Path.cwd()
        os.chdir(tmp_path)  # a socket's whole name may be short only
        server.bind("socket")
        os.chdir(here)
    with pytest.raises(OSError, match=r"is a socket.*/socket'"):
        write(tmp_path / "socket")
    (tmp_path / "folder").mkdir()
    if write is not by_folder:
        with pytest.raises(IsADirectoryError, match=r"expected the name of a file.*/folder'"):
            write(tmp_path / "folder")
    with pytest.raises(FileNotFoundError, match=r"No such file.*/none/file'"):
        write(tmp_path / "none" / "file") if write is not by_moving else by_path(tmp_path / "none" / "file")
    assert {each.name for each in tmp_path.iterdir()} == {"a", "b", "socket", "folder"}


@every_way
def test_a_fifo_gets_the_bytes_and_stays(tmp_path, write: Callable[[Path], None]):
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDWR | os.O_NONBLOCK)
    (tmp_path / "link").symlink_to("fifo")
    for name in ("fifo", "link"):
        write(tmp_path / name)
        assert os.read(reader, 100) == b"new"
    os.close(reader)
    assert stat.S_ISFIFO((tmp_path / "fifo").stat().st_mode)
    assert (tmp_path / "link").is_symlink()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["fifo", "link"]


def test_lines_go_through_a_fifo_as_they_are_written(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDWR | os.O_NONBLOCK)
    with atomic_text(tmp_path / "fifo") as file:
        file.write("first\n")
        assert os.read(reader, 100) == b"first\n"
    os.close(reader)


@every_way
def test_a_device_stays_one(tmp_path, write: Callable[[Path], None]):
    device = tmp_path / "null"  # a copy: were the machine's own replaced, all programs on it would suffer
    try:
        os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        device.write_bytes(b"")
    except OSError:
        pytest.skip("this user may not make devices here")
    write(device)
    assert stat.S_ISCHR(device.lstat().st_mode)
    assert [each.name for each in tmp_path.iterdir()] == ["null"]


@pytest.mark.parametrize("write", [by_path, by_text])
def test_an_open_descriptor_is_written_to_from_where_it_stands(tmp_path, write: Callable[[Path], None]):
    """As ``--output /dev/stdout >> file`` is meant: a name under which one must not make files."""
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc")
    with (tmp_path / "log").open("w") as log:
        log.write("before ")
        log.flush()
        write(Path(f"/proc/self/fd/{log.fileno()}"))
        log.write(" after")
    assert (tmp_path / "log").read_text() == "before new after"


def test_stdout_appended_to_a_file_keeps_what_the_file_had(tmp_path):
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc")
    (tmp_path / "log").write_text("before\n")
    program = "from shvit.atomic import write_text; print('first'); write_text('new\\n', '/proc/self/fd/1')"
    with (tmp_path / "log").open("a") as log:
        subprocess.run([sys.executable, "-c", program], stdout=log, check=True, timeout=PATIENCE)
    assert (tmp_path / "log").read_text() == "before\nfirst\nnew\n"
    program = "from shvit.atomic import atomic_text\nwith atomic_text('-') as file: print('new', file=file)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, timeout=PATIENCE)
    assert done.stdout == b"new\n"


@pytest.mark.parametrize("write", [by_path, by_text, by_folder])
@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_a_killed_process_of_this_number_left_is_replaced(tmp_path, write: Callable[[Path], None], kind):
    """In containers numbers repeat."""
    left, other = tmp_path / f".a.{os.getpid()}.partial", tmp_path / "other"
    other.write_text("keep")
    if kind == "folder":
        left.mkdir()
        (left / "a").write_text("half")
    elif kind == "link":
        left.symlink_to(other)
    else:
        left.write_text("half")
        left.chmod(0o400)
    write(tmp_path / "a")
    assert ((tmp_path / "a").read_text(), other.read_text()) == ("new", "keep")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a", "other"]


@every_way
def test_a_file_that_is_replaced_keeps_its_mode_and_owner(tmp_path, write: Callable[[Path], None]):
    path = tmp_path / "a"
    path.write_text("old")
    for mode in (0o640, 0o400, 0o755):
        path.chmod(mode)
        if os.geteuid() == 0:
            os.chown(path, 12345, 54321)
        before = path.stat()
        write(path)
        assert path.read_text() == "new"
        after = path.stat()
        assert stat.S_IMODE(after.st_mode) == mode
        assert (after.st_uid, after.st_gid) == (before.st_uid, before.st_gid)


@every_way
@pytest.mark.parametrize("name", ["x" * 255, "\N{SNOWMAN}" * 85, "y" * 251 + ".txt", "z" * 240])
def test_the_longest_names_can_be_written(tmp_path, write: Callable[[Path], None], name):
    for _ in range(2):
        write(tmp_path / name)
    assert (tmp_path / name).read_text() == "new"
    assert [each.name for each in tmp_path.iterdir()] == [name]
    with pytest.raises(OSError, match="too long"):
        by_path(tmp_path / f"{name}{'x' * 16}")


def test_long_names_of_copies_are_cut_and_differ(tmp_path):
    names = set()
    for stem in ("x" * 255, "x" * 254 + "y", "\N{SNOWMAN}" * 84, "x" * 255):
        path = free_name(tmp_path, stem, "jpeg")
        path.touch()
        names.add(path.name)
    assert len(names) == 4
    (tmp_path / "a.jpg").symlink_to("elsewhere")
    assert free_name(tmp_path, "a", "jpg").name == "a-2.jpg"


def test_what_long_names_left_is_cleared(tmp_path):
    path = tmp_path / ("x" * 255)
    with pytest.raises(KeyboardInterrupt), atomic_path(path) as aside:
        left = aside.with_name(aside.name.replace(str(os.getpid()), "17"))
        left.touch()
        raise KeyboardInterrupt
    assert left.exists()
    clear_partials(path)
    assert list(tmp_path.iterdir()) == []


def test_companions_of_a_link_lie_beside_it_and_its_folder_is_followed(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "m.xml").symlink_to("store/m-1.xml")
    with atomic_folder(tmp_path / "m.xml") as aside:
        aside.write_text("graph")
        aside.with_suffix(".bin").write_text("weights")
    assert (tmp_path / "store" / "m-1.xml").read_text() == "graph"
    assert (tmp_path / "m.bin").read_text() == "weights"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["m.bin", "m.xml", "store"]


def test_a_folder_behind_a_link_is_replaced(tmp_path):
    (tmp_path / "store" / "site").mkdir(parents=True)
    (tmp_path / "store" / "site" / "old").touch()
    (tmp_path / "site").symlink_to("store/site")
    with atomic_folder(tmp_path / "site") as aside:
        aside.mkdir()
        (aside / "new").touch()
    assert (tmp_path / "site").is_symlink()
    assert [each.name for each in (tmp_path / "store" / "site").iterdir()] == ["new"]
    assert [each.name for each in (tmp_path / "store").iterdir()] == ["site"]
    (tmp_path / "file").write_text("old")
    with pytest.raises(NotADirectoryError, match=r"expected the name of a folder.*/file'"):  # noqa: SIM117
        with atomic_folder(tmp_path / "file") as aside:
            aside.mkdir()
    assert (tmp_path / "file").read_text() == "old"


@pytest.mark.parametrize("way", ["itself", "relative", "link", "hard link", "through a linked folder"])
def test_an_input_is_no_output(tmp_path, monkeypatch, way):
    (tmp_path / "in").mkdir()
    source = tmp_path / "in" / "photo.jpg"
    source.write_text("old")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").symlink_to("in")
    (tmp_path / "link").symlink_to("in/photo.jpg")
    os.link(source, tmp_path / "hard")
    output = {
        "itself": source,
        "relative": Path("in/../in/photo.jpg"),
        "link": Path("link"),
        "hard link": Path("hard"),
        "through a linked folder": Path("folder/photo.jpg"),
    }[way]
    with pytest.raises(ValueError, match=rf"^--output {output}: is the same file as the input {source};"):
        check_outputs([("--report", None), ("--output", output)], ["rtsp://camera", "gone.jpg", source])
    check_outputs([("--output", output), ("--more", "-")], ["gone.jpg", "in"])


def test_two_outputs_are_two_files_and_no_input_is_in_a_folder_that_is_replaced(tmp_path):
    (tmp_path / "link").symlink_to("a")
    with pytest.raises(ValueError, match=r"^--frames .*/link: is the file of --output .*/a too"):
        check_outputs([("--output", tmp_path / "a"), ("--frames", tmp_path / "link")], [])
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "m.onnx").touch()
    with pytest.raises(ValueError, match=r"--output .*/site: the input .*/m.onnx is in it"):
        check_folder("--output", tmp_path / "site", [tmp_path / "site" / "m.onnx"])
    check_folder("--output", tmp_path / "sit", [tmp_path / "site" / "m.onnx"])
    os.mkfifo(tmp_path / "fifo")
    check_outputs([("--output", tmp_path / "fifo"), ("--frames", tmp_path / "fifo")], [tmp_path / "fifo"])
