from __future__ import annotations

import argparse
import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from shvit.errors import CheckpointError
from shvit.models import VARIANTS, SHViT, SHViTConfig, create_model, load_checkpoint, read_checkpoint, save_checkpoint
from shvit.models.checkpoints import load_model

SMALL = SHViTConfig(widths=(16, 24, 32), depths=(1, 1, 1), partial_dims=(4, 8, 12), num_classes=5)


@pytest.fixture(scope="module")
def s1() -> SHViT:
    torch.manual_seed(1)
    model = SHViT(replace(VARIANTS["shvit_s1"], num_classes=10))
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.1, 1)
    return model


def assert_same(ours: SHViT, expected: SHViT) -> None:
    for (name, tensor), wanted in zip(ours.state_dict().items(), expected.state_dict().values(), strict=True):
        assert torch.equal(tensor, wanted), name


def test_names_of_every_tensor(tmp_path, tensor_names, variant):
    model = SHViT(replace(VARIANTS[variant], distillation=True))
    expected = tensor_names[variant]
    for names, wanted in (
        ("reference", expected["reference"] + expected["reference_distilled"]),
        ("timm", expected["timm"]),
    ):
        file = tmp_path / f"{names}.pth"
        save_checkpoint(model, file, names=names)
        assert list(torch.load(file)["model"])[: len(wanted)] == wanted


