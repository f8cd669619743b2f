"""Whole runs in one process and in several."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from shvit import Classifier
from shvit.batch.inputs import read_items
from shvit.batch.listing import Item, list_items
from shvit.batch.plan import PLAN
from shvit.engines.onnxruntime import ONNXRuntimeEngine
from shvit.errors import BatchError, ModelFileError
from shvit.install import install_command
from shvit.shipped import SHIPPED_MODELS
from shvit.tasks import TASKS

from ..conftest import AS_ANYBODY, PATIENCE, children
from .conftest import (
    DAMAGED,
    batch,
    command,
    jpeg,
    parts,
    rows_of,
    wait_for,
    write_folder,
    write_parquet,
    write_tar,
)


def test_rows_are_what_the_classifier_says(colour_model, tmp_path):
    folder = write_folder(tmp_path / "in", 21)
    done = batch(colour_model, tmp_path / "out", folder, top_k=2)
    assert (done.inputs, done.failed, done.inputs_now, parts(tmp_path / "out")) == (21, 0, 21, 3)
    classifier = Classifier(colour_model, threads=1)
    expected = classifier.predict(sorted(folder.rglob("*.jpg")), top_k=2)
    for row, result in zip(rows_of(tmp_path / "out"), expected, strict=True):
        assert row["source"] == result.source
        assert row["labels"] == [each.label for each in result.predictions]
        assert row["class_ids"] == [each.class_id for each in result.predictions]
        assert row["scores"] == pytest.approx([each.score for each in result.predictions], rel=1e-6)
        assert (row["error"], row["model"]) == (None, "colours")


def test_rows_have_decisions(colour_model, deciding_model, tmp_path):
    folder = write_folder(tmp_path / "in", 5)
    Image.new("RGB", (48, 32), (120, 120, 120)).save(folder / "grey.png")
    (folder / "damaged.jpg").write_bytes(DAMAGED)
    batch(deciding_model, tmp_path / "out", folder)
    rows = {Path(row["source"]).name: row for row in rows_of(tmp_path / "out")}
    grey, damaged, red = rows["grey.png"], rows["damaged.jpg"], rows["0000.jpg"]
    assert (grey["decision"], grey["known"], grey["accepted"]) == ("unknown", False, [False, None, None])
    assert grey["unknown_score"] == pytest.approx(0)
    assert (red["decision"], red["known"], red["accepted"]) == ("answer", True, [True, None, None])
    assert {damaged[each] for each in ("decision", "known", "accepted", "unknown_score")} == {None}
    batch(deciding_model, tmp_path / "plain", folder, unknown=False, min_score=0.3)
    for row in rows_of(tmp_path / "plain"):
        assert row["decision"] == (None if row["error"] else "answer")
        assert (row["known"], row["unknown_score"]) == (None, None)
    batch(colour_model, tmp_path / "undecided", folder)
    for row in rows_of(tmp_path / "undecided"):
        assert {row[each] for each in ("decision", "known", "accepted", "unknown_score")} == {None}


def test_several_processes_write_the_same_rows(colour_model, tmp_path):
    folder = write_folder(tmp_path / "in", 40)
    (folder / "damaged.jpg").write_bytes(DAMAGED)
    one = batch(colour_model, tmp_path / "one", folder)
    two = batch(colour_model, tmp_path / "two", folder, workers=2)
    assert (one.inputs, one.failed) == (two.inputs, two.failed) == (41, 1)
    assert rows_of(tmp_path / "one") == rows_of(tmp_path / "two")


def test_a_bad_file_is_one_failed_row(colour_model, tmp_path):
    folder = write_folder(tmp_path / "in", 9)
    (folder / "000/0003.jpg").write_bytes(DAMAGED)
    (folder / "000/0004.jpg").write_bytes(b"")
    (folder / "000/0005.jpg").unlink()
    (folder / "000/0005.jpg").symlink_to("nothing")
    done = batch(colour_model, tmp_path / "out", folder)
    rows = {Path(row["source"]).stem: row for row in rows_of(tmp_path / "out")}
    assert (len(rows), done.inputs, done.failed) == (9, 9, 3)
    assert rows["0004"]["error"] == "the file is empty"
    assert rows["0005"]["error"] == "No such file or directory"
    assert rows["0003"]["error"]
    assert rows["0003"]["labels"] is None
    assert rows["0006"]["labels"][0] == "red"


def test_shards_and_what_is_wrong_with_them(colour_model, tmp_path):
    good = [(f"{n:03d}.jpg", jpeg(n)) for n in range(6)]
    labelled = [each for name, data in good for each in ((name, data), (name.replace("jpg", "cls"), b"1"))]
    write_tar(tmp_path / "a.tar", labelled)
    write_tar(tmp_path / "b.tar", [*good[:2], ("bad.jpg", DAMAGED), *good[2:]])
    whole = write_tar(tmp_path / "c.tar", good).read_bytes()
    (tmp_path / "c.tar").write_bytes(whole[: 3 * 512 + 2 * len(good[0][1])])
    header_of_fourth = whole.index(b"003.jpg")
    (tmp_path / "d.tar").write_bytes(whole[:header_of_fourth] + b"\xff" * 512 + whole[header_of_fourth + 512 :])
    (tmp_path / "e.tar").write_bytes(whole[:header_of_fourth])
    (tmp_path / "f.tar").write_bytes(b"not a tar file" * 100)
    (tmp_path / "g.tar").write_bytes(b"")
    done = batch(colour_model, tmp_path / "out", tmp_path / "*.tar")
    rows = rows_of(tmp_path / "out")
    found = {name: [row for row in rows if f"/{name}.tar" in row["source"]] for name in "abcdefg"}
    assert [row["source"].rpartition(":")[2] for row in found["a"]] == [name for name, _ in good]
    assert [row["labels"][0] for row in found["a"]] == ["red", "green", "blue"] * 2
    assert [bool(row["error"]) for row in found["b"]] == [False, False, True, False, False, False, False]
    for name, read, why in (
        ("c", 2, "cannot be read from here on"),
        ("d", 3, "header is damaged"),
        ("e", 3, "without its end mark"),
        ("f", 0, "cannot be read from here on"),
        ("g", 0, "cannot be read from here on"),
    ):
        *before, last = found[name]
        assert (name, len(before)) == (name, read)
        assert not any(row["error"] for row in before)
        assert why in last["error"]
    assert (done.inputs, done.failed) == (len(rows), 6)


@pytest.mark.parametrize(
    ("name", "mode", "kind"), [("a.tar", "w", "gnu"), ("a.tar.gz", "w:gz", "pax"), ("a.tgz", "w:gz", "ustar")]
)
def test_shards_of_every_kind(tmp_path, name, mode, kind):
    formats = {"gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT, "ustar": tarfile.USTAR_FORMAT}
    members = [f"{'folder/' * 12}{'é' if kind == 'pax' else 'e'}{n}.jpg" for n in range(3)]
    members += [f"{'long' * 40}.jpg"] * (kind != "ustar")
    with tarfile.open(tmp_path / name, mode, format=formats[kind]) as tar:
        for member in members:
            info = tarfile.TarInfo(member)
            info.size = 3
            tar.addfile(info, io.BytesIO(b"abc"))
    found = list(read_items([Item(str(tmp_path / name), None)], "tar", None))
    assert [(each.source, each.data, each.error) for each in found] == [
        (f"{tmp_path / name}:{member}", b"abc", None) for member in members
    ]


def test_parquet_and_what_is_wrong_with_it(colour_model, tmp_path):
    images = [jpeg(n) for n in range(10)]
    write_parquet(tmp_path / "a.parquet", [*images[:3], None, DAMAGED, b"", *images[6:]])
    raw = write_parquet(tmp_path / "b.parquet", images).read_bytes()
    middle = raw.index(images[5][-200:])  # in the second row group of three
    (tmp_path / "b.parquet").write_bytes(raw[: middle - 600] + b"\xff" * 1200 + raw[middle + 600 :])
    (tmp_path / "c.parquet").write_bytes(raw[:-100])
    done = batch(colour_model, tmp_path / "out", tmp_path / "*.parquet", column="image")
    rows = rows_of(tmp_path / "out")
    found = {name: [row for row in rows if f"/{name}.parquet" in row["source"]] for name in "abc"}
    assert [row["source"].rpartition("/")[2] for row in found["a"]] == [f"a.parquet:{n}" for n in range(10)]
    assert [n for n, row in enumerate(found["a"]) if row["error"]] == [3, 4, 5]
    assert found["a"][3]["error"] == "the row holds no image"
    assert [row["source"].rpartition("/")[2] for row in found["b"]] == [f"b.parquet:{n}" for n in range(10)]
    assert {n for n, row in enumerate(found["b"]) if not row["error"]} >= {0, 1, 2, 3, 8, 9}
    assert any(row["error"] for row in found["b"][4:8])
    assert [row["source"].rpartition("/")[2] for row in found["c"]] == ["c.parquet"]
    assert (done.inputs, done.failed) == (21, sum(bool(row["error"]) for row in rows))


def test_a_file_that_vanishes_after_it_was_listed_still_has_its_rows(tmp_path):
    file = write_parquet(tmp_path / "a.parquet", [jpeg(n) for n in range(6)])
    items = list(list_items([str(file)], None, None)[1])
    write_parquet(file, [jpeg(n) for n in range(5)])
    shorter = list(read_items(items, "parquet", None))
    assert [each.source for each in shorter] == [f"{file}:{n}" for n in range(6)]
    assert [bool(each.error) for each in shorter] == [False] * 5 + [True]
    file.unlink()
    gone = list(read_items(items, "parquet", None))
    assert [(each.source, each.error) for each in gone] == [
        (f"{file}:{n}", "No such file or directory") for n in range(6)
    ]


def test_a_run_goes_on_where_it_was_ended(colour_model, tmp_path):
    folder = write_folder(tmp_path / "in", 30)
    batch(colour_model, tmp_path / "out", folder)
    expected = rows_of(tmp_path / "out")
    kept = (tmp_path / "out/part-00000000.parquet").stat().st_mtime_ns
    (tmp_path / "out/part-00000001.parquet").unlink()
    damaged = tmp_path / "out/part-00000002.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-20])
    (tmp_path / "out/.part-00000003.parquet.1.partial").write_bytes(b"left by a killed worker")
    done = batch(colour_model, tmp_path / "out", folder)
    assert (done.inputs, done.inputs_now) == (30, 16)
    assert rows_of(tmp_path / "out") == expected
    assert (tmp_path / "out/part-00000000.parquet").stat().st_mtime_ns == kept
    assert not list((tmp_path / "out").glob(".*"))
    again = batch(colour_model, tmp_path / "out", folder)
    assert (again.inputs, again.inputs_now) == (30, 0)


def test_other_settings_are_refused(colour_model, tmp_path):
    folder = write_folder(tmp_path / "in", 9)
    batch(colour_model, tmp_path / "out", folder)
    for options, message in (
        ({"top_k": 2}, "was begun with top k 5, not top k 2; go on with what it was begun with"),
        ({"unit_size": 4}, "was begun with unit size 8, not unit size 4"),
        ({"column": "image"}, "was begun with column unset, not column image"),
    ):
        with pytest.raises(BatchError, match=message):
            batch(colour_model, tmp_path / "out", folder, **options)
    with pytest.raises(BatchError, match="not the sources"):
        batch(colour_model, tmp_path / "out", folder / "000")
    with pytest.raises(BatchError, match="was begun with the model file of SHA-256"):
        batch("shvit_s1_tiny_imagenet", tmp_path / "out", folder)
    (tmp_path / "out" / PLAN).unlink()
    with pytest.raises(BatchError, match="holds parts, but not the plan"):
        batch(colour_model, tmp_path / "out", folder)


def test_a_damaged_plan_is_named(colour_model, tmp_path):
    folder = write_folder(tmp_path / "in", 2)
    (tmp_path / "out/_shvit").mkdir(parents=True)
    for text, message in (("{", "cannot be read"), (json.dumps({"schema": 99}), "is of schema 99")):
        (tmp_path / "out" / PLAN).write_text(text)
        with pytest.raises(BatchError, match=message):
            batch(colour_model, tmp_path / "out", folder)


def test_failed_inputs_are_tried_again_if_asked(colour_model, tmp_path):
    folder = write_folder(tmp_path / "in", 20)
    (folder / "000/0003.jpg").write_bytes(b"")
    assert batch(colour_model, tmp_path / "out", folder).failed == 1
    (folder / "000/0003.jpg").write_bytes(jpeg(3))
    assert batch(colour_model, tmp_path / "out", folder).failed == 1
    done = batch(colour_model, tmp_path / "out", folder, retry_failed=True)
    assert (done.failed, done.inputs, done.inputs_now) == (0, 20, 8)


def test_the_command_tells_and_exits_as_the_others_do(colour_model, tmp_path):
    folder = write_folder(tmp_path / "in", 20)
    done = subprocess.run(
        command(colour_model, tmp_path / "out", folder), capture_output=True, text=True, timeout=PATIENCE
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{tmp_path / 'out'}: 20 inputs, 0 failed, 20 of them now at ")
    (folder / "bad.jpg").write_bytes(DAMAGED)
    (folder / "notes.txt").write_bytes(b"x")
    (folder / "scan.psd").write_bytes(b"x")
    done = subprocess.run(
        command(colour_model, tmp_path / "b", folder), capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 1
    assert done.stdout.startswith(f"{tmp_path / 'b'}: 21 inputs, 1 failed (the column error says why), 21 of them now ")
    assert re.fullmatch(r"note: not read: 1 \.\w+, 1 \.\w+ \(what is named by itself, .*\)\n", done.stderr)
    done = subprocess.run(
        command(colour_model, tmp_path / "b", "nothing"), capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 2
    assert done.stderr.startswith("shvit batch: error: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_killed_worker_is_replaced_and_nothing_is_lost(colour_model, slow_pictures, slow_rows, tmp_path):
    process = subprocess.Popen(
        command(colour_model, tmp_path / "out", slow_pictures, "--workers", 2),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: parts(tmp_path / "out") >= 2, process)
    victim = next(pid for pid, line in children(process.pid) if "spawn_main" in line)
    os.kill(victim, signal.SIGKILL)
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (0, "1 workers died and were replaced\n"), out
    assert rows_of(tmp_path / "out") == slow_rows


def test_a_killed_run_leaves_no_process_and_goes_on(colour_model, slow_pictures, slow_rows, tmp_path):
    arguments = command(colour_model, tmp_path / "out", slow_pictures, "--workers", 2)
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: parts(tmp_path / "out") >= 2, process)
    workers = [pid for pid, line in children(process.pid) if "spawn_main" in line]
    process.kill()
    process.communicate(timeout=PATIENCE)
    assert 2 <= parts(tmp_path / "out") < 20
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert "inputs are done already" in done.stderr
    assert rows_of(tmp_path / "out") == slow_rows
    assert len(workers) == 2
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


CRASHES = """
import os, signal
from PIL import BmpImagePlugin, Image
def accept(prefix):
    return prefix.startswith(b"CRASH")
