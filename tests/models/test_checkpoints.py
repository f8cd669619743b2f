from __future__ import annotations

import argparse
import json
import os
import pickle
import random
import warnings
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from shvit.card import ClassInfo, Preprocessing
from shvit.errors import CheckpointError
from shvit.modelfile.card import card_for
from shvit.models import (
    VARIANTS,
    SHViT,
    SHViTConfig,
    create_model,
    load_checkpoint,
    read_checkpoint,
    reparameterize,
    save_checkpoint,
)
from shvit.models.checkpoints import load_model
from shvit.network.loading import load_folded
from shvit.training.defaults import default_recipe
from shvit.training.distillation import load_teacher

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
            "args": argparse.Namespace(lr=1e-3, output_dir=Path("out"), device=torch.device("cpu")),
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


@pytest.mark.parametrize("names", ["shvit", "timm", "reference"])
def test_a_body_is_taken_from_a_whole_network_and_a_whole_network_takes_a_body(tmp_path, s1, names):
    save_checkpoint(create_model("shvit_s1", num_classes=10, distillation=True), tmp_path / "both.pth", names=names)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # to leave the head out was asked for
        body = create_model("shvit_s1", tmp_path / "both.pth", num_classes=0)
    save_checkpoint(body, tmp_path / "body.safetensors", names=names)
    assert read_checkpoint(tmp_path / "body.safetensors").config == body.config
    with pytest.warns(UserWarning, match="has no head: that head is fresh"):
        whole = create_model("shvit_s1", tmp_path / "body.safetensors", num_classes=3)
    for name, tensor in body.state_dict().items():
        assert torch.equal(tensor, whole.state_dict()[name]), name


def test_a_head_replaced_later_is_what_is_saved(tmp_path, s1):
    model = create_model("shvit_s1", num_classes=10, distillation=True)
    model.reset_classifier(4)
    save_checkpoint(model, tmp_path / "four.safetensors")
    again, _ = load_model(tmp_path / "four.safetensors")
    assert (again.config.num_classes, again.config.distillation) == (4, False)
    assert_same(again, model)


def test_a_folded_network_comes_back_folded(tmp_path, s1):
    torch.manual_seed(0)
    folded, image = reparameterize(SHViT(s1.config).eval()), torch.rand(1, 3, 64, 64)
    save_checkpoint(folded, tmp_path / "folded.safetensors", metadata={"epoch": 3})
    loaded, checkpoint = load_model(tmp_path / "folded.safetensors")
    assert loaded.folded
    assert checkpoint.metadata["epoch"] == 3
    with torch.no_grad():
        assert folded(image).isfinite().all()
        assert torch.equal(loaded(image), folded(image))
    with pytest.raises(CheckpointError, match="a folded network, which cannot be unfolded"):
        load_checkpoint(s1, tmp_path / "folded.safetensors")
    save_checkpoint(s1, tmp_path / "whole.safetensors")
    with pytest.raises(CheckpointError, match="not folded, as this network is"):
        load_checkpoint(loaded, tmp_path / "whole.safetensors")


def test_a_folded_network_is_not_written_for_others(tmp_path, s1):
    folded = reparameterize(s1)
    for name, names in (("folded.pth", "shvit"), ("folded.safetensors", "timm")):
        with pytest.raises(CheckpointError, match=rf"{name}: a folded network is saved as"):
            save_checkpoint(folded, tmp_path / name, names=names)
    with pytest.raises(CheckpointError, match="only safetensors carry metadata"):
        save_checkpoint(s1, tmp_path / "weights.pth", metadata={"classes": ["a"]})
    assert list(tmp_path.iterdir()) == []
    torch.save(folded.state_dict(), tmp_path / "folded.pth")
    with pytest.raises(CheckpointError, match=r"folded\.pth: a folded network without its configuration"):
        load_checkpoint(s1, tmp_path / "folded.pth")


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