@pytest.mark.parametrize("names", ["shvit", "timm", "reference"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_round_trip(tmp_path, s1, names, suffix):
    file = tmp_path / f"weights{suffix}"
    save_checkpoint(s1, file, names=names)
    read = read_checkpoint(file)
    assert read.names == names
    assert read.config == s1.config
    model = create_model("shvit_s1", num_classes=10)
    assert load_checkpoint(model, file).notes == ()
    assert_same(model, s1)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_a_configuration_of_ones_own_and_metadata_travel_with_safetensors(tmp_path):
    model = SHViT(SMALL).to(memory_format=torch.channels_last)
    save_checkpoint(model, tmp_path / "own.safetensors", metadata={"classes": ["a", "b"], "note": "hello"})
    again, checkpoint = load_model(tmp_path / "own.safetensors")
    assert again.config == SMALL
    assert checkpoint.metadata == {"classes": ["a", "b"], "note": "hello", "format": "pt"}
    assert_same(again, model)


def test_the_references_training_checkpoint(tmp_path, s1):
    other = create_model("shvit_s1", num_classes=10)
    save_checkpoint(s1, tmp_path / "bare.pth", names="reference")
    save_checkpoint(other, tmp_path / "other.pth", names="reference")
    state, averaged = (torch.load(tmp_path / name)["model"] for name in ("bare.pth", "other.pth"))
    torch.save(state, tmp_path / "state_dict.pth")
    torch.save(
        {
            "model": {f"module.{name}": tensor for name, tensor in state.items()},
            "optimizer": torch.optim.AdamW(s1.parameters()).state_dict(),
            "lr_scheduler": {"t_in_epochs": True},
            "epoch": 299,
            "model_ema": averaged,
            "scaler": {"scale": 65536.0},
            "args": argparse.Namespace(lr=1e-3, output_dir="out", data_set="IMNET"),
        },
        tmp_path / "training.pth",
    )
    for file, weights, expected, ema in (
        ("state_dict.pth", "auto", s1, False),
        ("training.pth", "model", s1, False),
        ("training.pth", "ema", other, True),
        ("training.pth", "auto", other, True),
    ):
        model = create_model("shvit_s1", num_classes=10)
        report = load_checkpoint(model, tmp_path / file, weights)
        assert report.ema is ema
        assert_same(model, expected)
    with pytest.raises(CheckpointError, match=r"state_dict\.pth: has no moving average"):
        read_checkpoint(tmp_path / "state_dict.pth", weights="ema")


def test_compiled_and_distributed_prefixes_are_taken_off(tmp_path, s1):
    state = {f"module._orig_mod.{name}": tensor for name, tensor in s1.state_dict().items()}
    torch.save(state, tmp_path / "wrapped.pth")
    model = create_model("shvit_s1", num_classes=10)
    load_checkpoint(model, tmp_path / "wrapped.pth")
    assert_same(model, s1)


def test_another_head_is_left_fresh_and_said(tmp_path, s1):
    save_checkpoint(s1, tmp_path / "ten.safetensors", names="timm")
    model = create_model("shvit_s1", num_classes=3)
    fresh = model.head.linear.weight.clone()
    with pytest.warns(UserWarning, match="10 classes, this network 3: the head is fresh"):
        load_checkpoint(model, tmp_path / "ten.safetensors")
    assert torch.equal(model.head.linear.weight, fresh)
    assert torch.equal(model.stem[0].conv.weight, s1.stem[0].conv.weight)


def test_distillation_heads(tmp_path, s1):
    both = create_model("shvit_s1", num_classes=10, distillation=True)
    save_checkpoint(both, tmp_path / "both.safetensors", names="reference")
    save_checkpoint(s1, tmp_path / "one.safetensors", names="reference")
    assert read_checkpoint(tmp_path / "both.safetensors").config == both.config
    with pytest.warns(UserWarning, match="left out: pass distillation=True"):
        load_checkpoint(create_model("shvit_s1", num_classes=10), tmp_path / "both.safetensors")
    with pytest.warns(UserWarning, match="that head is fresh"):
        load_checkpoint(create_model("shvit_s1", num_classes=10, distillation=True), tmp_path / "one.safetensors")


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_a_malicious_pickle_is_refused_and_not_run(tmp_path, writer):
    file, trace = tmp_path / "evil.pth", tmp_path / "trace"
    if writer == "torch":
        torch.save({"model": Payload(trace)}, file)
    else:
        file.write_bytes(pickle.dumps({"model": Payload(trace)}))
    with pytest.raises(CheckpointError, match=r"evil\.pth"):
        read_checkpoint(file)
    assert not trace.exists()


def damaged(tmp_path: Path, s1: SHViT, how: str) -> tuple[Path, str]:
    """A file that must not load, and what the error must say."""
    file = tmp_path / "damaged.safetensors"
    save_checkpoint(s1, file, names="timm")
    if how == "truncated safetensors":
        file.write_bytes(file.read_bytes()[:-1000])
        return file, "not a whole safetensors file"
    if how == "truncated pth":
        file = tmp_path / "damaged.pth"
        save_checkpoint(s1, file)
        file.write_bytes(file.read_bytes()[:100_000])
        return file, "not a whole PyTorch checkpoint"
    if how == "empty":
        file = tmp_path / "damaged.pth"
        file.touch()
        return file, "not a whole PyTorch checkpoint"
    if how == "not there":
        return tmp_path / "damaged.none", "no such file"
    state = load_file(file)
    if how == "missing tensor":
        del state["stages.1.blocks.2.ffn.m.pw1.c.weight"]
        expected = r"missing, such as stages\.1\.blocks\.2\.ffn\.m\.pw1\.c\.weight"
    elif how == "unexpected tensor":
        state["stages.9.weight"] = torch.zeros(1)
        expected = r"not of this network, such as stages\.9\.weight"
    elif how == "another shape":
        state["stages.0.blocks.0.conv.m.bn.bias"] = torch.zeros(7)
        expected = r"stages\.0\.blocks\.0\.conv\.m\.bn\.bias should have the shape \(128,\), got \(7,\)"
    elif how == "another variant":
        save_checkpoint(create_model("shvit_s3", num_classes=10), tmp_path / "s3.pth", names="timm")
        state = torch.load(tmp_path / "s3.pth")["model"]
        expected = r"patch_embed\.0\.c\.weight.*the file is of shvit_s3"
    elif how == "another network":
        state = {"conv1.weight": torch.zeros(1)}
        expected = r"not a SHViT.*first tensor is conv1\.weight"
    file = tmp_path / "damaged.pth"
    torch.save(state, file)
    return file, expected


@pytest.mark.parametrize(
    "how",
    [
        "truncated safetensors",
        "truncated pth",
        "empty",
        "not there",
        "missing tensor",
        "unexpected tensor",
        "another shape",
        "another variant",
        "another network",
    ],
)
def test_a_damaged_file_is_refused_by_name_and_nothing_is_loaded(tmp_path, s1, how):
    file, expected = damaged(tmp_path, s1, how)
    model = create_model("shvit_s1", num_classes=10)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=rf"damaged\.\w+: .*{expected}"):
        load_checkpoint(model, file)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_file_of_no_known_variant_says_so(tmp_path):
    torch.save(SHViT(SMALL).state_dict(), tmp_path / "own.pth")
    assert read_checkpoint(tmp_path / "own.pth").config is None
    with pytest.raises(CheckpointError, match=r"of none of shvit_s1"):
        load_model(tmp_path / "own.pth")


def test_writing_where_one_cannot_leaves_nothing(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_checkpoint(SHViT(SMALL), tmp_path / "missing" / "weights.safetensors")
    assert not (tmp_path / "missing").exists()


def test_hub_form(tmp_path):
    model = SHViT(SMALL)
    model.save_pretrained(tmp_path / "hub")
    assert {path.name for path in (tmp_path / "hub").iterdir()} >= {"config.json", "model.safetensors"}
    again = SHViT.from_pretrained(tmp_path / "hub")
    assert again.config == SMALL
    assert_same(again, model)
