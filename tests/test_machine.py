"""Processors that may be used, from the files that Linux shows in containers of several kinds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shvit.machine import available_threads, cpu_limit

from .conftest import PATIENCE

CGROUPS = Path(__file__).parent / "cgroups"


@pytest.mark.parametrize(
    ("case", "limit"),
    [
        ("v2_container", 1.5),
        ("v2_nested", 3.0),  # its own group has no limit, the one above has
        ("v1_host_path", 2.0),
        ("v1_unlimited", None),
        ("no such folder", None),
    ],
)
def test_a_containers_limit(case, limit):
    assert cpu_limit(CGROUPS / case) == limit


@pytest.mark.parametrize(
    ("content", "threads"),
    [("150000 100000", 2), ("140000 100000", 1), ("10000 100000", 1), ("6400000 100000", 64), ("9900000 100000", 64)],
)
def test_threads_never_exceed_the_limit_or_the_processors(tmp_path, monkeypatch, content, threads):
    for name in ("cgroup", "mountinfo"):
        (tmp_path / "proc/self").mkdir(parents=True, exist_ok=True)
        (tmp_path / "proc/self" / name).write_text((CGROUPS / "v2_container/proc/self" / name).read_text())
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text(content)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)), raising=False)
    assert available_threads(tmp_path) == threads


@pytest.mark.parametrize("content", ["", "max", "many 100000", "100000 0", "1 2 3", "-1 100000"])
def test_a_limit_that_makes_no_sense_is_none(tmp_path, content):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    (tmp_path / "proc/self/mountinfo").write_text("1 2 0:26 / /sys/fs/cgroup ro - cgroup2 cgroup rw\n")
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text(content)
    assert cpu_limit(tmp_path) is None


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_affinity_is_respected():
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from shvit.engines import available_threads; print(available_threads())"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE).stdout == "1\n"
    )
