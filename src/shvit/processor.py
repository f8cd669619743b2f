"""What the system says of the processor."""

from __future__ import annotations

import platform
from pathlib import Path


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
