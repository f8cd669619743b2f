"""HTTP clients that load a server, with as little Python for a request as can be: closed loops and open ones."""

from __future__ import annotations

import asyncio
import heapq
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from shvit.bench.summary import percentiles

CLIENTS = 32
BOUNDARY = b"benchmark-boundary"
CONNECTIONS = 1000
"""Of an open loop at most; a request that finds none free is not sent, and counted."""


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request on it."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[int] | None = None
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def post(self, request: bytes) -> asyncio.Future[int]:
        """Sends; gives the status, 0 if the connection ends instead."""
        assert self.transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._received = b""
        self.transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        header = self._received[:end].lower()
        place = header.find(b"content-length:")
        length = int(header[place + 15 : header.find(b"\r\n", place) % (end + 1)].split()[0])
        if len(self._received) >= end + 4 + length and self._answer is not None:
            answer, self._answer = self._answer, None
            if not answer.done():
                answer.set_result(int(header[9:12]))

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(0)


async def connect(port: int) -> Connection:
    return (await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", port))[1]


async def closed_loop(port: int, requests: Sequence[bytes], seconds: float) -> dict[str, Any]:
    """``CLIENTS`` that each send the next when the last is answered."""
    statuses: Counter[int] = Counter()
    latencies: list[float] = []
    until = time.perf_counter() + seconds

    async def client(number: int) -> None:
        connection = await connect(port)
        place = number
        while (began := time.perf_counter()) < until:
            status = await connection.post(requests[place % len(requests)])
            latencies.append(1000 * (time.perf_counter() - began))
            statuses[status] += 1
            place += 1
            if connection.transport is None:
                connection = await connect(port)
        if connection.transport is not None:
            connection.transport.close()

    began, used = time.perf_counter(), time.process_time()
    await asyncio.gather(*(client(number) for number in range(CLIENTS)))
    used, taken = time.process_time() - used, time.perf_counter() - began
    count = statuses.total()
    return {
        "images_per_second": statuses[200] / taken,
        "statuses": dict(statuses),
        "latency_ms": percentiles(latencies),
        "client_cpu_ms": 1000 * used / count,
    }


Arrivals = Callable[[float, random.Random], Iterator[float]]
"""From requests a second to when each is due, in seconds from the start."""


def at_random(rate: float, rng: random.Random) -> Iterator[float]:
    """A Poisson process: very many clients that know nothing of each other."""
    due = 0.0
    while True:
        due += rng.expovariate(rate)
        yield due


def from_steady_clients(rate: float, rng: random.Random) -> Iterator[float]:
    """``CLIENTS`` that each send at the same rate, a tenth of it early or late, as cameras do."""
    period = CLIENTS / rate
    due = [rng.uniform(0, period) for _ in range(CLIENTS)]
    heapq.heapify(due)
    while True:
        yield heapq.heapreplace(due, due[0] + period * rng.uniform(0.9, 1.1))


async def open_loop(
    port: int,
    requests: Sequence[bytes],
    rate: float,
    seconds: float,
    watch: Callable[[], float] | None = None,
    arrivals: Arrivals = at_random,
    seed: int = 0,
) -> dict[str, Any]:
    """So many requests a second on average, whatever becomes of those before.

    Args:
        watch: asked once a second, such as for the server's memory.
    """
    times = arrivals(rate, random.Random(seed))
    statuses: Counter[int] = Counter()
    latencies: list[float] = []
    refused: list[float] = []
    watched: list[float] = []
    idle: list[Connection] = []
    opened = 0
    late = 0
    tasks: set[asyncio.Task[None]] = set()

    async def one(due: float, request: bytes) -> None:
        nonlocal opened
        connection = None
        while idle and connection is None:
            connection = idle.pop()
            if connection.transport is None:
                connection, opened = None, opened - 1
        if connection is None:
            opened += 1
            try:
                connection = await connect(port)
            except OSError:
                statuses[0] += 1
                opened -= 1
                return
        status = await connection.post(request)
        (latencies if status == 200 else refused).append(1000 * (time.perf_counter() - due))
        statuses[status] += 1
        if connection.transport is None:
            opened -= 1
        else:
            idle.append(connection)

    began = due = time.perf_counter()
    looked = began
    place = 0
    while due < began + seconds:
        due = began + next(times)
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        elif place % 8 == 0:
            await asyncio.sleep(0)
        if watch is not None and time.perf_counter() > looked + 1:
            looked = time.perf_counter()
            watched.append(watch())
        place += 1
        if opened - len(idle) >= CONNECTIONS:
            late += 1
            continue
        task = asyncio.ensure_future(one(due, requests[place % len(requests)]))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    taken = time.perf_counter() - began
    unanswered = 0
    if tasks:
        _, waiting = await asyncio.wait(tasks, timeout=30)
        unanswered = len(waiting)
    for connection in idle:
        if connection.transport is not None:
            connection.transport.close()
    result: dict[str, Any] = {
        "offered_per_second": place / taken,
        "answered_200_per_second": statuses[200] / taken,
        "statuses": dict(statuses),
        "unanswered": unanswered,
        "not_sent_for_want_of_connections": late,
        "latency_ms": percentiles(latencies) if latencies else None,
        "refusal_ms": percentiles(refused) if refused else None,
    }
    if watched:
        result["memory_mb"] = watched
    return result


def raw_request(image: bytes, path: str) -> bytes:
    return _head(path, "image/jpeg", len(image)) + image


def form_request(image: bytes, path: str) -> bytes:
    part = b'--%b\r\nContent-Disposition: form-data; name="images"; filename="a.jpg"\r\n' % BOUNDARY
    body = part + b"Content-Type: image/jpeg\r\n\r\n" + image + b"\r\n--%b--\r\n" % BOUNDARY
    return _head(path, f"multipart/form-data; boundary={BOUNDARY.decode()}", len(body)) + body


def _head(path: str, content_type: str, length: int) -> bytes:
    first = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    return f"{first}Content-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n".encode()
