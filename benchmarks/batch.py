"""A batch run in plain processes and on Ray, on the same machine with the same workers; and the memory of both.

Two sources: a Parquet file of 64×64 JPEGs (Tiny-ImageNet's validation images, over and over; crops of samples/ without
--data), where an image takes a millisecond and overhead shows most; and a folder of photographs of 500×375. Four
sides, in turns, each in a process of its own: `shvit batch --workers N`, the same with `--ray-address local`, which
starts Ray for the run, the same with `--ray-address auto` on a Ray that runs already, and the pipeline that Ray Data's
documentation teaches (read, map_batches with a pool of actors, write_parquet), which does without restart and without
rows for what cannot be read. Memory is the sum over all processes of a run of what is theirs alone and their share of
what they have in common (PSS), the largest seen; of a Ray that runs already it is not looked at.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from common import record, summary
from processes import PeakMemory
from shvit.bench.pipeline import write_photographs
from shvit.bench.summary import ratios

ROOT = Path(__file__).parent.parent
ADDRESSES = {"plain": None, "ray": "local", "ray_running": "auto"}
SIDES = (*ADDRESSES, "ray_data")


def small_images(data: str | None, count: int, samples: list[Path]) -> Iterator[bytes]:
    """So many JPEGs of 64×64."""
    if data is not None:
        file = next(Path(data).glob("validation-*.parquet"))
        encoded = pq.read_table(file, columns=["image"])["image"].combine_chunks().field("bytes").to_pylist()
        yield from (encoded[number % len(encoded)] for number in range(count))
        return
    generator = np.random.default_rng(0)
    pictures = [Image.open(path).convert("RGB") for path in samples]
    for number in range(count):
        picture = pictures[number % len(pictures)]
        left, top = (int(generator.integers(0, side - 64)) for side in picture.size)
        buffer = io.BytesIO()
        picture.crop((left, top, left + 64, top + 64)).save(buffer, "JPEG", quality=90)
        yield buffer.getvalue()


def make_sources(folder: Path, images: int, few: int, data: str | None) -> dict[tuple[str, int], Path]:
    """By kind and number of images, what to read."""
    samples = sorted((ROOT / "samples").glob("*.jpg"))
    sources = {}
    for count in (few, images):
        path = folder / f"small-{count}.parquet"
        pq.write_table(pa.table({"image": list(small_images(data, count, samples))}), path, row_group_size=256)
        sources["small_parquet", count] = path
        (folder / f"photographs-{count}").mkdir()
        write_photographs(folder / f"photographs-{count}", count, samples)
        sources["photograph_files", count] = folder / f"photographs-{count}"
    return sources


@contextmanager
def running_ray(workers: int) -> Iterator[None]:
    """A Ray on this machine with room for so many workers and for who asks."""
    ray = str(Path(sys.executable).with_name("ray"))
    start = [ray, "start", "--head", f"--num-cpus={workers + 1}", "--include-dashboard=false", "--disable-usage-stats"]
    try:
        subprocess.run(start, check=True, capture_output=True)
        yield
    finally:
        subprocess.run([ray, "stop", "--force"], check=True, capture_output=True)


def run_side(side: str, source: Path, output: Path, workers: int) -> dict[str, float]:
    """One run in a process of its own: images, seconds in all and at work, peak memory."""
    command = [sys.executable, __file__, "--one", side, str(source), str(output), "--workers", str(workers)]
    started = time.perf_counter()
    errors = output.with_name(f"{output.name}.log")
    with errors.open("w") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
        )
    with PeakMemory(process.pid) as memory:
        text, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit status {process.returncode}\n{errors.read_text()}")
    done = json.loads(text.splitlines()[-1])
    return {**done, "process_seconds": time.perf_counter() - started, "peak_mb": memory.bytes / 2**20}


def one(side: str, source: str, output: str, workers: int) -> None:
    """What runs in that process."""
    if side == "ray_data":
        print(json.dumps(ray_data(source, output, workers)))
        return
    from shvit.batch.plan import BatchSettings
    from shvit.batch.run import RunOptions, run_batch

    done = asdict(run_batch(BatchSettings((source,)), output, RunOptions(workers, ADDRESSES[side])))
    print(json.dumps({name: done[name] for name in ("inputs", "failed", "seconds", "seconds_working")}))


class Classify:
    """What Ray Data's actors do with a batch: encoded images to labels and scores."""

    def __init__(self) -> None:
        from shvit import Classifier

        self._classifier = Classifier(threads=1)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        results = self._classifier.predict([bytes(each) for each in batch["bytes"]])
        return {
            "labels": [[each.label for each in result.predictions] for result in results],
            "scores": [[each.score for each in result.predictions] for result in results],
        }


