"""Checkpoints as other training loops write them, by their own code where it is installed."""

from __future__ import annotations

import argparse
import copy
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers
from safetensors.torch import save_file
from timm.utils import CheckpointSaver, ModelEmaV3
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from shvit.errors import CheckpointError
from shvit.models import SHViT, SHViTConfig, load_checkpoint, load_model, read_checkpoint, save_checkpoint

SMALL = SHViTConfig(widths=(16, 24, 32), depths=(1, 1, 1), partial_dims=(4, 8, 12), num_classes=5)


@pytest.fixture
def trained() -> SHViT:
    torch.manual_seed(1)
    return SHViT(SMALL)


@pytest.fixture
def averaged() -> SHViT:
    torch.manual_seed(2)
    return SHViT(SMALL)


def load(file: Path, weights: Any = "auto") -> tuple[SHViT, list[str]]:
    """A network with a file's weights, and what was said of them."""
    model = SHViT(SMALL)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        report = load_checkpoint(model, file, weights)
    assert [f"{file}: {note}" for note in report.notes] == [str(each.message) for each in said]
    return model, list(report.notes)


def assert_same(ours: nn.Module, expected: nn.Module) -> None:
    for (name, tensor), wanted in zip(ours.state_dict().items(), expected.state_dict().values(), strict=True):
        assert torch.equal(tensor, wanted), name


def under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_pytorchs_averaged_model(tmp_path, trained, averaged, suffix):
    average = AveragedModel(trained)
    average.update_parameters(averaged)
    average.update_parameters(trained)
    file = tmp_path / f"swa{suffix}"
    (torch.save if suffix == ".pth" else save_file)(average.state_dict(), file)
    assert {"n_averaged", "module.stem.0.conv.weight"} <= average.state_dict().keys()
    model, notes = load(file)
    assert_same(model, average.module)
    assert notes == []
    assert read_checkpoint(file).ema
    with pytest.raises(CheckpointError, match="has a moving average only"):
        read_checkpoint(file, "model")


def test_torchvisions_references(tmp_path, trained, averaged):
    """As references/classification/train.py saves: an AveragedModel's state dict beside the weights."""
    content = {
        "model": trained.state_dict(),
        "model_ema": AveragedModel(averaged).state_dict(),
        "optimizer": torch.optim.SGD(trained.parameters(), 0.1, momentum=0.9).state_dict(),
        "lr_scheduler": {"last_epoch": 3},
        "epoch": 3,
        "args": argparse.Namespace(model="shvit", model_ema=True),
    }
    torch.save(content, tmp_path / "model_3.pth")
    model, notes = load(tmp_path / "model_3.pth")
    assert_same(model, averaged)
    assert len(notes) == 1
    assert notes[0].startswith("the moving average is taken, model_ema (module.*); the other weights are model")
    model, notes = load(tmp_path / "model_3.pth", "model")
    assert_same(model, trained)
    assert notes == []


def test_timms_own_saver(tmp_path):
    """timm's network, its moving average and its CheckpointSaver, as its train.py uses them."""
    torch.manual_seed(3)
    network = timm.create_model("shvit_s1", num_classes=4)
    average = ModelEmaV3(network, decay=0.5)
    with torch.no_grad():
        network.head.l.bias.fill_(1.0)
    average.update(network)
    saver = CheckpointSaver(
        network,
        torch.optim.AdamW(network.parameters()),
        args=argparse.Namespace(model="shvit_s1", output=Path("out")),
        model_ema=average,
        checkpoint_dir=str(tmp_path),
        recovery_dir=str(tmp_path),
    )
    saver.save_checkpoint(1, metric=50.0)
    for weights, expected in (("auto", average.module), ("ema", average.module), ("model", network)):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            model, checkpoint = load_model(tmp_path / "last.pth.tar", weights)
        assert torch.equal(model.head.linear.bias, expected.head.l.bias), weights
        assert checkpoint.ema is (weights != "model")
        assert len([each for each in said if "the moving average is taken, state_dict_ema" in str(each.message)]) == (
            weights == "auto"
        )


class Lit(nn.Module):
    """The tensors of a LightningModule that is taught by a network of the same kind."""

    def __init__(self, network: nn.Module, attribute: str) -> None:
        super().__init__()
        setattr(self, attribute, network)
        self.teacher = SHViT(SMALL)
        self.criterion = nn.CrossEntropyLoss(weight=torch.ones(5))
        self.register_buffer("accuracy_seen", torch.zeros(()))


