"""The command as a user runs it, on files: a real process."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("av", reason="needs shvit[video]")

from shvit import Classifier
from shvit.card import Preprocessing
from shvit.images.fast import preprocess_fast
from shvit.images.preprocess import decode, preprocess
from shvit.install import install_command
from shvit.tasks import Answering
from shvit.video import complete
from shvit.video.classify import Classified, frame_preparation
from shvit.video.events import EventSettings, EventTracker
from shvit.video.frames import Frame, Video

from ..conftest import PATIENCE, SAMPLES
from .clips import coloured, write_clip
from .test_frames import cut_short

SMOOTH = [SAMPLES / f"{each}.jpg" for each in ("coffee", "rocket", "uniform")]
"""Of grass and fur a video keeps less than a photograph, whoever prepares it."""


def shvit_video(*arguments: object, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shvit", "video", *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=PATIENCE)


def lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def clip(tmp_path) -> Path:
    return write_clip(tmp_path / "clip.mp4", coloured(("red", 50), ("blue", 50), ("red", 50)))


def test_events_frames_and_the_video_in_lines(clip, colour_model, tmp_path):
    output = tmp_path / "frames.jsonl"
    done = shvit_video(clip, "--model", colour_model, "--format", "jsonl", "--frames", output, "--top-k", 2)
    assert (done.returncode, done.stderr) == (0, "")
    *events, video = lines(done.stdout)
    assert [each["event"]["label"] for each in events] == ["red", "blue", "red"]
    first = events[0]["event"]
    assert set(first) == {"label", "class_id", "wnid", "start", "end", "peak_score", "peak_time"}
    assert (first["start"], first["peak_score"]) == (0, pytest.approx(1, abs=0.01))
    assert first["end"] == pytest.approx(2.6, abs=0.15)  # a mean over half a second falls below 0.3 that much later
    assert events[2]["event"]["end"] == 6.0
    assert video == {"source": str(clip), "video": {"frames": 150, "seconds": 6.0, "events": 3}}
    rows = lines(output.read_text())
    assert [(each["index"], each["time"]) for each in rows] == [(i, pytest.approx(i / 25)) for i in range(150)]
    assert [each["predictions"][0]["label"] for each in rows] == ["red"] * 50 + ["blue"] * 50 + ["red"] * 50
    assert len(rows[0]["predictions"]) == 2
    assert sorted(each.name for each in tmp_path.iterdir()) == ["clip.mp4", "frames.jsonl"]


def test_threads_and_batches_change_nothing(clip, colour_model, tmp_path):
    seen = set()
    for threads, batch in ((1, 1), (1, 16), (3, 7)):
        output = tmp_path / "frames.jsonl"
        more = ("--threads", threads, "--batch-size", batch, "--frames", output, "--format", "jsonl")
        done = shvit_video(clip, "--model", colour_model, *more)
        assert done.returncode == 0, done.stderr
        seen.add((done.stdout, output.read_text()))
    assert len(seen) == 1


@pytest.mark.parametrize("model", ["colour_model", "deciding_model"])
def test_parquet_has_the_same_rows(request, clip, model, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs shvit[video]")
    for name in ("a.jsonl", "a.parquet"):
        arguments = (clip, "--model", request.getfixturevalue(model), "--frames", tmp_path / name, "--fps", 5)
        assert shvit_video(*arguments).returncode == 0
    table = parquet.read_table(tmp_path / "a.parquet").to_pylist()
    rows = lines((tmp_path / "a.jsonl").read_text())
    assert len(rows) == 30
    keys = {"source", "index", "time", "predictions", "error", "decision", "known", "unknown_score"}
    for row, expected in zip(table, rows, strict=True):
        assert set(row) == keys
        for mine, other in zip(row.pop("predictions"), expected.pop("predictions"), strict=True):
            assert mine == {"accepted": None, **other, "score": pytest.approx(other["score"], abs=1e-6)}
        assert row == {**dict.fromkeys(keys - {"predictions"}), **expected}


GREY = [np.full((48, 64, 3), 120 + place % 3, np.uint8) for place in range(50)]
"""What the model that decides calls unknown."""


def test_an_unknown_thing_opens_no_event(deciding_model, tmp_path):
    """Its scores are a third each, which with these thresholds would be one."""
    clip = write_clip(tmp_path / "clip.mp4", [*coloured(("red", 50)), *GREY, *coloured(("blue", 50))])
    found = {}
    for more in ((), ("--no-unknown",)):
        output = tmp_path / "frames.jsonl"
        arguments = ("--format", "jsonl", "--frames", output, "--enter", 0.33, "--leave", 0.3, "--smoothing", 0)
        done = shvit_video(clip, "--model", deciding_model, *arguments, *more)
        assert (done.returncode, done.stderr) == (0, "")
        *events, _ = lines(done.stdout)
        found[more] = [(each["event"]["label"], each["event"]["end"]) for each in events]
        rows = lines(output.read_text())
        assert [each["decision"] for each in (rows[10], rows[75], rows[140])] == [
            "answer",
            "unsure" if more else "unknown",
            "answer",
        ]
        assert all(("known" in each) == (not more) for each in rows)
    assert found[()] == [("red", 2.0), ("blue", 6.0)]
    assert len(found["--no-unknown",]) > 2 or found["--no-unknown",][0][1] > 3


def test_an_unknown_thing_is_called_so_on_the_copy(deciding_model, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("shvit.video.complete.annotate", lambda picture, labels, heading: drawn.append(heading))
    classifier = Classifier(deciding_model, threads=1)
    tracker = EventTracker(EventSettings(), 3)
    for picture in (GREY[0], coloured(("red", 1))[0]):
        batch = classifier.preprocess(picture)[None]
        (judged,) = classifier.judge_each(batch)
        frame = SimpleNamespace(image=picture, time=0.0, duration=0.04, index=0, size=(64, 48))
        each = Classified(frame, batch[0], judged)
        complete.track(each, classifier.card, tracker, complete.VideoSummary("a"), complete.Options())
        for unknown in (True, False):
            complete.draw(each, tracker, classifier, Answering(unknown=unknown))
    assert drawn == ["unknown (nearest: red)", None, None, None]


def test_a_folder_with_all_sorts_in_it(clip, colour_model, tmp_path):
    folder = tmp_path / "videos"
    (folder / "deep").mkdir(parents=True)
    clip.rename(folder / "deep/a.mp4")
    (folder / "broken.mp4").write_bytes(b"no video")
    (folder / "notes.txt").write_text("not taken")
    whole = write_clip(tmp_path / "whole.mkv", coloured(("green", 100), size=(160, 120)))
    cut_short(whole, 0.5).rename(folder / "cut.mkv")
    output = tmp_path / "frames.jsonl"
    arguments = (folder, tmp_path / "none*.mp4", "--model", colour_model, "--format", "jsonl", "--frames", output)
    done = shvit_video(*arguments)
    assert done.returncode == 1
    assert done.stderr == "3 of 4 videos failed or are damaged\n"
    printed = lines(done.stdout)
    videos = {Path(each["source"]).name: each["video"] for each in printed if "video" in each}
    assert videos["broken.mp4"]["error"].startswith("not a video")
    assert videos["none*.mp4"]["error"] == "no file matches"
    assert videos["a.mp4"]["frames"] == 150
    assert 20 < videos["cut.mkv"]["frames"] < 90
    damage = [each for each in printed if "damage" in each]
    assert {Path(each["source"]).name for each in damage} == {"cut.mkv"}
    assert any("it should last 4.0" in each["damage"]["reason"] for each in damage)
    errors = [each for each in lines(output.read_text()) if "error" in each]
    assert {Path(each["source"]).name for each in errors} == {"broken.mp4", "cut.mkv"}


def test_the_page_needs_nothing_else_and_shows_each_event(clip, colour_model, tmp_path):
    page = tmp_path / "page.html"
    done = shvit_video(clip, "--model", colour_model, "--report", page, "--output", tmp_path / "events.txt")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    text = page.read_text()
    assert text.count("<figure") == text.count("data:image/jpeg;base64,") == 3
    assert not re.search(r"(src|href)=\"(?!data:|#)", text)
    assert "http" not in text
    assert re.search(r"0:02\.[345]\d – ", text)  # the blue one, once the mean has followed
    assert "red" in (tmp_path / "events.txt").read_text()


def test_names_from_outside_do_not_become_markup(colour_model, tmp_path):
    clip = write_clip(tmp_path / "<script>alert(1)<.mp4", coloured(("red", 30)))
    page = tmp_path / "page.html"
    assert shvit_video(clip, "--model", colour_model, "--report", page).returncode == 0
    assert "<script" not in page.read_text()


@pytest.mark.parametrize("size", [(64, 48), (321, 241)])
def test_annotated_copies_have_the_same_frames_and_times(colour_model, tmp_path, size):
    times = [0, 0.04, 0.5, 0.52, 2.0, 2.01]
    clip = write_clip(tmp_path / "c.mkv", coloured(("red", 6), size=size), times=times, pixel_format="yuv444p")
    done = shvit_video(clip, "--model", colour_model, "--save-video", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    with Video(tmp_path / "out/c.mp4") as video:
        items = list(video)
    assert all(isinstance(each, Frame) for each in items)
    np.testing.assert_allclose([each.time for each in items], times, atol=2e-3)
    last = items[-1].image
    assert last.shape[0] % 2 == last.shape[1] % 2 == 0
    assert last[:20, :60].min(axis=(0, 1))[0] < 150  # a panel in the corner
    assert abs(int(last[-5, -5, 0]) - 200) < 25
    assert video.codec == "h264"


@pytest.mark.parametrize(
    "preprocessing",
    [
        Preprocessing((128, 128)),
        Preprocessing((96, 192)),
        Preprocessing((128, 128), resize_mode="pad"),
        Preprocessing((30, 128), resize_mode="pad", pad_color=(9, 8, 7)),
    ],
    ids=str,
)
def test_frames_are_prepared_as_still_images_are(preprocessing):
    """One preprocessing: a frame's RGB as a picture of its own gives nearly the same pixels; fast ones are near."""
    from PIL import Image

    photographs = [np.asarray(Image.open(each).convert("RGB")) for each in SMOOTH]
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        for number, picture in enumerate(photographs):
            height, width = (side // 2 * 2 for side in picture.shape[:2])
            path = write_clip(Path(folder) / f"{number}.mp4", [picture[:height, :width]])
            with Video(path) as video:
                (frame,) = video
            usual, fast = (frame_preparation(preprocessing, each)(frame).astype(int) for each in (False, True))
            still = preprocess(decode(frame.image), preprocessing)
            assert usual.shape == fast.shape == still.shape
            assert np.array_equal(usual, preprocess_fast(frame.image, preprocessing))
            assert np.abs(usual - still).mean() < 0.5
            assert np.abs(fast - still).mean() < 3


def test_fast_decoding_gives_the_same_labels(clip, colour_model):
    exact, fast = (
        shvit_video(clip, "--model", colour_model, "--format", "jsonl", *more) for more in ((), ("--fast-decode",))
    )
    assert (fast.returncode, fast.stderr) == (0, "")
    labels = [[each["event"]["label"] for each in lines(done.stdout)[:-1]] for done in (exact, fast)]
    assert labels[0] == labels[1] == ["red", "blue", "red"]


def test_paths_on_stdin_and_key_frames(clip, colour_model):
    done = shvit_video("-", "--model", colour_model, "--keyframes", "--format", "jsonl", stdin=f"{clip}\n")
    assert done.returncode == 0, done.stderr
    assert 10 <= lines(done.stdout)[-1]["video"]["frames"] <= 16


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--fps", "0"], "expected more than 0, got 0"),
        (["--fps", "5", "--keyframes"], "not allowed with argument"),
        (["--enter", "0.2"], "expected leave ≤ enter ≤ 1"),
        (["--frames", "a.csv"], "a.csv: expected a file that ends in .jsonl or .parquet"),
        (["--resume"], "--resume: needs --frames or --output"),
        (["--resume", "--output", "a", "--save-video", "b"], "annotated video cannot be gone on with"),
        (["--duration", "5"], "only of live sources"),
        (["--live", "--keyframes"], "not of a live source"),
        (["--output", "no/such/folder/out.txt"], "no/such/folder"),
        (["--report", "no/such/folder/page.html"], "page.html: no such folder: no/such/folder"),
    ],
)
def test_wrong_usage_is_exit_2_and_no_traceback(arguments, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = shvit_video("clip.mp4", *arguments)
    assert done.returncode == 2
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_no_pytorch_in_the_process_and_what_installs_pyav(clip, colour_model):
    code = (
        "import sys; from shvit.cli.main import main;"
        f"status = main(['video', {str(clip)!r}, '--model', {str(colour_model)!r}, '--format', 'jsonl']);"
        "assert 'torch' not in sys.modules; sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    code = "import sys; sys.modules['av'] = None; from shvit.cli.main import main; sys.exit(main(['video', 'a.mp4']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 2
    assert install_command("video") in done.stderr
    assert "Traceback" not in done.stderr
