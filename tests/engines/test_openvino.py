"""OpenVINO in a process that does other things as well."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ..conftest import PATIENCE

pytest.importorskip("openvino", reason="needs shvit[openvino]")

LOADED_AND_LET_GO = """
import gc, os, signal, sys
from pathlib import Path
from shvit.engines import load_engine

engines = [load_engine("openvino", Path(sys.argv[1]), 1) for _ in range(3)]
while engines:
    del engines[0]
    gc.collect()
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGUSR1)
"""


def test_a_signal_after_engines_were_let_go_is_handled(colour_model: Path):
    """As a server's SIGTERM after its engines were timed; it ended the process, on a stack that was unmapped."""
    program = [sys.executable, "-c", LOADED_AND_LET_GO, colour_model]
    done = subprocess.run(program, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (0, "handled\n")