@pytest.mark.parametrize("content", [b"%PDF-1.4 " * 50, b"hello world " * 50, b"PK\x03\x04" + bytes(500)])
def test_what_is_no_checkpoint_is_not_called_malicious(tmp_path, content):
    file = tmp_path / "paper.pth"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"^\S+paper\.pth: not a whole PyTorch checkpoint: .{1,200}$"):
        read_checkpoint(file)


@pytest.mark.parametrize("content", [[1, 2], {}, {"model": None}, {"model": {1: torch.zeros(1)}}, torch.zeros(3)])
def test_a_pickle_without_a_state_dict_is_refused(tmp_path, content):
    file = tmp_path / "other.pth"
    torch.save(content, file)
    with pytest.raises(CheckpointError, match=r"other\.pth: (expected a state dict|holds no tensors)"):
        read_checkpoint(file)


def test_safetensors_without_tensors_and_folders_are_refused(tmp_path):
    save_file({}, tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match="holds no tensors"):
        read_checkpoint(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match="is a folder; expected a checkpoint"):
        read_checkpoint(tmp_path)


@pytest.mark.filterwarnings("ignore")  # PyTorch's own about sparse and quantized tensors
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda tensor: tensor.to_sparse(), "not a plain tensor"),
        (lambda tensor: tensor.to("meta"), "not a plain tensor"),
        (lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8), "not a plain tensor"),
        (lambda tensor: tensor.to(torch.int8), r"should be floating point, got torch\.int8"),
        (lambda tensor: tensor.to(torch.complex64), r"should be floating point, got torch\.complex64"),
    ],
    ids=["sparse", "meta", "quantized", "int8", "complex"],
)
def test_a_tensor_that_cannot_be_a_weight_is_refused_and_nothing_is_loaded(tmp_path, change, expected):
    name = "stages.2.blocks.0.ffn.project.conv.weight"
    state = SHViT(SMALL).state_dict()
    torch.save({**state, name: change(state[name])}, tmp_path / "odd.pth")
    model = SHViT(SMALL)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=rf"odd\.pth: {name} (is )?{expected}"):
        load_checkpoint(model, tmp_path / "odd.pth")
    for each, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[each]), each


def test_a_small_file_cannot_ask_for_much_memory(tmp_path):
    state = SHViT(SMALL).state_dict()
    state["stem.0.conv.weight"] = torch.zeros(1).expand(2, 10**12, 3, 3)
    torch.save(state, tmp_path / "expanded.pth")
    with pytest.raises(CheckpointError, match=r"expanded\.pth: refused: its tensors would take \d+ bytes"):
        read_checkpoint(tmp_path / "expanded.pth")

    torch.save({"model": torch.zeros(1_000_000)}, tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for entry in plain.infolist():
            bomb.writestr(entry.filename, plain.read(entry.filename))
    with pytest.raises(CheckpointError, match=r"bomb\.pth: refused: a compressed archive"):
        read_checkpoint(tmp_path / "bomb.pth")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"widths": [16, 24, 10**9]}, "should have the shape"),
        ({"depths": [1, 1, 10**9]}, "blocks, it has"),
        ({"num_classes": 10**12}, "head"),
        ({"in_chans": 10**12}, "first convolution"),
        ({"distillation": True}, "no distillation head"),
        ({"widths": [16, 24.5, 32]}, "widths: expected whole numbers"),
        ({"num_classes": "7"}, "num_classes: expected a whole number"),
        ({"color": "red"}, "color"),
    ],
)
def test_a_configuration_that_the_tensors_do_not_bear_out_is_refused_at_once(tmp_path, changes, expected):
    stored = {"shvit.config": json.dumps({**asdict(SMALL), **changes})}
    save_file(SHViT(SMALL).state_dict(), tmp_path / "lie.safetensors", metadata=stored)
    with pytest.raises(CheckpointError, match=rf"lie\.safetensors: .*{expected}"):
        load_model(tmp_path / "lie.safetensors")


