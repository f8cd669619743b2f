"""shvit embed as it is typed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from shvit.cli.main import main
from shvit.embeddings.table import read_embeddings

from ..conftest import PATIENCE, SAMPLES

LIGHT = "import sys; sys.modules['pyarrow'] = None; from shvit.cli.main import main; sys.exit(main(sys.argv[1:]))"


def test_paths_on_stdin_and_what_is_said_of_failures(tmp_path):
    output = tmp_path / "out.parquet"
    command = [sys.executable, "-m", "shvit", "embed", "-", "--output", output, "--normalize", "--dtype", "float16"]
    listed = f"{SAMPLES / 'coffee.jpg'}\n{tmp_path / 'missing.jpg'}\n{SAMPLES / 'rocket.jpg'}\n"
    done = subprocess.run(command, input=listed, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1, done.stderr
    assert f"{output}: 3 inputs, 1 failed (the column error says why)" in done.stdout
    assert f"{output}.parts: the parts, kept for --retry-failed" in done.stderr
    found = read_embeddings(output)
    assert [Path(each).name for each in found.sources] == ["coffee.jpg", "rocket.jpg"] and found.failed == 1
    assert found.info.normalized and found.info.dtype == "float16"


def test_a_folder_without_pictures(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    assert main(["embed", str(tmp_path / "in"), "--output", str(tmp_path / "out.parquet")]) == 2
    assert "in: there are no images, tar shards, Parquet files or videos" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [tmp_path / "in"]


def test_a_model_without_our_head(tmp_path, colour_model, capsys):
    arguments = ["embed", str(SAMPLES), "--model", str(colour_model), "--output", str(tmp_path / "out.parquet")]
    assert main(arguments) == 2
    assert "no head that embeddings could be taken before" in capsys.readouterr().err


@pytest.mark.parametrize("stages", ["0", "3"])
def test_stages_that_are_none(stages, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["embed", "photos", "--output", "a.parquet", "--stages", stages])
    assert ended.value.code == 2 and "invalid choice" in capsys.readouterr().err


def test_without_pyarrow_it_says_what_to_install():
    command = [sys.executable, "-c", LIGHT, "embed", str(SAMPLES), "--output", "out.parquet"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 2
    assert "needs pyarrow, which is not installed" in done.stderr and "[teach]" in done.stderr


def test_a_name_of_another_format_is_refused(tmp_path, capsys):
    status = main(["embed", str(tmp_path), "--output", str(tmp_path / "e.csv")])
    assert status == 2
    assert "a folder is written; give the name of one" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "e.csv").exists()
