"""The pipeline without HTTP: pipeline.py MODEL FOLDER BATCH [fast]. Each line on stdin says for how many seconds."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from shvit import Classifier

decoding = "fast" if sys.argv[4:] == ["fast"] else "exact"
classifier = Classifier(sys.argv[1], engine="onnxruntime", batch_size=int(sys.argv[3]), decoding=decoding)
paths = sorted(Path(sys.argv[2]).glob("*.jpg"))


def endless(until: float) -> Iterator[Path]:
    while time.perf_counter() < until:
        yield from paths


list(classifier.stream(paths))
print("ready", flush=True)
for line in sys.stdin:
    began, used = time.perf_counter(), time.process_time()
    count = sum(1 for _ in classifier.stream(endless(began + float(line))))
    used, taken = time.process_time() - used, time.perf_counter() - began
    print(json.dumps({"images_per_second": count / taken, "cpu_ms": 1000 * used / count}), flush=True)