def safetensors_file(path: Path, metadata: dict[str, str]) -> Path:
    """A network's file with these texts as they are, and no digest."""
    save_file(SHViT(SMALL).state_dict(), path, metadata={"shvit.config": json.dumps(asdict(SMALL)), **metadata})
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {"widths": [10**9] * 3},
        {"widths": [16, 24, 2**62]},
        {"partial_dims": [4, 8, 10**18]},
        {"qk_dim": 10**18},
        {"mlp_ratio": 10**18},
        {"num_heads": 10**18},
        {"in_chans": 2**63},
        {"depths": [10**18, 1, 1]},
        {"image_size": 10**9},
        {"drop_path": 10**400},
        {"drop_path": "NaN"},
        {"widths": {"a": 1}},
        {"stem_stride": None},
    ],
)
def test_a_configuration_of_any_numbers_is_refused(tmp_path, changes):
    text = json.dumps({**asdict(SMALL), **changes}).replace('"NaN"', "NaN")
    with pytest.raises(CheckpointError, match=r"lie\.safetensors: .*"):
        load_model(safetensors_file(tmp_path / "lie.safetensors", {"shvit.config": text}))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "7", '"text"', "[1, 2]", "null", "not JSON"])
@pytest.mark.parametrize("key", ["shvit.config", "preprocessing", "classes", "metrics", "notes"])
def test_damaged_metadata_are_refused_or_left_out(tmp_path, key, text):
    file = safetensors_file(tmp_path / "lie.safetensors", {key: text})
    try:
        card_for(*load_folded(file), name="lie")
    except CheckpointError as error:
        assert str(error).startswith(f"{file}: ")
    else:
        assert text == "null" or key == "metrics" or (key == "notes" and text in ('"text"', "not JSON"))


@pytest.mark.parametrize(
    "changes",
    [
        {"image_size": [10**9, 10**9]},
        {"image_size": [0, 64]},
        {"image_size": [64]},
        {"image_size": "64"},
        {"image_size": [64.5, 64]},
        {"crop_ratio": "1"},
        {"crop_ratio": -1},
        {"crop_ratio": None},
        {"resize_mode": "stretch"},
        {"interpolation": ["bicubic"]},
    ],
)
def test_damaged_preprocessing_is_refused_wherever_it_is_read(tmp_path, changes):
    stored = {**asdict(Preprocessing((64, 64))), **changes}
    file = safetensors_file(tmp_path / "lie.safetensors", {"preprocessing": json.dumps(stored)})
    readers = (
        lambda: card_for(*load_folded(file), name="lie"),
        lambda: default_recipe("shvit_s1", 100, str(file)),
        lambda: load_teacher(str(file), None, (ClassInfo(0, "class 0"),)),
    )
    for read in readers:
        with pytest.raises(CheckpointError, match=r"lie\.safetensors: its metadata.*(image_size|crop|resize|interpol)"):
            read()


def test_any_bit_of_a_file_is_found_or_does_not_matter(tmp_path):
    """Weights, their names and what is known of them; files without a digest are read as before."""
    model = SHViT(SMALL)
    draw = random.Random(5)
    for suffix, metadata in ((".safetensors", {"classes": ["cat", "dog"], "epoch": 3}), (".pth", None)):
        file = tmp_path / f"weights{suffix}"
        save_checkpoint(model, file, metadata=metadata)
        whole, read, found = file.read_bytes(), read_checkpoint(file), 0
        for place in [*range(200, 300, 4), *draw.sample(range(len(whole)), 25)]:
            content = bytearray(whole)
            content[place] ^= 1 << draw.randrange(8)
            file.write_bytes(content)
            try:
                other = read_checkpoint(file)
            except CheckpointError:
                found += 1
                continue
            assert other.state.keys() == read.state.keys()
            assert all(torch.equal(other.state[name], tensor) for name, tensor in read.state.items()), place
            assert other.metadata == read.metadata or "shvit.digest" not in content.decode(errors="replace")
        assert found > 20
    digest_of = tmp_path / "weights.safetensors"
    save_checkpoint(model, digest_of)
    state = load_file(digest_of)
    with safe_open(digest_of, "pt") as file:
        texts = file.metadata()
    state["stem.0.conv.weight"][0, 0, 0, 0] += 1
    save_file(state, digest_of, metadata=texts)
    with pytest.raises(CheckpointError, match=r"weights\.safetensors: damaged: .*SHA-256"):
        read_checkpoint(digest_of)
    del texts["shvit.digest"]
    save_file(state, digest_of, metadata=texts)
    assert torch.equal(read_checkpoint(digest_of).state["stem.0.conv.weight"], state["stem.0.conv.weight"])


