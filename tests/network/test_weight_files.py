"""Safetensors as arrays; what becomes of them is in tests/models."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from shvit.errors import CheckpointError
from shvit.models import SHViT, SHViTConfig, load_model, save_checkpoint
from shvit.models.arrays import to_array, to_tensor
from shvit.network.checkpoint import read_weights
from shvit.network.dtypes import SAFETENSORS
from shvit.network.imagenet import imagenet_classes
from shvit.network.integrity import content_digest
from shvit.network.matching import read_network
from shvit.network.shapes import tensor_shapes
from shvit.network.weight_files import read_weight_file

SMALL = SHViTConfig(widths=(16, 24, 32), depths=(1, 1, 1), partial_dims=(4, 8, 12), num_classes=5)


def test_every_type_of_numbers_and_back(tmp_path):
    state = {name: torch.tensor([[1.0, 2.0, 4.0]]).to(getattr(torch, name)) for name in SAFETENSORS.values()}
    save_file({**state, "scalar": torch.tensor(3), "empty": torch.zeros(0, 5)}, tmp_path / "types.safetensors")
    read, _ = read_weight_file(tmp_path / "types.safetensors")
    for name, tensor in state.items():
        assert (read[name].dtype.name, read[name].shape) == (name, (1, 3))
        again = to_tensor(read[name])
        assert again.dtype == tensor.dtype and to_array(tensor).tobytes() == read[name].tobytes()
        assert to_array(again).tobytes() == read[name].tobytes()
    assert (read["scalar"].shape, read["scalar"].item(), read["empty"].shape) == ((), 3, (0, 5))


def write(path: Path, header: dict[str, object], content: bytes) -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content)
    return path


def test_tensors_that_begin_anywhere_are_read(tmp_path):
    header = {
        "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "b": {"dtype": "F32", "shape": [2], "data_offsets": [1, 9]},
    }
    file = write(tmp_path / "odd.safetensors", header, b"\7" + np.array([1, 2], np.float32).tobytes())
    read, _ = read_weight_file(file)
    assert read["b"].tolist() == [1, 2] and read["b"].flags.aligned


def test_a_type_that_is_not_read_is_named(tmp_path):
    header = {"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}
    with pytest.raises(CheckpointError, match=r"odd\.safetensors: a is of the type F4, which is not read"):
        read_weight_file(write(tmp_path / "odd.safetensors", header, b"\7"))


def test_the_digest_is_that_of_files_written_so_far():
    """By the version that took it from PyTorch's tensors."""
    state = {
        "a": torch.arange(6.0).view(2, 3).T,
        "b": torch.tensor([1.0, 2.0]).to(torch.bfloat16),
        "f": torch.ones(2).to(torch.float8_e4m3fn),
        "n": torch.tensor(3),
        "e": torch.zeros(0, 2),
    }
    digest = content_digest({name: to_array(tensor) for name, tensor in state.items()}, {"key": "\u00e4"})
    assert digest == "2a58b164919b8f9da105ab50c67f3bff8653753153741ff14024fa660d47a668"


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_file_takes_its_own_size_in_memory(tmp_path, suffix):
    file = tmp_path / f"weights{suffix}"
    save_checkpoint(SHViT(SHViTConfig(num_classes=10)), file)
    tracemalloc.start()
    read_weights(file)
    assert tracemalloc.get_traced_memory()[1] < 1.3 * file.stat().st_size
    tracemalloc.stop()


@pytest.mark.parametrize("names", ["shvit", "timm", "reference"])
def test_a_networks_tensors_under_our_names(tmp_path, names):
    model = SHViT(SHViTConfig(num_classes=7, distillation=True))
    save_checkpoint(model.half(), tmp_path / "half.safetensors", names=names)
    checkpoint, tensors = read_network(tmp_path / "half.safetensors")
    assert checkpoint.config == model.config
    assert {name: each.shape for name, each in tensors.items()} == tensor_shapes(model.config)
    for name, each in model.state_dict().items():
        assert tensors[name].dtype == (np.float32 if each.is_floating_point() else np.int64)
        assert np.array_equal(tensors[name], each.float().numpy())
    again, _ = load_model(tmp_path / "half.safetensors")
    assert torch.equal(again.head.linear.weight, model.head.linear.weight.float())


def test_a_network_of_a_lying_configuration_takes_no_memory(tmp_path):
    """Neither for its tensors nor for a first convolution of so many channels."""
    file = tmp_path / "lie.safetensors"
    for changes, expected in (({"in_chans": 10**12}, "first convolution"), ({"num_classes": 10**12}, "classes")):
        config = {**vars(SMALL), **changes}
        save_file(SHViT(SMALL).state_dict(), file, metadata={"shvit.config": json.dumps(config)})
        with pytest.raises(CheckpointError, match=rf"lie\.safetensors: its configuration is not of .*{expected}"):
            read_network(file)


def test_imagenets_classes_are_timms():
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    classes = imagenet_classes()
    assert [each.class_id for each in classes] == list(range(1000))
    assert [each.label for each in classes] == info.label_descriptions()
    assert [each.wnid for each in classes] == info.label_names()
