from __future__ import annotations

import json
import shutil

import pytest
from PIL import Image

from shvit.bench.pipeline import PHASES, write_photographs
from shvit.cli.main import main

from ..conftest import SAMPLES


def test_photographs_are_common_ones_and_all_different(tmp_path):
    paths = write_photographs(tmp_path, 8)
    assert len({path.read_bytes() for path in paths}) == 8
    assert {Image.open(path).size for path in paths} == {(500, 375)}


def test_a_folder_with_a_broken_file(tmp_path, capsys):
    for path in SAMPLES.glob("*.jpg"):
        shutil.copy(path, tmp_path)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff not a photograph")
    assert main(["bench", "pipeline", str(tmp_path), "--threads", "1", "2", "--format", "json"]) == 1
    captured = capsys.readouterr()
    printed = json.loads(captured.out)
    count = len(list(tmp_path.iterdir()))
    assert f"1 of {count} files cannot be read" in captured.err
    assert [each["threads"] for each in printed["results"]] == [1, 2]
    for each in printed["results"]:
        assert (each["images"], each["failed"]) == (count, 1)
        assert tuple(each["phases_ms_per_image"]) == PHASES
        assert all(value > 0 for value in each["phases_ms_per_image"].values())
        assert each["images_per_second"].keys() == {"shvit", "timm"}
        assert each["times_faster"]["min"] <= each["times_faster"]["median"] <= each["times_faster"]["max"]


def test_without_timm_and_with_photographs(capsys):
    assert main(["bench", "pipeline", "--photographs", "4", "--threads", "1", "--no-timm"]) == 0
    header, row = capsys.readouterr().out.splitlines()[-2:]
    assert "resize and crop ms" in header
    assert row.split()[-2:] == ["-", "-"]


def test_nothing_to_classify(tmp_path, capsys):
    assert main(["bench", "pipeline", str(tmp_path)]) == 2
    assert "no images in this folder" in capsys.readouterr().err
    (tmp_path / "broken.jpg").write_bytes(b"no")
    assert main(["bench", "pipeline", str(tmp_path), "--no-timm", "--threads", "1"]) == 2
    assert "none of the images can be read" in capsys.readouterr().err
    assert main(["bench", "pipeline", str(tmp_path / "nowhere")]) == 2
    with pytest.raises(SystemExit):
        main(["bench", "pipeline"])
