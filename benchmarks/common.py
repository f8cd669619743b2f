"""What every study records of the machine, and how it writes its result."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np

from shvit.bench.machine import machine
from shvit.bench.summary import summary

__all__ = ["RESULTS", "machine", "record", "summary", "write_class_folders"]

RESULTS = Path(__file__).parent / "results"


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
