"""The head that is fitted to the features before fine-tuning."""

from __future__ import annotations

import shutil
import signal
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import shvit
from shvit.data import open_dataset
from shvit.data.loader import evaluation_loader, normalize
from shvit.errors import ArgumentError
from shvit.heads.linear import fit_linear_head
from shvit.models import save_checkpoint
from shvit.models.checkpoints import load_model
from shvit.models.shvit import Head
from shvit.training import Execution, Optimizer, Recipe, fit, resume, setup
from shvit.training.head_start import fit_head, set_head

from ..conftest import PATIENCE
from .conftest import drive
from .driver import small_shvit
from .test_distributed import torchrun
from .test_resume import same_weights

RECIPE = Recipe(
    image_size=64,
    epochs=2,
    batch_size=8,
    pretrained="given.safetensors",
    head_start="linear",
    optimizer=Optimizer(lr=1e-3, lr_batch_size=0),
    ema_decay=0.5,
)


def prepare(data, folder, recipe=RECIPE, network=None):
    torch.set_num_threads(1)
    train, val = open_dataset(data, "train"), open_dataset(data, "val")
    return setup(recipe, train, val, folder, Execution(device="cpu", workers=0), network or small_shvit())


@torch.no_grad()
def features_and_logits(run):
    """Of the training images as they are and mirrored, as evaluation computes them."""
    network = run.evaluated.eval()
    batches = list(evaluation_loader(run.train, run.preprocessing, 100, 0))
    pixels = normalize(torch.cat([batch.images for batch in batches]))
    views = [network.forward_head(network.forward_features(each), pre_logits=True) for each in (pixels, pixels.flip(3))]
    return torch.stack(views, 1).numpy(), network(pixels).numpy()


@pytest.mark.parametrize("two_heads", [False, True])
def test_the_network_answers_what_the_regression_answers(colours, tmp_path, two_heads):
    network = small_shvit()
    if two_heads:
        network.reset_classifier(3, distillation=True)
    run = prepare(colours, tmp_path, network=network)
    right = fit_head(run)
    features, logits = features_and_logits(run)
    fitted = fit_linear_head(features, run.train.labels, 3)
    assert logits == pytest.approx(fitted.head.logits(features[:, 0]), abs=1e-3)
    assert right == (fitted.held_out.argmax(1) == run.train.labels).mean()
    ours, average = run.network.state_dict(), run.evaluated.state_dict()
    assert all(torch.equal(ours[name], average[name]) for name in ours)


def test_a_head_computes_in_training_nearly_what_it_does_in_evaluation():
    random = np.random.default_rng(0)
    features = (random.normal(size=(64, 1, 12)) * random.uniform(0.1, 9, 12) + 5).astype(np.float32)
    features[..., 3] = 2.5  # a channel that says nothing
    weight, bias = random.normal(size=(4, 12)).astype(np.float32), random.normal(size=4).astype(np.float32)
    head = Head(12, 4)
    set_head(head, weight, bias, features)
    inputs, expected = torch.from_numpy(features[:, 0]), features[:, 0] @ weight.T + bias
    assert head.eval()(inputs).detach().numpy() == pytest.approx(expected, abs=1e-3)
    assert head.train()(inputs).detach().numpy() == pytest.approx(expected, abs=1e-3)


def test_the_fitted_head_is_validated_kept_and_fine_tuned_from(colours, tmp_path):
    run, seen = prepare(colours, tmp_path), []
    began = {}

    def look(progress, figures):
        seen.append((progress.epoch, progress.step, figures))
        if "head_top1" in figures:
            began.update(load_file(tmp_path / "best.safetensors"))

    progress = fit(run, look)
    epoch, step, first = seen[0]
    assert (epoch, step) == (0, 0)
    assert 0 <= first["head_top1"] <= 1
    assert {"val_top1", "val_loss"} <= first.keys()
    assert progress.epoch == 2
    assert began["head.linear.weight"].shape == (3, 32)
    assert (tmp_path / "last.safetensors").exists()