def ray_data(source: str, output: str, workers: int) -> dict[str, float]:
    import ray

    started = time.perf_counter()
    # One processor more than workers: its readers are tasks, which would wait for the actors for ever.
    ray.init(address="local", num_cpus=workers + 1, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    ready = time.perf_counter()
    if source.endswith(".parquet"):
        dataset = ray.data.read_parquet(source).rename_columns({"image": "bytes"})
    else:
        dataset = ray.data.read_binary_files(source)
    pool = ray.data.ActorPoolStrategy(size=workers)
    dataset.map_batches(Classify, batch_size=16, compute=pool, num_cpus=1).write_parquet(output)
    worked = time.perf_counter() - ready
    inputs = pq.read_table(output).num_rows
    ray.shutdown()
    return {"inputs": inputs, "failed": 0, "seconds": time.perf_counter() - started, "seconds_working": worked}


def compare(sources: dict[tuple[str, int], Path], folder: Path, rounds: int, workers: int) -> dict[str, Any]:
    few, images = sorted({count for _, count in sources})
    result: dict[str, Any] = {}
    for kind in dict.fromkeys(kind for kind, _ in sources):
        runs: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
        small: dict[str, float] = {}
        for turn in range(rounds):
            for side in SIDES:
                with running_ray(workers) if side == "ray_running" else nullcontext():
                    if not turn:
                        done = run_side(side, sources[kind, few], folder / f"{kind}-{side}-few", workers)
                        small[side] = done["peak_mb"]
                    runs[side].append(run_side(side, sources[kind, images], folder / f"{kind}-{side}-{turn}", workers))
                print(kind, side, runs[side][-1], file=sys.stderr)
        for each in runs.values():
            assert all(run["inputs"] == images and not run["failed"] for run in each)
        speeds = {side: [images / run["seconds_working"] for run in each] for side, each in runs.items()}
        whole = {side: [images / run["process_seconds"] for run in each] for side, each in runs.items()}
        result[kind] = {
            side: {
                "images_per_second": summary(speeds[side]),
                "images_per_second_with_start": summary(whole[side]),
                **(
                    {f"peak_mb_{few}": small[side], f"peak_mb_{images}": max(run["peak_mb"] for run in runs[side])}
                    if side != "ray_running"
                    else {}
                ),
                **(
                    {
                        "to_plain": ratios(speeds["plain"], speeds[side]),
                        "to_plain_with_start": ratios(whole["plain"], whole[side]),
                    }
                    if side != "plain"
                    else {}
                ),
            }
            for side in SIDES
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=3, metavar=("SIDE", "SOURCE", "OUTPUT"), help=argparse.SUPPRESS)
    parser.add_argument("--data", help="folder of Tiny-ImageNet, for the small images")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--few", type=int, default=2_000, help="for the memory of a tenth of them")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    if args.one:
        one(*args.one, args.workers)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources = make_sources(folder, args.images, args.few, args.data)
        result = compare(sources, folder, args.rounds, args.workers)
    more = f" --images {args.images} --few {args.few}" if args.images != 20_000 else ""
    record(
        "batch",
        f"python benchmarks/batch.py --data DATA{more}",
        {"images": args.images, "workers": args.workers, **result},
    )


if __name__ == "__main__":
    main()