def test_an_archive_without_checksums_is_read(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"model": SHViT(SMALL).state_dict()}, tmp_path / "plain.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert read_checkpoint(tmp_path / "plain.pth").state


def test_weights_that_are_not_finite_are_refused_by_name(tmp_path):
    model = SHViT(SMALL)
    with torch.no_grad():
        model.head.linear.bias[1] = torch.nan
    save_checkpoint(model, tmp_path / "diverged.safetensors")
    with pytest.raises(
        CheckpointError, match=r"diverged\.safetensors: head\.linear\.bias has values that are not finite"
    ):
        read_checkpoint(tmp_path / "diverged.safetensors")


@pytest.mark.parametrize(("name", "shape"), [("head.linear.bias", ()), ("stem.0.conv.weight", (2, 0, 3, 3))])
def test_tensors_without_a_size_are_refused(tmp_path, name, shape):
    torch.save({**SHViT(SMALL).state_dict(), name: torch.zeros(shape)}, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match=rf"odd\.pth: {name} should have the shape"):
        load_checkpoint(SHViT(SMALL), tmp_path / "odd.pth")


DTYPES = ["F32", "F16", "BF16", "F64", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "C64", "BOOL", "I8", "X"]
TENSOR = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(DTYPES),
        "shape": st.lists(st.sampled_from([0, 1, 2, 4, -1, 2**31, 2**63, 1.5]), max_size=4),
        "data_offsets": st.lists(st.sampled_from([0, 4, 8, 16, 64, -4, 2**63]), min_size=1, max_size=3),
    }
)


@settings(max_examples=150)
@given(
    st.dictionaries(
        st.sampled_from(["stem.0.conv.weight", "patch_embed.0.c.weight", "a", "__metadata__"]), TENSOR | st.none()
    ),
    st.sampled_from([None, 0, 1, 2**24, 2**40, 2**64 - 1]),
    st.binary(max_size=80),
)
def test_any_header_is_read_or_refused(tmp_path_factory, header, length, data):
    text = json.dumps(header).encode()
    file = tmp_path_factory.getbasetemp() / "fuzz.safetensors"
    file.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    with pytest.raises(CheckpointError, match=r"fuzz\.safetensors: "):
        load_model(file)


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
        return file, "it is empty"
    if how == "not there":
        return tmp_path / "damaged.none", "no such checkpoint"
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
        expected = r"not a SHViT.*it holds 1 tensor of .* MB \(conv1\.weight \(1,\)\)"
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


def test_hub_form(tmp_path, capsys):
    model = SHViT(SMALL)
    model.reset_classifier(9)
    model.save_pretrained(tmp_path / "hub")
    assert {path.name for path in (tmp_path / "hub").iterdir()} == {"config.json", "model.safetensors", "README.md"}
    assert json.loads((tmp_path / "hub" / "config.json").read_text())["num_classes"] == 9
    again = SHViT.from_pretrained(tmp_path / "hub")
    assert again.config == replace(SMALL, num_classes=9)
    assert not again.training
    assert_same(again, model)
    assert capsys.readouterr().out == ""


def test_hub_form_of_timm(tmp_path):
    """timm's config.json has other fields than ours: what network it is comes from the tensors."""
    model = create_model("shvit_s2", num_classes=7)
    save_checkpoint(model, tmp_path / "model.safetensors", names="timm")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "shvit_s2", "num_classes": 7}))
    again = SHViT.from_pretrained(tmp_path)
    assert again.config == model.config
    assert_same(again, model)


def test_hub_form_of_another_network_is_refused(tmp_path):
    SHViT(SMALL).save_pretrained(tmp_path)
    save_file({"conv1.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="not a SHViT"):
        SHViT.from_pretrained(tmp_path)
