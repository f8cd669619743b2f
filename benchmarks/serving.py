"""Serving over HTTP: ours beside LitServe and a plain FastAPI endpoint, all beside the pipeline without HTTP.

Photographs of 500×375 as JPEG, 32 clients. The server has some cores and the client others, so that what the client
costs is not in the server's figures; the pipeline (``Classifier.stream``) has the server's cores. One after another in
turns, several rounds; ratios are medians over the rounds. Then, ours alone, on its own cores and again on all of them,
which it shares with the client: latency at 30, 50, 70 and 80 % of its peak (from 32 clients at a steady rate each, and
at random moments; each request's time counted from when it was due), overload at three times the peak, and with
``--soak`` minutes at 70 %, for the memory.

With one core there is none for the client: then the processor time of an image is what to compare.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from common import S1_INT8, record, s1_int8, summary
from http_load import (
    CLIENTS,
    at_random,
    closed_loop,
    form_request,
    from_steady_clients,
    open_loop,
    raw_request,
)
from processes import free_port, started
from shvit.bench.summary import ratios
from shvit.bench.tables import figure, spread
from shvit.display import print_table
from shvit.shipped import DEFAULT_MODEL

ROOT = Path(__file__).parent.parent
PEERS = Path(__file__).parent / "serving_peers"
PEER_SERVERS = ("with_litserve", "with_fastapi")
BATCH = 16
DELAY = 0.005
"""Seconds that ours and LitServe let an image wait for others."""


def serve_command(model: str, port: int) -> list[str]:
    options = ["--engine", "onnxruntime", "--batch-size", str(BATCH), "--max-delay-ms", str(1000 * DELAY)]
    return [sys.executable, "-m", "shvit", "serve", "--model", model, "--port", str(port), *options, "--no-access-log"]


def compare(
    model: str, folder: Path, cores: set[int], run: Callable[[Any], Any], seconds: float, rounds: int
) -> dict[str, Any]:
    """Throughput of all, in turns, and each one's ratio to the pipeline's."""
    images = [path.read_bytes() for path in sorted(folder.glob("*.jpg"))]
    peers = {name: [sys.executable, str(PEERS / f"{name}.py"), model] for name in ("pipeline", *PEER_SERVERS)}
    ports = {name: free_port() for name in ("ours", *PEER_SERVERS)}
    sides = {
        "ours": (ports["ours"], [raw_request(each, "/v1/predict") for each in images]),
        "ours, form": (ports["ours"], [form_request(each, "/v1/predict") for each in images]),
        "with_litserve": (ports["with_litserve"], [form_request(each, "/predict") for each in images]),
        "with_fastapi": (ports["with_fastapi"], [form_request(each, "/predict") for each in images]),
    }
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in ("pipeline", *sides)}
    with ExitStack() as stack:
        pipeline = stack.enter_context(started([*peers["pipeline"], str(folder), str(BATCH)], cores, None)).process
        assert pipeline.stdin is not None and pipeline.stdout is not None
        pipeline.stdout.readline()
        servers = {"ours": stack.enter_context(started(serve_command(model, ports["ours"]), cores, ports["ours"]))}
        for name in PEER_SERVERS:
            command = [*peers[name], str(ports[name]), str(BATCH), str(DELAY)]
            servers[name] = stack.enter_context(started(command, cores, ports[name]))
        for port, requests in sides.values():
            run(closed_loop(port, requests, 1.0))  # warms up
        for _ in range(rounds):
            pipeline.stdin.write(f"{seconds}\n")
            pipeline.stdin.flush()
            rows["pipeline"].append(json.loads(pipeline.stdout.readline()))
            for name, (port, requests) in sides.items():
                server = servers[name.partition(",")[0]]
                used = server.cpu_seconds()
                row = run(closed_loop(port, requests, seconds))
                row["cpu_ms"] = 1000 * (server.cpu_seconds() - used) / max(row["statuses"].get(200, 0), 1)
                row["memory_mb"] = server.memory_mb()
                rows[name].append(row)
    result = {}
    for name, each in rows.items():
        speeds = [row["images_per_second"] for row in each]
        result[name] = {
            "images_per_second": summary(speeds),
            "cpu_ms_per_image": summary([row["cpu_ms"] for row in each]),
        }
        if name != "pipeline":
            reference = rows["pipeline"]
            result[name] |= {
                "of_the_pipeline": ratios([row["images_per_second"] for row in reference], speeds),
                "pipeline_cpu_over_cpu": ratios([row["cpu_ms"] for row in each], [row["cpu_ms"] for row in reference]),
                "p50_ms": statistics.median(row["latency_ms"]["p50"] for row in each),
                "p99_ms": statistics.median(row["latency_ms"]["p99"] for row in each),
                "memory_mb": each[-1]["memory_mb"],
                "client_cpu_ms": statistics.median(row["client_cpu_ms"] for row in each),
                "statuses": [row["statuses"] for row in each],
            }
    return result


def loads(
    model: str, folder: Path, cores: set[int], run: Callable[[Any], Any], args: argparse.Namespace, soak: float
) -> dict[str, Any]:
    """Ours at parts of its peak, and above it.

    Args:
        soak: minutes at 70 %.
    """
    images = [path.read_bytes() for path in sorted(folder.glob("*.jpg"))]
    requests = [raw_request(each, "/v1/predict") for each in images]
    port = free_port()
    with started(serve_command(model, port), cores, port) as server:
        run(closed_loop(port, requests, 1.0))
        peak = statistics.median(
            run(closed_loop(port, requests, args.seconds / 2))["images_per_second"] for _ in range(3)
        )
        result: dict[str, Any] = {"server_cores": sorted(cores), "peak_images_per_second": peak}
        for name, arrivals in (("steady", from_steady_clients), ("random", at_random)):
            for share in (0.3, 0.5, 0.7, 0.8):
                laps = [
                    run(open_loop(port, requests, share * peak, args.load_seconds, arrivals=arrivals, seed=lap))
                    for lap in range(args.load_rounds)
                ]
                result[f"{name}_{share:.0%}"] = median_lap(laps)
        used = server.cpu_seconds()
        row = run(open_loop(port, requests, 3 * peak, args.overload_seconds, server.memory_mb))
        row["server_cores_used"] = (server.cpu_seconds() - used) / args.overload_seconds
        row["of_the_peak"] = row["answered_200_per_second"] / peak
        row["memory_mb"] = memory_course(row["memory_mb"])
        result["overload"] = row
        if soak:
            row = run(open_loop(port, requests, 0.7 * peak, 60 * soak, server.memory_mb))
            row["memory_mb"] = memory_course(row["memory_mb"])
            result["soak"] = {"minutes": soak, **row}
    return result


def median_lap(laps: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The lap whose p99 over p50 is the median, and all laps' of that."""
    found = [lap["latency_ms"]["p99"] / lap["latency_ms"]["p50"] for lap in laps]
    middle = statistics.median_low(found)
    return {**laps[found.index(middle)], "p99_over_p50": middle, "p99_over_p50_of_all_laps": found}


