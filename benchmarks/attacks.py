"""One hostile client beside good ones: what each of four attacks costs those who only send photographs.

The server has some cores, the good clients and the attacker the others; each attack is repeated without a pause, from a
process of its own. In turns: the good clients alone, then beside an attack. The worst good request beside an attack
should take no more than ten times the median of that lap, and none be answered other than 200.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import multiprocessing
import os
import shlex
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from common import record
from http_load import from_steady_clients, open_loop, raw_request
from processes import free_port, started
from shvit.bench.pipeline import write_photographs
from shvit.bench.tables import figure
from shvit.display import print_table
from shvit.shipped import DEFAULT_MODEL

ROOT = Path(__file__).parent.parent
BODY = 16 * 2**20
"""Bytes that the server takes in a request."""
HEADER = 100 * 10**6
STALLED = 17


def _request(content_type: str, length: int) -> bytes:
    first = f"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {content_type}\r\n"
    return f"{first}Content-Length: {length}\r\n\r\n".encode()


def _once(port: int, *pieces: bytes) -> None:
    """Sends, as far as the server takes it, and waits for the answer."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        for piece in pieces:
            client.sendall(piece)
        client.recv(1000)


def empty_images(port: int) -> None:
    """1.39 million images of no bytes in a JSON body of 16 MiB."""
    body = b'{"images":[' + b'{"data":""},' * 1_390_000 + b'{"data":""}]}'
    while True:
        _once(port, _request("application/json", len(body)), body)


def tiny_parts(port: int) -> None:
    """240,000 parts of a form."""
    part = b'--%b\r\nContent-Disposition: form-data; name="i"; filename=""\r\n\r\n\r\n'
    body = (part % b"b") * 240_000 + b"--b--\r\n"
    while True:
        _once(port, _request("multipart/form-data; boundary=b", len(body)), body)


def long_headers(port: int) -> None:
    """Header lines of 100 MB."""
    piece = b"a" * 10**6
    while True:
        _once(port, b"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ", *[piece] * (HEADER // len(piece)))


def stalled_uploads(port: int) -> None:
    """17 bodies of 16 MiB that stop a byte before their end; each that is refused begins anew."""
    most = bytes(BODY - 1)
    clients: list[socket.socket] = []
    while True:
        for client in list(clients):
            with suppress(BlockingIOError):
                try:
                    client.setblocking(False)
                    ended = client.recv(1000) is not None
                except ConnectionError:
                    ended = True
                if ended:
                    client.close()
                    clients.remove(client)
        while len(clients) < STALLED:
            client = socket.create_connection(("127.0.0.1", port), timeout=60)
            with suppress(OSError):
                client.sendall(_request("image/png", BODY) + most)
            clients.append(client)
        time.sleep(0.01)


ATTACKS: dict[str, tuple[Callable[[int], None], int]] = {
    "1.39 million empty images in JSON": (empty_images, 1),
    "240,000 parts of a form": (tiny_parts, 1),
    "two header lines of 100 MB": (long_headers, 2),
    "17 uploads stopped before their end": (stalled_uploads, 1),
}


@contextmanager
def under(attack: Callable[[int], None], times: int, port: int) -> Any:
    """Runs an attack in processes of its own while the block lasts."""
    context = multiprocessing.get_context("spawn")
    attackers = [context.Process(target=attack, args=(port,), daemon=True) for _ in range(times)]
    for each in attackers:
        each.start()
    time.sleep(2)  # they start, and what they send is made
    try:
        yield
    finally:
        for each in attackers:
            each.kill()
            each.join()


def figures(lap: dict[str, Any]) -> dict[str, Any]:
    latency = lap["latency_ms"] or {"p50": math.nan, "p99": math.nan}
    return {
        "statuses": lap["statuses"],
        "unanswered": lap["unanswered"],
        "median_ms": latency["p50"],
        "p99_ms": latency["p99"],
        "worst_ms": (lap["worst_ms"] or math.nan),
        "worst_over_median": (lap["worst_ms"] or math.nan) / latency["p50"],
        "memory_mb": max(lap["memory_mb"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8, help="of each lap (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=10, help="good requests a second (default: %(default)s)")
    parser.add_argument("--source", type=Path, default=ROOT / "src", help="of another version (default: this one's)")
    parser.add_argument("--no-record", action="store_true", help="print only")
    args = parser.parse_args()
    os.environ["PYTHONPATH"] = str(args.source)
    cores = sorted(os.sched_getaffinity(0))
    server_cores = set(cores[: max(len(cores) // 2, 1)])
    os.sched_setaffinity(0, set(cores) - server_cores or server_cores)
    port = free_port()
    command = [sys.executable, "-m", "shvit", "serve", "--model", DEFAULT_MODEL, "--port", str(port), "--no-access-log"]
    result: dict[str, Any] = {"seconds": args.seconds, "good_requests_per_second": args.rate, "attacks": {}}
    with tempfile.TemporaryDirectory() as name:
        paths = write_photographs(Path(name), 20, sorted((ROOT / "samples").glob("*.jpg")))
        good = [raw_request(path.read_bytes(), "/v1/predict") for path in paths]
        for attack, (run, times) in ATTACKS.items():
            with started(command, server_cores, port) as server:

                def lap() -> dict[str, Any]:
                    load = open_loop(port, good, args.rate, args.seconds, server.memory_mb, from_steady_clients)
                    return figures(asyncio.run(load))

                asyncio.run(open_loop(port, good, args.rate, 1.0))  # warms up
                alone = lap()
                with under(run, times, port):
                    result["attacks"][attack] = {"alone": alone, "beside_it": lap()}
    if args.no_record:
        print(json.dumps(result, indent=2))
    else:
        record("attacks", shlex.join(["python", "benchmarks/attacks.py", *sys.argv[1:]]), result)
    print_table(
        ("attack", "statuses", "median ms", "worst ms", "worst / median", "MB"),
        [
            (
                f"{attack}{', ' + which if which == 'alone' else ''}",
                str(row["statuses"]),
                *(figure(row[key]) for key in ("median_ms", "worst_ms", "worst_over_median", "memory_mb")),
            )
            for attack, laps in result["attacks"].items()
            for which, row in laps.items()
        ],
    )


if __name__ == "__main__":
    main()