def lightning_file(path: Path, module: nn.Module, **more: Any) -> Path:
    """A file of Lightning's Trainer: what its checkpoint connector writes, without Lightning."""
    content = {
        "epoch": 2,
        "global_step": 30,
        "pytorch-lightning_version": "2.6.0",
        "state_dict": module.state_dict(),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"current": {"ready": 3}}}},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5), "dirpath": "out"}},
        "optimizer_states": [torch.optim.SGD(module.parameters(), 0.1, momentum=0.9).state_dict()],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 1e-3},
        **more,
    }
    torch.save(content, path)
    return path


@pytest.mark.parametrize("attribute", ["model", "net", "backbone"])
def test_lightnings_files(tmp_path, trained, attribute):
    file = lightning_file(tmp_path / "epoch=2.ckpt", Lit(trained, attribute))
    model, notes = load(file)
    assert_same(model, trained)
    assert len(notes) == 1
    teachers = len(trained.state_dict())
    assert notes[0].startswith(f"the network is state_dict ({attribute}.*); {teachers + 2} tensors beside it are left")


def test_lightnings_weight_averaging(tmp_path, trained, averaged):
    """Its callback puts the average into state_dict, and the weights into current_model_state."""
    average = AveragedModel(averaged)
    file = lightning_file(
        tmp_path / "last.ckpt",
        average.module,
        current_model_state=trained.state_dict(),
        averaging_state={"n_averaged": average.n_averaged},
    )
    assert_same(load(file)[0], averaged)
    assert_same(load(file, "model")[0], trained)


def test_a_moving_average_within_a_lightning_module(tmp_path, trained, averaged):
    module = nn.Module()
    module.net, module.shadow = trained, AveragedModel(averaged)
    file = lightning_file(tmp_path / "last.ckpt", module)
    model, notes = load(file)
    assert_same(model, averaged)
    assert [note.split(",")[0] for note in notes] == ["the moving average is taken"]
    assert_same(load(file, "model")[0], trained)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"epoch": 3, "model_state_dict": state, "optimizer_state_dict": {"state": {}}, "loss": 0.1},
        lambda state: {"model_state_dict": under("module.", state), "best_acc": np.float64(0.75), "best_epoch": 3},
        lambda state: {"net": state, "acc": np.float32(93.1), "history": np.arange(4.0)},
        lambda state: {"state": {"network": {"weights": under("module._orig_mod.", state)}}},
        lambda state: OrderedDict(under("_orig_mod.module.", state)),
        lambda state: under("module.module.model._orig_mod.", state),
        lambda state: {name.replace("blocks.0.", "blocks.0._orig_mod."): each for name, each in state.items()},
        lambda state: under("_fsdp_wrapped_module.", state),
        lambda state: {
            name.replace("blocks.0.", "_fsdp_wrapped_module.blocks.0._checkpoint_wrapped_module."): each
            for name, each in state.items()
        },
        lambda state: {"state_dict": under("model.", state) | under("net.", state)},
    ],
    ids=[
        "tutorial",
        "numpy scalar",
        "numpy array",
        "nested",
        "compiled, DDP",
        "stack",
        "compiled blocks",
        "FSDP",
        "FSDP and checkpointing",
        "registered twice",
    ],
)
def test_keys_and_prefixes_around_the_network(tmp_path, trained, wrap):
    torch.save(wrap(trained.state_dict()), tmp_path / "checkpoint.tar")
    model, notes = load(tmp_path / "checkpoint.tar")
    assert_same(model, trained)
    assert notes == []


@pytest.mark.parametrize("names", ["shvit", "timm", "reference"])
def test_prefixes_before_anybodys_names(tmp_path, trained, names):
    save_checkpoint(trained, tmp_path / "plain.pth", names=names)
    state = torch.load(tmp_path / "plain.pth")["model"]
    save_file(under("shvit.encoder.", state), tmp_path / "model.safetensors")
    assert read_checkpoint(tmp_path / "model.safetensors").names == names
    assert_same(load(tmp_path / "model.safetensors")[0], trained)