def read(file, name):
    os.kill(os.getpid(), signal.SIGSEGV)
Image.register_open("BMP", read, accept)
"""


def test_an_input_that_kills_its_worker_is_one_failed_row(colour_model, tmp_path):
    """A decoder that crashes, as one in C may: a reader of Pillow's that every process replaces."""
    folder = write_folder(tmp_path / "in", 20)
    (folder / "000/0003.jpg").write_bytes(b"CRASH")
    (tmp_path / "sitecustomize.py").write_text(CRASHES)
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command(colour_model, tmp_path / "out", folder, "--workers", 2),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert (done.returncode, done.stderr) == (1, "4 workers died and were replaced\n")
    rows = rows_of(tmp_path / "out")
    assert len(rows) == 20
    assert [row["error"] for row in rows if row["error"]] == ["2 workers died while they decoded it"]
    assert not list((tmp_path / "out/_shvit").glob("deaths*"))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_ends_the_run_with_a_reason_and_no_part_of_a_file(colour_model, tmp_path, small_disk, workers):
    folder = write_folder(tmp_path / "in", 200)
    with pytest.raises((BatchError, OSError), match="No space left on device"):
        batch(colour_model, small_disk / "out", folder, workers=workers)
    assert not list((small_disk / "out").glob(".*"))
    rows = rows_of(small_disk / "out")
    assert 0 < len(rows) < 200
    assert len(rows) % 8 == 0


