"""What a repository says beside its weights, whoever wrote it: used, or refused by its name."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from shvit.errors import ArgumentError, CheckpointError
from shvit.hub.cached import Fetched
from shvit.hub.convert import open_published
from shvit.hub.names import Reference
from shvit.hub.resolve import resolve_model

from .conftest import NAME


@pytest.fixture(scope="module")
def folder(timm_repository, tmp_path_factory) -> Path:
    """Weights with two outputs, the same with a variance below 0 or for one channel, and weights without a head."""
    written = tmp_path_factory.mktemp("weights")
    tensors = load_file(timm_repository(NAME) / "model.safetensors")
    two = {**tensors, **{name: tensors[name][:2].copy() for name in ("head.l.weight", "head.l.bias")}}
    first = "patch_embed.0.c.weight"
    headless = {name: each for name, each in tensors.items() if not name.startswith("head.")}
    variance = next(name for name in two if name.endswith("running_var"))
    negative = {**two, variance: -np.ones_like(two[variance])}
    grey = {**two, first: two[first][:, :1].copy()}
    for name, state in (("two", two), ("negative", negative), ("grey", grey), ("headless", headless)):
        save_file(state, written / f"{name}.safetensors")
    return written


def fetched(folder: Path, config: dict, metadata: dict, weights: str = "two") -> Fetched:
    file = folder / f"{weights}.safetensors"
    return Fetched(Reference("hf://me/odd", "me/odd"), file, "weights", "a" * 40, "b" * 64, config, metadata)


@pytest.mark.parametrize(
    ("config", "metadata", "reason"),
    [
        ({"label_names": ["\ud800", "b"]}, {}, "label: expected text"),
        ({"label_names": ["a" * 10**6, "b"]}, {}, "label: expected at most 1,000 characters"),
        ({"id2label": {"1": "a", "2": "b"}}, {}, "config.json: id2label: expected a text for each output's number"),
        ({"pretrained_cfg": {"input_size": [True, True, True]}}, {}, "input_size: expected [3, height, width]"),
        ({"pretrained_cfg": {"input_size": "3x224x224"}}, {}, "input_size: expected [3, height, width]"),
        ({"pretrained_cfg": {"crop_pct": 10**400}}, {}, "crop_pct: expected a number from 0.1 to 1"),
        ({"pretrained_cfg": {"crop_pct": "0.9"}}, {}, "crop_pct: expected a number from 0.1 to 1, got '0.9'"),
        ({}, {"license": "\ud800"}, "licence: expected text"),
    ],
)
def test_what_cannot_be_is_refused_by_the_repository_s_name(folder, config, metadata, reason):
    with pytest.raises(CheckpointError) as error:
        open_published(fetched(folder, config, metadata), "odd")
    assert str(error.value).startswith("me/odd: two.safetensors: ") and reason in str(error.value)


@pytest.mark.parametrize(("weights", "reason"), [("headless", "no head"), ("grey", "images of 1 channels")])
def test_a_network_that_classifies_no_rgb_images_is_refused(folder, weights, reason):
    config = {"pretrained_cfg": {"mean": [0.449], "std": [0.226]}}
    with pytest.raises(CheckpointError, match=f"^me/odd: {weights}.safetensors: .*{reason}"):
        open_published(fetched(folder, config, {}, weights), "odd")


def test_weights_that_fold_into_nothing_finite_are_one_message(folder):
    with warnings.catch_warnings(), pytest.raises(CheckpointError, match="not finite"):
        warnings.simplefilter("error")
        open_published(fetched(folder, {}, {}, "negative"), "odd")


def test_what_is_said_and_empty_is_not_known(folder):
    said = fetched(folder, {"pretrained_cfg": {"crop_pct": None}}, {"license": "", "datasets": []})
    _, card, _ = open_published(said, "odd")
    assert (card.licence, card.training_data, card.preprocessing.crop_ratio) == (None, None, 0.875)


@pytest.mark.parametrize(
    ("config", "mode", "note"),
    [
        ({"crop_mode": "center", "crop_pct": 1.0}, "crop", None),
        ({"crop_mode": "squash"}, "squash", None),
        ({"crop_mode": "border", "crop_pct": 1.0}, "pad", None),
        ({"crop_mode": "border", "crop_pct": 0.9}, "crop", "crop_mode 'border' is not known here with crop_pct 0.9"),
        ({"crop_mode": ["odd"]}, "crop", "crop_mode ['odd'] is not known here with crop_pct 0.875"),
    ],
)
def test_timms_ways_to_bring_an_image_to_size(folder, config, mode, note):
    _, card, notes = open_published(fetched(folder, {"pretrained_cfg": config}, {}), "odd")
    assert card.preprocessing.resize_mode == mode
    said = [each for each in notes if "crop_mode" in each]
    assert said == ([] if note is None else [f"config.json: {note}: center is taken"])


@pytest.mark.parametrize("model", [b"shvit_s4", None, 7, ["shvit_s4"]])
def test_what_is_no_text_and_no_path_is_refused(model):
    with pytest.raises(ArgumentError, match="expected a model's name or the path of its file, got "):
        resolve_model(model)
