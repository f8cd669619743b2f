"""What the exported folder is made of, and when none is written."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from shvit import Classifier
from shvit.cli.main import main
from shvit.errors import ExportError, MissingDependencyError
from shvit.exporting import FileOptions, export_model
from shvit.modelfile.verify import photograph_crops
from shvit.shipped import DEFAULT_MODEL, SHIPPED_MODELS
from shvit.web import PAGE, SAMPLES, onnxruntime_web
from shvit.web.site import write_site

from ..conftest import PATIENCE
from ..exporting.conftest import tiny, tiny_card  # noqa: F401

SHIPPED = SHIPPED_MODELS[DEFAULT_MODEL]


def test_the_folder_has_the_file_as_it_is_and_what_runs_it(site):
    assert (site / "model.onnx").read_bytes() == SHIPPED.read_bytes()
    config = json.loads((site / "config.json").read_text())
    (model,) = config["models"]
    assert set(model.pop("explain")["tensors"]) == {"attention", "features", "class_weights"}
    assert config["models"] == [
        {
            "name": DEFAULT_MODEL,
            "file": "model.onnx",
            "card": "card.json",
            "bytes": SHIPPED.stat().st_size,
            "devices": ["wasm"],  # 8 bits are for processors
        }
    ]
    assert json.loads((site / "card.json").read_text()) == json.loads(Classifier(SHIPPED).card.to_json())
    assert '"teach/worker.js"' in (site / "version.js").read_text()  # kept for offline
    runtime = {each.name for each in (site / "ort").iterdir()}
    assert runtime == {*onnxruntime_web.FILES["wasm"], *onnxruntime_web.NOTICES}
    assert "Microsoft" in (site / "ort" / "LICENSE").read_text()
    assert [each.name for each in site.parent.iterdir()] == [site.name]


def test_whoever_serves_the_page_has_its_samples():
    assert {each.name for each in SAMPLES.iterdir()} >= set(json.loads((PAGE / "config.json").read_text())["samples"])


def test_other_content_is_another_version(site, tmp_path):
    again = tmp_path / "again"
    write_site(SHIPPED, again)
    assert (again / "version.js").read_bytes() == (site / "version.js").read_bytes()
    changed = SHIPPED.read_bytes()
    (tmp_path / "other.onnx").write_bytes(changed.replace(b"everyday", b"everyDay"))
    write_site(tmp_path / "other.onnx", again)
    assert (again / "version.js").read_bytes() != (site / "version.js").read_bytes()


def test_packing_needs_no_pytorch(tmp_path, program):
    program("npm")
    code = (
        "import sys\n"
        "from shvit.cli.main import main\n"
        f"print(main(['export', '--model', '{DEFAULT_MODEL}', '--format', 'web', '--output', sys.argv[1]]))\n"
        "print('torch' in sys.modules)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "site")]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert answer.stdout.split()[-2:] == ["0", "False"], answer.stderr


@pytest.mark.parametrize(
    ("precision", "devices"),
    [("fp16", ["webgpu", "wasm"]), pytest.param("int8", ["wasm"], marks=pytest.mark.slow)],
)
def test_a_network_is_exported_like_to_any_other_format(tmp_path, tiny, tiny_card, program, precision, devices):  # noqa: F811
    program("npm")
    calibration = photograph_crops(tiny_card.preprocessing)[::4]
    report = export_model(tiny, tmp_path / "site", tiny_card, FileOptions("web", precision), calibration=calibration)
    assert report.path == tmp_path / "site"
    assert report.card.verification.format == "web"
    assert report.images == 204
    assert Classifier(tmp_path / "site" / "model.onnx").card == report.card
    config = json.loads((tmp_path / "site" / "config.json").read_text())
    assert config["models"][0]["devices"] == devices
    assert config["models"][0]["bytes"] == (tmp_path / "site" / "model.onnx").stat().st_size
    assert (tmp_path / "site" / "ort" / "ort.webgpu.min.mjs").is_file() == ("webgpu" in devices)


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path, tiny, tiny_card):  # noqa: F811
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years of work")
    with pytest.raises(ExportError, match="home: is a folder with other things in it; give a new one"):
        write_site(SHIPPED, tmp_path / "home")
    with pytest.raises(ExportError, match="home: is a folder with other things in it; give a new one"):
        export_model(tiny, tmp_path / "home", tiny_card, FileOptions("web"))
    assert (tmp_path / "home" / "thesis.txt").read_text() == "years of work"
    with pytest.raises(ExportError, match="expected the name of a folder that may be replaced"):
        write_site(SHIPPED, ".")


def test_a_finished_model_file_takes_no_options(capsys, tmp_path):
    arguments = ["export", "--model", str(SHIPPED), "--format", "web", "--output", str(tmp_path / "site")]
    assert main([*arguments, "--precision", "fp16"]) == 2
    assert "--precision: " in (said := capsys.readouterr().err)
    assert "is a finished model file; leave it out" in said
    assert list(tmp_path.iterdir()) == []


def test_what_has_no_model_file_for_browsers(tmp_path):
    (tmp_path / "a.xml").write_text("<net/>")
    with pytest.raises(ExportError, match=r"a\.xml: browsers run \.onnx files"):
        write_site(tmp_path / "a.xml", tmp_path / "site")


def test_without_npm_and_with_a_damaged_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SHVIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    kept = tmp_path / "cache" / f"onnxruntime-web-{onnxruntime_web.VERSION}.tgz"
    kept.parent.mkdir()
    kept.write_bytes(b"half of it")
    with pytest.raises(MissingDependencyError, match="npm is not installed") as caught:
        write_site(SHIPPED, tmp_path / "site")
    assert str(kept) in str(caught.value)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["cache"]


def test_a_registry_that_cannot_be_reached(tmp_path, monkeypatch, program):
    program("npm")
    monkeypatch.setenv("SHVIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9/")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm"))
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    with pytest.raises(ExportError, match=rf"onnxruntime-web {onnxruntime_web.VERSION} cannot be fetched with npm: "):
        write_site(SHIPPED, tmp_path / "site")
    assert not (tmp_path / "site").exists()
    assert list((tmp_path / "cache").iterdir()) == []
