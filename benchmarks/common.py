"""What every study records of the machine, and how it writes its result."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("shvit", "numpy", "pillow", "onnxruntime", "torch", "timm")


def machine() -> dict[str, Any]:
    """The processor, how many of it, and the versions that matter."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = names[0] if names else name
    return {
        "processor": name,
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": {package: version(package) for package in PACKAGES},
    }


def summary(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def record(name: str, command: str, result: dict[str, Any]) -> None:
    """Writes ``results/NAME.json`` and prints it."""
    text = json.dumps(
        {"command": command, "date": datetime.date.today().isoformat(), "machine": machine(), **result}, indent=2
    )
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(text + "\n")
    print(text)


def write_class_folders(dataset: Any, folder: Path, count: int) -> None:
    """So many of a dataset's images, evenly spaced over it, as timm and torchvision take them."""
    for index in np.linspace(0, len(dataset) - 1, count).astype(int):
        path = folder / str(dataset.labels[index]) / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(dataset.read(int(index)))
