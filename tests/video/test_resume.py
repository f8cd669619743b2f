"""A run that is killed in the middle goes on: no frame twice, none lost, the same events."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("av", reason="needs shvit[video]")

from shvit import Classifier
from shvit.errors import VideoError
from shvit.tasks import Judged
from shvit.video import complete
from shvit.video.classify import Classified
from shvit.video.complete import CompleteRun, Options, VideoSummary
from shvit.video.events import EventSettings, EventTracker
from shvit.video.frames import Damage, Position
from shvit.video.output import FrameRows, Journal, journal_files

from ..conftest import PATIENCE
from .clips import coloured, write_clip
from .test_command import lines, shvit_video
from .test_frames import corrupted


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> list[Path]:
    """A short one, a long one, a damaged one; slow enough to decode that there is time to kill the run."""
    folder = tmp_path_factory.mktemp("videos")
    random = np.random.default_rng(1)
    order = [("red", "green", "blue")[each] for each in random.integers(0, 3, 30)]
    pictures = coloured(*((colour, 20) for colour in order), size=(640, 480))
    quick = {"preset": "ultrafast"}
    return [
        write_clip(folder / "short.mp4", pictures[:50], options=quick),
        write_clip(folder / "long.mp4", pictures, group=50, options=quick),
        corrupted(write_clip(folder / "other.mkv", pictures[:100], options=quick), 0.5, 3000),
    ]


SHVIT = "import sys, shvit.video.complete as c; c.CHECKPOINT = 0.02; from shvit.cli.main import main; sys.exit(main())"
"""The command, with notes in the journal so often that a run of a second can be killed after a few of them."""


def command(videos: list[Path], model: Path, frames: Path, *more: object) -> list[str]:
    arguments = [*videos, "--model", model, "--threads", 1, "--format", "jsonl", "--frames", frames, *more]
    return [sys.executable, "-c", SHVIT, "video", *map(str, arguments)]


def kill_when(run: list[str], journal: Path, seen: int) -> None:
    """Starts it, and kills it once its journal was written so many times."""
    process = subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        last, limit = None, time.monotonic() + PATIENCE
        while seen and time.monotonic() < limit and process.poll() is None:
            now = journal.stat().st_mtime_ns if journal.exists() else None
            seen -= now != last
            last = now
            time.sleep(0.001)
        assert process.poll() is None, "it was done before it could be killed"
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait(timeout=PATIENCE)


@pytest.mark.parametrize(
    ("suffix", "more"),
    [
        (".jsonl", ()),
        pytest.param(".parquet", ("--fps", 20, "--report", "page.html"), marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_goes_on_where_it_stood(videos, colour_model, tmp_path, monkeypatch, suffix, more):
    monkeypatch.chdir(tmp_path)
    whole, parts = tmp_path / f"whole{suffix}", tmp_path / f"parts{suffix}"
    expected = subprocess.run(
        command(videos, colour_model, whole, *more), capture_output=True, text=True, timeout=PATIENCE
    )
    assert expected.returncode == 1  # one is damaged
    expected_page = Path("page.html").read_text() if more else ""
    journal = tmp_path / f"parts{suffix}.journal"
    run = command(videos, colour_model, parts, *more)
    kill_when(run, journal, 3)
    assert not parts.exists()
    state = json.loads(journal.read_text())
    partial = tmp_path / f"parts{suffix}.partial"
    assert 0 < state["rows"] <= partial.stat().st_size
    with partial.open("ab") as file:
        file.write(b'{"source": "half a li')
    kill_when([*run, "--resume"], journal, 3)
    done = subprocess.run([*run, "--resume"], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1
    assert done.stdout == expected.stdout
    if suffix == ".jsonl":
        assert parts.read_text() == whole.read_text()
    else:
        import pyarrow.parquet as pq

        assert pq.read_table(parts).equals(pq.read_table(whole))
        assert Path("page.html").read_text() == expected_page
    left = {each.name for each in tmp_path.iterdir()} - {"page.html"}
    assert left == {whole.name, parts.name}


def note(beside: Path, rounds: list[list[dict]], resume: bool) -> list[dict]:
    """A run that notes so many videos, each list at one time, then one more that it is killed before noting."""
    journal = Journal(beside, {"model": "a"}, resume)
    earlier = journal.earlier["finished"] if journal.earlier else []
    for summaries in rounds:
        for each in summaries:
            journal.finished(each)
        journal.write(len(summaries), None)
    journal.finished({"source": "not noted", "text": "x" * 20_000})  # more than Python holds back
    journal.close()
    return earlier


def test_a_journal_that_is_cut_three_times_holds_what_was_noted_and_nothing_else(tmp_path):
    beside = tmp_path / "frames.jsonl"
    first, second, third = {"source": "1"}, {"source": "2"}, {"source": "3"}
    assert note(beside, [[first]], resume=False) == []
    assert note(beside, [[], [second]], resume=True) == [first]  # the first note before anything new is finished
    assert note(beside, [[]], resume=True) == [first, second]
    assert note(beside, [[], [third]], resume=True) == [first, second]
    assert note(beside, [], resume=True) == [first, second, third]
    state = json.loads((tmp_path / "frames.jsonl.journal").read_text())
    kept = (tmp_path / "frames.jsonl.finished").read_bytes()
    assert kept[: state["finished_bytes"]] == b'{"source": "1"}\n{"source": "2"}\n{"source": "3"}\n'
    assert b"\0" not in kept


@pytest.mark.parametrize(
    "damage",
    [
        {"finished_bytes": 10**6},
        {"finished_bytes": -1},
        {"finished_bytes": "1"},
        {"rows": None},
        {"rows": -1},
    ],
)
def test_a_journal_that_cannot_be_is_refused_by_name(tmp_path, damage):
    beside = tmp_path / "frames.jsonl"
    note(beside, [[{"source": "1"}]], resume=False)
    path = tmp_path / "frames.jsonl.journal"
    path.write_text(json.dumps({**json.loads(path.read_text()), **damage}))
    with pytest.raises(VideoError, match=r"frames\.jsonl\.journal: cannot be read .*begin anew without --resume"):
        Journal(beside, {"model": "a"}, resume=True)


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: state["current"].pop("fingerprint"),
        lambda state: state["current"]["tracker"].clear(),
        lambda state: state["current"]["position"].update(pts="first"),
        lambda state: state["current"]["position"].update(of_another_version=1),
        lambda state: state["current"]["summary"].pop("events"),
        lambda state: state.update(current=[]),
    ],
)
def test_notes_of_another_version_are_refused_by_name(tmp_path, colour_model, damage):
    classifier, output = Classifier(colour_model, threads=1), tmp_path / "frames.jsonl"
    tracker = EventTracker(EventSettings(), len(classifier.classes))
    with closing(Journal(output, {}, resume=False)) as journal:
        journal.finished(VideoSummary("first").to_json())
        state = {"summary": VideoSummary("film").to_json(), "tracker": tracker.state(), "fingerprint": 1}
        journal.write(0, {**state, "position": asdict(Position(0, 0, 0, 0.0)), "rows_start": 0})
    with closing(Journal(output, {}, resume=True)) as journal:
        CompleteRun(classifier, Options(), journal=journal)
    path, _ = journal_files(output)
    noted = json.loads(path.read_text())
    damage(noted)
    path.write_text(json.dumps(noted))
    with (
        closing(Journal(output, {}, resume=True)) as journal,
        pytest.raises(VideoError, match=r"frames\.jsonl\.journal: cannot be read .*; begin anew without --resume"),
    ):
        CompleteRun(classifier, Options(), journal=journal)


def test_rows_of_an_earlier_run_that_are_gone_are_told(tmp_path):
    with pytest.raises(VideoError, match=r"frames\.jsonl\.partial: the earlier run's rows are not there any more"):
        FrameRows(tmp_path / "frames.jsonl", keep=10)


def film(frames: int) -> list[Classified]:
    """Each frame shows another label than the one before, and so ends its event and begins the next."""
    return [
        Classified(
            SimpleNamespace(index=i, time=float(i), duration=1.0, size=(9, 9), position=Position(i, i, 0, float(i))),
            np.zeros((9, 9, 3), np.uint8),
            Judged(np.eye(3, dtype=np.float32)[i % 3]),
        )
        for i in range(frames)
    ]


def analyse(items: list[Classified | Damage], beside: Path, monkeypatch, classifier: Classifier) -> tuple[list, int]:
    """A run that notes after each frame where it stands: what it says of the film, and the bytes of all its notes."""
    written = 0
    write = Journal.write

    def counted(journal: Journal, *arguments: object) -> None:
        nonlocal written
        write(journal, *arguments)
        written += journal_files(beside)[0].stat().st_size

    class Film(list):
        codec = "none"

        def __enter__(self) -> Film:
            return self

        def __exit__(self, *exception: object) -> None:
            pass

    settings = EventSettings(smoothing=0, minimum=0, gap=0)
    with monkeypatch.context() as patch:
        patch.setattr(complete, "CHECKPOINT", 0.0)
        patch.setattr(complete, "Video", lambda *arguments, **options: Film(items))
        patch.setattr(complete, "classified", lambda items, *others: (each for each in items))
        patch.setattr(Journal, "write", counted)
        with closing(Journal(beside, {}, resume=False)) as journal:
            found = list(CompleteRun(classifier, Options(settings), journal=journal).run(["film"]))
    return found, written + journal_files(beside)[1].stat().st_size


def test_what_is_written_of_a_film_grows_with_its_length_and_not_with_its_square(tmp_path, monkeypatch, colour_model):
    classifier = Classifier(colour_model, threads=1)
    beside = tmp_path / "frames.jsonl"
    sizes = []
    for frames in (200, 400):
        damage = [Damage(float(i), f"kind {i}") for i in range(frames)]
        items = [each for pair in zip(film(frames), damage, strict=True) for each in pair]
        (summary,), written = analyse(items, beside, monkeypatch, classifier)
        assert [each.class_id for each in summary.events] == [i % 3 for i in range(frames)]
        assert summary.damage == damage
        # Another run reads the same of it.
        with closing(Journal(beside, {}, resume=True)) as journal:
            (again,) = CompleteRun(classifier, Options(), journal=journal).run(["film"])
        assert (again.events, again.damage) == (summary.events, summary.damage)
        sizes.append(written)
    assert sizes[1] < 2.2 * sizes[0]


def test_what_was_found_in_a_video_that_is_begun_again_is_forgotten(tmp_path):
    beside = tmp_path / "frames.jsonl"
    first, current = {"source": "1", "events": []}, {"summary": {"source": "2", "events": []}}
    with closing(Journal(beside, {}, resume=False)) as journal:
        journal.finished(first)
        journal.found({"events": [1]})
        journal.found({"events": [2, 3]})
        journal.write(0, current)
    with closing(Journal(beside, {}, resume=True)) as journal:
        assert journal.earlier["finished"] == [first]
        assert journal.earlier["found"] == {"events": [1, 2, 3]}
        journal.found({"events": [4]})
        journal.write(0, current)
        journal.forget(noted=False)
        journal.write(0, current)
    with closing(Journal(beside, {}, resume=True)) as journal:
        assert journal.earlier["found"] == {"events": [1, 2, 3]}
        journal.forget(noted=True)
        journal.found({"events": [5]})
        journal.finished({"source": "2", "events": [6]})
        journal.write(0, None)
    with closing(Journal(beside, {}, resume=True)) as journal:
        assert journal.earlier["finished"] == [first, {"source": "2", "events": [5, 6]}]
        assert journal.earlier["found"] == {}


@pytest.mark.slow
def test_a_run_that_is_killed_three_times_goes_on_each_time(videos, colour_model, tmp_path):
    parts = tmp_path / "parts.jsonl"
    journal = tmp_path / "parts.jsonl.journal"
    run = command([videos[0], videos[1]], colour_model, parts)
    for more in ((), ("--resume",), ("--resume",)):
        kill_when([*run, *more], journal, 4)
        state = json.loads(journal.read_text())
        assert state["finished_bytes"] <= (tmp_path / "parts.jsonl.finished").stat().st_size
    done = subprocess.run([*run, "--resume"], capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")
    seen = [(Path(each["source"]).name, each["index"]) for each in lines(parts.read_text())]
    assert seen == [("short.mp4", i) for i in range(50)] + [("long.mp4", i) for i in range(600)]


@pytest.mark.slow
def test_a_video_that_changed_meanwhile_is_done_anew(videos, colour_model, tmp_path):
    frames = tmp_path / "frames.jsonl"
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(videos[1].read_bytes())
    run = command([clip], colour_model, frames)
    kill_when(run, tmp_path / "frames.jsonl.journal", 2)
    clip.write_bytes(videos[0].read_bytes())
    done = subprocess.run([*run, "--resume"], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert [each["index"] for each in lines(frames.read_text())] == list(range(50))


def test_another_run_is_not_gone_on_with(videos, colour_model, tmp_path):
    frames = tmp_path / "frames.jsonl"
    kill_when(command(videos[1:2], colour_model, frames), tmp_path / "frames.jsonl.journal", 2)
    done = subprocess.run(
        command(videos[1:2], colour_model, frames, "--top-k", 1, "--resume"),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 2
    assert "the earlier run had top_k 5, this one has 1" in done.stderr
    (tmp_path / "frames.jsonl.journal").write_text("{")
    done = subprocess.run(
        command(videos[1:2], colour_model, frames, "--resume"), capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 2
    assert "cannot be read" in done.stderr


def test_resume_with_nothing_to_go_on_from_begins(videos, colour_model, tmp_path):
    output = tmp_path / "events.jsonl"
    done = shvit_video(videos[0], "--model", colour_model, "--format", "jsonl", "--output", output, "--resume")
    assert done.returncode == 0, done.stderr
    assert lines(output.read_text())[-1]["video"]["frames"] == 50
    assert [each.name for each in tmp_path.iterdir()] == ["events.jsonl"]
