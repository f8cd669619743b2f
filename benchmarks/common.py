"""What every study records of the machine, and how it writes its result."""

from __future__ import annotations

import datetime
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from shvit.bench.machine import machine
from shvit.bench.summary import summary

__all__ = ["RESULTS", "S1_INT8", "machine", "record", "s1_int8", "summary", "write_class_folders"]

RESULTS = Path(__file__).parent / "results"

S1_INT8 = "s1_224_int8"
"""What the studies call the model of ``s1_int8``."""


def record(name: str, command: str, result: dict[str, Any]) -> None:
    """Writes ``results/NAME.json`` and prints it."""
    text = json.dumps(
        {"command": command, "date": datetime.date.today().isoformat(), "machine": machine(), **result}, indent=2
    )
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")
    print(text)


def write_class_folders(dataset: Any, folder: Path, count: int) -> None:
    """So many of a dataset's images, evenly spaced over it, as timm and torchvision take them."""
    for index in np.linspace(0, len(dataset) - 1, count).astype(int):
        path = folder / str(dataset.labels[index]) / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(dataset.read(int(index)))


def s1_int8(folder: Path) -> str:
    """Writes S1 at 224 px with 1000 classes and random weights, in 8 bits; its path."""
    path = folder / f"{S1_INT8}.onnx"
    # In a process of its own, since PyTorch's memory would count as the study's.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        pool.submit(_write_s1_int8, path).result()
    return str(path)


def _write_s1_int8(path: Path) -> None:
    from shvit.bench.networks import open_network, write_model_file

    write_model_file(open_network("shvit_s1"), "int8", path)
