"""What the outputs of an exported network are called."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from shvit.card import Card, ClassInfo
from shvit.cli.main import main
from shvit.errors import CheckpointError, DataError, ExportError
from shvit.modelfile.card import card_for
from shvit.models import VARIANTS, SHViT, save_checkpoint
from shvit.network.loading import load_folded
from shvit.training.distillation import load_teacher

TENCH = ClassInfo(0, "tench, Tinca tinca", "n01440764")
NUMBERED = ClassInfo(0, "class 0")


@pytest.fixture(scope="module")
def network() -> SHViT:
    """S1 with a thousand outputs."""
    torch.manual_seed(0)
    return SHViT(VARIANTS["shvit_s1"]).eval()


def card_of(file: Path) -> Card:
    return card_for(*load_folded(file), name="card")


@pytest.mark.parametrize(
    ("file", "names", "expected"),
    [
        ("shvit_s1.pth", "reference", TENCH),
        ("models--timm--shvit_s1.in1k/snapshots/0123/model.safetensors", "timm", TENCH),
        ("timm/shvit_s1.in1k/model.safetensors", "timm", TENCH),
        ("shvit_s1.in1k.safetensors", "timm", TENCH),
        ("mine.pth", "reference", NUMBERED),
        ("shvit_s1.pth", "timm", NUMBERED),
        ("shvit_s1.pth", "shvit", NUMBERED),
        ("my_shvit_s1.in1k_birds/model.safetensors", "timm", NUMBERED),
        ("model.safetensors", "timm", NUMBERED),
    ],
)
def test_a_thousand_outputs_are_imagenets_only_for_the_published_weights(tmp_path, network, file, names, expected):
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(network, path, names=names)
    card = card_of(path)
    assert len(card.classes) == 1000
    assert card.classes[0] == expected


@pytest.mark.parametrize(("data_set", "expected"), [("IMNET", TENCH), ("INAT", NUMBERED), (["IMNET"], NUMBERED)])
def test_the_references_arguments_tell_what_was_trained_on(tmp_path, network, data_set, expected):
    save_checkpoint(network, tmp_path / "plain.pth", names="reference")
    state = torch.load(tmp_path / "plain.pth")["model"]
    content = {"model": state, "optimizer": {}, "epoch": 299, "args": argparse.Namespace(data_set=data_set)}
    torch.save(content, tmp_path / "checkpoint_299.pth")
    assert card_of(tmp_path / "checkpoint_299.pth").classes[0] == expected


def test_what_the_file_says_comes_first(tmp_path, network):
    classes = [{"class_id": place, "label": f"bird {place}", "wnid": None} for place in range(1000)]
    file = tmp_path / "shvit_s1.in1k.safetensors"
    save_checkpoint(network, file, names="timm", metadata={"classes": classes})
    assert card_of(file).classes[7].label == "bird 7"


def test_the_command_says_what_was_decided(tmp_path, network, capsys, monkeypatch):
    cards = []

    def export_model(model: SHViT, path: Path, card: Card, *_: object, **__: object) -> None:
        cards.append(card)
        raise ExportError("nothing is written in this test")

    monkeypatch.setattr("shvit.exporting.formats.export_model", export_model)
    save_checkpoint(network, tmp_path / "mine.safetensors")
    save_checkpoint(network, tmp_path / "shvit_s1.pth", names="reference")

    def first_class(model: str, *options: str) -> tuple[ClassInfo, str]:
        assert main(["export", "--model", str(tmp_path / model), "--output", str(tmp_path / "out.onnx"), *options]) == 2
        return cards.pop().classes[0], capsys.readouterr().err

    found, error = first_class("mine.safetensors")
    assert found == NUMBERED
    assert (
        f"class names: {tmp_path / 'mine.safetensors'} has none, so they are numbered, class 0 to class 999; name them "
        "with --classes FILE, or --classes imagenet-1k" in error
    )
    found, error = first_class("mine.safetensors", "--classes", "imagenet-1k")
    assert found == TENCH
    assert "class names" not in error
    found, error = first_class("shvit_s1.pth")
    assert found == TENCH
    assert "class names: ImageNet-1k's, because shvit_s1.pth is what the published weights are called; if" in error


def test_imagenets_names_for_another_number_of_outputs_are_refused(tmp_path):
    torch.manual_seed(0)
    model = SHViT(replace(VARIANTS["shvit_s1"], num_classes=10))
    save_checkpoint(model, tmp_path / "ten.safetensors")
    with pytest.raises(CheckpointError, match="the network has 10 classes, 1000 names were given"):
        card_for(*load_folded(tmp_path / "ten.safetensors"), name="ten", class_names="imagenet-1k")


def test_a_teacher_without_names_is_not_taken_for_imagenets(tmp_path, network):
    save_checkpoint(network, tmp_path / "mine.safetensors")
    with pytest.raises(DataError, match=r"it has 1000 without names, matched by WordNet id or label"):
        load_teacher(str(tmp_path / "mine.safetensors"), None, (TENCH, ClassInfo(1, "goldfish", "n01443537")))
    save_checkpoint(network, tmp_path / "shvit_s1.pth", names="reference")
    teacher = load_teacher(str(tmp_path / "shvit_s1.pth"), None, (TENCH, ClassInfo(1, "goldfish", "n01443537")))
    assert teacher.head.out_features == 2
