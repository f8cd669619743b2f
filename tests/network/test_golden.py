"""What NumPy computes of folded arrays, beside the reference implementation's own logits."""

from __future__ import annotations

import numpy as np
import pytest

from shvit.models.reparam import as_array
from shvit.network.folding import fold
from shvit.network.forward import forward
from shvit.network.network import FoldedNetwork

from ..models.conftest import golden_input


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-6), (np.float32, 1e-4)])
@pytest.mark.parametrize("heads", ["one", "two"])
def test_logits_are_the_references(heads, dtype, tolerance, request, variant, golden):
    model = request.getfixturevalue("golden_model" if heads == "one" else "golden_distilled_model")
    tensors = {name: as_array(tensor) for name, tensor in model.state_dict().items()}
    network = FoldedNetwork(model.config, fold(model.config, tensors, dtype))
    expected = golden[variant if heads == "one" else f"{variant}_distilled"]
    found = forward(network, golden_input(model.config.image_size).numpy().astype(dtype))
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


def test_logits_of_images_that_are_not_square_are_the_references(variant, golden, golden_model):
    images = np.random.default_rng(99).standard_normal((1, 3, 384, 512))
    tensors = {name: as_array(tensor) for name, tensor in golden_model.state_dict().items()}
    found = forward(FoldedNetwork.of(golden_model.config, tensors), images.astype(np.float32))
    expected = golden[f"{variant}_384x512"]
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
