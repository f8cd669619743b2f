"""Where the time of int8 goes in ONNX Runtime, layer by layer, and how near each is to the machine's peak.

python benchmarks/layers.py [--model shvit_s1 shvit_s4] [--peers mobilenetv4_conv_small]

One thread, batches of 16, by the engine's own profiler. The peak is that of a large 8-bit matrix product, measured
between the networks. Writes results/layers.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from rich.console import Console

from common import record
from shvit.bench.networks import Network, open_network, write_model_file
from shvit.bench.peaks import measure_peaks
from shvit.bench.peers import open_peer

BATCH = 16
WARM_UP = 5
"""Runs that do not count."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["shvit_s1", "shvit_s4"])
    parser.add_argument("--peers", nargs="+", default=["mobilenetv4_conv_small"])
    parser.add_argument("--runs", type=int, default=40)
    args = parser.parse_args()
    networks = [*(open_network(name) for name in args.model), *(open_peer(name) for name in args.peers)]
    peaks = [measure_peaks(threads=1).int8_gops]
    profiles = {}
    for network in networks:
        with tempfile.TemporaryDirectory() as folder, Console(stderr=True).status(network.model):
            profiles[network.model] = profile(network, Path(folder), args.runs)
        peaks.append(measure_peaks(threads=1).int8_gops)
    peak = max(peaks)
    for each in profiles.values():
        summarise(each, peak)
    record("layers", "python benchmarks/layers.py", {"int8_peak_gops": peak, "networks": profiles})


def profile(network: Network, folder: Path, runs: int) -> dict[str, Any]:
    """Medians over runs of the time of every operator, and what each convolution computes."""
    path = folder / "model.onnx"
    write_model_file(network, "int8", path)
    kernels = {each.name: each.dims for each in onnx.load(path).graph.initializer}
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).integers(0, 256, (BATCH, *network.image_size, 3), dtype=np.uint8)
    for _ in range(WARM_UP + runs):
        session.run(None, {"images": images})
    times = defaultdict(list)
    operators = {}
    for event in json.loads(Path(session.end_profiling()).read_text()):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            # The optimiser appends a number to the name of a node that it made of several.
            name = event["name"].removesuffix("_kernel_time").partition("_token_")[0]
            times[name].append(event["dur"])
            operators[name] = event["args"]
    layers = []
    for name, taken in times.items():
        kind = operators[name]["op_name"]
        layer = {"name": name, "operator": kind, "us_per_image": float(np.median(taken[WARM_UP:])) / BATCH}
        kernel = kernels.get(f"{name}.weight_quantized") if kind == "QLinearConv" else None
        if kernel is None and kind == "QLinearConv":
            kernel = next((kernels[each] for each in kernel_names(path, name) if each in kernels), None)
        if kernel is not None:
            (output,) = operators[name]["output_type_shape"][0].values()
            layer["kernel"] = list(kernel)
            layer["macs"] = int(np.prod(output) * np.prod(kernel[1:])) // BATCH
        layers.append(layer)
    return {"image_size": network.image_size, "layers": layers}


def kernel_names(path: Path, conv: str) -> list[str]:
    """The constants that a convolution's kernel may be, by the names that tracing gave."""
    graph = onnx.load(path).graph
    producers = {output: node for node in graph.node for output in node.output}
    node = next((each for each in graph.node if each.name == conv), None)
    return [] if node is None else list(producers[node.input[1]].input[:1])


def summarise(network: dict[str, Any], peak: float) -> None:
    """Adds what the layers come to: by kind, in all, and if all arithmetic ran at the peak."""
    total = sum(layer["us_per_image"] for layer in network["layers"])
    macs = sum(layer.get("macs", 0) for layer in network["layers"])
    kinds: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for layer in network["layers"]:
        kinds[kind_of(layer)].append(layer)
    network["ms_per_image"] = total / 1e3
    network["share_of_peak"] = 2 * macs / total / 1e3 / peak
    network["ms_per_image_at_peak"] = 2 * macs / peak / 1e6
    network["kinds"] = {
        kind: {
            "layers": len(layers),
            "share_of_time": sum(each["us_per_image"] for each in layers) / total,
            "share_of_macs": sum(each.get("macs", 0) for each in layers) / macs,
            "gops": 2
            * sum(each.get("macs", 0) for each in layers)
            / max(sum(each["us_per_image"] for each in layers), 1e-9)
            / 1e3,
        }
        for kind, layers in sorted(kinds.items(), key=lambda item: -sum(each["us_per_image"] for each in item[1]))
    }
    network["layers"].sort(key=lambda layer: -layer["us_per_image"])


def kind_of(layer: dict[str, Any]) -> str:
    if "kernel" not in layer:
        return "other"
    _, depth, height, _ = layer["kernel"]
    if depth == 3 and height > 1:
        return "first convolution"
    if depth == 1:
        return "depthwise"
    return "1x1" if height == 1 else "3x3 and larger"


if __name__ == "__main__":
    main()
