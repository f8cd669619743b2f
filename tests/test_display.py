from __future__ import annotations

import ast
import io
import json
import logging
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import shvit
from shvit.display import (
    SHOWN,
    CSVWriter,
    LineFormatter,
    NamedText,
    as_text,
    folded,
    json_text,
    print_table,
    printable,
    say,
    say_all,
    terminal,
)

from .conftest import PATIENCE

ROOT = Path(shvit.__file__).parent


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;owned\x07", r"\x1b]0;owned\x07"),
        ("a\nb\r\tc\x00\x7f", r"a\nb\r\tc\x00\x7f"),
        ("\x9b2J\x85", r"\x9b2J\x85"),
        ("\u202egpj.exe\u2066\u2069", r"\u202egpj.exe\u2066\u2069"),
        ("one\u2028two\u2029", r"one\u2028two\u2029"),
        ("caf\udce9 \ud800", r"caf\xe9 \ud800"),
        ("Größe 猫 🐱 [red] :smile: \\x1b", "Größe 猫 🐱 [red] :smile: \\x1b"),
    ],
)
def test_what_steers_a_terminal_is_shown_as_an_escape(text, shown, capsys):
    assert printable(text) == shown
    say(text)
    terminal(width=100).print(text)
    assert capsys.readouterr().out == f"{shown}\n" * 2
    written = json_text({text: [text]}, indent=1)
    assert json.loads(written) == {text: [text]}
    assert printable(written.replace("\n", "")) == written.replace("\n", "")


def test_markup_in_tables_and_under_styles_is_text(capsys):
    from rich.table import Table

    hostile = "[bold]a[/bold] [link=x]b[/link] :smile:\n\x1b[2J"
    table = Table(hostile, box=None)
    table.add_row(hostile)
    terminal(width=200).print(table)
    terminal(width=200).print(hostile, style="bold")
    shown = r"[bold]a[/bold] [link=x]b[/link] :smile:\n\x1b[2J"
    assert [each.strip() for each in capsys.readouterr().out.splitlines()] == [shown] * 3


def test_cells_of_csv_keep_their_bytes_and_formulas_are_marked_where_asked():
    cells = ["=1+1", "+1", "-1", "@a", "\tb", "\rc", "a=b", "", 'say "x"', -0.5, None, "\x1b"]
    plain, safe = io.StringIO(newline=""), io.StringIO(newline="")
    CSVWriter(plain).row(cells)
    CSVWriter(safe, safe=True).rows([cells])
    assert plain.getvalue() == '=1+1,+1,-1,@a,\tb,"\rc",a=b,,"say ""x""",-0.5,,\x1b\n'
    assert safe.getvalue() == '\'=1+1,\'+1,\'-1,\'@a,\'\tb,"\'\rc",a=b,,"say ""x""",-0.5,,\x1b\n'


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("utf-8", b"\xe9 \\ud800 \xe2\x96\x88\xc3\x97\xe7\x8c\xab\xf0\x9f\x90\xb1"),
        ("cp1252", b"\xe9 \\ud800 #\xd7\\u732b\\ud83d\\udc31"),
        ("ascii", b"\xe9 \\ud800 #x\\u732b\\ud83d\\udc31"),
    ],
)
def test_what_an_encoding_has_not_is_written_all_the_same(encoding, shown):
    assert "\udce9 \ud800 █×猫🐱".encode(encoding, SHOWN) == shown
    assert as_text("caf\udce9 猫") == r"caf\xe9 猫"


def test_errors_of_a_stream_have_its_name():
    class Full(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: object) -> int:
            raise OSError(28, "No space left on device")

    stream = NamedText(io.BufferedWriter(Full()), "labels.csv", encoding="utf-8")
    stream.write("a")
    with pytest.raises(OSError, match=r"cannot be written: No space left on device: 'labels\.csv'"):
        stream.flush()
    with pytest.raises(OSError, match=r"\[Errno 28\] cannot be written: No space .* 'labels\.csv'"):
        stream.close()
    lossy = NamedText(io.BufferedWriter(Full()), "standard error", lossy=True, encoding="utf-8")
    lossy.write("a" * 100_000)
    lossy.flush()


def test_log_records_are_lines():
    formatter = LineFormatter("%(levelname)s %(message)s")
    try:
        raise ValueError("x\x1b[2J")
    except ValueError:
        raised = sys.exc_info()
    record = logging.LogRecord("a", logging.INFO, "", 0, "GET %s", ("/a\nINFO GET /b\x1b",), raised)
    first, *trace = formatter.format(record).split("\n")
    assert first == r"INFO GET /a\nINFO GET /b\x1b"
    assert trace[0].startswith("Traceback")
    assert trace[-1] == r"ValueError: x\x1b[2J"


