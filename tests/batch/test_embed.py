"""Runs of embeddings: one file at the end, whatever happened on the way."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from shvit import Embedder, EmbeddingOptions
from shvit.batch.embed import run_embed
from shvit.batch.plan import BatchSettings
from shvit.batch.run import BatchSummary, RunOptions
from shvit.embeddings.table import read_embeddings
from shvit.errors import ArgumentError, BatchError, ModelFileError
from shvit.shipped import DEFAULT_MODEL

from .conftest import DAMAGED, batch, jpeg, parts, wait_for, write_parquet, write_tar

UNIT = 4


def embed(
    output: Path | str, *sources: object, workers: int = 1, retry_failed: bool = False, **options
) -> BatchSummary:
    settings = BatchSettings(
        tuple(map(str, sources)),
        unit_size=options.pop("unit_size", UNIT),
        listed=options.pop("listed", ()),
        model=options.pop("model", DEFAULT_MODEL),
        embeddings=EmbeddingOptions(**options),
    )
    return run_embed(settings, str(output), RunOptions(workers, None, retry_failed))


def pictures(count: int) -> list[bytes]:
    return [jpeg(number) for number in range(count)]


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number, data in enumerate(pictures(11)):
        (folder / f"{number:02d}.jpg").write_bytes(data)
    return folder


def test_one_file_of_all_pictures(folder, tmp_path):
    done = embed(tmp_path / "out.parquet", folder)
    assert (done.inputs, done.failed, done.inputs_now) == (11, 0, 11)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["in", "out.parquet"]
    found = read_embeddings(tmp_path / "out.parquet")
    files = sorted(folder.iterdir())
    assert found.sources == list(map(str, files))
    assert found.sha256 == [hashlib.sha256(each.read_bytes()).hexdigest() for each in files]
    embedder = Embedder(threads=1, engine="onnxruntime")
    assert found.info == embedder.info
    np.testing.assert_allclose(found.matrix, [each.values for each in embedder.embed(files)], rtol=1e-5, atol=1e-5)


def test_the_options_of_embeddings(folder, tmp_path):
    options = {"normalize": True, "flip": True, "stages": 2, "dtype": "float16"}
    embed(tmp_path / "out.parquet", folder, **options)
    found = read_embeddings(tmp_path / "out.parquet")
    assert found.info == Embedder(options=EmbeddingOptions(**options), engine="onnxruntime").info
    np.testing.assert_allclose(np.linalg.norm(found.matrix, axis=1), 1, atol=1e-2)


def test_a_folder_of_parts_stays_one(folder, tmp_path):
    embed(tmp_path / "out", folder)
    embed(tmp_path / "out.parquet", folder)
    whole, parts = read_embeddings(tmp_path / "out.parquet"), read_embeddings(tmp_path / "out")
    assert parts.sources == whole.sources and parts.info == whole.info
    np.testing.assert_array_equal(parts.stored, whole.stored)


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_other_sources(tmp_path, kind):
    data = pictures(7)
    if kind == "tar":
        source = write_tar(tmp_path / "a.tar", [(f"{number}.jpg", each) for number, each in enumerate(data)])
    else:
        source = write_parquet(tmp_path / "a.parquet", [*data[:3], None, *data[3:]])
    done = embed(tmp_path / "out.parquet", source)
    found = read_embeddings(tmp_path / "out.parquet")
    assert found.sha256 == [hashlib.sha256(each).hexdigest() for each in data]
    assert (found.failed, done.failed) == ((0, 0) if kind == "tar" else (1, 1))


def test_frames_of_videos_have_their_time(tmp_path):
    pytest.importorskip("av", reason="needs shvit[video]")
    from ..video.clips import coloured, write_clip

    write_clip(tmp_path / "clip.mp4", coloured(("red", 5), ("blue", 5)))
    embed(tmp_path / "out.parquet", tmp_path / "clip.mp4")
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["time"].to_pylist()[0] == 0 and table["time"].to_pylist() == sorted(table["time"].to_pylist())
    assert len(read_embeddings(tmp_path / "out.parquet")) == len(table) > 1


def test_paths_on_stdin(folder, tmp_path):
    missing = tmp_path / "missing.jpg"
    listed = (str(folder / "03.jpg"), str(missing), str(folder))
    done = embed(tmp_path / "out.parquet", "-", listed=listed)
    assert (done.inputs, done.failed) == (13, 1)
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert (rows[1]["source"], rows[1]["error"], rows[1]["sha256"]) == (str(missing), "No such file or directory", None)
    with pytest.raises(BatchError, match=r"was begun with the list of SHA-256 .* not the list of SHA-256"):
        embed(tmp_path / "out.parquet", "-", listed=listed[:1])
    with pytest.raises(BatchError, match="standard input holds no paths"):
        embed(tmp_path / "other.parquet", "-")


def test_failed_inputs_are_tried_again(folder, tmp_path):
    broken = folder / "05.jpg"
    good = broken.read_bytes()
    broken.write_bytes(good[:20])
    output, aside = tmp_path / "out.parquet", tmp_path / "out.parquet.parts"
    assert embed(output, folder).failed == 1
    rows = pq.read_table(output).to_pylist()
    assert rows[5]["error"] and rows[5]["embedding"] is None
    assert aside.is_dir()
    assert embed(output, folder).inputs_now == 0
    broken.write_bytes(good)
    done = embed(output, folder, retry_failed=True)
    assert (done.inputs, done.failed, done.inputs_now) == (11, 0, UNIT)
    assert not aside.exists()
    embed(tmp_path / "fresh.parquet", folder)
    assert read_embeddings(output).sha256 == read_embeddings(tmp_path / "fresh.parquet").sha256


def test_what_is_finished_stays(folder, tmp_path):
    output = tmp_path / "out.parquet"
    embed(output, folder)
    before = output.read_bytes()
    done = embed(output, folder)
    assert (done.inputs, done.inputs_now) == (11, 0) and output.read_bytes() == before
    with pytest.raises(BatchError, match=r"out\.parquet: was begun with embeddings \(.*flip False.*flip True"):
        embed(output, folder, flip=True)
    output.write_bytes(b"somebody's own")
    with pytest.raises(BatchError, match=r"out\.parquet: is there already, and not a file of: shvit embed"):
        embed(output, folder)
    assert output.read_bytes() == b"somebody's own"


def test_a_folder_that_has_the_name_of_its_parts_loses_nothing(folder, tmp_path):
    own = tmp_path / "out.parquet.parts/mine/cat.jpg"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"a picture")
    assert embed(tmp_path / "out.parquet", folder).inputs_now == 11
    assert [each for each in own.parents[1].rglob("*") if each.is_file()] == [own]
    assert embed(tmp_path / "out.parquet", folder).inputs_now == 0
    with pytest.raises(BatchError, match="was begun with embeddings"):
        embed(tmp_path / "out.parquet", folder, flip=True)


def test_parts_in_a_folder_that_is_a_link(folder, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out.parquet.parts").symlink_to("disk")
    assert embed(tmp_path / "out.parquet", folder).inputs_now == 11
    assert not list((tmp_path / "disk").iterdir())


def test_a_link_to_itself_is_an_input_that_fails(folder, tmp_path):
    (folder / "loop.jpg").symlink_to("loop.jpg")
    done = embed(tmp_path / "out.parquet", folder)
    assert (done.inputs, done.failed) == (12, 1)


def test_what_a_file_says_of_its_run_may_be_anything(folder, tmp_path):
    output = tmp_path / "out.parquet"
    embed(output, folder)
    table = pq.read_table(output)
    noted = {**pq.read_metadata(output).metadata, b"shvit.run": b"[" * 100_000}
    pq.write_table(table.replace_schema_metadata(noted), output)
    with pytest.raises(BatchError, match="is there already, and not a file of: shvit embed"):
        embed(output, folder)


def test_begun_with_other_options(folder, tmp_path, monkeypatch):
    output = tmp_path / "out.parquet"
    with monkeypatch.context() as patch:
        patch.setattr("shvit.batch.embed._join", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            embed(output, folder)
    with pytest.raises(BatchError, match="was begun with embeddings"):
        embed(output, folder, normalize=True)
    assert embed(output, folder).inputs_now == 0 and len(read_embeddings(output)) == 11
    with pytest.raises(BatchError, match=r"was begun with labels, not embeddings"):
        batch(DEFAULT_MODEL, tmp_path / "labels", folder, unit_size=UNIT)
        embed(tmp_path / "labels", folder)


def test_what_cannot_be_embedded(colour_model, folder, tmp_path):
    with pytest.raises(ModelFileError, match="no head that embeddings could be taken before"):
        embed(tmp_path / "out.parquet", folder, model=str(colour_model))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("none")
    with pytest.raises(BatchError, match="empty: there are no images, tar shards, Parquet files or videos"):
        embed(tmp_path / "out.parquet", tmp_path / "empty")
    assert not (tmp_path / "out.parquet").exists()
    with pytest.raises(ArgumentError, match="expected some with embeddings"):
        run_embed(BatchSettings((str(folder),)), str(tmp_path / "out.parquet"))


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_killed_in_the_middle_it_goes_on_to_the_same_file(slow_pictures, tmp_path, workers):
    (tmp_path / "bad.jpg").write_bytes(DAMAGED)
    output, aside = tmp_path / "out.parquet", tmp_path / "out.parquet.parts"
    sources = (slow_pictures, tmp_path / "bad.jpg")
    command = [sys.executable, "-m", "shvit", "embed", *sources, "--output", output, "--unit-size", UNIT]
    command = list(map(str, (*command, "--workers", workers)))
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for(lambda: parts(aside) >= 2, process)
    process.kill()
    process.communicate()
    assert not output.exists()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "inputs are done already" in done.stderr, done.stderr
    shutil.rmtree(aside)
    interrupted = output.read_bytes()
    output.unlink()
    undisturbed = subprocess.run(command, capture_output=True, text=True)
    assert undisturbed.returncode == 1, undisturbed.stderr
    assert output.read_bytes() == interrupted
    assert len(read_embeddings(output)) == 160


def test_on_a_cluster_it_is_the_same_file(folder, tmp_path):
    pytest.importorskip("ray", reason="needs shvit[ray]")
    settings = BatchSettings((str(folder),), unit_size=UNIT, embeddings=EmbeddingOptions())
    run_embed(settings, str(tmp_path / "out.parquet"), RunOptions(1, "local"))
    run_embed(settings, str(tmp_path / "plain.parquet"))
    assert (tmp_path / "out.parquet").read_bytes() == (tmp_path / "plain.parquet").read_bytes()


def test_to_an_object_store(folder, tmp_path):
    fsspec = pytest.importorskip("fsspec", reason="needs shvit[ray]")
    embed("memory://bucket/out.parquet", folder)
    store = fsspec.filesystem("memory")
    assert [each.rpartition("/")[2] for each in store.ls("/bucket", detail=False)] == ["out.parquet"]
    (tmp_path / "out.parquet").write_bytes(store.cat_file("/bucket/out.parquet"))
    assert len(read_embeddings(tmp_path / "out.parquet")) == 11
    assert embed("memory://bucket/out.parquet", folder).inputs_now == 0
    with pytest.raises(BatchError, match="was begun with embeddings"):
        embed("memory://bucket/out.parquet", folder, flip=True)
    store.rm("/bucket", recursive=True)