def test_no_epoch_keeps_the_head_alone(colours, tmp_path):
    run = prepare(colours, tmp_path, replace(RECIPE, epochs=0))
    before = {name: tensor.clone() for name, tensor in run.network.state_dict().items()}
    progress = fit(run)
    assert (progress.epoch, progress.best_epoch) == (0, 0)
    assert progress.best_loss is not None
    _, checkpoint = load_model(tmp_path / "best.safetensors")
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, checkpoint.state[name])}
    assert changed
    assert all(name.startswith("head.") for name in changed)
    again = prepare(colours, tmp_path, replace(RECIPE, epochs=0))
    assert resume(again)
    assert fit(again).best_loss == progress.best_loss


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_to_the_same_bits(colours, tmp_path):
    options = {
        "image_size": 64,
        "epochs": 2,
        "batch_size": 8,
        "pretrained": "given.safetensors",
        "head_start": "linear",
        "freeze_norm": True,
        "ema_decay": 0.5,
        "execution": {"checkpoint_every_steps": 2},
    }
    whole, part = tmp_path / "whole", tmp_path / "part"
    assert drive(colours, whole, options).wait(PATIENCE) == 0
    for step in (0, 4):  # before the first step there is the checkpoint of the head
        assert drive(colours, part, {**options, "kill_at": step}).wait(PATIENCE) == -signal.SIGKILL
    assert drive(colours, part, options).wait(PATIENCE) == 0
    assert same_weights(whole / "last.safetensors", part / "last.safetensors")
    assert same_weights(whole / "best.safetensors", part / "best.safetensors")


@pytest.mark.slow
def test_several_processes_begin_with_the_head_of_one(colours, tmp_path):
    options = {"image_size": 64, "epochs": 0, "batch_size": 8, "pretrained": "given.safetensors"}
    options |= {"head_start": "linear", "execution": {"devices": 2}}
    process = drive(colours, tmp_path / "two", options, torchrun(2))
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    fit(prepare(colours, tmp_path / "one", replace(RECIPE, epochs=0)))
    one, two = (load_file(tmp_path / each / "best.safetensors") for each in ("one", "two"))
    for name, tensor in one.items():
        assert torch.allclose(tensor.float(), two[name].float(), atol=1e-3), name


def test_a_head_for_the_same_classes_is_kept(colours, tmp_path):
    """Training on from weights of one's own: their head knows the classes already."""
    labels = [asdict(each) for each in open_dataset(colours, "train").classes]
    for name, classes, fits in (
        ("same", labels, False),
        ("others", [{**each, "label": each["label"] + " cup"} for each in labels], True),
        ("untold", None, False),
    ):
        network = shvit.create_model("shvit_s1", num_classes=3)
        metadata = {} if classes is None else {"classes": classes}
        save_checkpoint(network, tmp_path / f"{name}.safetensors", metadata=metadata)
        recipe = replace(RECIPE, pretrained=str(tmp_path / f"{name}.safetensors"))
        train, val = open_dataset(colours, "train"), open_dataset(colours, "val")
        run = setup(recipe, train, val, tmp_path / name, Execution(device="cpu", workers=0))
        assert run.fits_head is fits
        assert torch.equal(run.network.head.linear.weight, network.head.linear.weight)


def test_a_class_of_one_picture_leaves_the_head_at_random(colours, tmp_path):
    shutil.copytree(colours, tmp_path / "data")
    for each in sorted((tmp_path / "data" / "train" / "n02124075").iterdir())[1:]:
        each.unlink()
    run = prepare(tmp_path / "data", tmp_path / "run", replace(RECIPE, epochs=1))
    before = run.network.head.linear.weight.clone()
    with pytest.warns(UserWarning, match="the head starts at random.*has 1"):
        assert fit_head(run) is None
    assert torch.equal(run.network.head.linear.weight, before)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pretrained": None}, "head_start: linear needs pretrained"),
        ({"task": "multi_label"}, "head_start: linear is for one label a picture"),
        ({"quantization_aware": True}, "quantization_aware: .*leave head_start"),
        ({"head_start": "random", "epochs": 0}, "epochs: expected 1 or more"),
        ({"head_start": "logistic"}, "head_start: expected one of random, linear"),
    ],
)
def test_what_cannot_be_is_refused(fields, message):
    with pytest.raises(ArgumentError, match=message):
        replace(RECIPE, **fields)


def test_several_labels_are_refused(spots, tmp_path):
    with pytest.raises(ArgumentError, match="one label a picture"):
        prepare(spots, tmp_path)
