"""S1 in every format that runs here: size, how far from its network, and one image at a time on one core."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

from common import record, summary

ROOT = Path(__file__).parent.parent
COMBINATIONS = (
    ("onnx", "fp32"),
    ("onnx", "fp16"),
    ("onnx", "int8"),
    ("openvino", "fp32"),
    ("openvino", "fp16"),
    ("openvino", "int8"),
    ("litert", "fp32"),
    ("litert", "fp16"),
    ("litert", "int8"),
    ("executorch", "fp32"),
    ("torch", "fp32"),
    ("aotinductor", "fp32"),
    ("coreml", "fp16"),
)
RUNS, ROUNDS = 20, 7
"""Images of one engine before the next has its turn, and how often that is gone through."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, metavar="DATA", help="Tiny-ImageNet, to calibrate int8 on")
    args = parser.parse_args()
    cores = os.sched_getaffinity(0)
    # Before any engine is imported: ExecuTorch takes its threads from the processors that it may use.
    os.sched_setaffinity(0, {max(cores)})

    import torch

    from shvit.data.datasets import open_dataset
    from shvit.engines import load_engine
    from shvit.evaluation.samples import calibration_images
    from shvit.exporting import FORMATS, FileOptions, export_model
    from shvit.exporting.aotinductor import load_package
    from shvit.exporting.executorch import load_program
    from shvit.exporting.torch_export import load_exported
    from shvit.modelfile.card import card_for
    from shvit.modelfile.verify import photograph_crops
    from shvit.models.checkpoints import load_model
    from shvit.models.reparam import folded_network

    torch.set_num_threads(1)
    model, checkpoint = load_model(ROOT / "weights/shvit_s1_tiny_imagenet.safetensors")
    card = card_for(folded_network(model), checkpoint, "s1")
    calibration, _ = calibration_images(open_dataset(args.data, "train"), card)
    image = photograph_crops(card.preprocessing)[:1]
    own = {"executorch": load_program, "torch": load_exported, "aotinductor": load_package}
    results: dict[str, dict[str, object]] = {}
    engines = {}
    with tempfile.TemporaryDirectory() as folder:
        for format, precision in COMBINATIONS:
            name = f"{format} {precision}"
            path = Path(folder) / f"{format}_{precision}{FORMATS[format].suffix}"
            report = export_model(model, path, card, FileOptions(format, precision), calibration=calibration)
            results[name] = {
                "bytes": report.size_bytes,
                "max_difference": report.max_difference,
                "top1_agreement": report.top1_agreement,
                "images": report.images,
            }
            if report.images:
                engines[name] = own[format](path) if format in own else load_engine("auto", path, 1).infer
        taken: dict[str, list[float]] = {name: [] for name in engines}
        for _ in range(ROUNDS):
            for name, infer in engines.items():
                infer(image)
                started = time.perf_counter()
                for _ in range(RUNS):
                    infer(image)
                taken[name].append((time.perf_counter() - started) / RUNS * 1000)
    for name, values in taken.items():
        results[name]["ms_per_image"] = summary(values)
    os.sched_setaffinity(0, cores)
    record(
        "formats", "python benchmarks/formats.py --data DATA", {"image_size": 128, "cores_used": 1, "formats": results}
    )


if __name__ == "__main__":
    main()
