"""Which engine runs a model file fastest here: measured once, remembered in the user's cache folder."""

from __future__ import annotations

import hashlib
import json
import platform
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from shvit.atomic import atomic_path
from shvit.cache import cache_folder
from shvit.engines.base import FILE_ENGINES, Engine, as_model_output_error
from shvit.errors import CacheError, ShvitError
from shvit.machine import available_threads, cpuinfo, processor_name

DEFAULT_ENGINE = "onnxruntime"
CANDIDATES = (DEFAULT_ENGINE, "openvino")
"""Engines that read ONNX files, which are packages of the same names."""

MARGIN = 1.1
"""Another engine is taken when it is more than so many times as fast as the default one."""

_SCHEMA = 1
_SECONDS = 0.5
"""Time that each engine is measured for, unless three batches take longer."""

_writing = threading.Lock()

Load = Callable[[str], Engine]


@dataclass(frozen=True)
class Timing:
    """How an engine did."""

    load_seconds: float
    """From nothing to ready."""
    images_per_second: float
    """Median of its batches."""
    speedup: float
    """Median, over alternating batches, of its speed over the default engine's."""
    speedup_low: float
    """Lower quartile of the same."""


@dataclass(frozen=True)
class EngineChoice:
    """An engine, and why it was taken."""

    engine: str
    reason: str
    timings: dict[str, Timing]
    """By engine, of those measured; empty if none was."""


def choose(path: Path, threads: int, batch_size: int, images: int | None = None) -> EngineChoice:
    """The engine for a model file, from what was measured earlier; measures nothing.

    Args:
        path: the model file.
        images: how many there will be, if that is known: an engine that takes long to load must earn it.
    """
    if own := FILE_ENGINES.get(path.suffix.lower()):
        return EngineChoice(own, f"the only one that loads {path.suffix} files", {})
    others = installed_engines()[1:]
    if not others:
        return EngineChoice(DEFAULT_ENGINE, "the only one installed", {})
    measured = _read()
    timings = measured.get(_key(path, threads, batch_size)) if measured else None
    if timings is None:
        return EngineChoice(DEFAULT_ENGINE, f"the default; not measured beside {', '.join(others)}", {})
    return _decide(timings, images, _conditions(threads, batch_size))


def measure(path: Path, threads: int, batch_size: int, load: Load, images: int | None = None) -> EngineChoice:
    """Measures the installed engines on a model file, alternating, and remembers the result.

    Takes a second or two; with one engine installed, or a file that only one loads, nothing. An engine that cannot
    run the file is left out. A cache that cannot be written is no error: the choice's reason tells.

    Args:
        path: the model file.
        load: an engine's name to the engine, with the file loaded.

    Raises:
        ModelFileError: the default engine cannot load the file.
        ModelOutputError: it cannot run it.
    """
    if len(installed_engines()) == 1 or path.suffix.lower() in FILE_ENGINES:
        return choose(path, threads, batch_size)
    timings = _time(path, load, batch_size)
    forgotten = ""
    try:
        _remember(_key(path, threads, batch_size), timings)
    except CacheError as error:
        forgotten = f"; not remembered: {error}"
    except OSError as error:
        forgotten = f"; not remembered: {cache_file()}: {error.strerror or error}"
    choice = _decide(timings, images, _conditions(threads, batch_size))
    return EngineChoice(choice.engine, choice.reason + forgotten, timings)


def cache_file() -> Path:
    """The file with all that was measured; it can be deleted at any time.

    Raises:
        CacheError: there is no home folder to put it in.
    """
    return cache_folder() / "engines.json"


def installed_engines() -> list[str]:
    """Those of ``CANDIDATES`` that are there."""
    return [name for name in CANDIDATES if name == DEFAULT_ENGINE or find_spec(name) is not None]


def _conditions(threads: int, batch_size: int) -> str:
    return f"batch {batch_size}, {threads} {'thread' if threads == 1 else 'threads'}"


def _decide(timings: dict[str, Timing], images: int | None, conditions: str) -> EngineChoice:
    default = timings[DEFAULT_ENGINE]

    def seconds(timing: Timing) -> float:
        """For the whole job; for one of unknown length, an image's share of a long one."""
        rate = default.images_per_second * timing.speedup
        return 1 / rate if images is None else timing.load_seconds + images / rate

    others = {name: timing for name, timing in timings.items() if name != DEFAULT_ENGINE}
    if not others:
        return EngineChoice(DEFAULT_ENGINE, f"no other engine could run the file ({conditions})", timings)
    faster = {name: each for name, each in others.items() if each.speedup > MARGIN and each.speedup_low > 1}
    best = min(faster or others, key=lambda name: seconds(others[name]))
    speed = f"{best} is {others[best].speedup:.2f} times as fast as {DEFAULT_ENGINE} ({conditions})"
    if not faster:
        return EngineChoice(DEFAULT_ENGINE, f"no other is clearly faster: {speed}", timings)
    if seconds(others[best]) >= seconds(default):
        reason = f"{speed}, but loads in {others[best].load_seconds:.1f} s, too long for {images:,} images"
        return EngineChoice(DEFAULT_ENGINE, reason, timings)
    return EngineChoice(best, speed, timings)