def memory_course(values: Sequence[float]) -> dict[str, float]:
    """Of a server's memory, looked at once a second; the first tenth is left out of the slope."""
    later = values[len(values) // 10 :]
    return {"first": values[0], "last": values[-1], "max": max(values), "per_minute": slope(later)}


def slope(values: Sequence[float]) -> float:
    """A straight line's through values a second apart, for a minute."""
    return 60 * statistics.linear_regression(range(len(values)), values).slope


def starts(model: str, cores: set[int], times: int) -> dict[str, Any]:
    """Seconds from the start of the process to the first 200 of its health check, and its memory then."""
    seconds = []
    for _ in range(times):
        port = free_port()
        began = time.perf_counter()
        with started(serve_command(model, port), cores, port) as server:
            seconds.append(time.perf_counter() - began)
            memory = server.memory_mb()
    return {"seconds": summary(seconds), "memory_mb": memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8, help="of each side in each round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--load-seconds", type=float, default=10, help="of each load (default: %(default)s)")
    parser.add_argument("--load-rounds", type=int, default=3, help="the median one counts (default: %(default)s)")
    parser.add_argument("--overload-seconds", type=float, default=60, help="default: %(default)s")
    parser.add_argument("--soak", type=float, default=0, metavar="MINUTES", help="at 70 %% load (default: none)")
    parser.add_argument("--server-cores", type=int, nargs="+", help="default: the first half")
    parser.add_argument("--client-cores", type=int, nargs="+", help="default: the others")
    parser.add_argument("--model", nargs="+", default=[DEFAULT_MODEL, S1_INT8], help="default: %(default)s")
    parser.add_argument("--no-record", action="store_true", help="print only")
    args = parser.parse_args()
    import uvloop

    from shvit.bench.pipeline import write_photographs

    cores = sorted(os.sched_getaffinity(0))
    server_cores = set(args.server_cores or cores[: max(len(cores) // 2, 1)])
    client_cores = set(args.client_cores or (set(cores) - server_cores) or cores)
    result: dict[str, Any] = {
        "clients": CLIENTS,
        "batch_size": BATCH,
        "max_delay_ms": 1000 * DELAY,
        "server_cores": sorted(server_cores),
        "client_cores": sorted(client_cores),
        "models": {},
    }
    with tempfile.TemporaryDirectory() as name, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        folder = Path(name)
        (folder / "images").mkdir()
        paths = write_photographs(folder / "images", 20, sorted((ROOT / "samples").glob("*.jpg")))
        result["image_bytes"] = summary([float(path.stat().st_size) for path in paths])
        files = {each: s1_int8(folder) if each == S1_INT8 else each for each in args.model}
        os.sched_setaffinity(0, client_cores)
        for each, file in files.items():
            compared = compare(file, folder / "images", server_cores, runner.run, args.seconds, args.rounds)
            here = folder / "images"
            result["models"][each] = {
                "throughput": compared,
                "start": starts(file, server_cores, 5),
                "loads": loads(file, here, server_cores, runner.run, args, 0),
                "loads_on_all_cores": loads(file, here, set(cores), runner.run, args, args.soak),
            }
    if args.no_record:
        print(json.dumps(result, indent=2))
    else:
        record("serving", shlex.join(["python", "benchmarks/serving.py", *sys.argv[1:]]), result)
    for name, figures in result["models"].items():
        print_figures(name, figures)


def print_figures(name: str, figures: dict[str, Any]) -> None:
    print(f"\n{name}: starts in {figures['start']['seconds']['median']:.2f} s, {figures['start']['memory_mb']:.0f} MB")
    print_table(
        ("side", "images/s", "of the pipeline", "CPU ms", "pipeline CPU / CPU", "p50 ms", "p99 ms", "MB"),
        [
            (
                side,
                figure(row["images_per_second"]["median"]),
                spread(row["of_the_pipeline"]) if side != "pipeline" else "",
                figure(row["cpu_ms_per_image"]["median"]),
                spread(row["pipeline_cpu_over_cpu"]) if side != "pipeline" else "",
                *(figure(row.get(key)) for key in ("p50_ms", "p99_ms", "memory_mb")),
            )
            for side, row in figures["throughput"].items()
        ],
    )
    for key in ("loads", "loads_on_all_cores"):
        print(f"\nserver on cores {figures[key]['server_cores']}, peak {figures[key]['peak_images_per_second']:.0f}/s")
        print_table(
            ("load", "offered/s", "answered 200/s", "statuses", "p50 ms", "p99 ms", "p99/p50", "MB"),
            [
                (
                    load,
                    *(figure(row[each]) for each in ("offered_per_second", "answered_200_per_second")),
                    str(row["statuses"]),
                    *(figure((row["latency_ms"] or {}).get(each)) for each in ("p50", "p99")),
                    figure(row.get("p99_over_p50")),
                    "{first:.0f} to {last:.0f}".format(**row["memory_mb"]) if "memory_mb" in row else "",
                )
                for load, row in figures[key].items()
                if isinstance(row, dict)
            ],
        )


if __name__ == "__main__":
    main()
