"""One model file in one engine, in a process of its own: ``python -m shvit.bench.worker FILE ENGINE THREADS BATCH``.

A process holds nothing else, so its memory is the engine's, the model's and the batch's. It answers with a line of JSON
when it is ready, then runs for as many seconds as each line on stdin says, and answers with the times.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from shvit.engines import Engine, load_engine
from shvit.engines.base import as_model_output_error
from shvit.errors import ShvitError
from shvit.predicting.loaded import read_card
from shvit.predicting.outputs import check_rows

WARM_UP = 3
"""Runs before the first that counts: engines allocate in the first and settle in the second."""


def main() -> None:
    # Whatever an engine prints must not come between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(contents: dict[str, Any]) -> None:
        print(json.dumps(contents), file=answers, flush=True)

    file, engine_name, threads, batch_size = sys.argv[1:]
    started = time.perf_counter()
    try:
        engine = load_engine(engine_name, file, int(threads))
        batch = _batch(engine, Path(file), int(batch_size))
        with as_model_output_error(Path(file)):
            for _ in range(WARM_UP):
                output = engine.infer(batch)
        check_rows(output, len(batch), Path(file), "output")
    except (ShvitError, MemoryError) as error:
        answer({"error": str(error) or type(error).__name__})
        return
    loaded = time.perf_counter() - started
    answer({"engine": engine.name, "load_seconds": loaded, "image_size": list(batch.shape[1:3])})
    for line in sys.stdin:
        answer({**_run(engine, batch, float(line)), "peak_memory_mb": peak_memory_mb()})


def _batch(engine: Engine, file: Path, count: int) -> np.ndarray:
    """Noise: what an image shows does not change how long it takes."""
    height, width = engine.input_shape[1:3]
    if height is None or width is None:
        height, width = read_card(engine.metadata, file).preprocessing.image_size
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def _run(engine: Engine, batch: np.ndarray, seconds: float) -> dict[str, Any]:
    """At least one run; and one before, because the processor's caches have been another model's meanwhile."""
    engine.infer(batch)
    milliseconds: list[float] = []
    processor, began = time.process_time(), time.perf_counter()
    now = began
    while not milliseconds or now - began < seconds:
        started = now
        engine.infer(batch)
        now = time.perf_counter()
        milliseconds.append((now - started) * 1000)
    return {"milliseconds": milliseconds, "cores_used": (time.process_time() - processor) / (now - began)}


def peak_memory_mb() -> float | None:
    """The most memory that this process has had resident, in millions of bytes; ``None`` where nothing tells."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(each for each in status.read_text().splitlines() if each.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # bytes on macOS


if __name__ == "__main__":
    main()
