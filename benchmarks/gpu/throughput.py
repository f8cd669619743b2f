"""SHViT and MobileViTv2 on a GPU: how fast ours and timm's run, eager and compiled, and what bounds them.

For each network, number format and batch size, every implementation, mode and layout takes its turn, several rounds;
latencies are of single calls (device events on a GPU), the inputs lie on the device already and change from call to
call. Beside it a roofline: the arithmetic and the bytes of each stage against the matrix product and the copy that this
device was measured to do, once with every operation reading and writing memory and once ideally fused, when a stage
reads its input and its weights and writes its output and nothing else. At last the kernels of one configuration by
their share of the time.

    python benchmarks/gpu/throughput.py                                  # on the card; it takes a while to compile
    python benchmarks/gpu/throughput.py --device cpu --models shvit_s1 --batch-sizes 1 16 --modes eager --dtypes fp32

On a CPU it prints, and records nothing.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, repeat
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent))
from common import record, summary
from shvit.bench.cost import Cost, Layer, count_cost
from shvit.bench.networks import deployed, open_network
from shvit.bench.peers import open_peer
from shvit.bench.summary import percentiles
from shvit.bench.tables import figure
from shvit.display import print_table
from shvit.models import list_models

MODES = {
    "eager": None,
    "default": "default",
    "max-autotune": "max-autotune",
    "cuda-graphs": "reduce-overhead",
}
"""As the table calls them, and ``torch.compile``'s name for each."""
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}
INPUTS = 3
"""Different batches that take turns, so that none is in the cache because it was just there."""
WARM_UP = 3
KERNELS = 25


@dataclass(frozen=True)
class Side:
    """One way to run a network."""

    implementation: str
    mode: str
    layout: str


@dataclass(frozen=True)
class Subject:
    """A network, by implementation: timm's, and for SHViT ours, folded; evaluating, random weights."""

    model: str
    size: int
    modules: dict[str, nn.Module]

    @classmethod
    def open(cls, model: str) -> Subject:
        peer = open_peer(model)
        if model not in list_models():
            return cls(model, peer.image_size[0], {"timm": peer.module})
        ours = open_network(model)
        return cls(model, ours.image_size[0], {"timm": peer.module, "shvit": deployed(ours)})

    def runner(self, side: Side, dtype: str, device: Device) -> Callable[[Tensor], object]:
        """A copy of its own, since layouts are changed in place."""
        module = copy.deepcopy(self.modules[side.implementation])
        module = module.to(device.device, DTYPES[dtype], memory_format=LAYOUTS[side.layout])
        return module if MODES[side.mode] is None else torch.compile(module, mode=MODES[side.mode])

    def images(self, side: Side, dtype: str, batch: int, device: Device) -> Tensor:
        images = torch.randn(batch, 3, self.size, self.size, dtype=DTYPES[dtype], device=device.device)
        return images.to(memory_format=LAYOUTS[side.layout])


