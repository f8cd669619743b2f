from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
from hypothesis import HealthCheck, settings
from onnx import TensorProto, helper, numpy_helper

from shvit.card import METADATA_KEY, Card, ClassInfo, Decision, Preprocessing, Unknown

from .hub_server import HubServer, write_timm_repository

ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "samples"
AS_ANYBODY = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()
"""Before a command: takes away root's right to read every file."""
PATIENCE = 300
"""Seconds after which a process counts as hung, on a busy machine too."""
TINY_IMAGENET = ROOT.parent / "shared" / "data" / "tiny-imagenet"

# Hypothesis's limits on time tell of a busy machine, not of a fault; and a suite says the same of the same source.
settings.register_profile(
    "patient", parent=settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
settings.load_profile("patient")


# Where tests say nothing else, nothing that is printed is folded. Readline, which pytest loads, tells programs that are
# started of it past ``os.environ``.
os.environ.pop("COLUMNS", None)
os.unsetenv("COLUMNS")


LONGEST = (
    "batch/test_ray.py",
    "exporting/test_deploy_docs.py",
    "test_python.py",
    "training/test_distributed.py",
    "training/test_train.py",
    "training/test_resume.py",
    "training/test_continuation.py",
    "bench/test_compare.py",
    "exporting/test_litert.py",
    "web/test_teach.py",
    "cli/test_train.py",
    "hub/test_fetch.py",
    "models/test_shvit.py",
    "cli/test_names.py",
    "training/test_several_labels.py",
    "hub/test_page.py",
    "teaching/test_teach.py",
)
"""Files that take the longest, which are begun first: one that is begun last is waited for by all other processes."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {ROOT / "tests" / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


def pytest_runtest_setup() -> None:
    """Random networks are the same in every run: one in four small ones loses more in 8 bits than an export accepts."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session")
def tiny_imagenet() -> Path:
    """The whole dataset, which is not the project's to ship."""
    if not TINY_IMAGENET.is_dir():
        pytest.skip("needs Tiny-ImageNet in ../shared/data, which this machine does not have")
    return TINY_IMAGENET


@pytest.fixture(scope="session")
def in_ci() -> bool:
    return bool(os.environ.get("CI"))


@pytest.fixture(scope="session")
def program(in_ci) -> Callable[[str], str]:
    """Finds a program that a test drives; without it the test is skipped, or fails in CI, which installs all."""

    def find(name: str) -> str:
        path = shutil.which(name)
        if path is None:
            (pytest.fail if in_ci else pytest.skip)(f"needs the program {name}, which this machine does not have")
        return path

    return find


def wait_until(condition: Callable[[], object], what: str = "it came to that") -> None:
    """Looks again and again, for as long as a busy machine may take."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE} s: {what}"
        time.sleep(0.02)


class Clock:
    """In place of the module ``time``: stands still but for what a test lets it go on."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


def free_port() -> int:
    """A port of the loopback interface that nothing listens at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def children(parent: int, recursive: bool = False) -> list[tuple[int, str]]:
    """Processes that a process started, with ``recursive`` those that they started too, and their command lines."""
    found = []
    with suppress(psutil.NoSuchProcess):
        for process in psutil.Process(parent).children(recursive):
            with suppress(psutil.NoSuchProcess):  # it ended meanwhile
                found.append((process.pid, " ".join(process.cmdline())))
    return found


def make_debian(debootstrap: str, suite: str, packages: str, root: Path) -> Path:
    """A minimal Debian in a folder; skips where this user may not make and enter one."""
    if platform.system() != "Linux" or os.geteuid() != 0:
        pytest.skip("needs root on Linux, to make and enter another root")
    command = [debootstrap, "--variant=minbase", f"--include={packages}", suite, str(root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-2000:]
    return root


COLOURS = ("red", "green", "blue")


def colour_card(**changes) -> Card:
    fields = {
        "name": "colours",
        "architecture": "none",
        "classes": tuple(ClassInfo(i, name, None) for i, name in enumerate(COLOURS)),
        "preprocessing": Preprocessing((32, 48)),
    }
    return Card(**{**fields, **changes})


def write_colour_model(path: Path, card_json: str | None) -> Path:
    """A model file that tells an image's strongest colour: the mean of each channel, as logits."""
    axes = numpy_helper.from_array(np.array([1, 2], np.int64), "axes")
    scale = numpy_helper.from_array(np.array(1 / 16, np.float32), "scale")
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["pixels", "axes"], ["means"], keepdims=0),
            helper.make_node("Mul", ["means", "scale"], ["logits"]),
        ],
        "colours",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 32, 48, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [axes, scale],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    if card_json is not None:
        helper.set_model_props(model, {METADATA_KEY: card_json})
    onnx.save(model, path)
    return path


@pytest.fixture(scope="session")
def colour_model(tmp_path_factory) -> Path:
    return write_colour_model(tmp_path_factory.mktemp("model") / "colours.onnx", colour_card().to_json())


UNKNOWN_LIMIT = -60.0


def write_deciding_model(path: Path, unknown: Unknown | None = None, **changes) -> Path:
    """The colour model with an output ``unknown``, by how little a picture's colours differ: grey is unknown.

    Args:
        unknown: in place of a limit of ``UNKNOWN_LIMIT``.
        changes: fields of the decision.
    """
    limit = unknown or Unknown("how grey it is", UNKNOWN_LIMIT, 0.95)
    decision = Decision("fp32", "colours", 90, **{"min_score": 0.9, "unknown": limit, **changes})
    model = onnx.load(write_colour_model(path, colour_card(decision=decision).to_json()))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "columns"))
    model.graph.node.extend(
        [
            helper.make_node("ReduceMin", ["means", "columns"], ["least"]),
            helper.make_node("ReduceMax", ["means", "columns"], ["most"]),
            helper.make_node("Sub", ["least", "most"], ["unknown"]),
        ]
    )
    model.graph.output.append(helper.make_tensor_value_info("unknown", TensorProto.FLOAT, ["batch", 1]))
    onnx.save(model, path)
    return path


@pytest.fixture(scope="session")
def deciding_model(tmp_path_factory) -> Path:
    return write_deciding_model(tmp_path_factory.mktemp("model") / "deciding.onnx")


@pytest.fixture
def hub() -> Iterator[HubServer]:
    """A model hub on loopback that holds nothing yet; ``tests/hub_server.py`` says how it is used."""
    server = HubServer()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def timm_repository(tmp_path_factory) -> Callable[[str], Path]:
    """The folder that timm writes of a variant, made once; tests must not change it."""
    made: dict[str, Path] = {}

    def write(name: str = "shvit_s1") -> Path:
        if name not in made:
            made[name] = write_timm_repository(tmp_path_factory.mktemp("timm") / name, name)
        return made[name]

    return write
