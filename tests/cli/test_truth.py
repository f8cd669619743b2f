"""``shvit predict --truth``: what is in each picture beside what the model says, and how many are right."""

from __future__ import annotations

import csv
import io
import json
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

from shvit.card import ClassInfo
from shvit.cli.main import main
from shvit.evaluation.truth import Truth
from shvit.predicting.classifier import Classifier
from shvit.shipped import DEFAULT_MODEL

from ..conftest import PATIENCE, ROOT, SAMPLES, colour_card, write_colour_model, write_deciding_model

PICTURES = {
    "red.png": (200, 0, 0),
    "green.png": (0, 200, 0),
    "called_red.png": (0, 0, 200),
    "grey.png": (100, 100, 100),
    "violet.png": (200, 0, 190),
}
LIST = "filename,label\nred.png,red\ngreen.png,Green\ncalled_red.png,red\ngrey.png,fog\nviolet.png,\n"


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Five pictures, a list of what is in them (two show nothing that was taught), and a model that decides."""
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for name, colour in PICTURES.items():
        Image.new("RGB", (60, 40), colour).save(Path("photos", name))
    Path("photos/labels.csv").write_text(LIST)
    write_deciding_model(tmp_path / "m.onnx")
    return tmp_path


def predict(*arguments: str) -> int:
    return main(["predict", "photos", "--model", "m.onnx", "--truth", "photos/labels.csv", *arguments])


def test_the_table_has_the_truth_below_each_name(folder, capsys):
    assert predict("--top-k", "1") == 0
    lines = capsys.readouterr().out.splitlines()
    beside = {Path(name).name: truth.strip() for name, truth in pairwise(lines) if ".png" in name}
    assert beside == {
        "called_red.png": "truth: red · wrong",
        "green.png": "truth: Green · right",
        "grey.png": "truth: fog, not taught · called unknown",
        "red.png": "truth: red · right",
        "violet.png": "truth: not taught · not noticed",
    }
    assert lines[-1] == "2 of 3 right, 1 of 2 not taught called unknown"


def test_for_programs_it_is_in_columns_and_fields_of_its_own(folder, capsys):
    assert predict("--format", "jsonl", "--top-k", "1") == 0
    printed = capsys.readouterr()
    lines = {Path(line["source"]).name: line for line in map(json.loads, printed.out.splitlines())}
    assert [lines["grey.png"][key] for key in ("truth", "taught", "right")] == [["fog"], False, True]
    assert [lines["called_red.png"][key] for key in ("truth", "taught", "right")] == [["red"], True, False]
    assert printed.err == "2 of 3 right, 1 of 2 not taught called unknown\n"

    assert predict("--format", "csv", "--top-k", "2") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == 10
    found = {(Path(row["source"]).name, row["truth"], row["taught"], row["right"]) for row in rows}
    assert ("green.png", "Green", "1", "1") in found and ("violet.png", "", "0", "0") in found and len(found) == 5


def test_without_it_nothing_is_added(folder, capsys):
    for form in ("table", "jsonl", "csv"):
        assert main(["predict", "photos", "--model", "m.onnx", "--format", form]) == 0
        printed = capsys.readouterr()
        assert "truth" not in printed.out and printed.err == ""


def test_it_is_drawn_into_the_copies(folder):
    assert main(["predict", "photos/red.png", "--model", "m.onnx", "--save-images", "without"]) == 0
    assert predict("--save-images", "drawn") == 0
    with Image.open("drawn/red.jpg") as drawn, Image.open("without/red.jpg") as without:
        size = drawn.size
        lower = (0, size[1] * 4 // 5, *size)
        darkest = [each.crop(lower).getextrema()[0][0] for each in (drawn, without)]
    assert darkest[0] < 120 < darkest[1]  # a panel, in what is red all over


def test_answers_that_are_withheld_are_not_right(folder, capsys):
    Path("photos/labels.csv").write_text(LIST.replace("fog", "blue"))
    Image.new("RGB", (60, 40), (110, 20, 100)).save("photos/red.png")
    assert predict() == 0
    printed = capsys.readouterr().out
    assert "truth: blue · called unknown" in printed and "truth: red · unsure" in printed
    assert printed.splitlines()[-1].startswith("1 of 4 right (1 unsure, 1 called unknown), 0 of 1 not taught")


@pytest.mark.parametrize("more", [(), ("--no-unknown",)])
def test_a_model_that_cannot_tell_is_not_blamed(folder, capsys, more):
    if not more:
        write_colour_model(folder / "m.onnx", colour_card().to_json())
    assert predict(*more, "--format", "jsonl") == 0
    printed = capsys.readouterr()
    lines = {Path(line["source"]).name: line for line in map(json.loads, printed.out.splitlines())}
    assert lines["grey.png"]["right"] is None and lines["red.png"]["right"] is True
    assert printed.err == "2 of 3 right, 2 not taught, and nothing says what is unknown\n"


def test_pictures_that_are_not_listed_or_not_read_are_not_counted(folder, capsys):
    Path("photos/labels.csv").write_text("filename;label\nred.png;red\nbroken.png;red\ngone.png;red\n")
    Path("photos/broken.png").write_bytes(b"nothing")
    assert predict("--format", "csv") == 1
    printed = capsys.readouterr()
    assert printed.err.splitlines() == ["1 of 1 right, 4 not in photos/labels.csv", "1 of 6 inputs failed"]
    rows = {Path(row["source"]).name: row for row in csv.DictReader(io.StringIO(printed.out))}
    assert [rows["broken.png"][each] for each in ("truth", "taught", "right")] == ["", "", ""]


def test_names_are_found_by_whatever_path(folder, capsys):
    Path("link").symlink_to("photos")
    absolute = folder / "photos" / "green.png"
    Path("photos/labels.csv").write_text(f"path,label\n./red.png,red\n{absolute},green\n")
    sources = ["link/red.png", "photos/../photos/green.png"]
    assert main(["predict", *sources, "--model", "m.onnx", "--truth", "link/labels.csv"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 of 2 right"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "photos/labels.csv: cannot be read: No such file or directory"),
        ("", "photos/labels.csv: no column 'path' in its first line"),
        ("filename,colour\nred.png,red\n", "photos/labels.csv: no column 'label' in its first line"),
        ("filename,label\n", "photos/labels.csv: lists no images"),
        ("filename,label\nred.png,red,2\n", "photos/labels.csv, line 2: no path or no label, or too many fields"),
        (
            "filename,label\nred.png,red\nred.png,blue\n",
            "photos/labels.csv, line 3: red.png has another label than in line 2",
        ),
        ("filename,label\ncat.png,red\n", "photos/labels.csv: lists none of the pictures, such as photos/"),
        (b"filename,label\nred.png,r\xe9d\n", "photos/labels.csv: cannot be read as CSV in UTF-8"),
    ],
)
def test_a_list_that_is_wrong_is_refused_by_name(folder, capsys, text, message):
    Path("photos/labels.csv").unlink()
    if text is not None:
        Path("photos/labels.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert predict() == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.count("\n") == 1 and printed.out == ""


def test_the_list_is_not_written_over(folder, capsys):
    assert predict("--format", "csv", "--output", "photos/labels.csv") == 2
    assert "--output photos/labels.csv" in capsys.readouterr().err
    assert Path("photos/labels.csv").read_text() == LIST


def test_the_same_line_twice_is_one(folder, capsys):
    Path("photos/labels.csv").write_text("filename,label\nred.png,red\nred.png,red\n")
    assert main(["predict", "photos/red.png", "--model", "m.onnx", "--truth", "photos/labels.csv"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 of 1 right"


def test_any_number_of_labels(folder, capsys):
    """Right are just the labels of the picture; those that the model lacks are left aside."""
    write_colour_model(folder / "m.onnx", colour_card(task="multi_label").to_json())
    black = (0, 0, 0)
    for name, colour in {"violet.png": (200, 0, 190), "grey.png": (200, 200, 0), "called_red.png": black}.items():
        Image.new("RGB", (60, 40), colour).save(Path("photos", name))
    rows = ("violet.png,blue|red|metal", "grey.png,red", "called_red.png,", "red.png,metal", "green.png,red|green")
    Path("photos/labels.csv").write_text("\n".join(["filename,labels", *rows]))
    assert predict("--format", "jsonl", "--min-score", "0.6") == 0
    printed = capsys.readouterr()
    right = {Path(line["source"]).name: line["right"] for line in map(json.loads, printed.out.splitlines())}
    expected = {"violet.png": True, "grey.png": False, "called_red.png": True, "red.png": None, "green.png": False}
    assert right == expected
    assert printed.err == "2 of 4 right, 1 not taught, and nothing says what is unknown\n"


def test_a_name_of_two_classes_is_either(tmp_path):
    names = ("crane, a bird", "crane, a machine", "blue")  # it says the second
    card = colour_card(classes=tuple(ClassInfo(i, name, f"n0000000{i}") for i, name in enumerate(names)))
    model = write_colour_model(tmp_path / "m.onnx", card.to_json())
    Image.new("RGB", (60, 40), (0, 200, 0)).save(tmp_path / "a.png")
    (result,) = Classifier(model).predict(tmp_path / "a.png")
    for label, right in (("crane", True), ("crane, a bird", False), ("n00000001", True), ("blue", False)):
        (tmp_path / "labels.csv").write_text(f'filename,label\na.png,"{label}"\n')
        checked = Truth(tmp_path / "labels.csv", card.classes, [result.source]).check(result)
        assert checked is not None and (checked.taught, checked.right) == (True, right), label


def test_the_samples_are_labelled_with_classes_of_the_shipped_model():
    classes = Classifier(DEFAULT_MODEL).card.classes
    pictures = sorted(map(str, SAMPLES.glob("*.jpg")))
    results = Classifier(DEFAULT_MODEL).predict(pictures)
    truth = Truth(SAMPLES / "labels.csv", classes, pictures)
    checked = {Path(each.source).stem: truth.check(each) for each in results}
    assert {name for name, each in checked.items() if each is not None and not each.taught} == {"hedgehog", "retina"}
    assert "of 8 right" in truth.summary and "not in" not in truth.summary
    listed = (SAMPLES / "README.md").read_text()
    for name, each in checked.items():
        assert each is not None
        (row,) = [line for line in listed.splitlines() if line.startswith(f"| `{name}.jpg`")]
        assert row.endswith(f"| {each.labels[0] if each.taught else 'not taught'} |")
        assert "| CC0 |" in row or "| public domain |" in row


def test_the_demo_shows_the_truth_and_makes_the_picture_of_the_readme(tmp_path):
    """What the Makefile runs, with this Python."""
    text = (ROOT / "Makefile").read_text()
    (demo,) = [line.removeprefix("DEMO := $(VENV)/bin/") for line in text.splitlines() if line.startswith("DEMO")]
    command = [sys.executable, "-m", *shlex.split(demo)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert "samples/coffee.jpg\n  truth: espresso · " in done.stdout
    assert "samples/hedgehog.jpg\n  truth: hedgehog, not taught" in done.stdout
    assert " of 8 right" in done.stdout.splitlines()[-1]

    lines = subprocess.run([*command, "--format", "jsonl"], capture_output=True, cwd=ROOT, timeout=PATIENCE)
    draw = [sys.executable, "docs/images/predictions.py", str(tmp_path / "picture.jpg")]
    subprocess.run(draw, input=lines.stdout, cwd=ROOT, check=True, timeout=PATIENCE)
    with Image.open(tmp_path / "picture.jpg") as made, Image.open(ROOT / "docs/images/predictions.jpg") as kept:
        assert made.size == kept.size and made.width > 1000


def test_a_name_is_surer_than_a_first_synonym(tmp_path):
    names = ("red", "red, ripe", "blue")
    card = colour_card(classes=tuple(ClassInfo(i, name, None) for i, name in enumerate(names)))
    model = write_colour_model(tmp_path / "m.onnx", card.to_json())
    Image.new("RGB", (60, 40), (0, 200, 0)).save(tmp_path / "a.png")
    (result,) = Classifier(model).predict(tmp_path / "a.png")
    for label, right in (("red", False), ("red, ripe", True)):
        (tmp_path / "labels.csv").write_text(f'filename,label\na.png,"{label}"\n')
        checked = Truth(tmp_path / "labels.csv", card.classes, [result.source]).check(result)
        assert checked is not None and checked.right == right, label