def test_a_compiled_network(tmp_path, trained):
    torch.save(torch.compile(trained).state_dict(), tmp_path / "compiled.pth")
    assert_same(load(tmp_path / "compiled.pth")[0], trained)


def test_a_network_within_one_of_transformers(tmp_path, trained):
    class Classifier(transformers.PreTrainedModel):
        config_class = transformers.PretrainedConfig

        def __init__(self, config: transformers.PretrainedConfig) -> None:
            super().__init__(config)
            self.shvit = copy.deepcopy(trained)
            self.classifier = nn.Linear(5, 3)
            self.post_init()

    model = Classifier(transformers.PretrainedConfig())
    model.shvit = trained
    model.save_pretrained(tmp_path)
    loaded, notes = load(tmp_path / "model.safetensors")
    assert_same(loaded, trained)
    assert notes == ["the network is shvit.*; 2 tensors beside it are left out, such as classifier.bias"]


def test_a_student_of_whom_the_teacher_is_not_taken(tmp_path, trained, averaged):
    both = under("student.", trained.state_dict()) | under("teacher.", averaged.state_dict())
    torch.save(both, tmp_path / "dino.pth")
    assert_same(load(tmp_path / "dino.pth")[0], trained)
    torch.save({"teacher": averaged.state_dict()}, tmp_path / "teacher.pth")
    assert_same(load(tmp_path / "teacher.pth")[0], averaged)


def test_several_networks_are_refused_by_their_names(tmp_path, trained, averaged):
    torch.save({"model": trained.state_dict(), "best": averaged.state_dict()}, tmp_path / "two.pth")
    with pytest.raises(CheckpointError, match=r"two\.pth: holds 2 networks and .*: model, best; save the one"):
        read_checkpoint(tmp_path / "two.pth")
    many = {f"fold{i}": trained.state_dict() for i in range(17)}
    torch.save(many, tmp_path / "many.pth")
    with pytest.raises(CheckpointError, match=r"many\.pth: refused: it holds more than 16 networks"):
        read_checkpoint(tmp_path / "many.pth")


def test_what_is_beside_the_network_is_not_part_of_it_and_what_is_inside_must_be(tmp_path, trained):
    state = under("model.", trained.state_dict())
    torch.save(state | {"loss.weight": torch.tensor([torch.nan])}, tmp_path / "beside.pth")
    model, notes = load(tmp_path / "beside.pth")
    assert_same(model, trained)
    assert notes == ["the network is model.*; 1 tensor beside it is left out, such as loss.weight"]
    torch.save(state | {"model.neck.weight": torch.zeros(1)}, tmp_path / "inside.pth")
    with pytest.raises(CheckpointError, match=r"1 tensor is not of this network, such as neck\.weight"):
        load_checkpoint(SHViT(SMALL), tmp_path / "inside.pth")


def test_the_message_names_what_was_found(tmp_path):
    resnet = {"conv1.weight": torch.zeros(64, 3, 7, 7), "fc.bias": torch.zeros(10)}
    content = {"epoch": 3, "state_dict": resnet, "optimizer": {"state": {}}, "args": argparse.Namespace(lr=1)}
    torch.save(content, tmp_path / "resnet.pth")
    with pytest.raises(CheckpointError) as refused:
        read_checkpoint(tmp_path / "resnet.pth")
    assert re.search(
        r"resnet\.pth: not a SHViT: .*; it holds epoch: int; state_dict: 2 tensors of 0\.0 MB \(conv1\.weight "
        r"\(64, 3, 7, 7\), fc\.bias \(10,\)\); optimizer: a dict of 1; args: Namespace$",
        str(refused.value),
    )
    torch.save({"model": None, "epoch": 1}, tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match=r"holds no tensors by name; it holds model: NoneType; epoch: int"):
        read_checkpoint(tmp_path / "none.pth")
    torch.save({"stem.0.weight": torch.zeros(96, 3, 4, 4), "stem.0.bias": torch.zeros(96)}, tmp_path / "convnext.pth")
    with pytest.raises(CheckpointError, match="not a SHViT"):
        read_checkpoint(tmp_path / "convnext.pth")


