"""How long networks take for one image, for the studies that train them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import onnxruntime
import torch
from torch import nn

from shvit.models import SHViT, reparameterize


def latencies(networks: Mapping[str, nn.Module], size: int, folder: Path, rounds: int = 200) -> dict[str, list[float]]:
    """Milliseconds of one image on one thread of ONNX Runtime, all networks in turn.

    Args:
        networks: by name; SHViT's are folded first.
        size: side of the image, in pixels.
        folder: for a file of each network.
    """
    image = torch.randn(1, 3, size, size)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = {}
    for name, network in networks.items():
        network = reparameterize(network.eval()) if isinstance(network, SHViT) else network.eval()
        file = folder / "network.onnx"
        torch.onnx.export(network, (image,), file, dynamo=True, external_data=False, verbose=False)
        sessions[name] = onnxruntime.InferenceSession(file, options)
    found: dict[str, list[float]] = {name: [] for name in sessions}
    for number in range(rounds + 5):
        for name, session in sessions.items():
            feed = {session.get_inputs()[0].name: image.numpy()}
            started = time.perf_counter()
            session.run(None, feed)
            if number >= 5:
                found[name].append(1000 * (time.perf_counter() - started))
    return found