class Device:
    """What differs between a GPU and a CPU: clocks, memory, and waiting."""

    def __init__(self, name: str) -> None:
        self.device = torch.device(name)
        self.on_gpu = self.device.type == "cuda"

    def describe(self) -> dict[str, Any]:
        described: dict[str, Any] = {"device": str(self.device), "torch": torch.__version__}
        if self.on_gpu:
            properties = torch.cuda.get_device_properties(self.device)
            described |= {
                "name": properties.name,
                "memory_gb": properties.total_memory / 1e9,
                "multiprocessors": properties.multi_processor_count,
                "cuda": torch.version.cuda,
                "cudnn": torch.backends.cudnn.version(),
            }
        return described

    def synchronize(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def milliseconds(self, calls: Iterator[Callable[[], object]], seconds: float) -> list[float]:
        """Of each call, for so long and at least three times."""
        taken: list[float] = []
        until = time.perf_counter() + seconds
        if not self.on_gpu:
            while len(taken) < 3 or time.perf_counter() < until:
                call = next(calls)
                began = time.perf_counter()
                call()
                taken.append(1000 * (time.perf_counter() - began))
            return taken
        events = []
        while len(events) < 3 or time.perf_counter() < until:
            call = next(calls)
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            first.record()
            call()
            last.record()
            events.append((first, last))
            if len(events) % 64 == 0:
                self.synchronize()  # so that the queue does not grow while this loop runs ahead
        self.synchronize()
        return [first.elapsed_time(last) for first, last in events]

    def peak_memory_mb(self, call: Callable[[], object]) -> float | None:
        """Beyond what lay there before: weights and inputs, of the other sides too."""
        if not self.on_gpu:
            return None
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        call()
        self.synchronize()
        return (torch.cuda.max_memory_allocated(self.device) - before) / 1e6

    def release(self) -> None:
        """Forgets what was compiled, and the memory of what has failed."""
        torch._dynamo.reset()
        if self.on_gpu:
            torch.cuda.empty_cache()


def measure(
    subject: Subject, dtype: str, batch: int, sides: Sequence[Side], device: Device, seconds: float, rounds: int
) -> list[dict[str, Any]]:
    """Rows of all sides, which take turns; one that fails has ``error``."""
    calls: dict[Side, Iterator[Callable[[], object]]] = {}
    rows: dict[Side, dict[str, Any]] = {}
    for each in sides:
        if each.implementation not in subject.modules:
            continue
        rows[each] = {"model": subject.model, "dtype": dtype, "batch_size": batch, **vars(each)}
        try:
            calls[each] = warmed_up(subject, each, dtype, batch, device)
            rows[each]["peak_memory_mb"] = device.peak_memory_mb(next(calls[each]))
        except (RuntimeError, torch._dynamo.exc.TorchDynamoException) as error:  # out of memory, or not compiled
            calls.pop(each, None)
            rows[each]["error"] = str(error).splitlines()[0]
            device.release()
    taken: dict[Side, list[list[float]]] = {each: [] for each in calls}
    for _ in range(rounds):
        for each, mine in calls.items():
            taken[each].append(device.milliseconds(mine, seconds))
    for each, laps in taken.items():
        rows[each]["images_per_second"] = summary([1000 * batch * len(lap) / sum(lap) for lap in laps])
        rows[each]["latency_ms"] = percentiles([one for lap in laps for one in lap])
    device.release()
    return list(rows.values())


def warmed_up(subject: Subject, side: Side, dtype: str, batch: int, device: Device) -> Iterator[Callable[[], object]]:
    """Calls without end, after those that compile and allocate."""
    run = subject.runner(side, dtype, device)
    batches = [subject.images(side, dtype, batch, device) for _ in range(INPUTS)]

    def call(images: Tensor) -> object:
        with torch.inference_mode():
            return run(images)

    calls = (partial(call, images) for images in cycle(batches))
    for _ in range(WARM_UP):
        next(calls)()
    device.synchronize()
    return calls


def peaks(device: Device, dtype: str, seconds: float) -> dict[str, float]:
    """10¹² operations a second of a large matrix product, and 10⁹ bytes a second, read and written, of a copy."""
    side, count = (8192, 2**28) if device.on_gpu else (1024, 2**26)
    left, right = torch.randn(2, side, side, device=device.device).to(DTYPES[dtype])
    source = torch.randint(0, 255, (count,), dtype=torch.uint8, device=device.device)
    target = torch.empty_like(source)
    product = min(device.milliseconds(repeat(lambda: left @ right), seconds))
    copied = min(device.milliseconds(repeat(lambda: target.copy_(source)), seconds))
    return {"tera_ops_per_second": 2 * side**3 / product / 1e9, "copy_gb_per_second": 2 * count / copied / 1e6}


def roofline(subject: Subject, dtype: str, batch: int, reached: dict[str, float]) -> list[dict[str, Any]]:
    """A row a stage of ours, and one of the whole network: the least time that a batch can take."""
    cost = count_cost(subject.modules["shvit"], (subject.size, subject.size))
    width = DTYPES[dtype].itemsize
    rows = [_bound(name, layers, batch, width, reached) for name, layers in by_stage(cost).items()]
    total = {key: sum(row[key] for row in rows) for key in rows[0] if key != "stage"}
    bound = [{"stage": "all", **total}, *rows]
    for row in bound:
        row["images_per_second"] = batch / row["fused_seconds"]
    return [{"model": subject.model, "dtype": dtype, "batch_size": batch, **row} for row in bound]


def by_stage(cost: Cost) -> dict[str, list[Layer]]:
    """Operations by the part of the network that they belong to, in the order in which they run."""
    stages: dict[str, list[Layer]] = {}
    for layer in cost.layers:
        top, _, rest = layer.name.partition(".")
        stages.setdefault(f"{top}.{rest.partition('.')[0]}" if top == "stages" else top or "head", []).append(layer)
    return stages


def _bound(stage: str, layers: Sequence[Layer], batch: int, width: int, reached: dict[str, float]) -> dict[str, Any]:
    operations = 2 * batch * sum(layer.macs for layer in layers)
    weights = width * sum(layer.weights for layer in layers)
    moved = weights + width * batch * sum(layer.inputs + layer.outputs for layer in layers)
    fused = weights + width * batch * (layers[0].inputs + layers[-1].outputs)
    arithmetic = operations / reached["tera_ops_per_second"] / 1e12
    bandwidth = reached["copy_gb_per_second"] * 1e9
    return {
        "stage": stage,
        "operations": operations,
        "bytes": moved,
        "fused_bytes": fused,
        "arithmetic_seconds": arithmetic,
        "seconds": max(arithmetic, moved / bandwidth),
        "fused_seconds": max(arithmetic, fused / bandwidth),
    }


def kernels(subject: Subject, dtype: str, batch: int, side: Side, device: Device) -> list[dict[str, Any]]:
    """What runs on the device, by its share of the time."""
    calls = warmed_up(subject, side, dtype, batch, device)
    activities = torch.profiler.ProfilerActivity
    activity = activities.CUDA if device.on_gpu else activities.CPU
    with torch.profiler.profile(activities=[activity]) as profiler:
        for _ in range(5):
            next(calls)()
        device.synchronize()
    events = profiler.key_averages()
    spent = {each.key: each.self_device_time_total if device.on_gpu else each.self_cpu_time_total for each in events}
    total = sum(spent.values())
    counts = {each.key: each.count for each in events}
    first = sorted(spent, key=lambda key: -spent[key])[:KERNELS]
    return [{"kernel": key, "share": spent[key] / total, "calls": counts[key] / 5} for key in first]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--models", nargs="+", default=[*list_models(), "mobilevitv2_100"])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 32, 256, 1024])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["fp16", "bf16"])
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument("--seconds", type=float, default=1, help="of each side in each round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write everything there, not under results/gpu/")
    args = parser.parse_args()
    device = Device(args.device)
    sides = [
        Side(implementation, mode, layout)
        for implementation in ("timm", "shvit")
        for mode in args.modes
        for layout in args.layouts
    ]
    rows: list[dict[str, Any]] = []
    bounds: list[dict[str, Any]] = []
    reached = {dtype: peaks(device, dtype, args.seconds) for dtype in args.dtypes}
    subjects = [Subject.open(model) for model in args.models]
    for subject in subjects:
        for dtype in args.dtypes:
            for batch in args.batch_sizes:
                print(f"{subject.model} {dtype} {batch}", file=sys.stderr)
                rows += measure(subject, dtype, batch, sides, device, args.seconds, args.rounds)
                if "shvit" in subject.modules:
                    bounds += roofline(subject, dtype, batch, reached[dtype])
    profiled = next((each for each in reversed(subjects) if "shvit" in each.modules), subjects[-1])
    side = Side("shvit" if "shvit" in profiled.modules else "timm", args.modes[0], args.layouts[-1])
    shares = kernels(profiled, args.dtypes[0], args.batch_sizes[-1], side, device)
    result = {
        "environment": device.describe(),
        "peaks": reached,
        "rows": rows,
        "roofline": bounds,
        "kernels": {
            "of": {"model": profiled.model, "dtype": args.dtypes[0], "batch_size": args.batch_sizes[-1], **vars(side)},
            "shares": shares,
        },
    }
    if args.output is not None:
        args.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    elif device.on_gpu:
        record("gpu/throughput", "python benchmarks/gpu/throughput.py", result)
    print_rows(rows, bounds)


def print_rows(rows: Sequence[dict[str, Any]], bounds: Sequence[dict[str, Any]]) -> None:
    whole = {(row["model"], row["dtype"], row["batch_size"]): row for row in bounds if row["stage"] == "all"}
    lines = []
    for row in rows:
        key = (row["model"], row["dtype"], row["batch_size"])
        speed = row.get("images_per_second", {}).get("median")
        bound = whole.get(key, {}).get("images_per_second")
        lines.append(
            (
                *map(str, (*key, row["implementation"], row["mode"], row["layout"])),
                row.get("error") or figure(speed),
                *(figure(row.get("latency_ms", {}).get(each)) for each in ("p50", "p99")),
                figure(row.get("peak_memory_mb")),
                f"{speed / bound:.0%}" if speed and bound else "-",
            )
        )
    print_table(
        ("model", "dtype", "batch", "by", "mode", "layout", "images/s", "p50 ms", "p99 ms", "MB", "of the bound"), lines
    )


if __name__ == "__main__":
    main()
