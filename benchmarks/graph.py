"""The deployment graph against the exporter's: SHViT-S1 and S4 in float32 and int8, in both engines, on one thread.

``traced`` is what PyTorch's exporter writes of the folded network, ``written`` is ``shvit.exporting``'s graph; both are
quantised by the same function. Weights are random: speed does not depend on them. All configurations take turns.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import onnx

from common import record, summary
from shvit.bench.networks import ModelFile, calibration_crops, deployed, open_network
from shvit.bench.speed import Conditions, Timed, time_files
from shvit.card import Card, ClassInfo, Preprocessing
from shvit.exporting.trace import Deployed, trace_to_onnx
from shvit.modelfile.onnx import set_card
from shvit.modelfile.quantize import quantize_graph
from shvit.models import SHViT
from shvit.models.reparam import folded_network
from shvit.network.graph import deployment_graph

ENGINES = ("onnxruntime", "openvino")
CALIBRATION = 32


def write_files(variant: str, folder: Path) -> list[ModelFile]:
    network = open_network(variant)
    folded = deployed(network)
    assert isinstance(folded, SHViT)
    card = Card(variant, variant, tuple(ClassInfo(i, str(i)) for i in range(1000)), Preprocessing(network.image_size))
    written = deployment_graph(folded_network(folded), network.image_size)
    traced = trace_to_onnx(Deployed(folded), network.image_size)
    files = []
    for graph, proto in (("traced", traced), ("written", written)):
        for precision in ("fp32", "int8"):
            if precision == "int8":
                proto = quantize_graph(proto, calibration_crops(network.image_size, CALIBRATION))
            set_card(proto, card)
            path = folder / f"{variant}_{graph}_{precision}.onnx"
            onnx.save(proto, path)
            files.append(ModelFile(f"{variant} {graph}", precision, path, "random"))
    return files


def latencies(timed: list[Timed], variant: str, graph: str, precision: str, engine: str, batch: int) -> list[float]:
    for each in timed:
        configuration = each.measurement.configuration
        if (configuration.model, configuration.precision, configuration.engine, configuration.batch_size) == (
            f"{variant} {graph}",
            precision,
            engine,
            batch,
        ):
            return each.measurement.round_medians
    raise KeyError(variant)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4, help="for each configuration (default: 4)")
    parser.add_argument("--rounds", type=int, default=8)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        files = [file for variant in ("shvit_s1", "shvit_s4") for file in write_files(variant, Path(name))]
        timed = time_files(files, Conditions(ENGINES, [1], [1, 16], args.seconds, args.rounds))
    ratios: dict[str, Any] = {}
    for variant in ("shvit_s1", "shvit_s4"):
        for engine in ENGINES:
            for batch in (1, 16):
                plain = latencies(timed, variant, "traced", "fp32", engine, batch)
                for graph, precision in (("written", "fp32"), ("traced", "int8"), ("written", "int8")):
                    own = latencies(timed, variant, graph, precision, engine, batch)
                    pairs = [a / b for a, b in zip(plain, own, strict=True)]
                    ratios[f"{variant} {graph} {precision} {engine} batch {batch}"] = summary(pairs)
    result = {"times_as_fast_as_traced_fp32": ratios, "results": [each.to_dict() for each in timed]}
    record("graph", "python benchmarks/graph.py", result)


if __name__ == "__main__":
    main()
