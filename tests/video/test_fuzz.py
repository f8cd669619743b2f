"""Damaged files of every kind: no crash, no hang, whatever was changed in them."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av", reason="needs shvit[video]")

from .clips import coloured, write_clip

LIMIT = 60
"""Seconds for one process, which reads ``EACH`` files."""

EACH = 20

READ = """
import faulthandler, sys
from shvit.errors import VideoError
from shvit.video.frames import Damage, ReadOptions, Video
faulthandler.enable()
frames = damaged = refused = 0
for path in sys.argv[1:]:
    for threads in (1, 2):
        try:
            with Video(path, ReadOptions(threads=threads)) as video:
                last = -1.0
                for item in video:
                    if isinstance(item, Damage):
                        damaged += 1
                        continue
                    assert item.time > last >= -1, (path, item.time, last)
                    last = item.time
                    frames += 1
                    if item.index % 10 == 0:
                        try:
                            assert item.image.shape[2] == item.resized(32, 24).shape[2] == 3
                        except VideoError:
                            damaged += 1
        except VideoError:
            refused += 1
print(frames, damaged, refused)
"""


def mutate(data: bytes, random: np.random.Generator) -> bytes:
    """Bits turned, stretches overwritten, cut out, doubled or zeroed, the end cut off."""
    mutated = bytearray(data)
    for _ in range(random.integers(1, 6)):
        if len(mutated) < 16:
            break
        # Half of the changes near the beginning, where the headers are.
        place = int(random.integers(0, len(mutated) if random.random() < 0.5 else min(len(mutated), 2000)))
        length = int(random.integers(1, 200))
        match random.integers(0, 6):
            case 0:
                mutated[place] ^= 1 << int(random.integers(0, 8))
            case 1:
                mutated[place : place + length] = random.bytes(length)
            case 2:
                del mutated[place : place + length]
            case 3:
                mutated[place:place] = mutated[place : place + length]
            case 4:
                mutated[place : place + length] = bytes(len(mutated[place : place + length]))
            case 5:
                del mutated[int(random.integers(1, len(mutated))) :]
    return bytes(mutated)


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("originals")
    pictures = coloured(("red", 20), ("blue", 20))
    found = []
    for name, options in (
        ("a.mp4", {}),
        ("b.mkv", {}),
        ("c.ts", {}),
        ("d.avi", {"codec": "mpeg4"}),
        ("e.webm", {"codec": "libvpx"}),
        ("f.mov", {"codec": "mjpeg", "pixel_format": "yuvj420p"}),
        ("g.mp4", {"pixel_format": "yuv420p10le", "matrix": (0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)}),
        ("h.flv", {"codec": "flv1"}),
    ):
        found.append(write_clip(folder / name, pictures, **options).read_bytes())
    return found


def read_mutated(originals: list[bytes], folder: Path, count: int, seed: int) -> tuple[int, int, int]:
    """How many frames, how much damage, how many refusals there were in so many mutated files."""
    random = np.random.default_rng(seed)
    paths = []
    for number in range(count):
        paths.append(folder / f"{number}.bin")
        paths[-1].write_bytes(mutate(originals[number % len(originals)], random))
    groups = [paths[place : place + EACH] for place in range(0, count, EACH)]

    def run(group: list[Path]) -> list[int]:
        command = [sys.executable, "-c", READ, *map(str, group)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
        assert done.returncode == 0, f"{done.stderr}\namong {group}"
        assert "Traceback" not in done.stderr
        return [int(each) for each in done.stdout.split()]

    with ThreadPoolExecutor(2) as pool:
        frames, damaged, refused = np.sum(list(pool.map(run, groups)), axis=0).tolist()
    return frames, damaged, refused


def test_some_mutated_files(originals, tmp_path):
    frames, damaged, refused = read_mutated(originals, tmp_path, 24, seed=0)
    assert frames > 200
    assert damaged > 0
    assert refused > 0


@pytest.mark.slow
def test_many_mutated_files(originals, tmp_path):
    frames, damaged, _ = read_mutated(originals, tmp_path, 1000, seed=1)
    assert frames > 10_000
    assert damaged > 200
