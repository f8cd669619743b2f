"""What a measurement was made on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from shvit.engines import available_threads
from shvit.machine import cpuinfo, processor_name

PACKAGES = ("shvit", "numpy", "pillow", "onnxruntime", "openvino", "torch", "timm")
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "asimd", "asimddp", "i8mm")
"""Of x86 and ARM processors: what decides how fast float32 and 8-bit arithmetic can be."""


def machine() -> dict[str, Any]:
    """The processor, how many of it, its instructions, its load, and the versions that matter."""
    described: dict[str, Any] = {
        "processor": processor_name(),
        "cores": available_threads(),
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": _versions(),
    }
    if fields := cpuinfo():
        flags = fields.get("flags", fields.get("Features", "")).split()
        described["instructions"] = [each for each in INSTRUCTIONS if each in flags]
    if hasattr(os, "getloadavg"):
        described["load_average"] = round(os.getloadavg()[0], 2)
    return described


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
