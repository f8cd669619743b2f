"""The machine: its processor, and how much of it this process may use."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterator
from pathlib import Path


def available_threads(root: Path = Path("/")) -> int:
    """Processors that this process may run on, by its affinity and its control groups' CPU limits.

    A limit of 1.5 processors counts as 2, of 1.4 as 1.

    Args:
        root: where ``proc`` and ``sys`` are.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = cpu_limit(root)
    return cores if limit is None else max(1, min(cores, math.floor(limit + 0.5)))


def cpu_limit(root: Path = Path("/")) -> float | None:
    """Processors' worth of time that control groups (version 1 or 2) allow, the strictest of all levels.

    ``None`` where there is no limit, or none that can be read.
    """
    return min((limit for folder in _group_folders(root) if (limit := _limit(folder)) is not None), default=None)


def _group_folders(root: Path) -> Iterator[Path]:
    """Folders of the groups this process is in, from its own up to the topmost that it sees."""
    try:
        groups = [line.split(":", 2) for line in (root / "proc/self/cgroup").read_text().splitlines()]
        mounts = [line.split() for line in (root / "proc/self/mountinfo").read_text().splitlines()]
    except OSError:  # another system than Linux
        return
    for mount in mounts:
        # 30 23 0:26 /docker/ID /sys/fs/cgroup/cpu,cpuacct ro,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
        mounted, point, kind, options = mount[3], mount[4], mount[mount.index("-") + 1], mount[-1]
        if kind == "cgroup2":
            paths = [path for number, _, path in groups if number == "0"]
        elif kind == "cgroup" and "cpu" in options.split(","):
            paths = [path for _, controllers, path in groups if "cpu" in controllers.split(",")]
        else:
            continue
        top = root / point.lstrip("/")
        for path in paths:
            # Without a namespace of its own a container sees its path on the host, which its mount begins with.
            inside = Path(path).relative_to(mounted) if Path(path).is_relative_to(mounted) else Path()
            folder = top / inside
            yield from (folder, *(each for each in folder.parents if each.is_relative_to(top)))


def _limit(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):  # no such file here, or "max"
        return None


def cpuinfo() -> dict[str, str]:
    """The fields of ``/proc/cpuinfo`` for the first processor, by name; empty on systems without it."""
    fields: dict[str, str] = {}
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
            for line in file:
                if not line.strip() and fields:
                    break  # the next processor
                name, _, value = line.partition(":")
                fields[name.strip()] = value.strip()
    except OSError:
        pass
    return fields


def processor_name() -> str:
    """Such as ``AMD EPYC 7763``."""
    return cpuinfo().get("model name") or platform.processor() or platform.machine()
