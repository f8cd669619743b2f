"""``shvit eval`` as a user runs it."""

from __future__ import annotations

import csv
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from PIL import Image

from shvit.card import ClassInfo
from shvit.cli.main import main
from shvit.data.datasets import open_datasets
from shvit.data.trained_on import training_split
from shvit.models import SHViT, save_checkpoint
from shvit.models.checkpoints import load_model
from shvit.models.shvit import SHViTConfig

from ..conftest import PATIENCE, colour_card, write_colour_model

COLOURS = {"red": (200, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 200)}


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def paint(path: Path, colour: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (60, 40), colour).save(path)


@pytest.fixture
def data(tmp_path) -> Path:
    """Four pictures of each colour, of which one green is blue."""
    for name, colour in COLOURS.items():
        for number in range(4):
            paint(tmp_path / "data" / "val" / name / f"{number}.png", colour)
    paint(tmp_path / "data" / "val" / "green" / "3.png", (20, 150, 200))
    return tmp_path / "data"


def evaluate(capsys, *arguments: object) -> tuple[int, dict, str]:
    code = main(["eval", "--workers", "0", "--format", "json", *map(str, arguments)])
    output = capsys.readouterr()
    return code, json.loads(output.out or "{}"), output.err


def test_figures_of_a_model_file(data, colour_model, capsys):
    code, results, errors = evaluate(capsys, "--model", colour_model, "--data", data, "--threads", 1)
    assert (code, errors) == (0, "")
    assert (results["images"], results["top1"], results["top5"]) == (12, 11 / 12, 1)
    assert {"model", "data", "loss", "images_per_second", "ece", "command", "versions", "date"} <= set(results)
    assert results["notes"] == ["classes matched by name"]
    assert results["confused_pairs"] == [{"label": "green", "predicted": "blue", "images": 1}]
    assert {each["label"]: each["accuracy"] for each in results["per_class"]} == {"red": 1, "green": 0.75, "blue": 1}
    assert 0 < results["latency"]["median_ms"] <= results["latency"]["p95_ms"]


def test_the_text_says_the_same(data, colour_model, capsys):
    assert main(["eval", "--model", str(colour_model), "--data", str(data), "--workers", "0"]) == 0
    text = capsys.readouterr().out
    assert "top-1 91.67%   top-5 100.00%" in text
    assert "least recognised: green 75%" in text


def test_what_fast_decoding_changes_is_measured_and_printed(data, colour_model, tmp_path, capsys):
    pytest.importorskip("kornia_rs", reason="needs shvit[fast]")
    arguments = ("--model", colour_model, "--data", data, "--fast-decode", "--output", tmp_path / "r")
    code, results, _ = evaluate(capsys, *arguments)
    fast = results["fast_decoding"]
    assert (code, fast["top1"], fast["top1_change"], fast["same_prediction"]) == (0, 11 / 12, 0, 1)
    assert fast["images_per_second"] > 0
    assert "Fast decoding" in (tmp_path / "r" / "report.html").read_text()
    assert main(["eval", "--workers", "0", *map(str, arguments)]) == 0
    assert "fast decoding: top-1 91.67% (+0.00 points), the same prediction for 100.00%" in capsys.readouterr().out
    assert evaluate(capsys, "--model", colour_model, "--data", data)[1]["fast_decoding"] is None


