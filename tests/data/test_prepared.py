"""Batches for evaluation, decoded in this process and in others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import numpy as np
import psutil
import pytest

from shvit.card import Preprocessing
from shvit.data.prepared import prepared_batches
from shvit.errors import DataError
from shvit.images.preprocess import decode, preprocess

from ..conftest import PATIENCE, children, wait_until
from .test_loader import BROKEN, REASONS, Pictures, die

PREPROCESSING = Preprocessing((16, 24))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_every_image_comes_once_in_order_as_the_runtime_prepares_it(workers):
    images = Pictures(31)
    batches = list(prepared_batches(images, PREPROCESSING, 3, workers))
    assert [len(batch.images) for batch in batches] == [3] * 10 + [1]
    assert np.concatenate([batch.indices for batch in batches]).tolist() == list(range(31))
    assert np.array_equal(np.concatenate([batch.labels for batch in batches]), images.labels)
    pixels = np.concatenate([batch.images for batch in batches])
    expected = [preprocess(decode(images.read(index)), PREPROCESSING) for index in range(31)]
    assert pixels.dtype == np.uint8 and np.array_equal(pixels, expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_images_are_left_out_and_named(workers):
    batches = list(prepared_batches(Pictures(9, **BROKEN), PREPROCESSING, 3, workers))
    assert [batch.indices.tolist() for batch in batches] == [[0, 1, 2], [5], [7, 8]]
    assert [len(batch.images) for batch in batches] == [len(batch.labels) for batch in batches] == [3, 1, 2]
    assert {each.index: each.reason for batch in batches for each in batch.broken} == REASONS
    (batch,) = prepared_batches(Pictures(2, at_0=b"", at_1=b""), PREPROCESSING, 3, workers)
    assert batch.images.shape == (0, 16, 24, 3) and len(batch.broken) == 2


def own_processes() -> set[tuple[int, str]]:
    """Those that this process started, without what libraries of other tests keep."""
    return set(children(os.getpid()))


def test_a_process_that_dies_ends_the_run_by_name():
    others = own_processes()
    with pytest.raises(DataError, match=r"^pictures: a process that decodes was ended from outside: .*smaller batch$"):
        list(prepared_batches(Pictures(12, at_7=die), PREPROCESSING, 3, 2))
    assert own_processes() <= others


def bug() -> bytes:
    raise EOFError("of a dataset's own")


@pytest.mark.parametrize("workers", [0, 1])
def test_other_errors_are_left_as_they_are(workers):
    with pytest.raises(EOFError, match="of a dataset's own"):
        list(prepared_batches(Pictures(3, at_1=bug), PREPROCESSING, 3, workers))


def test_processes_end_with_who_reads_them():
    before, others = threading.active_count(), own_processes()
    batches = prepared_batches(Pictures(40), PREPROCESSING, 1, 2)
    next(batches)
    assert len(own_processes() - others) == 2
    batches.close()
    assert own_processes() <= others and threading.active_count() == before


KILLED = """
import sys, psutil
from shvit.card import Preprocessing
from shvit.data.datasets import open_dataset
from shvit.data.prepared import prepared_batches
batches = prepared_batches(open_dataset(sys.argv[1], "val"), Preprocessing((32, 32)), 1, 3)
next(batches)
print(*[each.pid for each in psutil.Process().children()], flush=True)
sys.stdin.read()
"""


def test_processes_end_with_a_parent_that_is_killed(tmp_path):
    for index, data in enumerate(Pictures(40).data):
        file = tmp_path / "val" / "ab"[index % 2] / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        pids = [int(each) for each in parent.stdout.readline().split()]
        assert len(pids) == 3
        parent.send_signal(signal.SIGKILL)
        parent.wait(PATIENCE)
    wait_until(lambda: not any(psutil.pid_exists(pid) and _runs(pid) for pid in pids), "the processes ended")


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


UNGUARDED = """
import multiprocessing, sys
from pathlib import Path
import numpy as np
from shvit.card import ClassInfo, Preprocessing
from shvit.data.formats.files import ImageFiles
from shvit.data.prepared import prepared_batches
from shvit.data.workers import check_guarded
multiprocessing.set_start_method("spawn", force=True)
{guard}
    check_guarded(2)
    paths = [f"{{index:0100}}.png" for index in range(2000)]
    images = ImageFiles("many", Path(), paths, np.zeros(2000, np.int64), (ClassInfo(0, "a"),))
    print(sum(len(batch.broken) for batch in prepared_batches(images, Preprocessing((32, 32)), 100, 2)))
"""


@pytest.mark.parametrize("guard", ['if __name__ == "__main__":', "if True:"], ids=["guarded", "not guarded"])
def test_where_processes_are_started_anew(tmp_path, guard):
    """With a dataset that is larger than what a pipe holds."""
    script = tmp_path / "mine.py"
    script.write_text(UNGUARDED.format(guard=guard))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=PATIENCE)
    if guard != "if True:":
        assert (done.returncode, done.stdout) == (0, "2000\n"), done.stderr
        return
    assert done.returncode == 1
    assert "ArgumentError: the script's call runs again in each decoding process" in done.stderr
    assert "or the script's call is not under if __name__ == " in done.stderr.splitlines()[-1]
