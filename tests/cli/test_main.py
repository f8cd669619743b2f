"""What the command says of errors, whose they are, and of what was mistyped."""

import ast
import errno
import subprocess
import sys
from pathlib import Path

import pytest

import shvit.cli.info
from shvit._version import __version__
from shvit.cli.main import main
from shvit.errors import ArgumentError, ShvitError

SOURCE = Path(shvit.cli.info.__file__).parents[1]
PATIENCE = 60

CAUGHT_WHERE_RAISED = {
    "card/fields.py",
    "data/formats/coco.py",
    "engines/auto.py",
    "engines/onnx_graph.py",
    "network/integrity.py",
    "runs/run_folder.py",
    "serve/questions.py",
    "similarity/index_file.py",
    "training/checkpoint.py",
    "training/distillation.py",
    "video/complete.py",
    "video/output.py",
}
"""Modules that raise a ``ValueError`` to themselves or to their callers, who make an error for users of it."""


def ends_with(error: BaseException, monkeypatch, capsys, *arguments: str) -> tuple[int, str]:
    """The exit status and stderr of a command that raises this."""

    def run(args):
        raise error

    monkeypatch.setattr(shvit.cli.info, "run", run)
    status = main(["info", *(arguments or ("some.onnx",))])
    return status, capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [
        ValueError("operands could not be broadcast together"),
        TypeError("unsupported operand"),
        KeyError("width"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        OSError("cannot write mode RGBA as JPEG"),  # a library's: the system's have a number
    ],
)
def test_a_fault_of_ours_is_reported_as_one(error, monkeypatch, capsys):
    status, shown = ends_with(error, monkeypatch, capsys, "rtsp://me:secret@camera/a file")
    assert status == 70
    assert shown.startswith("Traceback") and f"{type(error).__name__}: {error}" in shown
    assert "this is a fault of shvit; please report it" in shown
    assert f"shvit {__version__}, Python {sys.version.split()[0]}, " in shown
    assert "shvit info 'rtsp://***@camera/a file'" in shown
    assert "secret" not in shown


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ShvitError("x.jpg: is empty"), "x.jpg: is empty"),
        (ArgumentError("top_k: expected a positive number, got 0"), "top_k: expected a positive number, got 0"),
        (OSError(errno.ENOENT, "No such file or directory", "a\nb"), r"a\nb: No such file or directory"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (
            MemoryError("Unable to allocate 9 GiB"),
            "out of memory (Unable to allocate 9 GiB); try less at once: a smaller --batch-size",
        ),
    ],
)
def test_the_users_error_is_one_line(error, line, monkeypatch, capsys):
    assert ends_with(error, monkeypatch, capsys) == (2, f"shvit info: error: {line}\n")


def test_the_users_error_has_its_trace_where_that_is_asked_for(monkeypatch, capsys):
    monkeypatch.setenv("SHVIT_DEBUG", "1")
    status, shown = ends_with(ShvitError("x.jpg: is empty"), monkeypatch, capsys)
    assert status == 2
    assert shown.startswith("Traceback")
    assert shown.endswith("shvit info: error: x.jpg: is empty\n")
    monkeypatch.setenv("SHVIT_DEBUG", "0")
    assert ends_with(ShvitError("x"), monkeypatch, capsys)[1] == "shvit info: error: x\n"


def test_a_fault_while_a_command_is_set_up_is_reported_too(monkeypatch, capsys):
    monkeypatch.setattr(shvit.cli.info, "add_arguments", lambda parser: [][0])
    assert main(["info", "x"]) == 70
    assert "this is a fault of shvit" in capsys.readouterr().err


def test_the_name_alone_shows_the_help(capsys):
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "classify images" in err
    assert "`shvit COMMAND --help` explains a command." in err


def test_an_interrupt_is_neither(monkeypatch, capsys):
    assert ends_with(KeyboardInterrupt(), monkeypatch, capsys) == (130, "interrupted\n")
    in_an_import = ImportError("initialization failed")
    in_an_import.__cause__ = KeyboardInterrupt()
    assert ends_with(in_an_import, monkeypatch, capsys) == (130, "interrupted\n")


def test_errors_meant_for_users_are_of_their_own_classes():
    """A bare ``ValueError`` that reaches the command line is shown as a fault of the program."""
    bare = {"ValueError", "TypeError", "KeyError", "RuntimeError", "Exception"}
    for file in SOURCE.rglob("*.py"):
        place = file.relative_to(SOURCE).as_posix()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and place not in CAUGHT_WHERE_RAISED:
                name = ast.unparse(node.exc.func)
                assert name not in bare, f"{place}:{node.lineno}: raises {name}; for users it is an ArgumentError"


def test_a_fault_in_a_worker_of_a_batch_is_no_error_of_the_users():
    pytest.importorskip("pyarrow", reason="needs shvit[ray]")
    from shvit.batch.pool import attempt, failure

    fault = failure(attempt(lambda: [][0]))
    assert not isinstance(fault, ShvitError)
    assert "in test_a_fault" not in str(fault).splitlines()[0] and "IndexError: list index out of range" in str(fault)
    assert isinstance(failure(attempt(Path("/no/such").read_bytes)), ShvitError)


@pytest.mark.parametrize(
    ("command", "meant"),
    [
        ("predcit a.jpg", "predict"),
        ("predict a.jpg --topk 3", "--top-k"),
        ("predict a.jpg --formt csv", "--format"),
        ("predict a.jpg --format cvs", "csv"),
        ("bench speed --batch-sise 3", "--batch-size"),
        ("data chek x", "check"),
    ],
)
def test_what_is_mistyped_is_answered_with_the_nearest(command, meant, capsys):
    with pytest.raises(SystemExit) as ended:
        main(command.split())
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith(f"; did you mean {meant}?\n")


def test_what_is_like_nothing_is_only_refused(capsys):
    with pytest.raises(SystemExit):
        main(["predict", "a.jpg", "--zzz"])
    assert capsys.readouterr().err.endswith("unrecognized arguments: --zzz\n")


def test_options_may_have_underscores_but_files_keep_their_names(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("--top_k").write_bytes(b"no image")
    assert main(["predict", "--top_k", "2", "--batch_size=3", "--", "--top_k"]) == 1
    assert "--top_k\n" in capsys.readouterr().out


def test_help_and_usage_need_nothing_that_is_imported_for_errors():
    code = "import sys, shvit.cli.main; print(sorted({'difflib', 'importlib.metadata'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert done.stdout.strip() == "[]"