class References(HTMLParser):
    """Everything that a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name in ("src", "srcset", "href")]


def test_the_report_is_whole_and_needs_no_other_file(data, colour_model, tmp_path, capsys):
    paint(data / "val" / "green" / "<script>alert(1)</script>" / "4.png", (20, 20, 250))
    out = tmp_path / "deep" / "report"
    code, results, _ = evaluate(capsys, "--model", colour_model, "--data", data, "--output", out)
    assert code == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "confusion.csv",
        "confusion.png",
        "coverage.png",
        "mistakes.jpg",
        "per_class.csv",
        "predictions.csv",
        "reliability.png",
        "report.html",
        "results.json",
    ]
    for picture in ("confusion.png", "coverage.png", "reliability.png", "mistakes.jpg"):
        with Image.open(out / picture) as opened:
            opened.load()
    written = json.loads((out / "results.json").read_text())
    assert written["top1"] == results["top1"]
    assert [each["predicted"] for each in written["mistakes"]] == ["blue", "blue"]

    page = (out / "report.html").read_text()
    references = References()
    references.feed(page)
    assert len(references.found) == 6 + 2
    assert all(each.startswith("data:image/") for each in references.found)
    assert not re.search(r"url\(|@import|https?://", page)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    text = " ".join(re.sub(r"<style.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL).split())
    assert "Right for 84.6% of 13 images (11; 95% interval 57.8% to 95.7%)" in text
    assert "Main weakness: green is taken for blue (2 of 5 images of it; 100% of all mistakes)." in text
    assert "top-1 84.6% 11 of 13" in text and "green 60.0% 3 of 5 100.0% 3 of 3" in text
    assert "true taken for images green blue 2 of 5" in text

    rows = list(csv.DictReader((out / "predictions.csv").open()))
    assert len(rows) == 13
    assert {row["label"] for row in rows if row["correct"] == "0"} == {"green"}
    confusion = list(csv.reader((out / "confusion.csv").open()))
    assert confusion[0][1:] == ["red", "green", "blue"]
    assert confusion[2] == ["green", "0", "3", "2"]
    assert [row["images"] for row in csv.DictReader((out / "per_class.csv").open())] == ["4", "5", "4"]


def test_people_see_short_labels_and_programs_whole_ones(data, tmp_path, capsys):
    classes = (ClassInfo(0, "red, ruby", "n00000001"), ClassInfo(1, "green"), ClassInfo(2, "blue, azure", "n00000002"))
    model = write_colour_model(tmp_path / "m.onnx", colour_card(classes=classes).to_json())
    assert evaluate(capsys, "--model", model, "--data", data, "--output", tmp_path / "r")[0] == 0
    page = (tmp_path / "r" / "report.html").read_text()
    assert "azure" not in page and "green is taken for blue (1 of 4" in page
    rows = list(csv.DictReader((tmp_path / "r" / "predictions.csv").open()))
    assert {row["label"] for row in rows} == {"red, ruby", "green", "blue, azure"}
    assert next(csv.reader((tmp_path / "r" / "confusion.csv").open()))[1:] == ["red, ruby", "green", "blue, azure"]
    (mistake,) = json.loads((tmp_path / "r" / "results.json").read_text())["mistakes"]
    assert mistake["predicted"] == "blue, azure"


def test_a_report_without_a_mistake(data, colour_model, tmp_path, capsys):
    (data / "val" / "green" / "3.png").unlink()
    code, results, _ = evaluate(capsys, "--model", colour_model, "--data", data, "--output", tmp_path / "r")
    assert (code, results["top1"]) == (0, 1)
    assert not (tmp_path / "r" / "mistakes.jpg").exists()
    assert "every image was recognised" in (tmp_path / "r" / "report.html").read_text()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_is_listed_and_the_others_are_measured(data, colour_model, tmp_path, capsys, workers):
    broken = data / "val" / "red" / "2.png"
    broken.write_bytes(broken.read_bytes()[:60])
    arguments = ("--data", data, "--output", tmp_path / "r", "--corruptions", "contrast", "--workers", workers)
    code, results, errors = evaluate(capsys, "--model", colour_model, *arguments)
    assert code == 1
    assert results["images"] == 11
    assert [each["source"] for each in results["broken"]] == [str(broken)]
    assert errors.splitlines()[0].startswith(f"{broken}: ")
    assert errors.splitlines()[1] == "1 of 12 images could not be read"
    assert str(broken) in (tmp_path / "r" / "report.html").read_text()


def test_corruptions(data, colour_model, capsys):
    arguments = ("--corruptions", "contrast,gaussian_noise", "--severity", 1, 5)
    _, results, _ = evaluate(capsys, "--model", colour_model, "--data", data, *arguments)
    found = [(each["corruption"], each["severity"]) for each in results["corruptions"]]
    assert found == [("contrast", 1), ("contrast", 5), ("gaussian_noise", 1), ("gaussian_noise", 5)]
    tops = [each["top1"] for each in results["corruptions"]]
    assert tops[0] == results["top1"]  # the strongest colour stays the strongest
    assert results["corruptions_mean_top1"] == pytest.approx(sum(tops) / 4)


def test_labels_from_a_file(data, colour_model, tmp_path, capsys):
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({"green/3.png": ["blue", "green"], "red/0.png": [], "red/1.png": 0, "blue/1.png": 2}))
    _, results, _ = evaluate(capsys, "--model", colour_model, "--data", data, "--labels", labels)
    assert (results["images"], results["top1"]) == (3, 1)
    assert results["notes"] == [
        f"labels of {labels}, which has none for 9 images",
        "no images of 1 of the 3 classes, of which nothing is measured: green",
    ]


def test_limit_is_evenly_spaced_and_said(data, colour_model, capsys):
    _, results, _ = evaluate(capsys, "--model", colour_model, "--data", data, "--limit", 3)
    assert {each["label"]: each["images"] for each in results["per_class"]} == {"red": 1, "green": 1, "blue": 1}
    assert results["notes"][-1] == "3 of 12 images, evenly spaced"


def test_without_the_first_class_the_others_score_what_they_score_beside_it(data, colour_model, tmp_path, capsys):
    """green and red are folders 0 and 1 then, but outputs 1 and 0; one green picture is taken for blue."""

    def rows(name: str, file: str) -> list[list[str]]:
        with (tmp_path / name / file).open() as table:
            return list(csv.reader(table))

    arguments = ("--model", colour_model, "--data", data, "--output")
    _, whole, _ = evaluate(capsys, *arguments, tmp_path / "whole")
    shutil.rmtree(data / "val" / "blue")
    _, results, _ = evaluate(capsys, *arguments, tmp_path / "without")
    others = [row for row in rows("whole", "predictions.csv") if row[1] != "blue"]
    assert rows("without", "predictions.csv") == others
    assert (results["images"], results["correct"]) == (8, 7)
    recognised = [
        {each["label"]: (each["images"], each["accuracy"]) for each in figures["per_class"]}
        for figures in (whole, results)
    ]
    assert recognised[1] == recognised[0] | {"blue": (0, None)}
    assert results["classes_without_images"] == ["blue"]
    assert results["notes"][-1] == "no images of 1 of the 3 classes, of which nothing is measured: blue"
    assert rows("without", "confusion.csv") == [
        ["label \\ predicted", "red", "green", "blue"],
        ["red", "4", "0", "0"],
        ["green", "0", "3", "1"],
        ["blue", "0", "0", "0"],
    ]
    assert ["2", "blue", "", "0", "0", "", "1", "0.0", *[""] * 5] in rows("without", "per_class.csv")
    page = (tmp_path / "without" / "report.html").read_text()
    assert results["notes"][-1] in page
    assert "<td>blue</td>" not in page.partition("Least recognised classes")[2].partition("<h2>")[0]


def test_imagenet_v2s_folders_are_class_numbers(tmp_path, colour_model, capsys):
    for folder, colour in (("0", "red"), ("2", "blue")):
        paint(tmp_path / "v2" / folder / "a.png", COLOURS[colour])
    _, results, _ = evaluate(capsys, "--model", colour_model, "--data", tmp_path / "v2")
    assert (results["top1"], results["notes"][0]) == (1, "classes matched by number, not by name: 0 is red")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    config = SHViTConfig(widths=(16, 24, 32), depths=(1, 1, 1), partial_dims=(8, 8, 8), num_classes=3, image_size=64)
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    names = ("blue", "red", "green")  # not in the order of the folders
    metadata = {"classes": [{"class_id": i, "label": name, "wnid": None} for i, name in enumerate(names)]}
    save_checkpoint(SHViT(config), path, metadata=metadata)
    return path


def test_a_checkpoint_scores_as_its_exported_file(data, checkpoint, tmp_path, capsys):
    exported = tmp_path / "tiny.onnx"
    assert main(["export", "--model", str(checkpoint), "--output", str(exported)]) == 0
    capsys.readouterr()
    _, ours, _ = evaluate(capsys, "--model", checkpoint, "--data", data, "--threads", 1)
    _, theirs, _ = evaluate(capsys, "--model", exported, "--data", data)
    assert (ours["engine"], theirs["engine"]) == ("pytorch", "onnxruntime")
    assert ours["top1"] == theirs["top1"]
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3)
    _, larger, _ = evaluate(capsys, "--model", checkpoint, "--data", data, "--image-size", 96)
    assert larger["loss"] != ours["loss"]


def test_an_input_that_is_not_square_scores_alike_from_a_checkpoint_and_from_its_files(
    data, checkpoint, tmp_path, capsys
):
    wanted = ("--image-size", "48x96")
    fixed, dynamic = tmp_path / "fixed.onnx", tmp_path / "dynamic.onnx"
    assert main(["export", "--model", str(checkpoint), "--output", str(fixed), *wanted]) == 0
    assert main(["export", "--model", str(checkpoint), "--output", str(dynamic), "--dynamic-size"]) == 0
    capsys.readouterr()
    _, ours, _ = evaluate(capsys, "--model", checkpoint, "--data", data, *wanted)
    for model, more in ((fixed, ()), (dynamic, wanted), (fixed, wanted)):
        _, theirs, _ = evaluate(capsys, "--model", model, "--data", data, *more)
        assert theirs["top1"] == ours["top1"]
        assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-3)
    assert "takes images of 48x96 only" in refuse(capsys, "--model", fixed, "--data", data, "--image-size", "96x48")


def refuse(capsys, *arguments: object) -> str:
    assert main(["eval", "--workers", "0", *map(str, arguments)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("shvit eval: error: ")
    assert error.count("\n") == 1
    return error


def test_other_classes_than_the_models_are_refused(data, colour_model, capsys):
    paint(data / "val" / "yellow" / "0.png", (200, 200, 0))
    error = refuse(capsys, "--model", colour_model, "--data", data)
    assert "1 of its 4 classes are not among the 3 of" in error
    assert "the data has yellow; the model knows red, green, blue" in error


def test_what_cannot_be_measured_is_refused(data, colour_model, checkpoint, tmp_path, capsys):
    model = ("--model", colour_model)
    assert "no such file" in refuse(capsys, *model, "--data", tmp_path / "gone").lower()
    assert "expected all, or some of gaussian_noise" in refuse(capsys, *model, "--data", data, "--corruptions", "rain")
    assert "export it with --dynamic-size" in refuse(capsys, *model, "--data", data, "--image-size", 32)
    assert "gone.json: cannot be read" in refuse(capsys, *model, "--data", data, "--labels", "gone.json")
    assert "which PyTorch runs" in refuse(capsys, "--model", checkpoint, "--data", data, "--engine", "openvino")
    truncated = tmp_path / "cut.safetensors"
    truncated.write_bytes(checkpoint.read_bytes()[:-1000])
    assert f"{truncated}: not a whole safetensors file" in refuse(capsys, "--model", truncated, "--data", data)
    (tmp_path / "file").touch()
    assert "File exists" in refuse(capsys, *model, "--data", data, "--output", tmp_path / "file")
    for picture in data.rglob("*.png"):
        picture.write_bytes(b"")
    assert "none of the 12 images can be read" in refuse(capsys, *model, "--data", data)


def test_an_empty_folder_changes_nothing_and_no_images_are_refused(data, colour_model, capsys):
    _, before, _ = evaluate(capsys, "--model", colour_model, "--data", data)
    (data / "val" / "grey").mkdir()
    (data / "val" / ".cache").mkdir()
    _, after, _ = evaluate(capsys, "--model", colour_model, "--data", data)
    assert (after["per_class"], after["loss"]) == (before["per_class"], before["loss"])
    for picture in data.rglob("*.png"):
        picture.unlink()
    assert str(data) in refuse(capsys, "--model", colour_model, "--data", data)


@pytest.mark.parametrize(
    "arguments",
    [("--severity", "6"), ("--limit", "0"), ("--engine", "abacus"), ("--split", "test"), ("--format", "xml")],
)
def test_wrong_usage(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["eval", "--model", "m.onnx", "--data", "data", *arguments])
    assert arguments[0] in capsys.readouterr().err


def test_a_checkpoint_without_a_head_or_for_grey_images_is_refused(data, tmp_path, capsys):
    shape = {"widths": (16, 24, 32), "depths": (1, 1, 1), "partial_dims": (8, 8, 8), "image_size": 64}
    for change, expected in (({"num_classes": 0}, "no classification head"), ({"in_chans": 1}, "takes 1 channels")):
        path = tmp_path / "odd.safetensors"
        save_checkpoint(SHViT(SHViTConfig(**{**shape, "num_classes": 3, **change})), path)
        assert expected in refuse(capsys, "--model", path, "--data", data)


def test_a_terminal_sees_progress(data, colour_model):
    command = [
        sys.executable,
        "-m",
        "shvit",
        "eval",
        "--model",
        str(colour_model),
        "--data",
        str(data),
        "--workers",
        "0",
    ]
    parent, child = pty.openpty()
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=child, timeout=PATIENCE, env={**os.environ, "TERM": "xterm"}
    )
    os.close(child)
    assert b"evaluating" in os.read(parent, 65536)
    assert done.returncode == 0
    assert b"evaluating" not in done.stdout


def test_help_comes_without_the_lab():
    code = (
        "import sys; sys.modules['torch'] = sys.modules['scipy'] = sys.modules['matplotlib'] = None\n"
        "from shvit.cli.main import main; main(['eval', '--help'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert "--corruptions" in done.stdout


def test_the_shipped_model_on_tiny_imagenet(tiny_imagenet, capsys):
    _, results, _ = evaluate(capsys, "--model", "shvit_s1_tiny_imagenet", "--data", tiny_imagenet, "--limit", 200)
    assert results["notes"][0] == "classes matched by WordNet id"
    assert 0.3 < results["top1"] < 0.9
    assert results["ece"] < 0.2


def test_held_out_images_are_of_data_without_splits(data, colour_model, capsys):
    assert main(["eval", "--model", str(colour_model), "--data", str(data / "val"), "--held-out", "0"]) == 0
    assert "3 images" in capsys.readouterr().out
    (data / "val").rename(data / "all")
    for split in ("train", "val"):
        (data / split).symlink_to(data / "all")
    assert main(["eval", "--model", str(colour_model), "--data", str(data), "--held-out", "0"]) == 2
    assert "--held-out: " in capsys.readouterr().err


@pytest.fixture
def trained(data, checkpoint, tmp_path) -> Path:
    """Weights that were trained on a folder of classes, of which a quarter was held out."""
    (data / "val").rename(tmp_path / "photos")
    for number, file in enumerate(sorted((tmp_path / "photos").rglob("*.png"))):
        Image.new("RGB", (60, 40), (number, 0, 0)).save(file)
    train, val, _ = open_datasets(tmp_path / "photos", seed=3, val_share=0.25)
    model, stored = load_model(checkpoint)
    weights = tmp_path / "trained.safetensors"
    metadata = {**stored.metadata, "training_split": asdict(training_split(train, val))}
    save_checkpoint(model, weights, metadata=metadata)
    return weights


def test_the_held_out_part_is_measured_of_the_images_trained_on(trained, tmp_path, capsys):
    photos, exported = tmp_path / "photos", tmp_path / "trained.onnx"
    assert main(["export", "--model", str(trained), "--output", str(exported)]) == 0
    capsys.readouterr()
    for model in (trained, exported):
        code, results, errors = evaluate(capsys, "--model", model, "--data", photos)
        assert (code, results["images"], errors) == (0, 3, "")
        assert "the 3 of 12 images that were held out by this model's training (seed 3, 25 %" in results["notes"][1]
    _, results, errors = evaluate(capsys, "--model", trained, "--data", photos, "--split", "train")
    assert (results["images"], errors) == (9, "")
    _, results, errors = evaluate(capsys, "--model", trained, "--data", photos, "--held-out", "none")
    assert results["images"] == 12
    assert "warning: the model was trained on some of these images (9 of the 9 training images" in errors
    assert results["notes"][-1].startswith("warning: the model was trained on some")


def test_images_that_overlap_those_trained_on_are_warned_of(trained, checkpoint, tmp_path, capsys):
    photos = tmp_path / "photos"
    paint(photos / "red" / "new.png", (250, 0, 0))
    _, results, errors = evaluate(capsys, "--model", trained, "--data", photos)
    assert results["images"] == 13 and "the figures are too high" in errors
    _, results, errors = evaluate(capsys, "--model", trained, "--data", photos, "--held-out", 4)
    assert "the figures are too high" in errors, "another seed held out others"
    _, _, errors = evaluate(capsys, "--model", checkpoint, "--data", photos)
    assert "does not tell which images it was trained on" in errors
    photos.rename(tmp_path / "val")
    _, _, errors = evaluate(capsys, "--model", checkpoint, "--data", tmp_path / "val")
    assert errors == "", "a validation split as it is given"


def test_damaged_memory_of_the_training_is_refused(trained, tmp_path, capsys):
    model, stored = load_model(trained)
    for damage in ({"remembered": 3}, {"remembered": [], "seed": 1}, {"more": 1}, [], "x"):
        save_checkpoint(model, trained, metadata={**stored.metadata, "training_split": damage})
        assert "the training_split in its metadata cannot be read" in refuse(
            capsys, "--model", trained, "--data", tmp_path / "photos"
        )
