from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from shvit.batch.plan import BatchSettings
from shvit.batch.run import BatchSummary, RunOptions, run_batch

from ..conftest import PATIENCE

DAMAGED = b"\xff\xd8\xff\xe0 no more of a picture than this"


def jpeg(seed: int, size: tuple[int, int] = (60, 40)) -> bytes:
    """A picture of one colour with some noise, so that no two are the same."""
    generator = np.random.default_rng(seed)
    pixels = np.full((size[1], size[0], 3), 20, np.int16)
    pixels[..., seed % 3] = 200
    pixels += generator.integers(-20, 20, pixels.shape, dtype=np.int16)
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def write_folder(folder: Path, count: int) -> Path:
    """So many pictures in folders of ten."""
    for number in range(count):
        path = folder / f"{number // 10:03d}" / f"{number:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(number))
    return folder


@pytest.fixture(scope="session")
def slow_pictures(tmp_path_factory) -> Path:
    """160 pictures that take some 15 ms each, so that a run can be caught in the middle."""
    folder = tmp_path_factory.mktemp("slow")
    base = [jpeg(seed, (1600, 1000)) for seed in range(4)]
    for number in range(160):
        (folder / f"{number:04d}.jpg").write_bytes(base[number % 4])
    return folder


@pytest.fixture(scope="session")
def slow_rows(colour_model, slow_pictures, tmp_path_factory) -> list[dict[str, object]]:
    """What a run in one process, which nobody disturbs, makes of them."""
    output = tmp_path_factory.mktemp("slow-rows") / "out"
    batch(colour_model, output, slow_pictures)
    return rows_of(output)


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def write_parquet(path: Path, images: list[bytes | None], rows_in_group: int = 4) -> Path:
    """As the ``datasets`` library writes images."""
    structs = [None if data is None else {"bytes": data, "path": f"{number}.jpg"} for number, data in enumerate(images)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"label": list(range(len(images))), "image": pa.array(structs, kind)})
    pq.write_table(table, path, row_group_size=rows_in_group)
    return path


def rows_of(output: Path) -> list[dict[str, object]]:
    """Everything in an output, in the order of its parts."""
    return pq.read_table(output).to_pylist()


def batch(model: Path, output: Path | str, *sources: object, **options: object) -> BatchSummary:
    """A run with small units."""
    more = {name: options.pop(name) for name in ("workers", "ray_address", "retry_failed") if name in options}
    settings = BatchSettings(tuple(map(str, sources)), str(model), **{"unit_size": 8, **options})
    return run_batch(settings, str(output), RunOptions(**{"workers": 1, **more}))


def command(model: Path, output: object, *arguments: object) -> list[str]:
    fixed = ("--output", output, "--model", model, "--unit-size", 8)
    return [sys.executable, "-m", "shvit", "batch", *map(str, (*arguments, *fixed))]


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = PATIENCE) -> None:
    """Until something is so, while a process runs."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"it ended too early: {process.communicate()}"
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)


def parts(output: Path) -> int:
    return len(list(output.glob("part-*.parquet")))


@pytest.fixture
def small_disk(tmp_path):
    """Makes a folder of a megabyte, if this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() or shutil.which("mount") is None:
        pytest.skip("needs root to mount a small file system")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True)
    if done.returncode:
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", folder], check=True)
