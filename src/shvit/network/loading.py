"""From a file of weights to a folded network, without PyTorch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from shvit.network.checkpoint import Checkpoint
from shvit.network.containers import Weights
from shvit.network.matching import read_network
from shvit.network.network import FoldedNetwork
from shvit.network.weight_files import check_finite


def load_folded(
    path: str | Path, weights: Weights = "auto", keep_unfolded: bool = False
) -> tuple[FoldedNetwork, Checkpoint[np.ndarray]]:
    """The network that a file of weights is of, folded, and what else the file holds.

    Args:
        path: safetensors, or a pickle such as ``.pth``, as ``read_weights`` takes them.
        weights: ``model`` or ``ema``; ``auto`` takes the moving average where there is one.
        keep_unfolded: the network keeps its tensors in training form too, if the file has them.

    Raises:
        CheckpointError: the file cannot be read, or tells of no network that is known.
    """
    checkpoint, tensors = read_network(path, weights)
    assert checkpoint.config is not None
    with np.errstate(all="ignore"):  # what that leads to is told of in one line
        network = FoldedNetwork.of(checkpoint.config, tensors, checkpoint.folded)
    check_finite(checkpoint.path, network.arrays, "folded, ")
    if keep_unfolded and not checkpoint.folded:
        network = replace(network, unfolded=tensors)
    return network, checkpoint
