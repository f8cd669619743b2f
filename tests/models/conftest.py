"""Weights that anyone can remake, and what the reference computes with them."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from shvit.models import VARIANTS, SHViT, SHViTConfig

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def golden() -> dict[str, np.ndarray]:
    return dict(np.load(DATA / "golden_logits.npz"))


@pytest.fixture(scope="session")
def tensor_names() -> dict[str, dict[str, list[str]]]:
    """Names of every tensor in the reference repository and in timm, in their common order."""
    return json.loads(gzip.decompress((DATA / "names.json.gz").read_bytes()))


def remade_state(model: SHViT, names: list[str]) -> dict[str, torch.Tensor]:
    """The tensors that the golden logits were computed with: number i is drawn from ``default_rng(i)``."""
    state = {}
    for index, (own, tensor) in enumerate(model.state_dict().items()):
        rng, shape = np.random.default_rng(index), tuple(tensor.shape)
        name = names[index]
        if name.endswith("num_batches_tracked"):
            values = np.zeros(shape)
        elif name.endswith("running_var"):
            values = rng.uniform(0.5, 1.5, shape)
        elif name.endswith("bn.weight"):
            values = rng.uniform(0.3, 1.0, shape)
        elif len(shape) == 1:
            values = rng.normal(0, 0.1, shape)
        else:
            values = rng.normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape)
        state[own] = torch.as_tensor(values, dtype=tensor.dtype)
    return state


def remade_model(config: SHViTConfig, names: list[str], dtype: torch.dtype = torch.float64) -> SHViT:
    model = SHViT(config).to(dtype).eval()
    model.load_state_dict(remade_state(model, names))
    return model


@pytest.fixture(scope="session", params=list(VARIANTS))
def variant(request) -> str:
    return request.param


@pytest.fixture(scope="session")
def golden_model(variant, tensor_names) -> SHViT:
    """A variant in float64 with the remade weights; tests must not change it."""
    return remade_model(VARIANTS[variant], tensor_names[variant]["reference"])


@pytest.fixture(scope="session")
def golden_distilled_model(variant, tensor_names) -> SHViT:
    names = tensor_names[variant]
    config = replace(VARIANTS[variant], distillation=True)
    return remade_model(config, names["reference"] + names["reference_distilled"])


def golden_input(size: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1234).standard_normal((2, 3, size, size)))