def test_warnings_log_records_and_tracebacks_of_libraries_too():
    program = (
        "import logging, warnings; from shvit.display import guard_terminal; guard_terminal();"
        "warnings.warn('a\\x1b\\nb'); logging.getLogger('x').warning('c\\x1b\\nd'); raise RuntimeError('e\\x9b\\nf')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1
    assert r"UserWarning: a\x1b\nb" in done.stderr
    assert r"c\x1b\nd" in done.stderr
    assert "\\x9b\nf" in done.stderr
    assert printable(done.stderr.replace("\n", "")) == done.stderr.replace("\n", "")


def test_text_is_folded_between_words_and_never_within_one():
    text = "  top-1 of 12,345 images is 98.76% and nearest-neighbour is in /a/path/that/is/longer/than/the/line"
    assert folded(text, 4, None) == [text]
    assert folded(text, 4, 24) == [
        "  top-1 of 12,345 images",
        "    is 98.76% and",
        "    nearest-neighbour is",
        "    in",
        "    /a/path/that/is/longer/than/the/line",
    ]
    assert folded("red\x1b[2J\n", 4, 24) == [r"red\x1b[2J\n"]
    assert folded("a b c d e f", 99, 4) == ["a b", "  c", "  d", "  e", "  f"]


def test_a_pipe_gets_one_line_and_a_terminal_as_many_as_it_needs(monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS", raising=False)
    say("word " * 10, hang=2)
    say_all(["one 1", "two 2", "three 3", "four 4"] * 3)
    assert capsys.readouterr().out.count("\n") == 2
    monkeypatch.setenv("COLUMNS", "40")
    say("word " * 10, hang=2)
    say_all(["one 1", "two 2", "three 3", "four 4", "a text that is longer than the line can be " * 2])
    assert capsys.readouterr().out.splitlines() == [
        "word word word word word word word word",
        "  word word",
        "  one 1  two 2  three 3  four 4",
        "  a text that is longer than the line",
        "    can be a text that is longer than",
        "    the line can be",
    ]


HEADER = ("name", "data", "images", "loss")
ROWS = (("a-run", "flowers of the-garden", "1,234,567", "0.123"), ("b", "[red]x\x1b[2J", "8", ""))


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ("80", ["name   data                      images   loss",
                "a-run  flowers of the-garden  1,234,567  0.123",
                r"b      [red]x\x1b[2J                  8"]),
        ("41", ["name   data                images   loss",
                "a-run  flowers of the-  1,234,567  0.123",
                "       garden",
                r"b      [red]x\x1b[2J            8"]),
        ("35", ["a-run",
                "  data flowers of the-garden",
                "  images 1,234,567  loss 0.123",
                "b",
                r"  data [red]x\x1b[2J  images 8"]),
    ],
)  # fmt: skip
def test_a_table_folds_text_then_becomes_lines_and_is_never_cut(columns, expected, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", columns)
    print_table(HEADER, ROWS, "llrr")
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == expected


def test_a_table_in_a_pipe_has_one_line_for_each_row(monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS", raising=False)
    print_table(HEADER, [("x" * 300, "long text " * 50, "1", "2")], "llrr")
    header, row = capsys.readouterr().out.splitlines()
    assert len(header) == len(row) > 800


def test_warnings_of_our_own_are_plain_lines():
    file = str(ROOT / "models" / "create.py")
    program = (
        "import warnings; from shvit.display import guard_terminal; guard_terminal();"
        f"warnings.warn_explicit('a\\nb', UserWarning, {file!r}, 3)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stderr == "shvit: warning: a\\nb\n"


def test_nothing_is_printed_past_this():
    """Whatever prints is one of these functions, or gives each value to one."""
    allowed = {"say", "printable", "folded", "json_text", "json_escaped"}
    for file in ROOT.rglob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        place = file.relative_to(ROOT).as_posix()
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            assert place == "display.py" or name.rpartition(".")[2] != "Console", f"{place}: use display.terminal()"
            if name == "print" and place not in ("display.py", "bench/worker.py"):
                called = {ast.unparse(each.func) for each in ast.walk(node) if isinstance(each, ast.Call)}
                shown = ast.unparse(node)
                lines_of_video = place == "cli/video.py" and not {"{source}", "{summary.source}"} & set(shown.split())
                assert called & allowed or lines_of_video, f"{place}: {shown} does not pass shvit.display"


def test_a_process_without_stdin_is_given_no_paths():
    command = f"{shlex.quote(sys.executable)} -m shvit predict - <&-"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "note: standard input holds no paths\n")
