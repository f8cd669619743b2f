"""Published networks by name: the first use and later ones, and how exact what is written of the weights is.

The hub is not asked: weights that timm wrote, from seeds, are laid where its client would keep them. Times are of whole
processes on one core, from start to label, of an installation without PyTorch where one is given (``--python``); later
uses by name and by the file's path alternate. Differences of logits are relative to the largest logit, in float32
against timm in float64, on the package's photographs at the network's size and at one that is not square.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from timm.models import save_for_hf

from cold_start import LAUNCH
from common import record, summary
from shvit.card import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from shvit.engines import load_engine
from shvit.hub.names import PUBLISHED
from shvit.modelfile.verify import photograph_crops
from shvit.network.graph import deployment_graph
from shvit.network.loading import load_folded

ROOT = Path(__file__).parent.parent
PHOTOGRAPH = str(ROOT / "samples" / "coffee.jpg")
COMMIT = "0" * 40
SIZES = ((None, None), (192, 320))


def write_weights(name: str, seed: int, folder: Path) -> torch.nn.Module:
    """A network of timm's whose outputs differ from image to image, as it writes them."""
    torch.manual_seed(seed)
    model = timm.create_model(name)
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if key.endswith("running_var") or (key.endswith("weight") and tensor.dim() == 1):
                tensor.uniform_(0.5, 1.5)
            elif key.endswith(("running_mean", "bias")):
                tensor.normal_(0, 0.1)
    save_for_hf(model, str(folder), safe_serialization=True)
    return model.double().eval()


def in_hub_cache(home: Path, name: str) -> Path:
    """Where the hub's client would keep a repository; its folder of the one commit."""
    repository = home / f"models--{PUBLISHED[name].repository.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    return snapshot


@torch.inference_mode()
def exactness(name: str, seed: int, folder: Path) -> dict[str, Any]:
    """How far a written file's logits are from those of timm's network."""
    network = write_weights(name, seed, folder)
    folded, _ = load_folded(folder / "model.safetensors")
    mean, std = (torch.tensor(each, dtype=torch.float64) * 255 for each in (IMAGENET_MEAN, IMAGENET_STD))
    found: dict[str, Any] = {"network": name, "seed": seed}
    for height, width in SIZES:
        side = folded.config.image_size
        size = (height or side, width or side)
        images = photograph_crops(Preprocessing(size), 1)
        file = folder / "file.onnx"
        file.write_bytes(deployment_graph(folded, size).SerializeToString())
        logits = load_engine("onnxruntime", file, threads=1).infer(images)
        expected = network(((torch.from_numpy(images) - mean) / std).permute(0, 3, 1, 2)).numpy()
        found[f"{size[0]}x{size[1]}"] = {
            "largest_difference": float(np.abs(logits - expected).max() / np.abs(expected).max()),
            "same_first_label": float((logits.argmax(1) == expected.argmax(1)).mean()),
        }
    return found


def timed(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Seconds and peak MB of one process, on one core."""
    launch = ["taskset", "-c", "0", sys.executable, "-I", "-S", "-c", LAUNCH, *command]
    done = subprocess.run(launch, check=True, capture_output=True, text=True, env={**os.environ, **environment})
    seconds, peak = map(float, done.stdout.split())
    return seconds, peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", default=sys.executable, help="of the installation that is timed")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        exact = [exactness(name, seed, folder / f"{name}-{seed}") for name in PUBLISHED for seed in range(args.seeds)]
        write_weights("shvit_s4", 0, in_hub_cache(folder / "hub", "shvit_s4"))
        first = []
        for run in range(max(args.runs // 2, 1)):
            cache = folder / f"cache{run}"
            environment = {"HF_HUB_CACHE": str(folder / "hub"), "SHVIT_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
            command = [args.python, "-m", "shvit", "predict", PHOTOGRAPH, "--model"]
            first.append(timed([*command, "shvit_s4"], environment))
        (file,) = (cache / "models").rglob("*.onnx")
        later: dict[str, list[tuple[float, float]]] = {"name": [], "path": []}
        for _ in range(args.runs):
            for way, model in (("name", "shvit_s4"), ("path", str(file))):
                later[way].append(timed([*command, model], environment))
    seconds = {way: [each[0] for each in runs] for way, runs in later.items()}
    record(
        "by_name",
        f"python benchmarks/by_name.py --runs {args.runs}",
        {
            "first_use": {"seconds": summary([each[0] for each in first]), "peak_mb": max(each[1] for each in first)},
            "later_by_name": summary(seconds["name"]),
            "later_by_path": summary(seconds["path"]),
            "name_over_path": float(np.median(np.array(seconds["name"]) / np.array(seconds["path"]))),
            "exactness": exact,
        },
    )


if __name__ == "__main__":
    main()