def test_an_output_that_may_not_be_written_is_exit_2(colour_model, tmp_path):
    folder = write_folder(tmp_path / "in", 3)
    (tmp_path / "closed").mkdir(mode=0o555)
    arguments = command(colour_model, tmp_path / "closed/out", folder)
    done = subprocess.run([*AS_ANYBODY, *arguments], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 2
    assert "Permission denied" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    (tmp_path / "file").write_bytes(b"")
    done = subprocess.run(
        command(colour_model, tmp_path / "file", folder), capture_output=True, text=True, timeout=PATIENCE
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr


def test_it_needs_neither_ray_nor_fsspec_nor_pytorch_for_folders(colour_model, tmp_path):
    folder = write_folder(tmp_path / "in", 3)
    block = "import sys\nfor name in ('ray', 'fsspec', 'torch', 's3fs'): sys.modules[name] = None\n"
    code = f"{block}from shvit.cli.main import main; sys.exit(main(sys.argv[1:]))"
    arguments = command(colour_model, tmp_path / "out", folder)[3:]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")
    for more, wanted in ((("--ray-address", "local"), "ray"), (("s3://bucket/a",), "s3://bucket/a")):
        arguments = command(
            colour_model, tmp_path / f"out {wanted[:2]}", *(more if more[0][0] == "s" else (folder, *more))
        )[3:]
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=PATIENCE
        )
        assert done.returncode == 2
        assert wanted in done.stderr.lower()
        assert install_command("ray") in done.stderr


def test_memory_urls_are_a_store_too(colour_model, tmp_path):
    import fsspec

    store = fsspec.filesystem("memory")
    for number in range(20):
        store.pipe_file(f"/in/{number:02d}.jpg", jpeg(number))
    done = batch(colour_model, "memory://out", "memory://in")
    assert (done.inputs, done.failed) == (20, 0)
    with store.open("/out/part-00000000.parquet") as part:
        assert pq.read_table(part)["source"][0].as_py() == "memory:///in/00.jpg"
    store.rm("/out", recursive=True)
    with pytest.raises(BatchError, match="expected a folder or an object store"):
        batch(colour_model, "ftp://host/out", "memory://in")


def test_workers_that_die_at_once_end_the_run(colour_model, tmp_path):
    folder = write_folder(tmp_path / "in", 20)
    deadly = "import os\nif b'spawn_main' in open('/proc/self/cmdline', 'rb').read(): os._exit(7)\n"
    (tmp_path / "sitecustomize.py").write_text(deadly)
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command(colour_model, tmp_path / "out", folder, "--workers", 2),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert done.returncode == 2
    assert done.stderr == (
        "shvit batch: error: 6 workers died before they were ready, the last one with exit status 7\n"
    )


def test_embeddings_are_what_the_head_judges_by(colour_model, tmp_path):
    folder = write_folder(tmp_path / "in", 9)
    (folder / "bad.jpg").write_bytes(DAMAGED)
    batch("shvit_s1_tiny_imagenet", tmp_path / "out", folder, embedding=True)
    batch("shvit_s1_tiny_imagenet", tmp_path / "plain", folder, engine="onnxruntime")
    rows, plain = rows_of(tmp_path / "out"), rows_of(tmp_path / "plain")
    assert [row["scores"] for row in rows] == [row["scores"] for row in plain]
    assert [row["embedding"] is None for row in rows] == [bool(row["error"]) for row in rows]
    engine = ONNXRuntimeEngine(SHIPPED_MODELS["shvit_s1_tiny_imagenet"], 1, ("head.weight", "head.bias"))
    weights = engine.run(np.zeros((1, 128, 128, 3), np.uint8))
    for row in (row for row in rows if row["error"] is None):
        logits = weights["head.weight"] @ np.array(row["embedding"]) + weights["head.bias"]
        best = np.argsort(-logits)[:5]
        assert list(best) == row["class_ids"]
        assert TASKS["classification"].scores(logits)[best] == pytest.approx(row["scores"], abs=1e-5)
    with pytest.raises(ModelFileError, match="no head that embeddings could be taken before"):
        batch(colour_model, tmp_path / "other", folder, embedding=True)


def test_videos_are_a_row_a_frame(colour_model, tmp_path):
    av = pytest.importorskip("av", reason="needs shvit[video]")
    for name, colour in (("a", 0), ("b", 2)):
        with av.open(str(tmp_path / f"{name}.mp4"), "w") as container:
            stream = container.add_stream("mpeg4", rate=10)
            stream.width, stream.height, stream.gop_size = 96, 64, 5
            pixels = np.full((64, 96, 3), 20, np.uint8)
            pixels[..., colour] = 220
            for _ in range(25):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
            container.mux(stream.encode())
    whole = (tmp_path / "b.mp4").read_bytes()
    (tmp_path / "c.mp4").write_bytes(whole[: len(whole) // 3])
    done = batch(colour_model, tmp_path / "out", tmp_path, fps=5)
    rows = rows_of(tmp_path / "out")
    found = {name: [row for row in rows if f"/{name}.mp4" in row["source"]] for name in "abc"}
    assert [row["time"] for row in found["a"]] == pytest.approx([0.2 * n for n in range(13)])
    assert [{row["labels"][0] for row in found[name]} for name in "ab"] == [{"red"}, {"blue"}]
    assert found["c"][-1]["error"]
    assert (done.inputs, done.failed, parts(tmp_path / "out")) == (len(rows), 1, 3)
    keys = batch(colour_model, tmp_path / "keys", tmp_path / "a.mp4", keyframes=True)
    assert (keys.inputs, keys.failed) == (5, 0)
