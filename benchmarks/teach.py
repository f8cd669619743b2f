"""How long teaching takes, how much memory, and what 8 bits cost it.

Times are of whole processes of `shvit teach` on one core, from start to the verified file: ten classes of fifty
photographs of 500×375, cut out of mosaics of real pictures, so that their files are as large as photographs'. S1 at 224
px and S4 at 256 px have random weights, which takes as long; the shipped model is there as it is. Accuracies are on
unseen pictures of the five small tasks of small_folders.py, fifty pictures of each class, with the shipped weights as a
file in float32 and one in 8 bits.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import shvit
from common import record
from shvit.bench.networks import open_network, write_model_file
from shvit.engines import load_engine
from shvit.shipped import DEFAULT_MODEL, resolve_model
from small_folders import TASKS, WEIGHTS, parts, task

CLASSES, EACH, SIZE = 10, 50, (500, 375)


def write_photographs(data: Path, folder: Path) -> Path:
    """Parts of real photographs; classes mean nothing, since only time is measured."""
    sources = sorted((data / "photographs").glob("*.jpg"))
    rng = np.random.default_rng(0)
    for place in range(CLASSES * EACH):
        with Image.open(sources[place % len(sources)]) as photograph:
            picture = photograph.convert("RGB")
        width, height = picture.size
        share = rng.uniform(0.6, 1)
        across, down = share * width, share * height
        left, top = rng.uniform(0, width - across), rng.uniform(0, height - down)
        path = folder / f"class {place % CLASSES}" / f"{place}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.resize(SIZE, Image.Resampling.BICUBIC, (left, top, left + across, top + down)).save(path, quality=90)
    return folder


def timed(python: str, photographs: Path, model: str, output: Path) -> dict[str, float]:
    """One process on one core."""
    command = [python, "-m", "shvit", "teach", str(photographs), "--model", model, "--output", str(output)]
    core = str(max(os.sched_getaffinity(0)))
    # A process of its own between, whose only child is measured: the largest of all children is what the system tells.
    code = (
        "import resource, subprocess, sys, time; started = time.perf_counter(); "
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL); "
        "used = resource.getrusage(resource.RUSAGE_CHILDREN); "
        "print(time.perf_counter() - started, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)"
    )
    told = subprocess.run(
        ["taskset", "-c", core, sys.executable, "-c", code, *command], check=True, capture_output=True, text=True
    )
    seconds, busy, megabytes = map(float, told.stdout.split())
    return {"seconds": round(seconds, 1), "cpu_seconds": round(busy, 1), "peak_mb": round(megabytes)}


def accuracies(data: Path, folder: Path, seeds: int) -> dict[str, Any]:
    """Of each task, in float32 and in 8 bits, on pictures that were not taught."""
    whole = folder / "float32.onnx"
    shvit.export(WEIGHTS, whole, precision="fp32")
    found: dict[str, Any] = {}
    for name in TASKS:
        rows: dict[str, list[float]] = {"float32": [], "int8": []}
        for seed in range(seeds):
            seen, unseen = parts(task(name, data), EACH, seed)
            place = folder / f"{name}-{seed}"
            for split, images in (("train", seen), ("val", unseen)):
                for index in range(len(images)):
                    path = place / split / images.classes[images.labels[index]].label / f"{index}.jpg"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(images.read(index))
            for precision, model in (("float32", str(whole)), ("int8", DEFAULT_MODEL)):
                mine = folder / f"{name}-{seed}-{precision}.onnx"
                shvit.teach(place, model, mine, shvit.TeachOptions(threads=1))
                result = shvit.evaluate(mine, place, shvit.EvaluationOptions(threads=1, workers=0))
                rows[precision].append(result.top1)
        found[name] = {precision: [round(each, 4) for each in values] for precision, values in rows.items()}
        print(name, found[name], flush=True)
    found["mean"] = {
        precision: round(float(np.mean([np.mean(found[name][precision]) for name in TASKS])), 4)
        for precision in ("float32", "int8")
    }
    return found


def speed(taught: Path) -> dict[str, float]:
    """Milliseconds an image on one thread, batches of one: the shipped file's and a file's that was taught from it."""
    engines = {
        "shipped": load_engine("onnxruntime", resolve_model(DEFAULT_MODEL), 1),
        "taught": load_engine("onnxruntime", taught, 1),
    }
    pixels = np.random.default_rng(0).integers(0, 256, (1, *engines["taught"].input_shape[1:]), dtype=np.uint8)
    times: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(400):
        for name, engine in engines.items():
            started = time.perf_counter()
            engine.run(pixels)
            times[name].append(1000 * (time.perf_counter() - started))
    return {name: round(float(np.median(values)), 3) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with photographs/, bccd/, coco-tiny/, ...")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--python", default=sys.executable, help="of the installation whose times are taken")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        photographs = write_photographs(args.data, folder / "photographs")
        models = {"shipped (S1 at 128 px, int8)": DEFAULT_MODEL}
        for variant in ("shvit_s1", "shvit_s4"):
            network = open_network(variant)
            for precision in ("fp16", "int8"):
                path = folder / f"{variant}-{precision}.onnx"
                write_model_file(network, precision, path)
                models[f"{variant} ({precision})"] = str(path)
        times = {}
        for name, model in models.items():
            runs = []
            for _ in range(args.repeats):
                output = folder / "mine" / "mine.onnx"
                for each in output.parent.glob("*"):
                    each.unlink()
                runs.append(timed(args.python, photographs, model, output))
            times[name] = sorted(runs, key=lambda run: run["seconds"])[len(runs) // 2]
            print(name, times[name], flush=True)
        shvit.teach(photographs, DEFAULT_MODEL, folder / "taught.onnx", shvit.TeachOptions(threads=1))
        result = {
            "pictures": CLASSES * EACH,
            "one_core": times,
            "ms_an_image": speed(folder / "taught.onnx"),
            "accuracy": accuracies(args.data, folder, args.seeds),
        }
    record("teach", "python benchmarks/teach.py --data DATA --python LIGHT/bin/python", result)


if __name__ == "__main__":
    main()
