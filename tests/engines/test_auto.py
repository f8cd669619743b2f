"""Which engine ``auto`` takes, and what becomes of the cache of measurements."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from shvit import Classifier
from shvit.cache import CACHE_VARIABLE, cache_folder
from shvit.data.cache import derived_folder
from shvit.engines import auto, load_engine
from shvit.engines.auto import Timing, cache_file, choose, measure
from shvit.engines.base import check_version
from shvit.errors import CacheError, MissingDependencyError, ModelFileError
from shvit.install import pip_install

from ..conftest import AS_ANYBODY, PATIENCE, Clock


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache" / "engines.json"


@pytest.fixture
def slowed(monkeypatch):
    """Loads real engines, of which one takes four times as long as the others by the clock that is looked at."""
    clock = Clock()
    monkeypatch.setattr(auto, "time", clock)

    def loader(path: Path, slow: str):
        def load(name: str):
            engine = load_engine(name, path, 1)
            clock.now += 0.1
            infer = engine.infer

            def timed(batch: np.ndarray) -> np.ndarray:
                clock.now += 0.02 if name == slow else 0.005
                return infer(batch)

            engine.infer = timed
            return engine

        return load

    return loader


@pytest.mark.parametrize(("slow", "fast"), [("onnxruntime", "openvino"), ("openvino", "onnxruntime")])
def test_the_faster_engine_is_measured_remembered_and_taken(colour_model, cache, slowed, slow, fast):
    assert choose(colour_model, 1, 4).reason == "the default; not measured beside openvino"
    measured = measure(colour_model, 1, 4, slowed(colour_model, slow))
    assert measured.engine == fast
    assert {name: each.images_per_second for name, each in measured.timings.items()} == {
        fast: pytest.approx(4 / 0.005),
        slow: pytest.approx(4 / 0.02),
    }
    other = measured.timings["openvino"]
    assert other.speedup == other.speedup_low == pytest.approx(4 if fast == "openvino" else 1 / 4)
    assert cache.exists()
    assert choose(colour_model, 1, 4) == measured
    classifier = Classifier(colour_model, threads=1, batch_size=4)
    assert (classifier.engine, classifier.engine_choice) == (fast, measured)
    # Of other conditions nothing is known.
    for threads, batch_size in ((2, 4), (1, 8)):
        assert choose(colour_model, threads, batch_size).timings == {}


def test_a_changed_file_or_another_version_is_measured_anew(colour_model, tmp_path, monkeypatch, slowed):
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(colour_model.read_bytes())
    measure(copy, 1, 1, slowed(copy, "onnxruntime"))
    assert choose(copy, 1, 1).engine == "openvino"
    assert choose(colour_model, 1, 1).engine == "openvino"  # the same file by another name
    with monkeypatch.context() as patch:
        patch.setattr(auto, "version", lambda package: "9.9")
        assert choose(copy, 1, 1).timings == {}
    copy.write_bytes(copy.read_bytes() + b"\x00")
    assert choose(copy, 1, 1).timings == {}


def timings(speedup: float, low: float, load_seconds: float = 1.0) -> dict[str, Timing]:
    return {"onnxruntime": Timing(0.1, 100, 1, 1), "openvino": Timing(load_seconds, 100 * speedup, speedup, low)}


@pytest.mark.parametrize(
    ("measured", "images", "engine"),
    [
        (timings(1.5, 1.4), None, "openvino"),
        (timings(1.05, 1.04), None, "onnxruntime"),  # within the margin
        (timings(1.5, 0.9), None, "onnxruntime"),  # now faster, now slower
        (timings(0.5, 0.4), None, "onnxruntime"),
        (timings(1.5, 1.4), 10, "onnxruntime"),  # 0.03 s saved, 0.9 s lost
        (timings(1.5, 1.4), 10_000, "openvino"),
        (timings(1.5, 1.4), 0, "onnxruntime"),
        ({"onnxruntime": Timing(0.1, 100, 1, 1)}, None, "onnxruntime"),  # the other could not run the file
    ],
)
def test_the_default_is_left_only_for_a_clear_gain(colour_model, measured, images, engine):
    auto._remember(auto._key(colour_model, 1, 16), measured)
    assert choose(colour_model, 1, 16, images).engine == engine


DAMAGED = {
    "empty": "",
    "not JSON": "{",
    "nothing": "null",
    "a list": "[]",
    "another schema": '{"schema": 99, "measured": {}}',
    "no measurements": '{"schema": 1}',
    "a number": '{"schema": 1, "measured": 3}',
    "deep": "[" * 100_000,
    "other fields": '{"schema": 1, "measured": {"KEY": {"onnxruntime": {"speed": 3}}}}',
    "no default": '{"schema": 1, "measured": {"KEY": {}}}',
    "text": '{"schema": 1, "measured": {"KEY": {"onnxruntime": {"load_seconds": "1", "images_per_second": 1,'
    ' "speedup": 1, "speedup_low": 1}}}}',
    "negative": '{"schema": 1, "measured": {"KEY": {"onnxruntime": {"load_seconds": 1, "images_per_second": -1,'
    ' "speedup": 1, "speedup_low": 1}}}}',
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_cache_is_rebuilt(colour_model, cache, kind):
    cache.parent.mkdir()
    key = json.dumps(auto._key(colour_model, 1, 1))[1:-1]
    cache.write_text(DAMAGED[kind].replace("KEY", key))
    assert choose(colour_model, 1, 1).timings == {}
    auto._remember(auto._key(colour_model, 1, 1), timings(2, 2))
    assert choose(colour_model, 1, 1).engine == "openvino"
    assert json.loads(cache.read_text())["schema"] == 1
    assert list(cache.parent.iterdir()) == [cache]


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
def test_a_cache_that_cannot_be_written_costs_only_the_memory(colour_model, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    code = (
        f"import shvit; choice = shvit.Classifier({str(colour_model)!r}, threads=1, batch_size=1).calibrate()\n"
        "print(choice.reason); assert choice.timings"
    )
    command = [*AS_ANYBODY, sys.executable, "-c", code]
    environment = {**os.environ, CACHE_VARIABLE: str(tmp_path / "closed" / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=environment)
    assert done.returncode == 0, done.stderr
    assert "not remembered" in done.stdout
    assert "Permission denied" in done.stdout


def test_an_engine_that_cannot_run_the_file_is_left_out(colour_model):
    def load(name: str):
        if name == "openvino":
            raise ModelFileError("no")
        return load_engine(name, colour_model, 1)

    choice = measure(colour_model, 1, 1, load)
    assert choice.engine == "onnxruntime"
    assert choice.reason.startswith("no other engine could run the file")
    assert list(choose(colour_model, 1, 1).timings) == ["onnxruntime"]


def test_with_one_engine_nothing_is_measured_or_written(colour_model, cache):
    code = (
        "import sys; sys.modules['openvino'] = None\n"
        "import importlib.util, shvit.engines.auto as auto\n"
        "auto.find_spec = lambda name: None\n"
        f"classifier = __import__('shvit').Classifier({str(colour_model)!r})\n"
        "classifier.calibrate(); print(classifier.engine, classifier.engine_choice.reason)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout == "onnxruntime the only one installed\n", done.stderr
    assert not cache.exists()


def test_an_engine_that_was_asked_for_stays(colour_model, cache):
    classifier = Classifier(colour_model, engine="openvino")
    assert classifier.calibrate().reason == "asked for"
    assert classifier.engine == "openvino"
    assert not cache.exists()


def test_calibrating_changes_the_engine_of_a_classifier_at_work(colour_model, monkeypatch):
    classifier = Classifier(colour_model, threads=1)
    batch = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), dtype=np.uint8)
    before = classifier.predict_batch(batch)
    monkeypatch.setattr("shvit.predicting.loaded.measure", lambda *_: auto.EngineChoice("openvino", "measured", {}))
    classifier.calibrate()
    assert classifier.engine == classifier._engine.name == "openvino"
    np.testing.assert_allclose(classifier.predict_batch(batch), before, rtol=1e-4)


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(CACHE_VARIABLE, "~/x")  # as Docker's ENV and YAML files pass it on: no shell has read it
    assert cache_folder() == tmp_path / "x"
    assert derived_folder("tables") == tmp_path / "x" / "tables"
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_file() == tmp_path / "shvit" / "engines.json"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert cache_file() == Path("/home/somebody/.cache/shvit/engines.json")


def test_a_user_without_a_home_folder(monkeypatch, colour_model):
    """As in a container with ``--user 12345``: the choice is made, and not remembered."""
    for name in (CACHE_VARIABLE, "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 54_321)
    with pytest.raises(CacheError, match="this user has no home folder for the cache; name a folder in SHVIT_CACHE"):
        cache_folder()
    assert choose(colour_model, 1, 1).engine == "onnxruntime"
    found = measure(colour_model, 1, 1, lambda name: load_engine(name, colour_model, 1))
    assert "not remembered: this user has no home folder" in found.reason


@pytest.mark.parametrize("found", ["1.19.2", "1.3", "0.9"])
def test_a_package_that_is_too_old(found):
    with pytest.raises(MissingDependencyError, match=re.escape(pip_install("--upgrade", "onnxruntime>=1.20"))):
        check_version("onnxruntime", found, "1.20")


@pytest.mark.parametrize("found", ["1.20", "1.20.1", "1.32.0", "2.0.0rc1", "1.25.0.dev20260101"])
def test_a_package_that_is_new_enough(found):
    check_version("onnxruntime", found, "1.20")


def test_an_old_engine_is_refused_with_the_command_that_updates_it(colour_model):
    code = (
        "import openvino; openvino.__version__ = '2023.1.0'\n"
        "from shvit.engines import load_engine\n"
        f"try: load_engine('openvino', {str(colour_model)!r})\n"
        "except ImportError as error: print(error)\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE).stdout
    assert "openvino 2023.1.0 is too old" in answer
    assert pip_install("--upgrade", "openvino>=2025.0") in answer