def poison(state: dict[str, Tensor], value: float, dtype: torch.dtype) -> dict[str, Tensor]:
    name = "stages.1.blocks.0.ffn.expand.conv.weight"
    broken = state[name].to(dtype)
    broken[0, 0, 0, 0] = value
    return {**state, name: broken}


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (torch.nan, torch.float32),
        (torch.inf, torch.float16),
        (-torch.inf, torch.float64),
        (torch.nan, torch.bfloat16),
        (torch.nan, torch.float8_e4m3fn),
        (torch.nan, torch.float8_e8m0fnu),
        (1e300, torch.float64),
    ],
)
def test_weights_that_are_not_finite_are_refused_by_the_files_name_of_the_tensor(tmp_path, trained, value, dtype):
    state = poison(trained.state_dict(), value, dtype)
    torch.save({"state_dict": under("model.", state)}, tmp_path / "diverged.ckpt")
    prefix = "" if value == 1e300 else r"model\."  # only as float32 is it infinite
    with pytest.raises(
        CheckpointError, match=rf"diverged\.ckpt: {prefix}stages\.1\.blocks\.0\.ffn\.expand\.conv\.weight has values"
    ):
        load_checkpoint(SHViT(SMALL), tmp_path / "diverged.ckpt")


def nested_in_itself() -> dict[str, Any]:
    content: dict[str, Any] = {"weights": torch.zeros(1)}
    for key in range(50):
        content[f"key{key}"] = content
    return content


def chain(depth: int) -> dict[str, Any]:
    content: dict[str, Any] = {"weights": torch.zeros(1)}
    for _ in range(depth):
        content = {"inner": content}
    return content


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (nested_in_itself, "not a SHViT"),
        (lambda: chain(50), "holds no tensors by name"),
        (
            lambda: {f"{i}.{name}": torch.zeros(1) for i in range(20) for name in SHViT(SMALL).state_dict()},
            "more than 16 networks",
        ),
        (lambda: under("_orig_mod.", SHViT(SMALL).state_dict()) | SHViT(SMALL).state_dict(), "two of its tensors are"),
        (lambda: {"stem.0.conv.weight": "text", "a\x1b[2J": torch.zeros(1)}, "not a SHViT"),
    ],
    ids=["holds itself", "deep", "many", "collision", "hostile names"],
)
def test_hostile_containers_are_refused_at_once(tmp_path, content: Callable[[], Any], expected):
    torch.save(content(), tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match=rf"odd\.pth: .*{expected}"):
        read_checkpoint(tmp_path / "odd.pth")


def with_items(content: dict[str, Any]) -> OrderedDict[str, Any]:
    odd: Any = OrderedDict(content)
    odd.itemz = odd.gez = "text"  # called ``items`` and ``get``, they would keep Python from writing it
    return odd


def save_with_items(content: Any, file: Path) -> None:
    torch.save(content, file)
    with zipfile.ZipFile(file) as archive:
        records = {
            name: archive.read(name).replace(b"itemz", b"items").replace(b"gez", b"get") for name in archive.namelist()
        }
    with zipfile.ZipFile(file, "w") as archive:
        for name, record in records.items():
            archive.writestr(name, record)


def with_numel(tensor: Tensor) -> nn.Parameter:
    odd: Any = nn.Parameter(tensor)
    odd.numel = odd.isfinite = odd.to = 3
    return odd


@pytest.mark.parametrize("place", ["bare", "inside"])
def test_attributes_that_a_pickle_gives_its_values_are_not_asked(tmp_path, trained, place):
    state = with_items({name: with_numel(each) if each.ndim else each for name, each in trained.state_dict().items()})
    save_with_items(state if place == "bare" else with_items({"model": state}), tmp_path / "odd.pth")
    model, _ = load(tmp_path / "odd.pth")
    assert_same(model, trained)


def test_a_type_that_is_converted_to_no_other_is_refused(tmp_path, trained):
    packed = torch.zeros(16, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    torch.save({**trained.state_dict(), "stem.6.norm.bias": packed}, tmp_path / "packed.pth")
    with pytest.raises(CheckpointError, match=r"packed\.pth: stem\.6\.norm\.bias"):
        load(tmp_path / "packed.pth")


def test_numpys_arrays_in_place_of_tensors_are_called_so(tmp_path, trained):
    torch.save({name: tensor.numpy() for name, tensor in trained.state_dict().items()}, tmp_path / "numpy.pth")
    with pytest.raises(CheckpointError, match=r"stem\.0\.conv\.weight: NumPyValue"):
        read_checkpoint(tmp_path / "numpy.pth")