def _time(path: Path, load: Load, batch_size: int) -> dict[str, Timing]:
    engines: dict[str, Engine] = {}
    load_seconds: dict[str, float] = {}
    batch = np.empty(0, np.uint8)
    for name in installed_engines():
        started = time.perf_counter()
        try:
            with as_model_output_error(path):
                engines[name] = load(name)
                load_seconds[name] = time.perf_counter() - started
                if not batch.size:
                    shape = [side or 224 for side in engines[name].input_shape[1:]]
                    batch = np.random.default_rng(0).integers(0, 256, (batch_size, *shape), dtype=np.uint8)
                engines[name].infer(batch)  # warms up
        except ShvitError:
            if name == DEFAULT_ENGINE:
                raise
            engines.pop(name, None)  # another than the default one is left out
    taken: dict[str, list[float]] = {name: [] for name in engines}
    while len(taken[DEFAULT_ENGINE]) < 3 or max(map(sum, taken.values())) < _SECONDS:
        for name, engine in engines.items():
            started = time.perf_counter()
            with as_model_output_error(path):
                engine.infer(batch)
            taken[name].append(time.perf_counter() - started)
    timings = {}
    for name, each in taken.items():
        ratios = [ours / theirs for ours, theirs in zip(taken[DEFAULT_ENGINE], each, strict=True)]
        speed = batch_size / statistics.median(each)
        timings[name] = Timing(
            load_seconds[name], speed, statistics.median(ratios), statistics.quantiles(ratios, n=4)[0]
        )
    return timings


def _key(path: Path, threads: int, batch_size: int) -> str:
    """What a measurement holds for, as text: another machine, version or file has another."""
    versions = {}
    for name in installed_engines():
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # a build of one's own
            versions[name] = "unknown"
    with path.open("rb") as file:
        content = (
            hashlib.file_digest(file, "sha256") if hasattr(hashlib, "file_digest") else hashlib.sha256(file.read())
        )
    conditions = {
        "processor": _processor(),
        "cores": available_threads(),
        "versions": {"shvit": version("shvit"), **versions},
        "file": content.hexdigest(),
        "threads": threads,
        "batch_size": batch_size,
    }
    return json.dumps(conditions, sort_keys=True)


def _processor() -> str:
    """Its name and, because a virtual machine's says little, a digest of what it can do."""
    fields = cpuinfo()
    found = {
        name: fields[name]
        for name in ("model name", "flags", "Features", "CPU implementer", "CPU part")
        if name in fields
    }
    digest = hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16]
    return f"{platform.machine()} {processor_name()} {digest}"


def _read() -> dict[str, dict[str, Timing]]:
    """All that was measured; nothing if the cache is missing, damaged or of another version."""
    try:
        raw = json.loads(cache_file().read_text(encoding="utf-8"))
        if raw["schema"] != _SCHEMA:
            return {}
        return {key: _timings(entry) for key, entry in raw["measured"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        return {}


def _timings(entry: dict[str, Any]) -> dict[str, Timing]:
    """Raises: ValueError, TypeError, AttributeError, OverflowError: the entry is not one that was written here."""
    timings = {name: Timing(**values) for name, values in entry.items()}
    numbers = [number for timing in timings.values() for number in asdict(timing).values()]
    known = DEFAULT_ENGINE in timings and timings.keys() <= set(CANDIDATES)
    if not known or not all(1e-9 < number < 1e9 and float(number) for number in numbers):
        raise ValueError("not a measurement")
    return timings


def _remember(key: str, timings: dict[str, Timing]) -> None:
    """Adds a measurement to the cache; a damaged one is begun anew."""
    with _writing:
        measured = {**_read(), key: timings}
        content = {
            "schema": _SCHEMA,
            "measured": {
                key: {name: asdict(timing) for name, timing in entry.items()} for key, entry in measured.items()
            },
        }
        file = cache_file()
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(file) as aside:
            aside.write_text(json.dumps(content, indent=1), encoding="utf-8")
