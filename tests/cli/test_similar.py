"""`shvit similar`, on pictures of three colours."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from threadpoolctl import threadpool_limits

from shvit import Embedder
from shvit.cli.main import main
from shvit.embeddings.table import EmbeddingsWriter, Rows, read_embeddings
from shvit.shipped import DEFAULT_MODEL, SHIPPED_MODELS

HOSTILE = "<script>alert(1)'\"\x1b[31m.jpg"


@pytest.fixture(autouse=True)
def one_thread():
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Two classes of noise of one colour each; one picture lies in the wrong one, one is there twice."""
    root = tmp_path_factory.mktemp("similar") / "photos"
    rng = np.random.default_rng(0)
    for place, (name, colour) in enumerate([("red", (200, 30, 30)), ("blue", (20, 40, 210))] * 8):
        (root / name).mkdir(parents=True, exist_ok=True)
        folder = "blue" if place == 0 else name
        (root / folder).mkdir(exist_ok=True)
        pixels = np.clip(np.array(colour) + rng.normal(0, 40, (64, 64, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).resize((160, 160)).save(root / folder / f"{place:02}.png")
    (root / "red/copy.png").write_bytes((root / "red/02.png").read_bytes())
    return root


@pytest.fixture(scope="module")
def embeddings(pictures) -> Path:
    return write(pictures.parent / "e.parquet", sorted(pictures.rglob("*.png")))


def write(path: Path, files: list[Path]) -> Path:
    embedder = Embedder(threads=1)
    found = embedder.embed(list(files))
    with EmbeddingsWriter(path, embedder.info, labelled=True) as file:
        file.write(
            Rows(
                [str(each) for each in files],
                [each.sha256 for each in found],
                np.stack([each.values for each in found]),
                labels=[each.parent.name for each in files],
            )
        )
    return path


def run(*arguments: object) -> int:
    return main(["similar", *map(str, arguments), "--threads", "1"])


def test_similar_pictures_in_all_forms(pictures, embeddings, tmp_path, capsys):
    query = tmp_path / HOSTILE
    query.write_bytes((pictures / "red/02.png").read_bytes())
    outputs = [tmp_path / f"sheet{suffix}" for suffix in (".html", ".csv", ".json", ".jsonl")]
    assert run(query, "--in", embeddings, "--top-k", 3, *(each for path in outputs for each in ("--output", path))) == 0
    page, table, whole, lines = (path.read_text() for path in outputs)
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert page.count("data:image/jpeg;base64,") == 4
    rows = list(csv.DictReader(table.splitlines()))
    assert [Path(row["source"]).name for row in rows[:2]] == ["02.png", "copy.png"]
    assert [row["label"] for row in rows] == ["red"] * 3
    assert json.loads(whole) == [json.loads(lines)]
    assert json.loads(lines)["found"][0]["similarity"] == 1
    assert "\x1b" not in capsys.readouterr().out


def test_pictures_moved_or_changed_since_are_told_of(pictures, tmp_path, capsys):
    copies = []
    for name in ("red/02.png", "red/04.png", "red/06.png"):
        copies.append(tmp_path / Path(name).name)
        copies[-1].write_bytes((pictures / name).read_bytes())
    path = write(tmp_path / "e.parquet", copies)
    copies[1].unlink()
    copies[2].write_bytes(copies[0].read_bytes())
    page = tmp_path / "sheet.html"
    assert run(pictures / "red/02.png", "--in", path, "--output", page) == 0
    assert "No such file" in page.read_text()
    assert "is another picture by now" in page.read_text()
    assert "2 pictures were moved, changed or cannot be read" in capsys.readouterr().err


def test_duplicates_of_a_folder(pictures, tmp_path, capsys):
    (broken := tmp_path / "photos").mkdir()
    for name in ("red/02.png", "red/copy.png", "blue/01.png"):
        (broken / Path(name).name).write_bytes((pictures / name).read_bytes())
    (broken / "broken.jpg").write_bytes(b"no")
    assert run("--duplicates", broken, "--threshold", 1, "--output", tmp_path / "d.csv") == 1
    captured = capsys.readouterr()
    assert "1 groups, 1 pictures more than needed, of 3" in captured.out
    assert captured.err.count("error:") == 1
    rows = list(csv.DictReader((tmp_path / "d.csv").read_text().splitlines()))
    assert [(Path(row["source"]).name, row["action"], row["same_bytes"]) for row in rows] == [
        ("02.png", "keep", "1"),
        ("copy.png", "keep", "1"),
    ]


def test_outputs_are_written_though_nobody_reads_what_is_printed(pictures, tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "shvit", "similar", "--duplicates", pictures, "--output", tmp_path / "found.csv"]
    subprocess.run(command, stdout=writer, timeout=300, check=False)
    os.close(writer)
    assert (tmp_path / "found.csv").read_text().count("02.png") == 1


def test_leaks_between_a_folder_and_embeddings(pictures, embeddings, tmp_path, capsys):
    val = tmp_path / "val"
    val.mkdir()
    (val / "x.png").write_bytes((pictures / "blue/05.png").read_bytes())
    assert run("--leaks", embeddings, val, "--threshold", 1, "--output", tmp_path / "l.html") == 0
    assert "1 of the 1 pictures" in capsys.readouterr().out
    assert (tmp_path / "l.html").read_text().count("data:image/jpeg") == 2


@pytest.mark.parametrize("by_file", [True, False])
def test_mislabelled_and_moved_by_the_table(pictures, embeddings, tmp_path, capsys, by_file):
    table = tmp_path / "labels.csv"
    where = ("--in", embeddings) if by_file else (pictures,)
    assert run("--mislabelled", *where, "--output", table, "--output", tmp_path / "labels.html") == 0
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert (Path(rows[0]["source"]).name, rows[0]["from"], rows[0]["to"]) == ("00.png", "blue", "red")
    assert "looks like red" in (tmp_path / "labels.html").read_text()
    table.write_text(table.read_text().replace("keep", "move"))
    assert main(["data", "apply", str(table), str(pictures)]) == 0
    assert "blue/00.png -> red/00.png" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "expected pictures to look for and --in"),
        (("x.jpg",), "expected pictures to look for and --in"),
        (("--duplicates",), "--duplicates: expected one path"),
        (("--duplicates", "a", "b"), "got 2"),
        (("--leaks", "a"), "--leaks: expected two paths"),
        (("--leaks", "a", "b", "--in", "c"), "--leaks: expected two paths"),
        (("--duplicates", "a", "--threshold", "2"), "threshold: expected"),
        (("x.jpg", "--in", "e", "--threshold", "0.9"), "--threshold: is for"),
        (("x.jpg", "--in", "e", "--output", "x.txt"), "expected a name that ends in"),
        (("x.jpg", "--in", "missing.parquet"), "no such file"),
        (("--mislabelled", "missing"), "missing"),
    ],
)
def test_wrong_usage_is_one_line(arguments, reason, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert reason in error
    assert len(error.splitlines()) == 1


def test_another_models_embeddings_are_refused(pictures, tmp_path, capsys):
    embedder = Embedder(threads=1)
    changed = type(embedder.info)(**{**embedder.info.__dict__, "backbone": "0" * 64})
    with EmbeddingsWriter(tmp_path / "e.parquet", changed) as file:
        file.write(Rows(["a.jpg"], ["0" * 64], np.ones((1, changed.values), np.float32)))
    assert run(pictures / "red/02.png", "--in", tmp_path / "e.parquet") == 2
    assert "different networks" in capsys.readouterr().err
    assert run(pictures / "red/02.png", "--in", tmp_path / "e.parquet", "--model", SHIPPED_MODELS[DEFAULT_MODEL]) == 2
    assert "different networks" in capsys.readouterr().err


def test_a_model_that_has_no_name_here_is_to_be_given(pictures, tmp_path, capsys):
    info = Embedder(threads=1).info
    changed = type(info)(**{**info.__dict__, "model": "my own model"})
    with EmbeddingsWriter(tmp_path / "e.parquet", changed) as file:
        file.write(Rows(["a.jpg"], ["0" * 64], np.ones((1, changed.values), np.float32)))
    assert run(pictures / "red/02.png", "--in", tmp_path / "e.parquet") == 2
    assert "give its file with --model" in capsys.readouterr().err
    assert run(pictures / "red/02.png", "--in", tmp_path / "e.parquet", "--model", SHIPPED_MODELS[DEFAULT_MODEL]) == 0


@pytest.mark.parametrize("named", ["hf://somebody/theirs", "{folder}/their.onnx"])
def test_a_model_that_the_embeddings_name_is_not_fetched_nor_opened(
    pictures, embeddings, tmp_path, capsys, monkeypatch, named
):
    (tmp_path / "their.onnx").write_bytes(SHIPPED_MODELS[DEFAULT_MODEL].read_bytes())
    named = named.format(folder=tmp_path)
    monkeypatch.setattr("shvit.similarity.pictures.Embedder", lambda *_, **__: pytest.fail("it was loaded"))
    found = read_embeddings(embeddings)
    path = tmp_path / "e.parquet"
    with EmbeddingsWriter(path, replace(found.info, model=named)) as file:
        file.write(Rows(found.sources, found.sha256, found.stored))
    assert run(pictures / "red/02.png", "--in", path) == 2
    assert "give its file with --model" in capsys.readouterr().err


def test_damaged_embeddings_are_not_called_pictures(embeddings, tmp_path, capsys):
    path = tmp_path / "e.parquet"
    path.write_bytes(embeddings.read_bytes()[:-100])
    assert run("--duplicates", path) == 2
    assert "e.parquet: cannot be read as embeddings" in capsys.readouterr().err


def test_pictures_of_a_line_are_on_the_page(tmp_path):
    folder = tmp_path / "lines"
    folder.mkdir()
    for size in ((1, 4000), (4000, 1)):
        Image.new("RGB", size).save(folder / f"{size[0]}.png")
    assert run("--duplicates", folder, "--threshold", "0.5", "--output", tmp_path / "sheet.html") == 0
    assert (tmp_path / "sheet.html").read_text().count("data:image/jpeg;base64,") == 2


def test_unreadable_photos(embeddings, tmp_path, capsys):
    (tmp_path / "broken.jpg").write_bytes(b"no")
    assert run(tmp_path / "broken.jpg", "--in", embeddings) == 2
    assert "broken.jpg: not an image" in capsys.readouterr().err
