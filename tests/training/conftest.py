from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

WNIDS = ("n01443537", "n02124075", "n07920052")
DRIVER = Path(__file__).parent / "driver.py"


@pytest.fixture(scope="session")
def colours(tmp_path_factory) -> Path:
    """Three classes that differ in colour: enough to see that something is learnt."""
    root = tmp_path_factory.mktemp("colours")
    rng = np.random.default_rng(0)
    for split, count in (("train", 16), ("val", 4)):
        for label, wnid in enumerate(WNIDS):
            for i in range(count):
                pixels = rng.integers(0, 120, (48, 48, 3), dtype=np.uint8)
                pixels[..., label] += 130
                path = root / split / wnid / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    return root


def drive(
    data: Path, folder: Path, options: dict[str, Any], launcher: tuple[str, ...] = (), **environment: str
) -> subprocess.Popen[str]:
    """Starts ``driver.py``; by itself, or under a launcher such as ``torch.distributed.run``."""
    folder.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        [sys.executable, *launcher, str(DRIVER), str(data), str(folder), json.dumps(options)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def losses(folder: Path) -> dict[int, float]:
    """Loss by optimizer step; of a step that was taken twice, the last."""
    rows = [json.loads(line) for line in (folder / "losses.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


@pytest.fixture(scope="session")
def spots(tmp_path_factory) -> Path:
    """Pictures with any number of coloured squares, and a list of which: the labels of each can be seen."""
    root = tmp_path_factory.mktemp("spots")
    rng = np.random.default_rng(0)
    lines = ["path,labels,split"]
    for place in range(64):
        pixels = rng.integers(0, 90, (48, 48, 3), dtype=np.uint8)
        present = [channel for channel in range(3) if rng.random() < 0.5]
        for channel in present:
            top, left = rng.integers(0, 24, 2)
            pixels[top : top + 24, left : left + 24, channel] += 150
        Image.fromarray(pixels).save(root / f"{place}.png")
        names = "|".join(("red", "green", "blue")[channel] for channel in present)
        lines.append(f"{place}.png,{names},{'val' if place % 4 == 0 else 'train'}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return root
