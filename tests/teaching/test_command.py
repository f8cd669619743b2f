"""What ``shvit teach`` prints, writes and refuses."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from shvit import Classifier
from shvit.cli.main import main
from shvit.teaching.kept import kept_path

from .conftest import draw


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    try:
        status = main(["teach", *map(str, arguments)])
    except SystemExit as ended:
        status = int(ended.code or 0)
    printed = capsys.readouterr()
    return status, " ".join(printed.out.split()), " ".join(printed.err.split())


def test_it_says_what_to_expect_and_what_was_written(photos, tiny_file, tmp_path, capsys):
    mine = tmp_path / "photos"
    shutil.copytree(photos, mine)
    shutil.move(mine / "red" / "0-05.png", mine / "blue" / "wrong.png")
    status, out, err = run(capsys, mine, "--model", tiny_file, "--output", tmp_path / "mine.onnx")
    assert status == 0
    assert "mine.onnx was taught 3 classes with 72 pictures, on the features of tiny" in out
    assert "of 100 are named right (95% interval" in out
    assert "look whether these labels are right" in out and "wrong.png" in out
    assert f"shvit similar --mislabelled {tmp_path / 'mine.embeddings.parquet'} --output labels.html" in out
    assert "a picture of" in out  # how often each class was taken for each
    assert f"written: {tmp_path / 'mine.onnx'}, and mine.embeddings.parquet beside it" in out
    assert "warning" not in err


def test_the_command_that_it_names_takes_any_path(photos, tiny_file, tmp_path, capsys):
    mine = tmp_path / "my photos"
    shutil.copytree(photos, mine)
    shutil.move(mine / "red" / "0-05.png", mine / "blue" / "wrong.png")
    _, out, _ = run(capsys, mine, "--model", tiny_file, "--output", mine.parent / "my model.onnx")
    assert f"similar --mislabelled '{tmp_path / 'my model.embeddings.parquet'}' --output labels.html" in out


def test_the_same_as_json(taught, tmp_path, capsys):
    more = draw(tmp_path / "more", ("grey",), 5)
    status, out, _ = run(
        capsys, more, "--add", "--model", taught, "--output", tmp_path / "mine.onnx", "--format", "json"
    )
    found = json.loads(out)
    assert status == 0 and found["classes"] == {"blue": 24, "green": 24, "red": 24, "grey": 5}
    assert found["interval"][0] < found["accuracy"] <= found["interval"][1]
    assert found["embeddings"] == str(tmp_path / "mine.embeddings.parquet")
    assert found["earlier"]["classes"] == ["blue", "green", "red"] and found["earlier"]["pictures"] == 72


def test_a_class_is_forgotten_in_place(taught, tmp_path, capsys):
    for each in (taught, kept_path(taught)):
        shutil.copy(each, tmp_path / each.name)
    status, out, _ = run(capsys, "--forget", "red", "--model", tmp_path / "mine.onnx")
    assert status == 0 and "was taught 2 classes with 48 pictures" in out
    assert "forgotten: red; before, 3 classes with 72 pictures, of which about" in out
    assert [each.label for each in Classifier(tmp_path / "mine.onnx").classes] == ["blue", "green"]


def test_broken_pictures_are_named_and_the_exit_status_says_so(photos, tiny_file, tmp_path, capsys):
    mine = tmp_path / "photos"
    shutil.copytree(photos, mine)
    (mine / "red" / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut short")
    status, out, err = run(capsys, mine, "--model", tiny_file, "--output", tmp_path / "mine.onnx")
    assert status == 1
    assert "cut.jpg: " in err and "1 pictures could not be read" in err
    assert "written:" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["photos", "--add"], "--model: say which file is to be changed, one that was taught before"),
        (["photos", "--model", "{model}"], "--output: give the file to write, such as mine.onnx"),
        (["--model", "{model}", "--output", "mine.onnx"], "data: give labelled pictures"),
        (["{photos}", "--model", "{model}", "--output", "mine.png"], "the format stays that of tiny.onnx"),
        (["nowhere", "--model", "{model}", "--output", "{folder}/mine.onnx"], "nowhere: No such file or directory"),
        (["{photos}", "--model", "nothing.onnx", "--output", "{folder}/mine.onnx"], "nothing.onnx"),
        (
            ["{photos}", "--model", "{model}", "--output", "{folder}/m.onnx", "--keep", "1"],
            "--keep: expected more than",
        ),
        (
            ["{photos}", "--model", "{model}", "--output", "{folder}/m.onnx", "--unknown", "{folder}"],
            "no pictures there",
        ),
    ],
)
def test_wrong_usage_has_one_message_and_writes_nothing(arguments, message, photos, tiny_file, tmp_path, capsys):
    given = [each.format(photos=photos, model=tiny_file, folder=tmp_path) for each in arguments]
    status, _, err = run(capsys, *given)
    assert status == 2
    assert message in err and "Traceback" not in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("package", "named"), [("sklearn", "scikit-learn"), ("pyarrow", "pyarrow")])
def test_a_missing_package_is_told_before_any_picture_is_looked_at(package, named, photos, tiny_file, tmp_path):
    code = f"import sys; sys.modules[{package!r}] = None; from shvit.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = ["teach", str(photos), "--model", str(tiny_file), "--output", str(tmp_path / "mine.onnx")]
    ended = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, timeout=300)
    said = " ".join(ended.stderr.split())
    assert ended.returncode == 2 and f"needs {named}, which is not installed" in said and "[teach]" in said
    assert not list(tmp_path.iterdir())


def test_kept_embeddings_are_searched_as_pictures(taught, photos, capsys):
    """One row for each picture, none of what was made, and by the model that they lie beside."""
    kept, picture = kept_path(taught), photos / "red" / "0-00.png"
    assert main(["similar", str(picture), "--in", str(kept), "--top-k", "80"]) == 0
    found = capsys.readouterr().out
    assert main(["similar", "--mislabelled", str(kept)]) == 0
    assert "of 72 pictures" in " ".join(capsys.readouterr().out.split())
    assert found.count("0-00.png") >= 1 and "made: " not in found
    assert main(["similar", "--duplicates", str(kept), "--threshold", "1"]) == 0
    assert "made: " not in capsys.readouterr().out
