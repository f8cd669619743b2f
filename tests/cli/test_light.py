"""``shvit eval`` and ``shvit data check`` in the light installation: without PyTorch and all else that extras bring."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from shvit.cli.main import main
from shvit.install import install_command
from shvit.shipped import verification_images

from ..conftest import PATIENCE, SAMPLES

EXTRAS = (
    *("torch", "torchvision", "timm", "lightning_fabric", "scipy", "matplotlib", "jinja2", "pyarrow", "datasets"),
    *("openvino", "simplejpeg", "kornia_rs", "tensorboard", "jsonargparse", "onnxscript"),
)
CLASSES = ("n07920052", "n03085013", "n02124075")
"""WordNet ids of three that the shipped model knows."""
MODEL = "shvit_s1_tiny_imagenet"
OF_THE_RUN = {"command", "date", "versions", "latency", "images_per_second"}
"""What differs from run to run."""


def light(*arguments: object) -> subprocess.CompletedProcess:
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({EXTRAS!r}))\n"
        f"from shvit.cli.main import main; sys.exit(main({[str(each) for each in arguments]!r}))"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)


def refused(*arguments: object) -> str:
    done = light(*arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Parts of photographs, in three classes, some in both splits; one file is broken."""
    folder = tmp_path_factory.mktemp("light") / "photos"
    files = sorted(SAMPLES.glob("*.jpg"))[:4] + verification_images()[:2]
    for place, file in enumerate(files):
        with Image.open(file) as image:
            for side in (96, 160, 224):
                for split in ("train", "val"):
                    target = folder / split / CLASSES[(place + side) % 3] / f"{file.stem}-{side}.png"
                    target.parent.mkdir(parents=True, exist_ok=True)
                    image.convert("RGB").crop((0, 0, side, side)).save(target)
    (folder / "val" / CLASSES[0] / "broken.png").write_bytes(b"\x89PNG")
    return folder


def test_eval_gives_the_figures_of_the_full_installation(photos, capsys):
    arguments = ["eval", "--model", MODEL, "--data", str(photos), "--batch-size", "4", "--format", "json"]
    assert main([*arguments, "--workers", "0"]) == 1
    full = json.loads(capsys.readouterr().out)
    done = light(*arguments, "--workers", "2")
    assert done.returncode == 1, done.stderr
    assert "1 of 19 images could not be read" in done.stderr
    ours = json.loads(done.stdout)
    assert ours.keys() == full.keys() > OF_THE_RUN
    assert ours["images"] == 18
    for name in full.keys() - OF_THE_RUN:
        assert ours[name] == full[name], name


def test_eval_says_what_is_missing_before_it_measures(photos, tmp_path):
    data, report = ("--data", photos), tmp_path / "report"
    said = refused("eval", "--model", tmp_path / "not-even-looked-for.onnx", *data, "--output", report)
    assert "a report is made with jinja2, which is not installed" in said and install_command("eval") in said
    assert not report.exists()
    said = refused("eval", "--model", MODEL, *data, "--corruptions", "all")
    assert "images are corrupted with scipy, which is not installed" in said and install_command("eval") in said
    said = refused("eval", "--model", "best.safetensors", *data)
    assert said.startswith("shvit eval: error: best.safetensors: is a checkpoint, which PyTorch runs, and torch is not")
    assert install_command("torch") in said


def test_data_check_finds_what_the_full_installation_finds(photos, capsys):
    arguments = ["data", "check", str(photos), "--format", "json", "--workers", "2"]
    assert main(arguments) == 1
    full = json.loads(capsys.readouterr().out)
    assert len(full["duplicates"]) >= 12 and len(full["broken"]) == 1
    done = light(*arguments)
    assert (done.returncode, json.loads(done.stdout)) == (1, full), done.stderr
    assert "1 images cannot be decoded" in full["problems"]


def test_data_check_says_what_is_missing_before_it_reads(photos, tmp_path):
    said = refused("data", "check", photos, "--output", tmp_path / "report")
    assert "the picture needs matplotlib, which is not installed" in said and install_command("eval") in said
    assert list(tmp_path.iterdir()) == []


def test_a_dataset_of_the_hub_needs_its_extra():
    said = refused("data", "check", "hf://somebody/something")
    assert "hf://somebody/something: " in said and install_command("datasets") in said


@pytest.mark.parametrize("name", ["train-0.parquet", "shard.tar"])
def test_tables_and_shards_need_an_extra(tmp_path, name):
    (tmp_path / name).touch()
    for arguments in (("data", "check", tmp_path), ("eval", "--model", MODEL, "--data", tmp_path / name)):
        said = refused(*arguments)
        assert f"{tmp_path / name}: Parquet files, tar shards and" in said and install_command("parquet") in said


def test_lists_of_images_need_none(photos, tmp_path):
    """Class folders and CSV files are read without PyArrow, whatever their paths are."""
    lines = [f"{file},{file.parent.name}" for file in sorted((photos / "train").rglob("*.png"))]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *lines]))
    done = light("eval", "--model", MODEL, "--data", tmp_path / "list.csv", "--held-out", "none", "--format", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"] == len(lines) == 18
