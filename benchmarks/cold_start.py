"""From process start to the first printed label: shvit, the usual timm script, and the bare minimum.

All three classify the same photograph with the same weights. Runs alternate; each is a fresh process, whose wall time
and peak resident memory the operating system accounts for.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from common import record, summary
from shvit.models import save_checkpoint
from shvit.models.checkpoints import load_model

ROOT = Path(__file__).parent.parent
MODEL = ROOT / "src/shvit/assets/shvit_s1_tiny_imagenet.onnx"
WEIGHTS = ROOT / "weights/shvit_s1_tiny_imagenet.safetensors"

TIMM = """
import sys, timm, torch
from PIL import Image
from timm.data import create_transform
model = timm.create_model("shvit_s1", num_classes=200, checkpoint_path=sys.argv[2]).eval()
transform = create_transform(input_size=(3, 128, 128), interpolation="bicubic", crop_pct=0.875)
with torch.inference_mode():
    scores = model(transform(Image.open(sys.argv[1]).convert("RGB"))[None]).softmax(-1)
print(scores.topk(5))
"""
BARE = """
import sys, numpy as np, onnxruntime as ort
from PIL import Image
session = ort.InferenceSession(sys.argv[2])
image = Image.open(sys.argv[1]).convert("RGB").resize((128, 128), Image.Resampling.BICUBIC)
scores = session.run(None, {"images": np.asarray(image)[None]})[0]
print(np.argsort(-scores[0])[:5])
"""


LAUNCH = """
import os, sys, time
null = os.open(os.devnull, os.O_WRONLY)
started = time.perf_counter()
process = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, null, 1)])
_, status, usage = os.wait4(process, 0)
print(time.perf_counter() - started, usage.ru_maxrss / 1024)
sys.exit(status != 0)
"""
"""A small process between: the peak that the system reports is never below that of the process which starts another."""


def run(command: list[str]) -> tuple[float, float]:
    """Seconds and peak MB of one process."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", LAUNCH, *command], check=True, capture_output=True, text=True
    )
    seconds, peak = map(float, done.stdout.split())
    return seconds, peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=9)
    args = parser.parse_args()
    image = str(ROOT / "samples/coffee.jpg")
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "timm.safetensors"
        save_checkpoint(load_model(WEIGHTS)[0], weights, names="timm")
        commands = {
            "shvit": [str(Path(sys.executable).parent / "shvit"), "predict", image],
            "timm": [sys.executable, "-c", TIMM, image, str(weights)],
            "bare": [sys.executable, "-c", BARE, image, str(MODEL)],
        }
        measured: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for turn in range(args.runs + 1):
            for name, command in commands.items():
                figures = run(command)
                if turn:  # the first fills the disk cache
                    measured[name].append(figures)
    result = {
        name: {"seconds": summary([s for s, _ in runs]), "peak_mb": summary([m for _, m in runs])}
        for name, runs in measured.items()
    }
    ratios = [timm[0] / ours[0] for timm, ours in zip(measured["timm"], measured["shvit"], strict=True)]
    record("cold_start", "python benchmarks/cold_start.py", {**result, "timm_over_shvit_seconds": summary(ratios)})


if __name__ == "__main__":
    main()
